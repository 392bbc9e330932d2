//! Length-prefixed frames: bytes to messages and back, bounded.
//!
//! A frame is the body's length as a little-endian `u32` and the body, which is one message in
//! [postcard]'s encoding. There is no I/O here: a caller reads bytes from wherever they come and
//! lends them to a [`Decoder`].
//!
//! A frame that is malformed, too long or has something after its message is a broken peer. The
//! decoder has then lost its place in the stream, so the connection must end.
//!
//! [postcard]: https://postcard.jamesmunns.com/wire-format

use alloc::vec::Vec;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::MAX_FRAME;

/// Bytes of a frame's length prefix.
const PREFIX: usize = size_of::<u32>();

/// Why bytes are not a frame, or a message can't be one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// The length prefix, or a message to be sent, is over [`MAX_FRAME`].
    #[error("a frame of {length} bytes is over the limit of {MAX_FRAME}")]
    TooLong {
        /// The body's length.
        length: usize,
    },
    /// The body is not a message of the expected type.
    #[error("a frame of {length} bytes is not a message")]
    Malformed {
        /// The body's length.
        length: usize,
        /// What the encoding found.
        #[source]
        reason: postcard::Error,
    },
    /// The body goes on after its message.
    #[error("a frame of {length} bytes has {extra} bytes after its message")]
    TrailingBytes {
        /// The body's length.
        length: usize,
        /// How much of it is left over.
        extra: usize,
    },
    /// The message can't be encoded.
    #[error("the message can't be encoded")]
    Unencodable(#[source] postcard::Error),
}

/// One frame with `message` in it, ready to be sent.
///
/// # Errors
/// The message is over [`MAX_FRAME`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame =
        postcard::to_extend(message, Vec::from([0; PREFIX])).map_err(FrameError::Unencodable)?;
    let length = frame.len().saturating_sub(PREFIX);
    match (u32::try_from(length), frame.first_chunk_mut::<PREFIX>()) {
        (Ok(prefix), Some(place)) if length <= MAX_FRAME => *place = prefix.to_le_bytes(),
        _ => return Err(FrameError::TooLong { length }),
    }
    Ok(frame)
}

/// Takes a stream apart into messages, however it was cut into pieces.
///
/// Holds at most one unfinished frame, so at most [`MAX_FRAME`] bytes and the prefix.
#[derive(Debug, Default)]
pub struct Decoder {
    prefix: [u8; PREFIX],
    /// How much of `prefix` has arrived.
    prefix_filled: usize,
    body: Vec<u8>,
}

impl Decoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub const fn new() -> Self {
        Self { prefix: [0; PREFIX], prefix_filled: 0, body: Vec::new() }
    }

    /// Takes bytes off the front of `input` until a message is whole. `None`: all of `input` was
    /// taken and more is needed. Call it again until it says that.
    ///
    /// # Errors
    /// The peer broke the framing; don't go on with this stream.
    pub fn decode<T: DeserializeOwned>(
        &mut self,
        input: &mut &[u8],
    ) -> Result<Option<T>, FrameError> {
        let Some(length) = self.take_prefix(input)? else { return Ok(None) };
        let wanted = length.saturating_sub(self.body.len());
        let (now, rest) = input.split_at(wanted.min(input.len()));
        // All at once and exactly: doubling would go over the limit.
        self.body.reserve_exact(wanted);
        self.body.extend_from_slice(now);
        *input = rest;
        if self.body.len() < length {
            return Ok(None);
        }
        let message = decode_body(&self.body);
        self.prefix_filled = 0;
        // A big frame is rare: its memory is given back.
        self.body = Vec::new();
        message.map(Some)
    }

    /// Whether the stream may end here: no frame is unfinished.
    #[must_use]
    pub const fn is_between_frames(&self) -> bool {
        self.prefix_filled == 0
    }

    /// The body's length, once it has arrived; checked.
    fn take_prefix(&mut self, input: &mut &[u8]) -> Result<Option<usize>, FrameError> {
        let missing = self.prefix.get_mut(self.prefix_filled..).unwrap_or_default();
        let count = missing.len().min(input.len());
        let (now, rest) = input.split_at(count);
        for (place, byte) in missing.iter_mut().zip(now) {
            *place = *byte;
        }
        *input = rest;
        self.prefix_filled = self.prefix_filled.saturating_add(count);
        if self.prefix_filled < PREFIX {
            return Ok(None);
        }
        // Where usize is narrower than u32 the length is over the limit in any case.
        let length = usize::try_from(u32::from_le_bytes(self.prefix)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(FrameError::TooLong { length });
        }
        Ok(Some(length))
    }
}

fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    let length = body.len();
    let (message, rest) = postcard::take_from_bytes(body)
        .map_err(|reason| FrameError::Malformed { length, reason })?;
    if !rest.is_empty() {
        return Err(FrameError::TrailingBytes { length, extra: rest.len() });
    }
    Ok(message)
}

#[cfg(test)]
#[path = "frame_test.rs"]
pub(crate) mod tests;
