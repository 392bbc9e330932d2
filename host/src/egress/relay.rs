//! Moves the bytes of one stream: from the guest to the outside and back, with a bounded buffer each way,
//! ends passed on one by one, and a limit on the time in which nothing moves.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep_until, timeout};

use super::hello::{Hello, HelloError, examine};
use super::limits::{BUFFER, HELLO_LIMIT, IDLE_LIMIT};
use super::quota::Used;

/// The port on which a name means TLS.
const TLS_PORT: u16 = 443;

/// Why a stream ended before both sides had ended it.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// A side went away.
    #[error("a side went away")]
    Io(#[from] io::Error),
    /// Nothing moved for too long.
    #[error("nothing moved for {} minutes", IDLE_LIMIT.as_secs() / 60)]
    Idle,
    /// The TLS client's first message is refused.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// It names another server.
    #[error("the TLS client names the server {found}, and asked for {wanted}")]
    OtherName {
        /// Which it asked for.
        wanted: String,
        /// Which it names.
        found: String,
    },
    /// No TLS where it has to be.
    #[error("port {TLS_PORT} of a host that is allowed by its name is for TLS, and this is none")]
    NotTls,
    /// The agent has used up its quota.
    #[error("{0}")]
    UsedUp(String),
    /// The first message did not come.
    #[error("the client's first message took more than {} s", HELLO_LIMIT.as_secs())]
    HelloTimedOut,
}

impl RelayError {
    /// Whether it was stopped by a rule, and not by a fault or by time.
    #[must_use]
    pub const fn is_denial(&self) -> bool {
        match self {
            Self::Hello(_) | Self::OtherName { .. } | Self::NotTls => true,
            Self::HelloTimedOut | Self::UsedUp(_) => true,
            Self::Io(_) | Self::Idle => false,
        }
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the agent to the outside.
    Out,
    /// From the outside to the agent.
    Back,
}

/// How much has moved on one stream.
#[derive(Debug)]
pub struct Traffic {
    /// Bytes from the guest to the outside.
    pub sent: Cell<u64>,
    /// Bytes from the outside to the guest.
    pub received: Cell<u64>,
    last: Cell<Instant>,
    /// Of the agent, on all its streams.
    used: Rc<Used>,
}

impl Traffic {
    pub(super) fn new(used: Rc<Used>) -> Self {
        let last = Cell::new(Instant::now());
        Self { sent: Cell::default(), received: Cell::default(), last, used }
    }

    pub(super) fn moved(&self, direction: Direction, bytes: u64) {
        let counter = match direction {
            Direction::Out => &self.sent,
            Direction::Back => &self.received,
        };
        counter.set(counter.get().saturating_add(bytes));
        self.last.set(Instant::now());
        self.used.count(direction, bytes);
    }

    /// Whether anything more may pass.
    ///
    /// # Errors
    /// The agent's quota is used up.
    pub(super) fn check(&self) -> Result<(), RelayError> {
        self.used.refusal().map_or(Ok(()), |why| Err(RelayError::UsedUp(why)))
    }
}

/// Moves bytes until both sides have ended. `name` and the port: what was allowed by name, so that a TLS
/// client must name the same.
///
/// # Errors
/// Why it ended before; the streams are to be dropped then, so that both sides see more than an end.
pub async fn relay(
    guest: &mut UnixStream,
    outside: &mut TcpStream,
    name: Option<(&str, u16)>,
    traffic: &Traffic,
) -> Result<(), RelayError> {
    let (mut from_guest, mut to_guest) = guest.split();
    let (mut from_outside, mut to_outside) = outside.split();
    let out = async {
        if let Some((name, port)) = name {
            let first = inspect(&mut from_guest, name, port, false).await?;
            if let First::Plain(first) | First::Tls(first) = first {
                to_outside.write_all(&first).await?;
                traffic.moved(Direction::Out, first.len() as u64);
            }
        }
        pump(&mut from_guest, &mut to_outside, Direction::Out, traffic).await
    };
    let back = pump(&mut from_outside, &mut to_guest, Direction::Back, traffic);
    let both = async { tokio::try_join!(out, back).map(drop) };
    tokio::select! {
        result = both => result,
        () = idle(traffic) => Err(RelayError::Idle),
    }
}

/// What a client sends first.
#[derive(Debug)]
pub(super) enum First {
    /// A TLS client's whole first message, which names the right server.
    Tls(Vec<u8>),
    /// Something else.
    Plain(Vec<u8>),
    /// Its end.
    Nothing,
}

/// What a client sends first, when it is clear that it may go on. Where the server speaks first, as it does
/// without TLS, this does not keep it from being heard. It has its time on the TLS port, and where the client
/// `speaks_first`.
pub(super) async fn inspect(
    guest: &mut (impl AsyncRead + Unpin),
    name: &str,
    port: u16,
    speaks_first: bool,
) -> Result<First, RelayError> {
    let mut first = Vec::new();
    let limited = async {
        loop {
            match examine(&first)? {
                Hello::Unfinished => {}
                Hello::Plain if port == TLS_PORT => return Err(RelayError::NotTls),
                Hello::Plain => return Ok(false),
                Hello::To(found) if found == name => return Ok(true),
                Hello::To(found) => {
                    return Err(RelayError::OtherName { wanted: name.to_owned(), found });
                }
            }
            if guest.read_buf(&mut first).await? == 0 {
                // It has nothing to say, or not all of it.
                let broken = !first.is_empty();
                return if broken { Err(HelloError::Malformed.into()) } else { Ok(false) };
            }
        }
    };
    // Other protocols may be silent for as long as they like before their first byte.
    let tls = if port == TLS_PORT || speaks_first {
        timeout(HELLO_LIMIT, limited).await.map_err(|_| RelayError::HelloTimedOut)??
    } else {
        limited.await?
    };
    Ok(match (first.is_empty(), tls) {
        (true, _) => First::Nothing,
        (_, true) => First::Tls(first),
        (_, false) => First::Plain(first),
    })
}

pub(super) async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    direction: Direction,
    traffic: &Traffic,
) -> Result<(), RelayError> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            // The other side may have ended both its directions: nothing is left to be told then.
            match to.shutdown().await {
                Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                    return Err(error.into());
                }
                _ => return Ok(()),
            }
        };
        to.write_all(bytes).await?;
        traffic.moved(direction, count as u64);
        traffic.check()?;
    }
}

pub(super) async fn idle(traffic: &Traffic) {
    loop {
        let end = traffic.last.get() + IDLE_LIMIT;
        if end <= Instant::now() {
            return;
        }
        sleep_until(end).await;
    }
}

#[cfg(test)]
#[path = "relay_test.rs"]
mod tests;
