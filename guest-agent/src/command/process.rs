//! Makes the process of a command: from the fork to the program's first instruction.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cloister_protocol::agent::{Direction, User};
use rustix::fs::{Mode, OFlags};
use rustix::io::Result;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Resource, Rlimit};

use super::failure::Report;
use super::plan::Work;
use super::program::Program;
use crate::agent::{Entrance, enter_directory};
use crate::{copy, message, sys};

/// Open files of a command of the machine, which may raise it up to the supervisor's own: programs
/// that use `select`, or close all that they might have, rely on the customary number.
const OPEN_FILES: u64 = 1024;

/// The message of a process that copies files and has begun.
pub(super) const BEGUN: u8 = 0xfd;

/// What the process has as its first three descriptors; `None`: `/dev/null`. All of these are
/// above 2.
#[derive(Debug)]
pub(crate) enum Files {
    Pipes { stdin: Option<OwnedFd>, stdout: Option<OwnedFd>, stderr: Option<OwnedFd> },
    Terminal(OwnedFd),
}

/// Starts the work. Gives its process, and a socket for what it has to say before it becomes a
/// program: a [`Report`] if it failed, then nothing any more.
pub(crate) fn start(
    work: &Work,
    files: &Files,
    group: BorrowedFd<'_>,
    inside: Option<(&Entrance, User)>,
) -> Result<(Pid, OwnedFd)> {
    let (report, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    let child = || {
        let result = match inside {
            None => prepare(files).and_then(|()| in_machine(files)).map_err(Report::Prepare),
            Some((entrance, user)) => enter(files, entrance, user, theirs.as_fd()),
        };
        let result = result.and_then(|()| match work {
            Work::Program(program) => {
                let Err(failed) = become_program(program, inside, theirs.as_fd());
                Err(failed)
            }
            Work::Copy(direction) => copy_files(direction, theirs.as_fd()),
        });
        match result {
            Ok(code) => code,
            Err(failed) => {
                // The reader may be gone; there is nobody else to tell.
                let _unread = message::send(theirs.as_fd(), &failed.to_bytes(), None);
                127
            }
        }
    };
    let process = match inside {
        None => sys::fork(Some(group), child)?,
        Some((entrance, _)) => entrance.fork(group, child)?,
    };
    Ok((process, report))
}

/// Everything from the working directory to the program. Does not allocate but in a container.
fn become_program(
    program: &Program,
    inside: Option<(&Entrance, User)>,
    report: BorrowedFd<'_>,
) -> std::result::Result<Infallible, Report> {
    if let Some((entrance, _)) = inside {
        enter_directory(program.directory()).map_err(Report::Directory)?;
        sys::unblock_signals();
        entrance.confine(report).map_err(Report::Enter)?;
    } else {
        rustix::process::chdir(program.directory()).map_err(Report::Directory)?;
        // Last, as a signal may end the process from here on.
        sys::unblock_signals();
    }
    Err(Report::Execute(program.execute()))
}

/// A process that copies is this program's own code with a user's rights.
fn copy_files(direction: &Direction, report: BorrowedFd<'_>) -> std::result::Result<u8, Report> {
    let work = copy::open(direction).map_err(Report::Copied)?;
    sys::unblock_signals();
    if message::send(report, &[BEGUN], None).is_err() {
        return Ok(1);
    }
    // What went wrong in between the host sees by the code, and by an archive without an end.
    Ok(u8::from(copy::run(work).is_err()))
}

/// In a container: what a process of the machine has too, then the container, then what is there.
fn enter(
    files: &Files,
    entrance: &Entrance,
    user: User,
    report: BorrowedFd<'_>,
) -> std::result::Result<(), Report> {
    prepare(files).map_err(Report::Prepare)?;
    entrance.enter(user, report).map_err(Report::Enter)?;
    fill_up(files).map_err(Report::Prepare)
}

fn in_machine(files: &Files) -> Result<()> {
    // All have the flag already; this is against one that is forgotten some day.
    sys::close_on_exec_from(3);
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let current = Some(maximum.map_or(OPEN_FILES, |most| most.min(OPEN_FILES)));
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    fill_up(files)
}

fn prepare(files: &Files) -> Result<()> {
    // A session of its own, and with it a process group; the terminal belongs to the session.
    rustix::process::setsid()?;
    let (stdin, stdout, stderr) = match files {
        Files::Pipes { stdin, stdout, stderr } => {
            (stdin.as_ref(), stdout.as_ref(), stderr.as_ref())
        }
        Files::Terminal(terminal) => {
            rustix::process::ioctl_tiocsctty(terminal)?;
            (Some(terminal), Some(terminal), Some(terminal))
        }
    };
    stdin.map_or(Ok(()), rustix::stdio::dup2_stdin)?;
    stdout.map_or(Ok(()), rustix::stdio::dup2_stdout)?;
    stderr.map_or(Ok(()), rustix::stdio::dup2_stderr)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

/// `/dev/null` for the streams that are missing: the container's, if it has entered one.
fn fill_up(files: &Files) -> Result<()> {
    let Files::Pipes { stdin, stdout, stderr } = files else { return Ok(()) };
    if stdin.is_some() && stdout.is_some() && stderr.is_some() {
        return Ok(());
    }
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    if stdin.is_none() {
        rustix::stdio::dup2_stdin(&null)?;
    }
    if stdout.is_none() {
        rustix::stdio::dup2_stdout(&null)?;
    }
    if stderr.is_none() {
        rustix::stdio::dup2_stderr(&null)?;
    }
    Ok(())
}
