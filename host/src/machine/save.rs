//! Saving a paused machine: all but its memory, or all of it. Its jailed vmm writes no file, so everything comes by pipes;
//! and it is hostile, so everything is bounded.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use cloister_vmm::spec::{EXTENT_HEAD_BYTES, ExtentError, Extents};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::requests::Request;
use super::{ANSWER_LIMIT, Machine, MachineError};

/// Most that a saved state may have; the vmm's own limit is the same.
pub const MAX_STATE: u64 = 1 << 20;
/// What a disk that has much else to do writes in a second at least: the time for a memory is counted by it.
const LEAST_BYTES_PER_SECOND: u64 = 16 << 20;
/// Room of the pipe that memory comes by, so that reader and writer change seldom. Less will do.
const PIPE_BYTES: usize = 1 << 20;

/// Why what a vmm wrote is no saved machine, or can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The pipes can't be made.
    #[error("can't make a pipe for it")]
    Pipe(#[source] io::Error),
    /// The vmm stopped writing.
    #[error("can't read what its vmm writes")]
    Read(#[source] io::Error),
    /// The state is too long, or not as long as it was said to be.
    #[error("its vmm wrote {got} bytes of state and spoke of {said}")]
    State {
        /// How long it is.
        got: u64,
        /// What the vmm said.
        said: u64,
    },
    /// The memory is none.
    #[error(transparent)]
    Memory(#[from] ExtentError),
    /// There is something in the file already.
    #[error("the file for its memory is not empty")]
    NotEmpty,
    /// The file for the memory.
    #[error("can't write its memory")]
    Write(#[source] io::Error),
}

impl Machine {
    /// The state of a paused machine: everything but its memory.
    ///
    /// # Errors
    /// The vmm does not answer, or the machine has ended.
    pub async fn save(&self) -> Result<Vec<u8>, MachineError> {
        self.save_within(ANSWER_LIMIT, None).await
    }

    /// The state of a paused machine that was started to be savable, and its memory: into a file, which is empty, and in
    /// which then all that is not empty takes room. After an error other than of the file the machine may be anything: it is
    /// to be ended.
    ///
    /// # Errors
    /// The vmm does not answer, or what it writes is no memory, or the machine has ended.
    pub async fn save_whole(&self, memory: &File) -> Result<Vec<u8>, MachineError> {
        let limit = limit(self.memory_bytes);
        let to = memory.try_clone().map_err(SaveError::Write)?;
        let (from, vmm_end) = pipe_with(PipeFlags::CLOEXEC).map_err(no_pipe)?;
        fcntl_setpipe_size(&from, PIPE_BYTES).ok();
        let (bytes, deadline) = (self.memory_bytes, Instant::now() + limit);
        let receiving =
            spawn_blocking(move || receive(&mut Pipe { pipe: from.into(), deadline }, &to, bytes));
        // If this fails, the other ends with the vmm, and at the deadline for certain.
        let state = self.save_within(limit, Some(vmm_end)).await?;
        joined(receiving).await??;
        Ok(state)
    }

    async fn save_within(
        &self,
        limit: Duration,
        memory: Option<OwnedFd>,
    ) -> Result<Vec<u8>, MachineError> {
        let (from, vmm_end) = pipe_with(PipeFlags::CLOEXEC).map_err(no_pipe)?;
        rustix::io::ioctl_fionbio(&from, true).map_err(no_pipe)?;
        let from = pipe::Receiver::from_owned_fd(from).map_err(SaveError::Pipe)?;
        // While the vmm writes, which waits when the pipe is full.
        let reading = tokio::spawn(async move {
            let mut state = Vec::new();
            from.take(MAX_STATE.saturating_add(1)).read_to_end(&mut state).await?;
            io::Result::Ok(state)
        });
        let (reply, answer) = oneshot::channel();
        let request = Request::Save { state: vmm_end, memory, reply };
        let saved = timeout(limit, self.exchange(&self.direct, request, answer)).await;
        let saved = saved.unwrap_or(Err(MachineError::NoAnswer { limit })).flatten();
        if saved.is_err() {
            reading.abort();
        }
        let said = saved?;
        // It says so when it has closed its end.
        let state = joined(reading).await?.map_err(SaveError::Read)?;
        let got = u64::try_from(state.len()).unwrap_or(u64::MAX);
        if got != said || got > MAX_STATE {
            return Err(SaveError::State { got, said }.into());
        }
        Ok(state)
    }
}

/// How long it may take to save a machine with its memory.
fn limit(memory_bytes: u64) -> Duration {
    ANSWER_LIMIT + Duration::from_secs(memory_bytes / LEAST_BYTES_PER_SECOND)
}

fn no_pipe(errno: Errno) -> SaveError {
    SaveError::Pipe(errno.into())
}

async fn joined<T>(task: JoinHandle<T>) -> Result<T, SaveError> {
    task.await.map_err(|error| SaveError::Read(io::Error::other(error)))
}

/// A pipe that is read up to a deadline.
struct Pipe {
    pipe: File,
    deadline: Instant,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.pipe, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return self.pipe.read(buffer),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Takes a memory from its vmm into a file.
fn receive(from: &mut impl Read, to: &File, memory_bytes: u64) -> Result<(), SaveError> {
    if to.metadata().map_err(SaveError::Write)?.len() != 0 {
        return Err(SaveError::NotEmpty);
    }
    to.set_len(memory_bytes).map_err(SaveError::Write)?;
    let (mut extents, mut bytes) = (Extents::of(memory_bytes), Vec::new());
    // A disk that is full is not the vmm's fault: it writes on, and its machine can go on.
    let mut written = Ok(());
    loop {
        let mut head = [0; EXTENT_HEAD_BYTES];
        from.read_exact(&mut head).map_err(SaveError::Read)?;
        let Some(place) = extents.next(&head)? else { break };
        // Never more than the longest extent.
        bytes.resize(usize::try_from(place.end - place.start).unwrap_or(usize::MAX), 0);
        from.read_exact(&mut bytes).map_err(SaveError::Read)?;
        written = written.and_then(|()| to.write_all_at(&bytes, place.start));
    }
    match from.read(&mut [0]).map_err(SaveError::Read)? {
        0 => written.map_err(SaveError::Write),
        _ => Err(ExtentError::AfterLast.into()),
    }
}

#[cfg(test)]
#[path = "save_test.rs"]
mod tests;
