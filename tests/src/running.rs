//! A `cloister` that runs: its streams, signals to it, and its end, each with a limit.

use std::fs;
use std::io::{Read, Write as _};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::call::Outcome;

/// What is read at once from a stream.
const CHUNK: usize = 64 << 10;
/// How long the streams of a process that has ended may stay open without a byte: whoever it leaves with them ends at
/// once, or never.
const REST_LIMIT: Duration = Duration::from_secs(60);

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
        let stderr = child.stderr.take().map(Stream::of_pipe);
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
    /// It does not end within the limit, or leaves somebody who holds its streams.
    #[must_use = "say what should have come of it"]
    pub fn finish(mut self) -> Outcome {
        self.read_stdout();
        let ended = self.ends_within(self.left());
        if !ended {
            self.child.kill().expect("it can be killed");
        }
        let status = self.child.wait().expect("it can be waited for");
        let time = self.begin.elapsed();
        let rest = |stream: Stream| {
            stream.rest().unwrap_or_else(|why| panic!("`{}` has ended, but {why}", self.words))
        };
        let stdout = self.stdout.take().map(rest).unwrap_or_default();
        let stderr = self.stderr.take().map(rest).unwrap_or_default();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        assert!(ended, "`{}` did not end within {:?}; it said:\n{stderr}", self.words, self.limit);
        if let Some(feeder) = self.feeder.take() {
            feeder.join().expect("the thread that writes");
        }
        Outcome { words: std::mem::take(&mut self.words), status, stdout, stderr, time }
    }

    fn read_stdout(&mut self) {
        if let Some(stdout) = self.child.stdout.take() {
            self.stdout = Some(Stream::of_pipe(stdout));
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
    /// What the other end is, as `/proc/PID/fd` shows it.
    other_end: PathBuf,
}

impl Stream {
    /// Of a pipe, both ends of which are shown alike.
    fn of_pipe(pipe: impl Read + AsRawFd + Send + 'static) -> Self {
        let link = format!("/proc/self/fd/{}", pipe.as_raw_fd());
        let other_end = fs::read_link(link).expect("a descriptor of ours");
        Self::new(pipe, other_end)
    }

    pub(crate) fn new(mut source: impl Read + Send + 'static, other_end: PathBuf) -> Self {
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
        Self { chunks, seen: Vec::new(), other_end }
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

    /// All that was read and will be, of a process that has ended. The error tells who else holds the stream.
    pub(crate) fn rest(self) -> Result<Vec<u8>, String> {
        self.rest_within(REST_LIMIT)
    }

    fn rest_within(mut self, limit: Duration) -> Result<Vec<u8>, String> {
        loop {
            match self.chunks.recv_timeout(limit) {
                Ok(chunk) => self.seen.extend(chunk),
                Err(RecvTimeoutError::Disconnected) => return Ok(self.seen),
                Err(RecvTimeoutError::Timeout) => {
                    let (end, holders) = (self.other_end.display(), holders(&self.other_end));
                    return Err(format!("{end} is held by {holders:#?}"));
                }
            }
        }
    }
}

/// The other processes that have this open, and what each waits for in the kernel.
fn holders(open: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let holds = |process: &Path| {
        let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        descriptors.filter_map(|one| fs::read_link(one.path()).ok()).any(|link| link == open)
    };
    let told = |process: PathBuf, name: &str| {
        let bytes = fs::read(process.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    processes
        .map(|process| process.path())
        .filter(|process| !process.ends_with(std::process::id().to_string()) && holds(process))
        .map(|process| {
            let names = ["cmdline", "status", "wchan", "syscall", "stack"];
            names.map(|name| told(process.clone(), name)).join("\n")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn who_is_left_with_a_stream_is_named() {
        let mut shell = Command::new("sh")
            .args(["-c", "echo said; sleep 100 & echo $! >&2"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        assert!(shell.wait().unwrap().success());
        let mut errors = Stream::of_pipe(shell.stderr.take().unwrap());
        let left = errors.until("\n", Duration::from_secs(30)).unwrap().trim().parse().unwrap();
        let output = Stream::of_pipe(shell.stdout.take().unwrap());
        let told = output.rest_within(Duration::from_millis(200)).unwrap_err();
        kill_process(Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
        assert!(told.starts_with("pipe:[") && told.contains("sleep 100"), "{told}");
        assert_eq!(errors.rest().unwrap(), format!("{left}\n").into_bytes());
    }
}
