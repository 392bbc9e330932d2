//! Bytes from the guest that the host's stream did not take yet. Bounded by the credit that the
//! guest was promised; holds no memory while empty.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use vm_memory::VolatileSlice;

use super::super::sys;

/// A queue of bytes.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Vec<u8>,
    /// Bytes at the front that were written already.
    written: usize,
}

impl Backlog {
    /// Whether everything was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Copies these pieces of memory after the first `skip` bytes. The caller checked the credit.
    pub fn append(&mut self, pieces: &[VolatileSlice<'_>], skip: usize) {
        // The written front is given up first, so that the vector stays within the credit.
        self.bytes.drain(..self.written);
        self.written = 0;
        let mut skip = skip;
        for piece in pieces {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            let Ok(piece) = piece.offset(skipped) else { continue };
            let start = self.bytes.len();
            self.bytes.resize(start + piece.len(), 0);
            let (_, target) = self.bytes.split_at_mut(start);
            piece.copy_to(target);
        }
    }

    /// Writes what the stream takes; returns how many bytes.
    ///
    /// # Errors
    /// The stream takes nothing any more.
    pub fn flush(&mut self, stream: &UnixStream) -> io::Result<usize> {
        let before = self.written;
        while !self.is_empty() {
            let (_, rest) = self.bytes.split_at_mut(self.written);
            match sys::send(stream.as_fd(), &[VolatileSlice::from(rest)]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let count = self.written - before;
        if self.is_empty() {
            self.clear();
        }
        Ok(count)
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn keeps_order_and_memory_bounded() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut backlog = Backlog::default();
        let mut sent = Vec::new();
        let mut got = Vec::new();
        for round in 0..200_u32 {
            let mut data: Vec<u8> =
                (0..4000_u32).map(|i| (i * 7 + round).to_le_bytes()[0]).collect();
            let skip = 1500;
            sent.extend_from_slice(&data[skip..]);
            let (first, second) = data.split_at_mut(1000);
            backlog.append(&[VolatileSlice::from(first), VolatileSlice::from(second)], skip);
            backlog.flush(&ours).unwrap();
            let mut part = vec![0; 2500];
            let count = theirs.read(&mut part).unwrap();
            got.extend_from_slice(&part[..count]);
        }
        while !backlog.is_empty() || got.len() < sent.len() {
            backlog.flush(&ours).unwrap();
            let mut part = vec![0; 60_000];
            let count = theirs.read(&mut part).unwrap();
            got.extend_from_slice(&part[..count]);
        }
        assert!(got == sent);
        assert_eq!(backlog.bytes.capacity(), 0);
    }

    #[test]
    fn a_closed_stream_is_an_error_and_no_signal() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let mut backlog = Backlog::default();
        backlog.append(&[VolatileSlice::from(&mut [1_u8, 2][..])], 0);
        assert_eq!(backlog.flush(&ours).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
