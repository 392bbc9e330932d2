//! Makes the process of a command: from the fork to the program's first instruction.

use std::convert::Infallible;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Result;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Rlimit};

use super::failure::Report;
use super::program::Program;
use crate::sys;

/// Open files of a command, which may raise it up to the supervisor's own: programs that use
/// `select`, or close all that they might have, rely on the customary number.
const OPEN_FILES: u64 = 1024;

/// What the process has as its first three descriptors. All of these are above 2.
#[derive(Debug)]
pub(crate) enum Files {
    Pipes { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
    Terminal(OwnedFd),
}

/// Starts `program`. Gives its process, and a pipe with a [`Report`] if it failed, or nothing if
/// it was executed.
pub(crate) fn start(
    program: &Program,
    files: &Files,
    group: Option<BorrowedFd<'_>>,
) -> Result<(Pid, OwnedFd)> {
    let (report, child_report) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&report, OFlags::NONBLOCK)?;
    let process = sys::fork(group, || {
        let Err(failed) = become_program(program, files);
        // The reader may be gone; there is nobody else to tell.
        let _unread = rustix::io::write(&child_report, &failed.to_bytes());
        127
    })?;
    Ok((process, report))
}

/// Everything in the new process up to the program. Does not allocate.
fn become_program(program: &Program, files: &Files) -> std::result::Result<Infallible, Report> {
    prepare(files).map_err(Report::Prepare)?;
    rustix::process::chdir(program.directory()).map_err(Report::Directory)?;
    // Last, as a signal may end the process from here on.
    sys::unblock_signals();
    Err(Report::Execute(program.execute()))
}

fn prepare(files: &Files) -> Result<()> {
    // A session of its own, and with it a process group; the terminal belongs to the session.
    rustix::process::setsid()?;
    let (stdin, stdout, stderr) = match files {
        Files::Pipes { stdin, stdout, stderr } => (stdin, stdout, stderr),
        Files::Terminal(terminal) => {
            rustix::process::ioctl_tiocsctty(terminal)?;
            (terminal, terminal, terminal)
        }
    };
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)?;
    // All have the flag already; this is against one that is forgotten some day.
    sys::close_on_exec_from(3);
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let current = Some(maximum.map_or(OPEN_FILES, |most| most.min(OPEN_FILES)));
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}
