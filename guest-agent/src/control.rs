//! The control connection: requests in, events out, both bounded.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use cloister_protocol::VERSION;
use cloister_protocol::check::Broken;
use cloister_protocol::frame::{self, Decoder, FrameError};
use cloister_protocol::message::{Event, Request};
use rustix::io::Errno;
use rustix::net::SendFlags;

/// Events that wait for a host which does not read. Above this no more requests are taken, so no
/// more events come than those of the commands that run: bounds the memory that pings can take.
const MAX_UNSENT: usize = 64 << 10;

/// Why the host can't be served any longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("the host closed the control connection")]
    Closed,
    #[error("the control connection broke")]
    Io(#[source] Errno),
    #[error("the host broke the protocol")]
    Frame(#[from] FrameError),
    #[error("the host sent a request out of bounds")]
    Request(#[from] Broken),
    #[error("the host speaks protocol version {0}, not {VERSION}")]
    Version(u16),
    #[error("the host's first message is not its greeting, or it greets twice")]
    Greeting,
    #[error("the host asked for what does not fit to its being detached, or not")]
    Presence,
    #[error("the host attaches other commands than those that are detached")]
    Unknown,
}

/// The connection and what is on its way.
#[derive(Debug)]
pub(crate) struct Control {
    socket: OwnedFd,
    decoder: Decoder,
    greeted: bool,
    /// Bytes that were read and not yet looked at.
    received: VecDeque<u8>,
    unsent: VecDeque<u8>,
}

impl Control {
    /// Takes a connected socket that doesn't block.
    pub(crate) const fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            decoder: Decoder::new(),
            greeted: false,
            received: VecDeque::new(),
            unsent: VecDeque::new(),
        }
    }

    /// Whether the host has said its hello.
    pub(crate) const fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Whether everything was sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Queues an event; [`Control::flush`] sends it.
    pub(crate) fn push(&mut self, event: &Event) -> Result<(), ControlError> {
        self.unsent.extend(frame::encode(event)?);
        Ok(())
    }

    /// Sends what the connection takes.
    pub(crate) fn flush(&mut self) -> Result<(), ControlError> {
        while !self.unsent.is_empty() {
            let (bytes, _) = self.unsent.as_slices();
            match rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error_of(error)),
            }
        }
        Ok(())
    }

    /// Whether the host should read before it is given more to read.
    pub(crate) fn is_full(&self) -> bool {
        self.unsent.len() > MAX_UNSENT
    }

    /// The next request, as long as there is one and the host takes the answers. `scratch` is
    /// where bytes are read to.
    pub(crate) fn next(&mut self, scratch: &mut [u8]) -> Result<Option<Request>, ControlError> {
        while !self.is_full() {
            if let Some(request) = self.decode()? {
                return self.admit(request);
            }
            match rustix::io::read(&self.socket, &mut *scratch) {
                Ok(0) => return Err(ControlError::Closed),
                Ok(count) => self.received.extend(scratch.iter().take(count)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error_of(error)),
            }
        }
        Ok(None)
    }

    fn decode(&mut self) -> Result<Option<Request>, FrameError> {
        let mut bytes: &[u8] = self.received.make_contiguous();
        let before = bytes.len();
        let request = self.decoder.decode(&mut bytes)?;
        let taken = before.saturating_sub(bytes.len());
        self.received.drain(..taken);
        Ok(request)
    }

    /// Checks everything but commands and agents, whose faults are answered and not fatal.
    fn admit(&mut self, request: Request) -> Result<Option<Request>, ControlError> {
        match &request {
            Request::Hello { version, .. } if !self.greeted => {
                if *version != VERSION {
                    return Err(ControlError::Version(*version));
                }
                self.greeted = true;
            }
            Request::Hello { .. } => return Err(ControlError::Greeting),
            _ if !self.greeted => return Err(ControlError::Greeting),
            Request::Exec(_) | Request::Copy(_) | Request::CreateAgent(_) => {}
            other => other.validate()?,
        }
        Ok(Some(request))
    }
}

/// A host that is gone shows in reading or in writing, whichever comes first.
const fn error_of(error: Errno) -> ControlError {
    match error {
        // The last: its machine goes on in another, which has none of its connections.
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => ControlError::Closed,
        other => ControlError::Io(other),
    }
}
