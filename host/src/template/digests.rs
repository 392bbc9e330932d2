//! Digests of large files, computed once for as long as a file stays as it is.
//!
//! A digest is kept under a name made of the kernel's stamps of the file (device, inode, size, times of change). They
//! change with what the file holds, but for changes within one tick of the clock: so a digest is kept only of a file
//! whose last change is some time ago.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::content;
use crate::images::digest::Digest;

/// Digests that are kept: those of some fifty builds of the programs and images.
const MAX_DIGESTS: usize = 256;
/// A change may leave the stamps of one that was this short a time ago. A tick of the kernel is at most 10 ms, the times
/// of change are compared in whole seconds.
const SETTLED: Duration = Duration::from_secs(2);

/// The directory of digests.
#[derive(Clone, Debug)]
pub(super) struct Digests {
    path: PathBuf,
}

impl Digests {
    /// Opens it, making it if nothing is there.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self { path })
    }

    /// The digest of what a file holds.
    pub(super) fn of(&self, file: &File) -> io::Result<Digest> {
        let stamps = Stamps::of(file)?;
        let place = self.path.join(Digest::of(format!("{stamps:?}").as_bytes()).hex());
        if let Ok(known) = fs::read_to_string(&place)
            && let Ok(known) = Digest::from_hex(&known)
        {
            return Ok(known);
        }
        let digest = content::digest(file)?;
        if Stamps::of(file)? == stamps && stamps.have_settled() {
            // Only a saving of time: without it the file is read again.
            write_whole(&place, digest.hex().as_bytes()).ok();
        }
        Ok(digest)
    }

    /// Removes all if they have become many: each file that was ever used has one, and they can be computed again.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let digests: Vec<_> = fs::read_dir(&self.path)?.collect::<io::Result<_>>()?;
        if digests.len() > MAX_DIGESTS {
            for digest in digests {
                fs::remove_file(digest.path()).ok();
            }
        }
        Ok(())
    }
}

/// What the kernel tells of a file, and which changes with it.
#[derive(Debug, PartialEq, Eq)]
struct Stamps {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds since 1970, and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamps {
    fn of(file: &File) -> io::Result<Self> {
        let told = file.metadata()?;
        Ok(Self {
            device: told.dev(),
            inode: told.ino(),
            size: told.size(),
            modified: (told.mtime(), told.mtime_nsec()),
            changed: (told.ctime(), told.ctime_nsec()),
        })
    }

    fn have_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_secs(u64::try_from(self.changed.0).unwrap_or(u64::MAX));
        changed.checked_add(SETTLED).is_some_and(|until| until < now)
    }
}

/// Writes a small file as a whole.
fn write_whole(place: &Path, bytes: &[u8]) -> io::Result<()> {
    let scratch = place.with_extension(std::process::id().to_string());
    let mut file =
        File::options().create(true).truncate(true).write(true).mode(0o600).open(&scratch)?;
    file.write_all(bytes)?;
    fs::rename(&scratch, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_do_not_pile_up() {
        let folder = tempfile::tempdir().unwrap();
        let digests = Digests::open(folder.path().to_owned()).unwrap();
        let count = || fs::read_dir(folder.path()).unwrap().count();
        for number in 0..MAX_DIGESTS {
            fs::write(folder.path().join(number.to_string()), "x").unwrap();
        }
        digests.sweep().unwrap();
        assert_eq!(count(), MAX_DIGESTS);
        fs::write(folder.path().join("one more"), "x").unwrap();
        digests.sweep().unwrap();
        assert_eq!(count(), 0);
    }

    #[test]
    fn a_digest_is_kept_of_a_file_that_has_settled() {
        let folder = tempfile::tempdir().unwrap();
        let digests = Digests::open(folder.path().to_owned()).unwrap();
        let count = || fs::read_dir(folder.path()).unwrap().count();
        let fresh = tempfile::tempfile().unwrap();
        (&fresh).write_all(b"text").unwrap();
        let digest = digests.of(&fresh).unwrap();
        assert_eq!((digest, count()), (content::digest(&fresh).unwrap(), 0));
        let old = File::open("/bin/sh").unwrap();
        let digest = digests.of(&old).unwrap();
        assert_eq!((digest, count()), (content::digest(&old).unwrap(), 1));
        assert_eq!((digests.of(&old).unwrap(), count()), (digest, 1));
    }
}
