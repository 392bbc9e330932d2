//! The connection to a machine's supervisor: frames in and out, bounded, every message checked.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;

use cloister_protocol::frame::{Decoder, FrameError, encode};
use cloister_protocol::limits::MAX_FRAME;
use cloister_protocol::message::{Event, Request};
use tokio::net::UnixStream;

use super::end::GuestError;

/// What is read at once; bounds the events of one turn.
const CHUNK: usize = 16 << 10;
/// When this much waits to be sent, no further requests are taken: two of the longest.
const FULL: usize = 2 * MAX_FRAME;

/// The host's end of the connection.
#[derive(Debug)]
pub(super) struct Supervisor {
    stream: UnixStream,
    decoder: Decoder,
    /// Encoded requests that have not been sent yet.
    output: Vec<u8>,
    /// How much of `output` has been sent.
    sent: usize,
}

/// What a turn of reading found.
#[derive(Debug)]
pub(super) enum Read {
    /// Events, checked; perhaps none.
    Events(Vec<Event>),
    /// The supervisor closed the connection.
    Closed,
}

impl Supervisor {
    pub(super) fn new(stream: StdUnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        Ok(Self { stream, decoder: Decoder::new(), output: Vec::new(), sent: 0 })
    }

    /// Waits until there is something to read, or to send what waits. Cancel safe.
    pub(super) async fn ready(&self) -> io::Result<()> {
        let interest = if self.output.is_empty() {
            tokio::io::Interest::READABLE
        } else {
            tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE
        };
        self.stream.ready(interest).await.map(drop)
    }

    /// Reads what is there, without waiting.
    pub(super) fn read(&mut self) -> Result<Read, GuestError> {
        let mut chunk = [0; CHUNK];
        let length = match self.stream.try_read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Read::Events(Vec::new()));
            }
            // The vmm has closed it with requests unread, or is gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(Read::Closed);
            }
            other => other?,
        };
        let mut input = chunk.get(..length).unwrap_or_default();
        if input.is_empty() {
            return Ok(Read::Closed);
        }
        let mut events = Vec::new();
        while let Some(event) = self.decoder.decode::<Event>(&mut input)? {
            event.validate()?;
            events.push(event);
        }
        Ok(Read::Events(events))
    }

    /// Puts a request in the queue.
    ///
    /// # Errors
    /// It is over the limit of a frame.
    pub(super) fn queue(&mut self, request: &Request) -> Result<(), FrameError> {
        let frame = encode(request)?;
        self.output.extend_from_slice(&frame);
        Ok(())
    }

    /// Whether no further request should be queued for now.
    pub(super) fn is_full(&self) -> bool {
        self.output.len().saturating_sub(self.sent) >= FULL
    }

    /// Sends of the queue what can be sent without waiting.
    pub(super) fn flush(&mut self) -> Result<(), GuestError> {
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.try_write(rest) {
                Ok(written) => self.sent = self.sent.saturating_add(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // Reading will find the end of the connection, after what is still to be read.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }
}
