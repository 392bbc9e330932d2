//! The vmm's process: started through the jailer, watched by a descriptor, and ended for certain.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use cloister_jailer::step::{Failure, MAX_REPORTS, REPORT_LEN, Report};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, kill_process,
    pidfd_open, pidfd_send_signal, waitid, waitpid,
};
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use super::jail::Cell;
use super::place::{self, spawn};
use crate::pool;
use crate::tail::Tail;

/// Most that is kept of what the vmm writes to its standard error.
const MAX_STDERR: usize = 16 << 10;
/// How long to wait for the end of its standard error once the vmm has ended: only it held the pipe,
/// so this is never reached unless something is very wrong.
const STDERR_LIMIT: Duration = Duration::from_secs(1);
/// How long another parent of a vmm that has ended may take to remove its control group and to tell. What it leaves then the
/// next command removes. (The removal itself has 20 s.)
const PARENT_LIMIT: Duration = Duration::from_secs(30);
/// How long the jail may take. Milliseconds; a second on an emulated host.
const JAIL_LIMIT: Duration = Duration::from_secs(30);

/// The vmm can't be started.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The jailer itself can't be started.
    #[error("can't start {}", path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program can't be read.
    #[error("can't read {}", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A descriptor can't be made or put in place.
    #[error("can't prepare the jail's descriptors")]
    Descriptor(#[source] io::Error),
    /// A step of the jail failed: nothing runs.
    #[error("can't start {}: {failure}", path.display())]
    Jail {
        /// The program.
        path: PathBuf,
        /// The step.
        failure: Failure,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The jailer ended without a word, or took too long.
    #[error("cloister-jailer did not say that it started {}", path.display())]
    Silent {
        /// The program.
        path: PathBuf,
    },
}

impl ProcessError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Jail { failure, .. } => failure.step.remedy(),
            Self::Silent { .. } => "`make build` makes programs that belong together",
            _ => "`cloister doctor` tells what this host lacks",
        }
    }
}

/// A process that was just started in its jail, a child of the calling thread.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id.
    pub pid: Pid,
    /// Readable once it has ended.
    pub handle: OwnedFd,
    /// What it writes to its standard error; reading does not wait.
    pub words: OwnedFd,
}

impl Spawned {
    /// Starts `program` by `jailer` in the jail of `cell`, with `control` as descriptor 3, no
    /// argument, no environment, nothing to read, in a session of its own (a Ctrl-C at the terminal is
    /// not for it, and no terminal can be taken), and killed by the kernel when the calling thread
    /// ends.
    ///
    /// Waits until it is executed: what it is told later reaches nobody outside of a jail.
    ///
    /// # Errors
    /// A step fails; nothing runs then.
    pub fn start(
        jailer: &Path,
        program: &Path,
        cell: &Cell,
        control: OwnedFd,
    ) -> Result<Self, ProcessError> {
        let wrap = ProcessError::Descriptor;
        let (reports, report) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| wrap(e.into()))?;
        let (words, stderr) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| wrap(e.into()))?;
        rustix::io::ioctl_fionbio(&words, true).map_err(|e| wrap(e.into()))?;
        let places = place::descriptors(program, cell, control, report)?;
        let started = spawn(jailer, &places, &stderr)
            .map_err(|source| ProcessError::Spawn { path: jailer.to_owned(), source })?;
        // From here on only the jailer and the jailed process hold the other ends.
        drop((places, stderr));
        let pid = await_jail(started, reports, program)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| wrap(e.into()))?;
        Ok(Self { pid, handle, words })
    }
}

/// Whose child a vmm is, and so who reaps it and removes its control group.
#[derive(Debug)]
enum Parent {
    /// The calling thread.
    Us(Option<Cell>),
    /// A process of its own.
    Other(pool::take::Parent),
}

/// A running vmm in its jail. Dropped, it is killed, and its control group is removed.
#[derive(Debug)]
pub struct VmmProcess {
    pid: Pid,
    handle: AsyncFd<OwnedFd>,
    has_ended: bool,
    status: Option<ExitStatus>,
    parent: Parent,
    stderr: Tail,
    collector: JoinHandle<()>,
}

impl VmmProcess {
    /// Starts one; see [`Spawned::start`].
    ///
    /// # Errors
    /// A step fails; nothing runs then.
    pub fn spawn(
        jailer: &Path,
        program: &Path,
        cell: Cell,
        control: OwnedFd,
    ) -> Result<Self, ProcessError> {
        let spawned = Spawned::start(jailer, program, &cell, control)?;
        Self::of_child(spawned, cell)
    }

    /// One that was just started in this cell.
    ///
    /// # Errors
    /// The system refuses; it has ended then.
    pub fn of_child(spawned: Spawned, cell: Cell) -> Result<Self, ProcessError> {
        let Spawned { pid, handle, words } = spawned;
        Self::new(pid, handle, words, Parent::Us(Some(cell)))
    }

    /// One that was taken out of a pool.
    ///
    /// # Errors
    /// The system refuses; it ends then.
    pub fn of_blank(
        pid: Pid,
        (handle, words): (OwnedFd, OwnedFd),
        parent: pool::take::Parent,
    ) -> Result<Self, ProcessError> {
        Self::new(pid, handle, words, Parent::Other(parent))
    }

    fn new(
        pid: Pid,
        handle: OwnedFd,
        words: OwnedFd,
        parent: Parent,
    ) -> Result<Self, ProcessError> {
        let wrap = ProcessError::Descriptor;
        let begin = || {
            let words = pipe::Receiver::from_owned_fd(words)?;
            Ok((place::watch(handle)?, words))
        };
        let (handle, words) = begin().map_err(|error| {
            if let Parent::Us(_) = &parent {
                kill_process(pid, Signal::KILL).ok();
                reap(pid, WaitIdOptions::empty());
            }
            wrap(error)
        })?;
        let stderr = Tail::new(MAX_STDERR);
        let collector = tokio::spawn(stderr.clone().collect(words));
        let (has_ended, status) = (false, None);
        Ok(Self { pid, handle, has_ended, status, parent, stderr, collector })
    }

    /// Leaves what it writes to its standard error to somebody else.
    pub fn leave_stderr(&mut self) {
        self.collector.abort();
    }

    /// Waits up to `grace` for the process to end by itself, then kills it. Afterwards it is reaped,
    /// and its control group is gone.
    pub async fn end(&mut self, grace: Duration) -> Option<ExitStatus> {
        if tokio::time::timeout(grace, self.ended()).await.is_err() {
            self.kill();
            self.ended().await;
        }
        if let Parent::Us(cell) = &mut self.parent {
            *cell = None;
        }
        // The last words come after the end.
        tokio::time::timeout(STDERR_LIMIT, &mut self.collector).await.ok();
        self.status
    }

    /// Waits until it has ended. Cancel safe.
    pub async fn ended(&mut self) {
        while !self.has_ended {
            match &mut self.parent {
                Parent::Us(_) => {
                    // Readable once it has ended.
                    let Ok(_ended) = self.handle.readable().await else { return };
                    self.status = reap(self.pid, WaitIdOptions::NOHANG);
                    self.has_ended = self.status.is_some();
                }
                Parent::Other(parent) => {
                    // The kernel's word, whatever its parent does: one that was stopped says nothing more.
                    let Ok(_ended) = self.handle.readable().await else { return };
                    let told = tokio::time::timeout(PARENT_LIMIT, parent.ended()).await;
                    self.status = told.ok().flatten().map(ExitStatus::from_raw);
                    self.has_ended = true;
                }
            }
        }
    }

    fn kill(&self) {
        // Fails only when it has ended.
        pidfd_send_signal(self.handle.get_ref(), Signal::KILL).ok();
    }

    /// The last of what it wrote to its standard error.
    #[must_use]
    pub fn stderr(&self) -> Vec<u8> {
        self.stderr.bytes()
    }

    /// Its process id, while it has not been reaped.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        let pid = self.pid.as_raw_nonzero().get().unsigned_abs();
        (!self.has_ended).then_some(pid)
    }
}

impl Drop for VmmProcess {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        self.kill();
        // Another parent sees to the rest.
        if let Parent::Us(_) = &self.parent {
            reap(self.pid, WaitIdOptions::empty());
        }
    }
}

/// A child's end as the standard library tells it.
fn reap(pid: Pid, options: WaitIdOptions) -> Option<ExitStatus> {
    let ended = waitid(WaitId::Pid(pid), options | WaitIdOptions::EXITED).ok().flatten()?;
    Some(exit_status(&ended))
}

fn exit_status(ended: &WaitIdStatus) -> ExitStatus {
    // wait(2): the code in the second byte, the signal in the first.
    let code = ended.exit_status().map_or(0, |code| (code & 0xff) << 8);
    let signal = ended.terminating_signal().unwrap_or(0);
    ExitStatus::from_raw(code | signal)
}

/// The jailer while it works. Dropped, it is killed and reaped.
struct Jailer(Pid);

impl Drop for Jailer {
    fn drop(&mut self) {
        // In the usual case it has just ended by itself, or is about to: its pipe is closed.
        waitpid(Some(self.0), WaitOptions::empty()).ok();
    }
}

/// Waits until a jailer, a child of the calling thread, has executed `program` in its jail: reads what it and the
/// jailed process report up to then, and reaps it. The jailed process's id, which is the caller's to reap.
///
/// # Errors
/// A step failed, or nothing was reported; nothing runs then.
pub fn await_jail(jailer: Pid, reports: OwnedFd, program: &Path) -> Result<Pid, ProcessError> {
    let jailer = Jailer(jailer);
    let bytes = read_reports(reports);
    if bytes.is_err() {
        kill_process(jailer.0, Signal::KILL).ok();
    }
    drop(jailer);
    let (mut pid, mut failed) = (None, None);
    for bytes in bytes.iter().flat_map(|bytes| bytes.chunks(REPORT_LEN)) {
        match Report::decode(bytes) {
            Some(Report::Started { pid: started }) => pid = Pid::from_raw(started),
            Some(Report::Failed(failure)) => failed = failed.or(Some(failure)),
            None => {}
        }
    }
    if let (Some(pid), None, Ok(_)) = (pid, failed, &bytes) {
        return Ok(pid);
    }
    if let Some(pid) = pid {
        kill_process(pid, Signal::KILL).ok();
        reap(pid, WaitIdOptions::empty());
    }
    let path = program.to_owned();
    Err(match failed {
        Some(failure) => {
            let source = io::Error::from_raw_os_error(failure.errno);
            ProcessError::Jail { path, failure, source }
        }
        None => ProcessError::Silent { path },
    })
}

/// Everything up to the end of file; an error if that does not come in time.
fn read_reports(reports: OwnedFd) -> io::Result<Vec<u8>> {
    let end = Instant::now() + JAIL_LIMIT;
    let mut reports = File::from(reports);
    let mut bytes = Vec::new();
    let mut chunk = [0; MAX_REPORTS * REPORT_LEN];
    while bytes.len() <= MAX_REPORTS * REPORT_LEN {
        let left = end.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&reports, PollFlags::IN)], Some(&limit)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Err(rustix::io::Errno::INTR) => continue,
            ready => ready?,
        };
        match reports.read(&mut chunk)? {
            0 => return Ok(bytes),
            count => bytes.extend(chunk.get(..count).unwrap_or_default()),
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}
