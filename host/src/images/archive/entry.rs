//! One entry of a tar archive, as data, and what its extended headers say about it.

use super::fault::Fault;
use crate::images::limits::{MAX_PIECES, MAX_TIME, MAX_XATTR_VALUE, MAX_XATTRS};

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A further name for a file that came before.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A device, a FIFO or a socket; what it is.
    Special(&'static str),
}

/// A part of a sparse file that is stored; between the parts are holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it lies in the file.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// One entry: checked for form, not for where it leads.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As in the archive, any bytes.
    pub path: Vec<u8>,
    /// The target of a link, any bytes.
    pub link: Vec<u8>,
    /// What it makes.
    pub kind: Kind,
    /// Permissions with the set-id and sticky bits, 0 to 0o7777.
    pub mode: u32,
    /// The owner's user id.
    pub uid: u64,
    /// The owner's group id.
    pub gid: u64,
    /// Seconds and nanoseconds since 1970, within what file systems hold.
    pub mtime: (i64, u32),
    /// The file's length, holes included.
    pub size: u64,
    /// How many bytes of it are stored.
    pub stored: u64,
    /// The parts that are stored, if it is sparse.
    pub pieces: Option<Vec<Piece>>,
    /// Extended attributes, names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What extended headers said about the entry after them.
#[derive(Debug, Default)]
pub(super) struct Extension {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseExtension,
}

/// GNU tar's description of a sparse file in pax headers (its manual, "Storing Sparse Files").
#[derive(Debug, Default)]
pub(super) struct SparseExtension {
    /// Format 1.0: the map stands before the data.
    pub(super) map_in_data: bool,
    /// The real name; the entry's own is for programs that don't know the format.
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) pieces: Vec<Piece>,
    pending_offset: Option<u64>,
}

impl SparseExtension {
    pub(super) fn is_sparse(&self) -> bool {
        self.map_in_data || self.size.is_some() || !self.pieces.is_empty()
    }

    fn push(&mut self, offset: u64, length: u64) -> Result<(), Fault> {
        if self.pieces.len() >= MAX_PIECES {
            return Err(Fault::Sparse);
        }
        self.pieces.push(Piece { offset, length });
        Ok(())
    }
}

impl Extension {
    /// Takes the records of a pax extended header (POSIX.1-2001, "pax Extended Header"): each is its
    /// own length, a blank, a key, `=`, a value of any bytes, and a line break.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        for record in records(bytes) {
            let (key, value) = record?;
            self.take(key, value)?;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.major" => self.sparse.map_in_data = number(value)? == 1,
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = Some(number(value)?),
            b"GNU.sparse.offset" => self.sparse.pending_offset = Some(number(value)?),
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.pending_offset.take().ok_or(Fault::Sparse)?;
                self.sparse.push(offset, number(value)?)?;
            }
            b"GNU.sparse.map" => {
                let mut numbers = value.split(|byte| *byte == b',');
                while let Some(offset) = numbers.next() {
                    let length = numbers.next().ok_or(Fault::Sparse)?;
                    self.sparse.push(number(offset)?, number(length)?)?;
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.take_xattr(name, value)?;
                }
            }
        }
        Ok(())
    }

    fn take_xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        let full = self.xattrs.len() >= MAX_XATTRS;
        if full || name.is_empty() || name.contains(&0) || value.len() > MAX_XATTR_VALUE {
            return Err(Fault::Xattrs);
        }
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }
}

/// The first key of a global extended header that would change what entries are.
pub(super) fn meddling_key(bytes: &[u8]) -> Result<Option<String>, Fault> {
    for record in records(bytes) {
        let (key, _) = record?;
        let harmless = [&b"comment"[..], b"mtime", b"atime", b"ctime", b"charset", b"hdrcharset"];
        if !harmless.contains(&key) {
            return Ok(Some(String::from_utf8_lossy(key).chars().take(64).collect()));
        }
    }
    Ok(None)
}

type Record<'a> = (&'a [u8], &'a [u8]);

fn records(mut rest: &[u8]) -> impl Iterator<Item = Result<Record<'_>, Fault>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = record(rest);
        match &record {
            Some((_, after)) => rest = after,
            None => rest = &[],
        }
        Some(record.map(|(record, _)| record).ok_or(Fault::Extension))
    })
}

/// The first record, and what is after it.
fn record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let blank = bytes.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(bytes.get(..blank)?).ok()?).ok()?;
    let text = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some(((text.get(..equals)?, text.get(equals + 1..)?), bytes.get(length..)?))
}

/// A decimal number without a sign.
pub(super) fn number(text: &[u8]) -> Result<u64, Fault> {
    let digits = std::str::from_utf8(text).map_err(|_| Fault::Extension)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Fault::Extension);
    }
    digits.parse().map_err(|_| Fault::Extension)
}

/// Seconds with a fraction, perhaps negative.
fn time(text: &[u8]) -> Result<(i64, u32), Fault> {
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (text.get(..dot), text.get(dot + 1..)),
        None => (Some(text), None),
    };
    let whole = whole.unwrap_or_default();
    if let Some(positive) = whole.strip_prefix(b"-") {
        number(positive)?;
        return Ok((0, 0));
    }
    let seconds = number(whole)?;
    let mut nanoseconds = fraction.unwrap_or_default().iter().chain([b'0'; 9].iter()).take(9);
    let nanoseconds = nanoseconds.try_fold(0, |value: u32, digit| match digit {
        b'0'..=b'9' => Ok(value * 10 + u32::from(digit - b'0')),
        _ => Err(Fault::Extension),
    })?;
    Ok((clamped(seconds), nanoseconds))
}

/// A time within what file systems hold.
pub(super) fn clamped(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(MAX_TIME).min(MAX_TIME)
}

/// Checks that pieces are in order, apart, within `size`, and `stored` bytes together.
pub(super) fn check_pieces(pieces: &[Piece], size: u64, stored: u64) -> Result<(), Fault> {
    let mut end: u64 = 0;
    let mut sum: u64 = 0;
    for piece in pieces {
        if piece.offset < end {
            return Err(Fault::Sparse);
        }
        end = piece.offset.checked_add(piece.length).ok_or(Fault::Sparse)?;
        sum = sum.checked_add(piece.length).ok_or(Fault::Sparse)?;
    }
    if end > size || sum != stored {
        return Err(Fault::Sparse);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_hold_any_bytes() {
        let mut extension = Extension::default();
        extension.read(b"12 path=abc\n99 SCHILY.xattr.a=\n=\n\n").unwrap_err();
        let mut extension = Extension::default();
        extension.read(b"12 path=abc\n22 SCHILY.xattr.a=\n=\n\n").unwrap();
        assert_eq!(extension.path.as_deref(), Some(&b"abc"[..]));
        assert_eq!(extension.xattrs, [(b"a".to_vec(), b"\n=\n".to_vec())]);
    }

    #[test]
    fn damaged_records_are_refused() {
        for bytes in
            [&b"x"[..], b"5 a=b\n", b"99 a=b\n", b"6 a=bc", b"4 a\n", b"-6 a=b\n", b"0 a=b\n"]
        {
            assert!(Extension::default().read(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn times_are_read_and_kept_within_bounds() {
        assert_eq!(time(b"12.5").unwrap(), (12, 500_000_000));
        assert_eq!(time(b"12").unwrap(), (12, 0));
        assert_eq!(time(b"-1.5").unwrap(), (0, 0));
        assert_eq!(time(b"18446744073709551615").unwrap(), (MAX_TIME, 0));
        assert!(time(b"1.x").is_err() && time(b"").is_err());
    }

    #[test]
    fn a_sparse_map_must_fit() {
        let piece = |offset, length| Piece { offset, length };
        assert!(check_pieces(&[piece(0, 4), piece(8, 4)], 16, 8).is_ok());
        for (pieces, size, stored) in [
            (vec![piece(8, 4), piece(0, 4)], 16, 8),
            (vec![piece(0, 4), piece(2, 4)], 16, 8),
            (vec![piece(8, 9)], 16, 9),
            (vec![piece(0, 4)], 16, 5),
            (vec![piece(u64::MAX, 2)], u64::MAX, 2),
        ] {
            assert!(check_pieces(&pieces, size, stored).is_err(), "{pieces:?}");
        }
    }
}
