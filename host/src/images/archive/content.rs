//! Writes a file's content with holes where it is sparse or all zeros.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom, Write as _};

use super::entry::{Entry, Piece};
use super::fault::Fault;
use super::stream::TarStream;

/// A hole is made of whole blocks of file systems.
const HOLE: usize = 4096;
/// How much is read at once: a multiple of [`HOLE`].
const CHUNK: usize = 64 << 10;
static ZEROS: [u8; HOLE] = [0; HOLE];

/// Copies the entry's data from the archive into the empty `file`.
///
/// # Errors
/// The archive is cut short or the file can't be written.
pub(crate) fn write_content<R: Read>(
    file: &mut File,
    stream: &mut TarStream<R>,
    entry: &Entry,
) -> Result<(), Fault> {
    let whole = [Piece { offset: 0, length: entry.stored }];
    let mut buffer = vec![0; CHUNK.min(usize::try_from(entry.stored).unwrap_or(CHUNK))];
    for piece in entry.pieces.as_deref().unwrap_or(&whole) {
        copy_piece(file, stream, *piece, &mut buffer)?;
    }
    // Ends the file behind its last hole.
    file.set_len(entry.size).map_err(Fault::store("write a file"))
}

fn copy_piece<R: Read>(
    file: &mut File,
    stream: &mut TarStream<R>,
    piece: Piece,
    buffer: &mut [u8],
) -> Result<(), Fault> {
    let mut at = piece.offset;
    let mut left = piece.length;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..most).unwrap_or_default();
        fill(stream, part)?;
        write_at(file, at, part)?;
        at = at.saturating_add(part.len() as u64);
        left = left.saturating_sub(part.len() as u64);
    }
    Ok(())
}

fn fill<R: Read>(stream: &mut TarStream<R>, mut part: &mut [u8]) -> Result<(), Fault> {
    while !part.is_empty() {
        let count = stream.read_data(part)?;
        if count == 0 {
            return Err(Fault::Truncated);
        }
        part = part.get_mut(count..).unwrap_or_default();
    }
    Ok(())
}

/// Writes what is not zeros, in runs as long as they come.
fn write_at(file: &mut File, start: u64, bytes: &[u8]) -> Result<(), Fault> {
    let store = Fault::store::<std::io::Error>;
    let is_hole = |block: &[u8]| ZEROS.get(..block.len()) == Some(block);
    let mut at = start;
    let mut rest = bytes;
    while !rest.is_empty() {
        let holes = rest.chunks(HOLE).take_while(|block| is_hole(block)).map(<[u8]>::len).sum();
        let (hole, after) = rest.split_at_checked(holes).unwrap_or((rest, &[]));
        let data = after.chunks(HOLE).take_while(|block| !is_hole(block)).map(<[u8]>::len).sum();
        let (data, after) = after.split_at_checked(data).unwrap_or((after, &[]));
        at = at.saturating_add(hole.len() as u64);
        if !data.is_empty() {
            file.seek(SeekFrom::Start(at)).map_err(store("write a file"))?;
            file.write_all(data).map_err(store("write a file"))?;
            at = at.saturating_add(data.len() as u64);
        }
        rest = after;
    }
    Ok(())
}
