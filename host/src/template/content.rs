//! Large, mostly empty files: their digest, and copying them without their empty pages.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::images::digest::Digest;

const PAGE: usize = 4096;
/// Read at once.
const CHUNK: usize = 256 * PAGE;

/// Calls `page` for each page that holds anything but zeros, with its place, in order. The last may be short. The file's
/// length.
pub(crate) fn pages(
    file: &File,
    mut page: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    stored(
        file,
        |place, bytes| {
            if bytes.iter().any(|byte| *byte != 0) { page(place, bytes) } else { Ok(()) }
        },
    )
}

/// The same for each page that the file system keeps, empty or not.
fn stored(file: &File, mut page: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < length {
        // Where the file system has no holes, all of it is data.
        let data = match seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            found => found?,
        };
        let end = seek(file, SeekFrom::Hole(data))?.min(length);
        // Whole pages, wherever the extent begins.
        at = data - data % PAGE as u64;
        while at < end {
            let wanted = usize::try_from(length - at).unwrap_or(CHUNK).min(CHUNK);
            let (part, _) = chunk.split_at_mut(wanted);
            file.read_exact_at(part, at)?;
            for (place, bytes) in (at..).step_by(PAGE).zip(part.chunks(PAGE)) {
                if place < end && bytes.iter().any(|byte| *byte != 0) {
                    page(place, bytes)?;
                }
            }
            at += wanted as u64;
        }
        // Not where the last chunk ended: it reached into what follows.
        at = end.next_multiple_of(PAGE as u64);
    }
    Ok(length)
}

/// A digest of what a file holds: of its length, and of each page that is not empty with its place.
pub(crate) fn digest(file: &File) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let length = pages(file, |place, bytes| {
        hash.update(place.to_le_bytes());
        hash.update(bytes);
        Ok(())
    })?;
    hash.update(length.to_le_bytes());
    Ok(Digest::of(&hash.finalize()))
}

/// Copies a file into an empty one, whose empty pages take no room; how many bytes it took.
pub(crate) fn copy(from: &File, to: &File) -> io::Result<u64> {
    let mut copied = 0;
    let length = pages(from, |place, bytes| {
        copied += bytes.len() as u64;
        to.write_all_at(bytes, place)
    })?;
    to.set_len(length)?;
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_same_digest_and_no_empty_pages() {
        let from = tempfile::tempfile().unwrap();
        from.set_len(64 << 20).unwrap();
        let places = [(0, 1), (5000, 2), (3 << 20, 3), ((3 << 20) + 9000, 5), ((64 << 20) - 1, 4)];
        for (place, byte) in places {
            from.write_all_at(&[byte], place).unwrap();
        }
        // A page of zeros that was written.
        from.write_all_at(&[0; 8192], 9 << 20).unwrap();
        let to = tempfile::tempfile().unwrap();
        assert_eq!(copy(&from, &to).unwrap(), 5 * 4096);
        assert_eq!(digest(&from).unwrap(), digest(&to).unwrap());
        assert_eq!(to.metadata().unwrap().len(), 64 << 20);
        for (place, content) in places {
            let mut byte = [0];
            to.read_exact_at(&mut byte, place).unwrap();
            assert_eq!(byte, [content]);
        }
        // The same bytes elsewhere, and another length, are another file.
        let mut seen = vec![digest(&to).unwrap()];
        let changes: [&dyn Fn(&File); 3] = [
            &|file| file.write_all_at(&[1], 4096).unwrap(),
            &|file| file.set_len(64 << 21).unwrap(),
            &|file| file.set_len(100).unwrap(),
        ];
        for change in changes {
            change(&to);
            let digest = digest(&to).unwrap();
            assert!(!seen.contains(&digest));
            seen.push(digest);
        }
        assert_eq!(
            digest(&tempfile::tempfile().unwrap()).unwrap(),
            digest(&tempfile::tempfile().unwrap()).unwrap()
        );
    }
}
