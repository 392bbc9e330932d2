//! SHA-256 digests: how everything in the store is named, and readers and writers that compute them.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// The one algorithm that is used; images with another are refused.
const ALGORITHM: &str = "sha256";
const BYTES: usize = 32;

/// A SHA-256 digest, written `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; BYTES]);

/// Why a text is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Another algorithm.
    #[error("a digest of the algorithm {0:?}; only sha256 is used here")]
    Algorithm(String),
    /// Not the form of a digest.
    #[error("not a digest: it is written sha256: and 64 lower-case hexadecimal digits")]
    Form,
}

impl Digest {
    /// The digest of bytes in memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 digits alone: the name of a file.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(2 * BYTES), |mut text, byte| {
            // Writing to a string can't fail.
            write!(text, "{byte:02x}").ok();
            text
        })
    }

    /// The digest itself.
    #[must_use]
    pub const fn bytes(&self) -> [u8; BYTES] {
        self.0
    }

    /// Reads the 64 digits.
    ///
    /// # Errors
    /// They are not 64 lower-case hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self, DigestError> {
        let digits = text.as_bytes();
        if digits.len() != 2 * BYTES {
            return Err(DigestError::Form);
        }
        let mut bytes = [0; BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().try_fold(0, |value: u8, digit| {
                let digit = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return Err(DigestError::Form),
                };
                Ok(value * 16 + digit)
            })?;
        }
        Ok(Self(bytes))
    }

    /// The first digits, for a table.
    #[must_use]
    pub fn short(&self) -> String {
        self.hex().chars().take(12).collect()
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text.split_once(':') {
            Some((ALGORITHM, hex)) => Self::from_hex(hex),
            Some((other, _)) => Err(DigestError::Algorithm(other.chars().take(32).collect())),
            None => Err(DigestError::Form),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Passes bytes on, counts them and computes their digest.
#[derive(Debug)]
pub struct Digesting<T> {
    inner: T,
    hash: Sha256,
    bytes: u64,
}

impl<T> Digesting<T> {
    /// Around a reader or a writer.
    pub fn new(inner: T) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// How many bytes passed.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is inside, the digest of what passed, and how many bytes that was.
    pub fn finish(self) -> (T, Digest, u64) {
        (self.inner, Digest(self.hash.finalize().into()), self.bytes)
    }

    fn note(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        // A usize is no larger than a u64 here, and nothing passes 2^64 bytes.
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(got) = buffer.get(..count) {
            self.note(got);
        }
        Ok(count)
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        if let Some(taken) = bytes.get(..count) {
            self.note(taken);
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn the_text_of_a_digest_is_read_and_written() {
        assert_eq!(Digest::of(b"abc").to_string(), ABC);
        assert_eq!(ABC.parse::<Digest>(), Ok(Digest::of(b"abc")));
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        for text in ["", "sha256:", "sha256:ba78", "../../etc", &ABC.to_uppercase()[7..]] {
            assert_eq!(text.parse::<Digest>(), Err(DigestError::Form), "{text}");
        }
        let upper = format!("sha256:{}", ABC[7..].to_uppercase());
        assert_eq!(upper.parse::<Digest>(), Err(DigestError::Form));
        assert!(matches!("sha512:00".parse::<Digest>(), Err(DigestError::Algorithm(_))));
    }

    #[test]
    fn what_passes_is_digested() {
        let mut reader = Digesting::new(&b"abc"[..]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!(reader.finish().1, Digest::of(b"abc"));
        let mut writer = Digesting::new(Vec::new());
        writer.write_all(b"abc").unwrap();
        let (inner, digest, bytes) = writer.finish();
        assert_eq!((inner, digest, bytes), (b"abc".to_vec(), Digest::of(b"abc"), 3));
    }
}
