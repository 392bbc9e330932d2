//! A stream of which some bytes were read already, and come first.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// See above.
#[derive(Debug)]
pub(super) struct Prefixed {
    first: Vec<u8>,
    /// How many of them were read.
    read: usize,
    stream: UnixStream,
}

impl Prefixed {
    pub(super) const fn new(first: Vec<u8>, stream: UnixStream) -> Self {
        Self { first, read: 0, stream }
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let left = self.first.get(self.read..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(left.get(..count).unwrap_or_default());
        self.read = self.read.saturating_add(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    /// Several records of TLS, or a head and its body, go at once.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn what_was_read_comes_first_and_pieces_go_at_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut other, ours) = UnixStream::pair().unwrap();
            other.write_all(b"second").await.unwrap();
            let mut stream = Prefixed::new(b"first ".to_vec(), ours);
            let mut got = [0; 12];
            stream.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"first second");
            assert!(stream.is_write_vectored());
            let pieces = [IoSlice::new(b"head "), IoSlice::new(b"body")];
            assert_eq!(stream.write_vectored(&pieces).await.unwrap(), 9);
            let mut sent = [0; 9];
            other.read_exact(&mut sent).await.unwrap();
            assert_eq!(&sent, b"head body");
        });
    }
}
