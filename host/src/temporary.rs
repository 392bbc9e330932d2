//! Directories of one run: this user's alone, locked while they are used, so that what a killed run left can be told from
//! what another one works with.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

/// Names of a directory that are tried.
const MOST_NAMES: u32 = 1000;

/// A directory. It goes with the value.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

/// A directory that a killed run left. Nobody takes it while the value is there.
#[derive(Debug)]
pub(crate) struct Left {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// The process that made it.
    pub(crate) process: u32,
    _lock: File,
}

impl Folder {
    /// Makes one in `place`: `prefix`, this process's number, and one more. Its name may be taken: by what a killed run
    /// left, or by a process of the same number that sees the same files from another machine.
    pub(crate) fn new(place: &Path, prefix: &str) -> io::Result<Self> {
        let name = format!("{prefix}{}", std::process::id());
        let mut number = 0;
        loop {
            let path = place.join(format!("{name}-{number}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && number < MOST_NAMES => {}
                Err(error) => return Err(error),
                // Whoever looks for what is left could have been faster than the lock: then it is another name's turn.
                Ok(()) => match lock(&path) {
                    Some(lock) if path.exists() => return Ok(Self { path, _lock: lock }),
                    _ if number < MOST_NAMES => {}
                    _ => return Err(io::ErrorKind::ResourceBusy.into()),
                },
            }
            number += 1;
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left after this, the next run finds.
        fs::remove_dir_all(&self.path).ok();
    }
}

/// What killed runs of this user have left in these places.
pub(crate) fn left(mut places: Vec<PathBuf>, prefix: &str) -> impl Iterator<Item = Left> {
    places.sort_unstable();
    places.dedup();
    let entries = places.into_iter().filter_map(|place| fs::read_dir(place).ok()).flatten();
    entries.flatten().filter_map(move |entry| Left::at(entry.path(), prefix))
}

impl Left {
    fn at(path: PathBuf, prefix: &str) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().into_owned();
        let (process, _) = name.strip_prefix(prefix)?.split_once('-')?;
        let process = process.parse().ok()?;
        let lock = lock(&path)?;
        Some(Self { path, process, _lock: lock })
    }

    /// Removes it; where it was.
    pub(crate) fn remove(self) -> Option<PathBuf> {
        fs::remove_dir_all(&self.path).is_ok().then_some(self.path)
    }
}

/// Locks a directory of this user's that nobody works with.
fn lock(path: &Path) -> Option<File> {
    let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed();
    let folder = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let own = folder.metadata().ok()?.uid() == rustix::process::geteuid().as_raw();
    (own && flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok()).then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_works_with_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let used = Folder::new(place.path(), "a-run-").unwrap();
        let gone = place.path().join("a-run-123-0");
        let other = place.path().join("a-run-x-0");
        let link = place.path().join("a-run-124-0");
        fs::create_dir_all(gone.join("team/in")).unwrap();
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();
        // The same place by two names in a list is looked at once.
        let places = vec![place.path().to_owned(), place.path().to_owned()];
        let removed: Vec<_> =
            left(places, "a-run-").map(|left| (left.process, left.remove().unwrap())).collect();
        assert_eq!(removed, [(123, gone.clone())]);
        assert!(!gone.exists());
        for path in [used.path(), &other, &link] {
            assert!(path.exists(), "{}", path.display());
        }
        let path = used.path().to_owned();
        drop(used);
        assert!(!path.exists());
    }

    #[test]
    fn a_name_that_is_taken_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let first = Folder::new(place.path(), "a-run-").unwrap();
        let second = Folder::new(place.path(), "a-run-").unwrap();
        assert_ne!(first.path(), second.path());
    }
}
