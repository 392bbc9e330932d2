//! A `cloister` that runs: its streams, signals to it, and its end, each with a limit.

use std::io::Write as _;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::call::Outcome;

/// What is read at once from a stream.
const CHUNK: usize = 64 << 10;

/// A process that is killed when it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    words: String,
    begin: Instant,
    limit: Duration,
    feeder: Option<JoinHandle<()>>,
    stdin: Option<ChildStdin>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
}

impl Running {
    pub(crate) fn new(mut child: Child, words: String, limit: Duration) -> Self {
        let stdin = child.stdin.take();
        let stderr = child.stderr.take().map(Stream::of_stderr);
        Self {
            child,
            words,
            begin: Instant::now(),
            limit,
            feeder: None,
            stdin,
            stdout: None,
            stderr,
        }
    }

    /// The process.
    ///
    /// # Panics
    /// Never: process ids fit.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Writes to its standard input and closes it, on a thread of its own.
    ///
    /// # Panics
    /// Its standard input is already closed.
    pub fn feed(&mut self, bytes: Vec<u8>) {
        let mut stdin = self.stdin.take().expect("standard input is open");
        // A command that does not read its input is no error.
        self.feeder = Some(thread::spawn(move || stdin.write_all(&bytes).unwrap_or(())));
    }

    /// Its standard input, for a test that writes to it by itself.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// Its standard output, for a test that reads it by itself.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Writes to its standard input, which stays open.
    ///
    /// # Panics
    /// It can't be written.
    pub fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        stdin.write_all(text.as_bytes()).expect("standard input takes it");
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Reads standard output until it contains `text`; all that has been read so far.
    ///
    /// # Panics
    /// It ends first, or takes longer than the limit.
    pub fn wait_for(&mut self, text: &str) -> String {
        self.read_stdout();
        let (words, left) = (self.words.clone(), self.left());
        let stdout = self.stdout.as_mut().expect("it was just made");
        stdout.until(text, left).unwrap_or_else(|why| panic!("`{words}`: no {text:?}: {why}"))
    }

    /// Reads standard error until it contains `text`; all that has been read so far.
    ///
    /// # Panics
    /// It ends first, or takes longer than the limit.
    pub fn wait_for_words(&mut self, text: &str) -> String {
        let (words, left) = (self.words.clone(), self.left());
        let stderr = self.stderr.as_mut().expect("standard error is read");
        stderr.until(text, left).unwrap_or_else(|why| panic!("`{words}`: no {text:?}: {why}"))
    }

    /// Whether standard error contains `text` within `time`.
    pub fn says_within(&mut self, text: &str, time: Duration) -> bool {
        self.stderr.as_mut().is_some_and(|stderr| stderr.until(text, time).is_ok())
    }

    /// Sends a signal to the process.
    ///
    /// # Panics
    /// The process has ended and was waited for.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process is there");
    }

    /// Whether the process ends within `time`.
    ///
    /// # Panics
    /// It can't be waited for.
    #[must_use]
    pub fn ends_within(&self, time: Duration) -> bool {
        let process = pidfd_open(self.pid(), PidfdFlags::empty()).expect("a handle on the process");
        let limit = Timespec::try_from(time).expect("a time that fits");
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        poll(&mut fds, Some(&limit)).expect("it can be waited for") > 0
    }

    /// Waits for the end, and for all that it wrote.
    ///
    /// # Panics
    /// It does not end within the limit.
    #[must_use = "say what should have come of it"]
    pub fn finish(mut self) -> Outcome {
        self.read_stdout();
        let ended = self.ends_within(self.left());
        if !ended {
            self.child.kill().expect("it can be killed");
        }
        let status = self.child.wait().expect("it can be waited for");
        let time = self.begin.elapsed();
        let stdout = self.stdout.take().map(Stream::rest).unwrap_or_default();
        let stderr = self.stderr.take().map(Stream::rest).unwrap_or_default();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        assert!(ended, "`{}` did not end within {:?}; it said:\n{stderr}", self.words, self.limit);
        if let Some(feeder) = self.feeder.take() {
            feeder.join().expect("the thread that writes");
        }
        Outcome { words: std::mem::take(&mut self.words), status, stdout, stderr, time }
    }

    fn read_stdout(&mut self) {
        if let Some(stdout) = self.child.stdout.take() {
            self.stdout = Some(Stream::of_stdout(stdout));
        }
    }

    fn left(&self) -> Duration {
        self.limit.saturating_sub(self.begin.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After `finish` it has ended, and both are refused.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// One output stream, read by a thread as fast as it comes.
#[derive(Debug)]
pub(crate) struct Stream {
    chunks: Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

impl Stream {
    fn of_stdout(stdout: ChildStdout) -> Self {
        Self::new(stdout)
    }

    fn of_stderr(stderr: ChildStderr) -> Self {
        Self::new(stderr)
    }

    pub(crate) fn new(mut source: impl std::io::Read + Send + 'static) -> Self {
        let (sender, chunks) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = vec![0; CHUNK];
            // A terminal whose other side is closed ends with an error.
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                let Some(chunk) = buffer.get(..count) else { break };
                if sender.send(chunk.to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { chunks, seen: Vec::new() }
    }

    /// All that was read, once it contains `text`.
    pub(crate) fn until(&mut self, text: &str, limit: Duration) -> Result<String, String> {
        let end = Instant::now() + limit;
        loop {
            let seen = String::from_utf8_lossy(&self.seen).into_owned();
            if seen.contains(text) {
                return Ok(seen);
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.chunks.recv_timeout(left) {
                Ok(chunk) => self.seen.extend(chunk),
                Err(RecvTimeoutError::Timeout) => return Err(format!("time is over: {seen:?}")),
                Err(RecvTimeoutError::Disconnected) => return Err(format!("it ended: {seen:?}")),
            }
        }
    }

    /// All that was read and will be.
    pub(crate) fn rest(mut self) -> Vec<u8> {
        while let Ok(chunk) = self.chunks.recv() {
            self.seen.extend(chunk);
        }
        self.seen
    }
}
