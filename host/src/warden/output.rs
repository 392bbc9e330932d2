//! What agents write: read from their streams, on to the log and to whoever follows it.
//!
//! Each stream has a thread of its own, because the log's disk may be slow. It reads no faster than
//! [`MAX_RATE`], so an agent that floods its output is slowed down by the flow control of its
//! stream, and costs neither the host nor its neighbours anything.

use std::io::{self, Read as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, oneshot};

use super::log::{Log, Source};

/// Fastest that one stream is read, in bytes a second: far above what a person or a collector reads,
/// far below what a disk takes.
const MAX_RATE: u32 = 16 << 20;
/// What is read at once.
const CHUNK: usize = 32 << 10;
/// A thread's stack: it calls nothing deep.
const STACK: usize = 128 << 10;
/// After a command's end its output ends too. A guest that keeps the stream open and says nothing for
/// so long is not waited for.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// A piece of an agent's output, for those who follow it.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// The agent's number.
    pub(super) agent: usize,
    pub(super) source: Source,
    pub(super) bytes: Arc<[u8]>,
}

/// A stream that is being read.
#[derive(Debug)]
pub(super) struct Pump {
    stream: UnixStream,
    /// `None`: it was told.
    done: Option<oneshot::Receiver<()>>,
}

/// Where a pump's bytes go.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    pub(super) agent: usize,
    pub(super) log: Arc<Mutex<Log>>,
    pub(super) followers: broadcast::Sender<Piece>,
}

impl Pump {
    /// Reads `stream` to its end.
    pub(super) fn start(stream: UnixStream, source: Source, sink: Sink) -> io::Result<Self> {
        let (tell, done) = oneshot::channel();
        let reader = stream.try_clone()?;
        let name = format!("output-{}", sink.agent);
        thread::Builder::new().name(name).stack_size(STACK).spawn(move || {
            pump(reader, source, &sink);
            // Whoever waited may have given up.
            tell.send(()).ok();
        })?;
        Ok(Self { stream, done: Some(done) })
    }

    async fn read(&mut self) {
        if let Some(done) = &mut self.done {
            // Told, or its thread is gone.
            done.await.ok();
            self.done = None;
        }
    }

    /// Waits until the stream has ended and all of it is read, and closes it.
    pub(super) async fn read_and_closed(&mut self) {
        self.read().await;
        self.stream.shutdown(Shutdown::Both).ok();
    }

    /// Waits, after the command's end, until the rest is read.
    pub(super) async fn drain(mut self) {
        if tokio::time::timeout(DRAIN_LIMIT, self.read()).await.is_err() {
            // Ends the thread's wait.
            self.stream.shutdown(Shutdown::Both).ok();
        }
    }
}

fn pump(mut stream: UnixStream, source: Source, sink: &Sink) {
    let mut buffer = vec![0; CHUNK];
    let mut pace = Pace::new(Instant::now());
    loop {
        let count = match stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The machine is gone: its end is told elsewhere.
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        // A full disk loses the log, not the agent.
        let _lost = lock(&sink.log).write(source, bytes);
        // Fails when nobody follows.
        sink.followers.send(Piece { agent: sink.agent, source, bytes: bytes.into() }).ok();
        thread::sleep(pace.wait(count, Instant::now()));
    }
    let _lost = lock(&sink.log).finish(source);
}

fn lock(log: &Mutex<Log>) -> std::sync::MutexGuard<'_, Log> {
    // A log is whole after every call.
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps to [`MAX_RATE`], with bursts of a second.
struct Pace {
    /// When what was read so far would have been read at the full rate.
    due: Instant,
}

impl Pace {
    const fn new(now: Instant) -> Self {
        Self { due: now }
    }

    /// How long to wait after `count` more bytes.
    fn wait(&mut self, count: usize, now: Instant) -> Duration {
        let burst = Duration::from_secs(1);
        let takes = Duration::from_secs_f64(count as f64 / f64::from(MAX_RATE));
        self.due = self.due.max(now.checked_sub(burst).unwrap_or(now)) + takes;
        self.due.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_flood_is_paced_and_a_burst_is_not() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.wait(CHUNK, start + Duration::from_secs(5)), Duration::ZERO);
        let now = start + Duration::from_secs(5);
        let total: usize = (0..4 * MAX_RATE as usize / CHUNK).map(|_| CHUNK).sum();
        let mut last = Duration::ZERO;
        for _ in 0..total / CHUNK {
            last = pace.wait(CHUNK, now);
        }
        // Four seconds' worth, one of them for free.
        assert!((last.as_secs_f64() - 3.0).abs() < 0.1, "{last:?}");
    }

    #[tokio::test]
    async fn bytes_reach_the_log_and_the_follower() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let log = Arc::new(Mutex::new(Log::open(&path).unwrap()));
        let (followers, mut follower) = broadcast::channel(8);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let sink = Sink { agent: 3, log, followers };
        let pump = Pump::start(theirs, Source::Stderr, sink).unwrap();
        ours.write_all(b"hello\nthere").unwrap();
        drop(ours);
        pump.drain().await;
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(" stderr F hello\n") && text.contains(" stderr P there\n"), "{text}");
        let piece = follower.recv().await.unwrap();
        assert_eq!(
            (piece.agent, piece.source, &*piece.bytes),
            (3, Source::Stderr, &b"hello\nthere"[..])
        );
    }
}
