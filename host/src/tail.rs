//! The last bytes of a stream that another party writes: bounded, however much comes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

/// What is read at once.
const CHUNK: usize = 4096;

/// Keeps the last bytes of what it is given. Clones share one buffer.
#[derive(Clone, Debug)]
pub struct Tail {
    shared: Arc<Mutex<Kept>>,
}

#[derive(Debug)]
struct Kept {
    bytes: VecDeque<u8>,
    limit: usize,
}

impl Tail {
    /// An empty tail that keeps at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { shared: Arc::new(Mutex::new(Kept { bytes: VecDeque::new(), limit })) }
    }

    /// Appends bytes and forgets the oldest ones over the limit.
    pub fn push(&self, bytes: &[u8]) {
        let mut kept = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        // Only the end of a big piece can stay, so the rest is never copied.
        let start = bytes.len().saturating_sub(kept.limit);
        let new = bytes.get(start..).unwrap_or_default();
        let excess = (kept.bytes.len() + new.len()).saturating_sub(kept.limit);
        kept.bytes.drain(..excess);
        kept.bytes.extend(new);
    }

    /// What is kept now, oldest first.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let kept = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes.iter().copied().collect()
    }

    /// Reads `source` to its end (an error is an end too) and keeps the last of it. Always reads on,
    /// so that the writer never waits for us.
    pub async fn collect(self, mut source: impl AsyncRead + Unpin) {
        let mut chunk = [0; CHUNK];
        while let Ok(length) = source.read(&mut chunk).await {
            match chunk.get(..length) {
                None | Some([]) => break,
                Some(bytes) => self.push(bytes),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_bytes() {
        let tail = Tail::new(4);
        assert_eq!(tail.bytes(), b"");
        tail.push(b"ab");
        tail.push(b"cd");
        assert_eq!(tail.bytes(), b"abcd");
        tail.push(b"e");
        assert_eq!(tail.bytes(), b"bcde");
        tail.push(b"0123456789");
        assert_eq!(tail.bytes(), b"6789");
        tail.push(b"");
        assert_eq!(tail.bytes(), b"6789");
    }

    #[test]
    fn nothing_is_kept_of_a_limit_of_nothing() {
        let tail = Tail::new(0);
        tail.push(b"abc");
        assert_eq!(tail.bytes(), b"");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn collects_to_the_end() {
        let tail = Tail::new(3);
        tail.clone().collect(&b"one two"[..]).await;
        assert_eq!(tail.bytes(), b"two");
    }
}
