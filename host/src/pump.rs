//! Bytes between this process's standard streams and a command's, each direction on its own thread.
//!
//! Threads, because standard streams may be files, pipes or terminals that other processes share: they
//! can't all be waited for by the runtime, and switching them to non-blocking would change them for the
//! others. Each thread holds one buffer, so a fast writer is slowed down to the speed of its reader.

use std::io::{self, IsTerminal, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::report::tell_line;

/// What is moved at once: twice a pipe's default, so that a full one is emptied in one turn.
const BUFFER: usize = 128 << 10;
/// A pump thread's stack: it calls nothing deep.
const STACK: usize = 128 << 10;
/// After a command's end its output ends too, as soon as it is read. A guest that says nothing for so
/// long then, and keeps the stream open, is not waited for.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// One of this process's output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stdout => "standard output",
            Self::Stderr => "standard error",
        })
    }
}

/// How an output pump ended.
#[derive(Debug)]
pub enum Outcome {
    /// The stream ended and all of it was written.
    Whole,
    /// Nobody reads this process's output any more, as with `| head`. The command learns it too.
    ReaderGone,
    /// It could not be written for another reason. The command sees its reader gone.
    Failed(io::Error),
    /// The guest kept the stream open after the command's end and sent nothing.
    GivenUp,
}

/// A running output pump.
#[derive(Debug)]
pub struct Output {
    target: Target,
    /// A second handle on the stream, to end a wait for it.
    stream: UnixStream,
    progress: Arc<Progress>,
    done: oneshot::Receiver<Outcome>,
}

#[derive(Debug, Default)]
struct Progress {
    bytes: AtomicU64,
    /// Whether the thread waits for the guest, and not for our reader.
    reading: AtomicBool,
}

/// Pumps what a command writes to `target`.
///
/// # Errors
/// The system refuses a thread or a descriptor.
pub fn start_output(stream: UnixStream, target: Target) -> io::Result<Output> {
    let progress = Arc::new(Progress::default());
    let (done, outcome) = oneshot::channel();
    let (source, seen) = (stream.try_clone()?, Arc::clone(&progress));
    thread::Builder::new().name(format!("{target}")).stack_size(STACK).spawn(move || {
        let result = match target {
            Target::Stdout => pump_output(&source, io::stdout().as_fd(), &seen),
            Target::Stderr => pump_output(&source, io::stderr().as_fd(), &seen),
        };
        // The command shall learn that nobody reads on; at an orderly end this does nothing.
        source.shutdown(Shutdown::Both).ok();
        // Whoever started it may be gone.
        done.send(result).ok();
    })?;
    Ok(Output { target, stream, progress, done: outcome })
}

impl Output {
    /// Where it writes.
    #[must_use]
    pub const fn target(&self) -> Target {
        self.target
    }

    /// Waits, after the command's end, until the rest of its output is written.
    pub async fn drain(mut self) -> Outcome {
        let mut seen = self.progress.bytes.load(Ordering::Relaxed);
        loop {
            if let Ok(done) = timeout(DRAIN_LIMIT, &mut self.done).await {
                return done.unwrap_or(Outcome::GivenUp);
            }
            let bytes = self.progress.bytes.load(Ordering::Relaxed);
            if bytes == seen && self.progress.reading.load(Ordering::Relaxed) {
                // Ends the thread's wait.
                self.stream.shutdown(Shutdown::Both).ok();
                return Outcome::GivenUp;
            }
            seen = bytes;
        }
    }
}

fn pump_output(mut source: &UnixStream, target: BorrowedFd<'_>, progress: &Progress) -> Outcome {
    let mut buffer = vec![0; BUFFER];
    loop {
        progress.reading.store(true, Ordering::Relaxed);
        let length = match source.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The vmm is gone, and with it what it had not sent yet: the machine's end tells why.
            Err(_) => return Outcome::Whole,
            Ok(length) => length,
        };
        progress.reading.store(false, Ordering::Relaxed);
        match buffer.get(..length) {
            None | Some([]) => return Outcome::Whole,
            Some(bytes) => match write_all(target, bytes) {
                Ok(()) => {}
                Err(Errno::PIPE) => return Outcome::ReaderGone,
                Err(errno) => return Outcome::Failed(errno.into()),
            },
        }
        // A few hundred thousand years at 1 GB/s.
        progress.bytes.fetch_add(length as u64, Ordering::Relaxed);
    }
}

fn write_all(target: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(target, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            // Somebody who shares the stream has made it non-blocking.
            Err(Errno::AGAIN) => wait(target, PollFlags::OUT)?,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Pumps this process's standard input to a command, until either ends; at the input's end the stream is
/// shut down for writing, which is the command's end of file (the supervisor types it into a terminal).
///
/// Nobody waits for this pump: it may sit in a read that never returns, and ends with the process.
///
/// # Errors
/// The system refuses a thread.
pub fn start_input(mut stream: UnixStream) -> io::Result<()> {
    let pump = move || {
        // What can't be written is for a command that reads no more; that is its good right.
        if pump_input(&mut stream).is_ok() {
            stream.shutdown(Shutdown::Write).ok();
        }
    };
    thread::Builder::new().name("standard input".into()).stack_size(STACK).spawn(pump)?;
    Ok(())
}

fn pump_input(stream: &mut UnixStream) -> io::Result<()> {
    let input = io::stdin();
    let mut buffer = vec![0; BUFFER];
    loop {
        // Past the standard library's buffer: what is typed must go on at once.
        match rustix::io::read(input.as_fd(), &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => stream.write_all(buffer.get(..length).unwrap_or_default())?,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(input.as_fd(), PollFlags::IN)?,
            // The terminal is gone.
            Err(Errno::IO) if input.is_terminal() => return Ok(()),
            Err(errno) => {
                // Nobody waits for this thread, so it is told here; the command sees an end of file.
                tell_line(format_args!(
                    "cloister: can't read standard input: {}",
                    io::Error::from(errno)
                ));
                return Ok(());
            }
        }
    }
}

fn wait(descriptor: BorrowedFd<'_>, interest: PollFlags) -> Result<(), Errno> {
    match poll(&mut [PollFd::from_borrowed_fd(descriptor, interest)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}
