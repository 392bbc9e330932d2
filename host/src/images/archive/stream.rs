//! Reads a tar archive entry by entry: old, ustar, GNU and pax forms, every number checked.
//!
//! The crate `tar` decodes the header blocks. Its iterator is not used: it takes names and
//! attributes of any length into memory.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::entry::{Entry, Extension, Kind, Piece, check_pieces, clamped, meddling_key, number};
use super::fault::Fault;
use crate::images::limits::{MAX_EXTENSION, MAX_PIECES};

/// An archive is made of blocks of this many bytes.
pub const BLOCK: usize = 512;
const BLOCK_BYTES: u64 = 512;

/// A tar archive, read from its start to its end.
#[derive(Debug)]
pub struct TarStream<R> {
    input: R,
    /// Bytes of the entry's data that were not read yet.
    unread: u64,
    /// What fills its last block.
    padding: u64,
    /// How many bytes were read; where the next header is.
    position: u64,
    /// Whether the blocks of zeros came that end an archive.
    marked: bool,
}

impl<R: Read> TarStream<R> {
    /// At the start of an archive.
    pub const fn new(input: R) -> Self {
        Self { input, unread: 0, padding: 0, position: 0, marked: false }
    }

    /// The next entry, or nothing at the archive's end. What was not read of the last one is skipped.
    ///
    /// # Errors
    /// The archive is damaged, cut short, or has an entry that can't be understood. The error comes
    /// with the entry's name, as far as it is known.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, (Vec<u8>, Fault)> {
        let mut extension = Extension::default();
        loop {
            self.skip_rest().map_err(|fault| (Vec::new(), fault))?;
            let Some(header) = self.header().map_err(|fault| (Vec::new(), fault))? else {
                return Ok(None);
            };
            let name = extension.path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
            let done =
                self.extend(&header, &mut extension).map_err(|fault| (name.clone(), fault))?;
            if !done {
                return self.entry(&header, extension).map(Some).map_err(|fault| (name, fault));
            }
        }
    }

    /// Reads stored bytes of the entry; none at their end.
    ///
    /// # Errors
    /// The archive can't be read or is cut short.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let most = usize::try_from(self.unread).unwrap_or(usize::MAX).min(buffer.len());
        let Some(part) = buffer.get_mut(..most).filter(|part| !part.is_empty()) else {
            return Ok(0);
        };
        let count = read_some(&mut self.input, part)?;
        if count == 0 {
            return Err(Fault::Truncated);
        }
        // `count` is at most `most`, which is at most `unread`.
        self.unread -= count as u64;
        self.position += count as u64;
        Ok(count)
    }

    /// Where the next byte to be read lies in the archive.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Whether the archive's end was marked. Some tools leave the mark out of layers, whose digests tell
    /// that they are whole; an archive without either may have been cut between two entries.
    #[must_use]
    pub const fn is_marked(&self) -> bool {
        self.marked
    }

    /// Reads what is after the archive's end, as a digest of the whole needs it.
    ///
    /// # Errors
    /// It can't be read.
    pub fn drain(mut self) -> Result<R, Fault> {
        io::copy(&mut self.input, &mut io::sink()).map_err(read_fault)?;
        Ok(self.input)
    }

    /// Takes an extended header and tells that the next header is to be read.
    fn extend(&mut self, header: &Header, extension: &mut Extension) -> Result<bool, Fault> {
        let kind = header.entry_type();
        let size = header.entry_size().map_err(|_| Fault::Number("size"))?;
        match kind {
            EntryType::XHeader => {
                let bytes = self.small(size)?;
                extension.read(&bytes)?;
            }
            EntryType::XGlobalHeader => {
                let bytes = self.small(size)?;
                if let Some(key) = meddling_key(&bytes)? {
                    return Err(Fault::Global(key));
                }
            }
            EntryType::GNULongName => extension.path = Some(long(self.small(size)?)),
            EntryType::GNULongLink => extension.link = Some(long(self.small(size)?)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn entry(&mut self, header: &Header, extension: Extension) -> Result<Entry, Fault> {
        let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = kind(header, &path)?;
        let link = header.link_name_bytes().map(std::borrow::Cow::into_owned);
        let stored = match extension.size {
            Some(size) => size,
            None => header.entry_size().map_err(|_| Fault::Number("size"))?,
        };
        let old = header.as_old();
        let mtime = field(&old.mtime, header.mtime(), "mtime")?;
        let mode = field(&old.mode, header.mode().map(u64::from), "mode")?;
        let number = |given: Option<u64>, bytes: &[u8], value, name| {
            given.map_or_else(|| field(bytes, value, name), Ok)
        };
        let mut entry = Entry {
            path,
            link: extension.link.or(link).unwrap_or_default(),
            kind,
            // Twelve bits fit.
            mode: u32::try_from(mode & 0o7777).unwrap_or(0),
            uid: number(extension.uid, &old.uid, header.uid(), "uid")?,
            gid: number(extension.gid, &old.gid, header.gid(), "gid")?,
            mtime: extension.mtime.unwrap_or_else(|| (clamped(mtime), 0)),
            size: stored,
            stored,
            pieces: None,
            xattrs: extension.xattrs,
        };
        // Only files have data; some writers give links the size of what they link to.
        if kind != Kind::File {
            entry.size = 0;
            entry.stored = 0;
            return Ok(entry);
        }
        if header.entry_type() == EntryType::GNUSparse {
            entry.pieces = Some(self.old_map(header)?);
            let gnu = header.as_gnu().ok_or(Fault::Sparse)?;
            entry.size = gnu.real_size().map_err(|_| Fault::Number("realsize"))?;
        }
        self.begin_data(stored)?;
        if extension.sparse.is_sparse() {
            entry.pieces = Some(if extension.sparse.map_in_data {
                self.map_in_data()?
            } else {
                extension.sparse.pieces
            });
            entry.size = extension.sparse.size.ok_or(Fault::Sparse)?;
            entry.path = extension.sparse.name.unwrap_or(entry.path);
            entry.stored = self.unread;
        }
        if let Some(pieces) = &entry.pieces {
            check_pieces(pieces, entry.size, entry.stored)?;
        }
        Ok(entry)
    }

    /// The map of a sparse file in GNU tar's old form: in the header and in blocks after it.
    fn old_map(&mut self, header: &Header) -> Result<Vec<Piece>, Fault> {
        let gnu = header.as_gnu().ok_or(Fault::Sparse)?;
        let mut pieces = Vec::new();
        let mut more = gnu.is_extended();
        push_old(&mut pieces, &gnu.sparse)?;
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            self.exact(block.as_mut_bytes())?;
            push_old(&mut pieces, block.sparse())?;
            more = block.is_extended();
        }
        Ok(pieces)
    }

    /// The map of a sparse file in format 1.0: decimal numbers, a line each, before the data.
    fn map_in_data(&mut self) -> Result<Vec<Piece>, Fault> {
        let mut lines = Lines { stream: self, block: [0; BLOCK], at: BLOCK };
        let count = usize::try_from(lines.number()?).map_err(|_| Fault::Sparse)?;
        if count > MAX_PIECES {
            return Err(Fault::Sparse);
        }
        let mut pieces = Vec::new();
        for _ in 0..count {
            pieces.push(Piece { offset: lines.number()?, length: lines.number()? });
        }
        Ok(pieces)
    }

    /// An extended header's content.
    fn small(&mut self, size: u64) -> Result<Vec<u8>, Fault> {
        if size > MAX_EXTENSION {
            return Err(Fault::ExtensionSize);
        }
        self.begin_data(size)?;
        // Bounded by MAX_EXTENSION.
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            let count = self.read_data(rest)?;
            rest = rest.get_mut(count..).unwrap_or_default();
        }
        Ok(bytes)
    }

    fn begin_data(&mut self, size: u64) -> Result<(), Fault> {
        self.unread = size;
        let whole = size.checked_next_multiple_of(BLOCK_BYTES).ok_or(Fault::Number("size"))?;
        self.padding = whole - size;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), Fault> {
        let rest = self.unread.saturating_add(self.padding);
        let skipped = io::copy(&mut Read::by_ref(&mut self.input).take(rest), &mut io::sink())
            .map_err(read_fault)?;
        self.position = self.position.saturating_add(skipped);
        // Without its padding the last entry is whole: umoci 0.4.7 writes layers so. Then no mark comes.
        if skipped < self.unread {
            return Err(Fault::Truncated);
        }
        self.unread = 0;
        self.padding = 0;
        Ok(())
    }

    /// A header with a right checksum, or nothing at the end: a block of zeros, or no block at all.
    fn header(&mut self) -> Result<Option<Header>, Fault> {
        let mut block = [0; BLOCK];
        let count = read_some(&mut self.input, &mut block)?;
        if count == 0 {
            return Ok(None);
        }
        self.position = self.position.saturating_add(count as u64);
        self.exact(block.get_mut(count..).unwrap_or_default())?;
        if block.iter().all(|byte| *byte == 0) {
            self.marked = true;
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        // Bytes 148 to 155 are the checksum itself, and count as blanks.
        let sum = block.iter().enumerate().fold(0, |sum: u32, (index, byte)| {
            sum + u32::from(if (148..156).contains(&index) { b' ' } else { *byte })
        });
        if header.cksum().ok() != Some(sum) {
            return Err(Fault::Checksum);
        }
        Ok(Some(header))
    }

    fn exact(&mut self, mut buffer: &mut [u8]) -> Result<(), Fault> {
        while !buffer.is_empty() {
            let count = read_some(&mut self.input, buffer)?;
            if count == 0 {
                return Err(Fault::Truncated);
            }
            self.position = self.position.saturating_add(count as u64);
            buffer = buffer.get_mut(count..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Reads the lines of a map from whole blocks of data.
struct Lines<'a, R> {
    stream: &'a mut TarStream<R>,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64, Fault> {
        // 2^64 has 20 digits.
        let mut digits = Vec::with_capacity(20);
        loop {
            if self.at == BLOCK {
                self.refill()?;
            }
            let byte = self.block.get(self.at).copied().ok_or(Fault::Sparse)?;
            self.at += 1;
            match byte {
                b'\n' => return number(&digits).map_err(|_| Fault::Sparse),
                _ if digits.len() == 20 => return Err(Fault::Sparse),
                digit => digits.push(digit),
            }
        }
    }
}

impl<R: Read> Lines<'_, R> {
    fn refill(&mut self) -> Result<(), Fault> {
        let mut rest = self.block.as_mut_slice();
        while !rest.is_empty() {
            let count = self.stream.read_data(rest)?;
            if count == 0 {
                return Err(Fault::Sparse);
            }
            rest = rest.get_mut(count..).unwrap_or_default();
        }
        self.at = 0;
        Ok(())
    }
}

fn push_old(pieces: &mut Vec<Piece>, headers: &[tar::GnuSparseHeader]) -> Result<(), Fault> {
    for header in headers.iter().filter(|header| !header.is_empty()) {
        if pieces.len() >= MAX_PIECES {
            return Err(Fault::Sparse);
        }
        let offset = header.offset().map_err(|_| Fault::Sparse)?;
        let length = header.length().map_err(|_| Fault::Sparse)?;
        pieces.push(Piece { offset, length });
    }
    Ok(())
}

fn kind(header: &Header, path: &[u8]) -> Result<Kind, Fault> {
    Ok(match header.entry_type() {
        // Archives older than ustar write a directory as a file whose name ends with a slash.
        EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
        EntryType::Link => Kind::HardLink,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Directory => Kind::Directory,
        EntryType::Char => Kind::Special("a character device"),
        EntryType::Block => Kind::Special("a block device"),
        EntryType::Fifo => Kind::Special("a FIFO"),
        other => return Err(Fault::Type(char::from(other.as_byte()))),
    })
}

/// A GNU long name ends with a NUL.
fn long(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, Fault> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(read_fault),
        }
    }
}

fn read_fault(error: io::Error) -> Fault {
    // How the decoders tell that their stream is cut.
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Fault::Truncated,
        _ => Fault::Read(error),
    }
}

/// A number of a header; some writers leave a field empty that is zero.
fn field(bytes: &[u8], value: io::Result<u64>, name: &'static str) -> Result<u64, Fault> {
    if bytes.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(0);
    }
    value.map_err(|_| Fault::Number(name))
}
