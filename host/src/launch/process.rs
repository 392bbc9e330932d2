//! The vmm's process: started with one descriptor and nothing else of ours, and ended for certain.
#![expect(unsafe_code, reason = "what happens between fork and exec is unsafe to say")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use cloister_vmm::control::CONTROL_FD;
use rustix::process::{Pid, Resource, Rlimit};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::tail::Tail;

/// Most that is kept of what the vmm writes to its standard error.
const MAX_STDERR: usize = 16 << 10;
/// How long to wait for the end of its standard error once the vmm has ended: only it held the pipe,
/// so this is never reached unless something is very wrong.
const STDERR_LIMIT: Duration = Duration::from_secs(1);

/// Descriptors that the vmm may have: a guest's 1024 streams, with room for all else.
const MAX_DESCRIPTORS: u64 = 2048;

/// The vmm can't be started.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Fork or exec failed.
    #[error("can't start {}", path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its descriptor can't be put in place.
    #[error("can't prepare the vmm's descriptor")]
    Descriptor(#[source] io::Error),
}

/// A running vmm. Dropped, it is killed.
#[derive(Debug)]
pub struct VmmProcess {
    child: Child,
    stderr: Tail,
    collector: JoinHandle<()>,
}

impl VmmProcess {
    /// Starts `program` with `control` as descriptor 3, no argument, no environment, nothing to read,
    /// in a session of its own (a Ctrl-C at the terminal is not for it, and no terminal can be
    /// taken), and killed by the kernel when the calling thread ends.
    ///
    /// # Errors
    /// The system refuses.
    pub fn spawn(program: &Path, control: OwnedFd) -> Result<Self, ProcessError> {
        // Holds number 3 if it is free, so that no descriptor that the standard library makes for
        // its own use between fork and exec can get it and be overwritten.
        let placeholder = rustix::io::fcntl_dupfd_cloexec(&control, CONTROL_FD)
            .map_err(|errno| ProcessError::Descriptor(errno.into()))?;
        let mut command = Command::new(program);
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let descriptor = control.as_raw_fd();
        let parent = rustix::process::getpid();
        // SAFETY: the closure runs in the forked child and makes only system calls there: it
        // allocates nothing, takes no lock and touches no memory that another thread may hold.
        unsafe { command.pre_exec(move || prepare_child(descriptor, parent)) };
        let mut child = command
            .spawn()
            .map_err(|source| ProcessError::Spawn { path: program.to_owned(), source })?;
        drop((placeholder, control));
        let stderr = Tail::new(MAX_STDERR);
        let collector = match child.stderr.take() {
            Some(pipe) => tokio::spawn(stderr.clone().collect(pipe)),
            None => tokio::spawn(async {}),
        };
        Ok(Self { child, stderr, collector })
    }

    /// Waits up to `grace` for the process to end by itself, then kills it. Afterwards it is reaped.
    pub async fn end(&mut self, grace: Duration) -> Option<ExitStatus> {
        let status = match tokio::time::timeout(grace, self.child.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => {
                // Fails only when it has ended in between.
                self.child.start_kill().ok();
                self.child.wait().await.ok()
            }
        };
        // The last words come after the end.
        tokio::time::timeout(STDERR_LIMIT, &mut self.collector).await.ok();
        status
    }

    /// The last of what it wrote to its standard error.
    #[must_use]
    pub fn stderr(&self) -> Vec<u8> {
        self.stderr.bytes()
    }

    /// Its process id, while it has not been reaped.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }
}

/// Between fork and exec, in the child.
fn prepare_child(control: RawFd, parent: Pid) -> io::Result<()> {
    rustix::process::setsid()?;
    // Even a host that is killed takes its machine with it.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if rustix::process::getppid() != Some(parent) {
        // It died before the line above; nobody would send the signal any more.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    place(control)?;
    allow_streams()?;
    close_rest_on_exec()
}

/// Room for as many streams as the vmm lets a guest have, where the hard limit allows it.
fn allow_streams() -> io::Result<()> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS);
    if limit.current.is_some_and(|current| current < most) {
        let raised = Rlimit { current: Some(most), ..limit };
        rustix::process::setrlimit(Resource::Nofile, raised)?;
    }
    Ok(())
}

/// Makes `control` descriptor [`CONTROL_FD`], open across exec.
fn place(control: RawFd) -> io::Result<()> {
    let result = if control == CONTROL_FD {
        // SAFETY: changes a flag of a descriptor that is open and the child's own.
        unsafe { libc::fcntl(control, libc::F_SETFD, 0) }
    } else {
        // SAFETY: replaces descriptor 3 of the child only, which the parent keeps occupied, so it
        // is none that the standard library uses on its way to exec.
        unsafe { libc::dup2(control, CONTROL_FD) }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whoever started us may have left descriptors open across exec; none of them is for the vmm.
/// Needs Linux 5.11; KVM hosts that can run this guest's devices are newer.
fn close_rest_on_exec() -> io::Result<()> {
    let first = libc::c_uint::try_from(CONTROL_FD + 1).unwrap_or(libc::c_uint::MAX);
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: sets a flag on descriptors of the child; it closes none, so what the standard library
    // still needs on its way to exec stays usable.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
