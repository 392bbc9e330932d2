//! Bodies of any length: the same bytes over and over again, which cost nothing to make.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// Bytes of one piece.
const PIECE: usize = 64 << 10;

/// Bytes that are no text and do not repeat within a piece: whoever searches them finds nothing, and not at once.
#[must_use]
pub fn content() -> Bytes {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let bytes = (0..PIECE / 8).flat_map(|_| {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    bytes.collect()
}

/// A body of a certain length.
#[derive(Clone, Debug)]
pub struct Repeated {
    content: Bytes,
    left: u64,
}

impl Repeated {
    /// So many bytes, piece by piece out of `content`.
    #[must_use]
    pub const fn new(content: Bytes, length: u64) -> Self {
        Self { content, left: length }
    }

    /// None.
    #[must_use]
    pub const fn empty() -> Self {
        Self { content: Bytes::new(), left: 0 }
    }
}

impl Body for Repeated {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let piece = self.content.slice(..self.content.len().min(most));
        if piece.is_empty() {
            return Poll::Ready(None);
        }
        self.left = self.left.saturating_sub(piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Reads a body to its end: how many bytes it had.
///
/// # Errors
/// It breaks off.
pub async fn drain(mut body: Incoming) -> hyper::Result<u64> {
    let mut count = 0_u64;
    while let Some(frame) = body.frame().await {
        count = count.saturating_add(frame?.data_ref().map_or(0, Bytes::len) as u64);
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_the_length_that_it_says() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for length in [0, 1, PIECE as u64, PIECE as u64 * 3 + 7] {
            let body = Repeated::new(content(), length);
            assert_eq!(body.size_hint().exact(), Some(length));
            assert_eq!(body.is_end_stream(), length == 0);
            let bytes = runtime.block_on(body.collect()).unwrap().to_bytes();
            assert_eq!(bytes.len() as u64, length);
        }
        assert!(Repeated::empty().is_end_stream());
    }
}
