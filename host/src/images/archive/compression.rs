//! Which compression a stream has, told from its first bytes, and unpacking within bounds.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use crate::images::limits::{Limits, MAX_ZSTD_WINDOW_LOG};

/// A compression that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// None.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// What a stream's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Magic {
    /// It can be read, if it is an archive.
    Known(Compression),
    /// A compression that is not read.
    Unknown(&'static str),
}

/// How many bytes [`recognise`] looks at.
pub const MAGIC_BYTES: usize = 6;

/// Tells the compression of a stream that begins so.
#[must_use]
pub fn recognise(start: &[u8]) -> Magic {
    match start {
        [0x1f, 0x8b, ..] => Magic::Known(Compression::Gzip),
        // A frame, or one of the sixteen kinds of skippable frame that may come before it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Magic::Known(Compression::Zstd)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Magic::Unknown("xz"),
        [b'B', b'Z', b'h', ..] => Magic::Unknown("bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => Magic::Unknown("lz4"),
        [b'P', b'K', 3, 4, ..] => Magic::Unknown("zip"),
        _ => Magic::Known(Compression::Plain),
    }
}

/// The unpacked bytes of `stream`, at most as many as `limits` let a stream of this size have.
///
/// # Errors
/// It can't be read, or has a compression that is not read ([`Overrun::of`] tells).
pub fn unpack<'a, R: Read + 'a>(stream: R, limits: &Limits) -> io::Result<Unpacked<'a>> {
    let mut counted = BufReader::with_capacity(64 << 10, stream);
    let start = counted.fill_buf()?;
    let known = match recognise(start.get(..MAGIC_BYTES).unwrap_or(start)) {
        Magic::Known(known) => known,
        Magic::Unknown(name) => return Err(io::Error::other(Overrun::Compression(name))),
    };
    let taken = std::rc::Rc::new(std::cell::Cell::new(0));
    let counted = Counted { inner: counted, taken: std::rc::Rc::clone(&taken) };
    let inner: Box<dyn Read + 'a> = match known {
        Compression::Plain => Box::new(counted),
        Compression::Gzip => Box::new(MultiGzDecoder::new(counted)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(counted)?;
            decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    };
    Ok(Unpacked { inner, compression: known, taken, given: 0, limits: *limits })
}

/// Unpacked bytes, bounded in number and in their proportion to the packed ones.
pub struct Unpacked<'a> {
    inner: Box<dyn Read + 'a>,
    compression: Compression,
    taken: std::rc::Rc<std::cell::Cell<u64>>,
    given: u64,
    limits: Limits,
}

impl std::fmt::Debug for Unpacked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacked").field("given", &self.given).finish_non_exhaustive()
    }
}

impl Unpacked<'_> {
    /// The compression that was found.
    #[must_use]
    pub const fn compression(&self) -> Compression {
        self.compression
    }
}

/// A bound that unpacking reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overrun {
    /// See [`Limits::bytes`].
    #[error("it unpacks to more than {0} bytes")]
    Bytes(u64),
    /// See [`Limits::ratio`].
    #[error("it unpacks to more than {0} times its size, as made to fill a disk")]
    Ratio(u64),
    /// A compression that is not read.
    #[error("it is compressed with {0}; plain, gzip and zstd are read")]
    Compression(&'static str),
}

impl Overrun {
    /// The bound that an error of [`Unpacked`] tells of.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Self>().cloned()
    }
}

impl Read for Unpacked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.given = self.given.saturating_add(count as u64);
        // Headers and padding are not files: half as much again, so that files reach their own bound.
        let most = self.limits.bytes.saturating_add(self.limits.bytes / 2);
        if self.given > most {
            return Err(io::Error::other(Overrun::Bytes(self.limits.bytes)));
        }
        let allowed = self.taken.get().saturating_mul(self.limits.ratio);
        if self.given > allowed.max(self.limits.free_expansion)
            && self.compression != Compression::Plain
        {
            return Err(io::Error::other(Overrun::Ratio(self.limits.ratio)));
        }
        Ok(count)
    }
}

struct Counted<R> {
    inner: R,
    taken: std::rc::Rc<std::cell::Cell<u64>>,
}

impl<R: BufRead> Counted<R> {
    fn note(&self, count: usize) {
        self.taken.set(self.taken.get().saturating_add(count as u64));
    }
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.note(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.note(amount);
        self.inner.consume(amount);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn all(packed: &[u8], limits: &Limits) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        unpack(packed, limits)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn each_compression_is_recognised_and_unpacked() {
        let limits = Limits::default();
        let zstd = zstd::encode_all(&b"text"[..], 3).unwrap();
        for packed in [b"text".to_vec(), gzip(b"text"), zstd] {
            assert_eq!(all(&packed, &limits).unwrap(), b"text");
        }
        // Several members and frames are one stream.
        assert_eq!(all(&[gzip(b"te"), gzip(b"xt")].concat(), &limits).unwrap(), b"text");
    }

    #[test]
    fn other_compressions_are_named() {
        for (start, name) in
            [(&b"\xfd7zXZ\0"[..], "xz"), (b"BZh91AY", "bzip2"), (b"PK\x03\x04", "zip")]
        {
            let error = all(start, &Limits::default()).unwrap_err();
            assert_eq!(Overrun::of(&error), Some(Overrun::Compression(name)));
        }
    }

    #[test]
    fn a_bomb_ends_at_its_bound() {
        let limits = Limits { free_expansion: 1 << 16, ratio: 100, ..Limits::default() };
        let bombs = [gzip(&vec![0; 1 << 20]), zstd::encode_all(&vec![0; 1 << 20][..], 3).unwrap()];
        for bomb in bombs {
            let error = all(&bomb, &limits).unwrap_err();
            assert_eq!(Overrun::of(&error), Some(Overrun::Ratio(100)));
        }
        let limits = Limits { bytes: 1000, ..Limits::default() };
        let error = all(&vec![0; 2000], &limits).unwrap_err();
        assert_eq!(Overrun::of(&error), Some(Overrun::Bytes(1000)));
    }

    #[test]
    fn a_stream_that_is_cut_or_followed_by_rubbish_is_refused() {
        let packed = gzip(b"some text that is long enough");
        assert!(all(&packed[..packed.len() - 4], &Limits::default()).is_err());
        assert!(all(&[&packed[..], b"rubbish"].concat(), &Limits::default()).is_err());
    }
}
