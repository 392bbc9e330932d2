//! The directories of a run: this user's alone, locked while they are used, so that what a killed run left can be told
//! from what another one works with.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, OFlags, flock};

/// How their names begin; the run's process id and a number follow.
const PREFIX: &str = "cloister-prove-";
/// Names of a directory that are tried.
const MOST_NAMES: u32 = 1000;
/// Where they can be, beside the usual directory for temporary files.
pub(super) const OTHER_PLACES: [&str; 2] = ["/tmp", "/var/tmp"];
/// The state directory of the team in one.
pub(super) const STATE: &str = "state";

/// A directory. It goes with the value.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes one in `place`. Its name may be taken: by what a killed run left, or by a process of the same number that
    /// sees the same files from another machine.
    pub(super) fn new(place: &Path) -> io::Result<Self> {
        let name = format!("{PREFIX}{}", std::process::id());
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

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left after this, the next run finds.
        fs::remove_dir_all(&self.path).ok();
    }
}

/// The name of the team of a run.
pub(super) fn team_of(process: u32) -> String {
    format!("prove-{process}")
}

/// Locks a directory of this user's that nobody works with.
fn lock(path: &Path) -> Option<File> {
    let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed();
    let folder = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let own = folder.metadata().ok()?.uid() == rustix::process::geteuid().as_raw();
    (own && flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok()).then_some(folder)
}

/// Takes down and removes what killed runs of this user have left; tells what it was.
#[must_use]
pub fn sweep() -> Vec<PathBuf> {
    let mut places = vec![std::env::temp_dir()];
    places.extend(OTHER_PLACES.map(PathBuf::from));
    places.sort_unstable();
    places.dedup();
    let entries = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| remove(path)).collect()
}

fn remove(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let numbers = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
    let process = numbers.and_then(|(process, _)| process.parse().ok());
    let (Some(process), Some(_lock)) = (process, lock(path)) else { return false };
    if path.join(STATE).exists() {
        take_down(&team_of(process), &path.join(STATE));
    }
    fs::remove_dir_all(path).is_ok()
}

/// Ends a team by this program, whatever it says: a caller that was ended by a signal has no runtime any more.
pub(super) fn take_down(team: &str, state: &Path) {
    let Ok(program) = std::env::current_exe() else { return };
    let mut command = Command::new(program);
    command.args(["down", team]).env("CLOISTER_STATE", state);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_works_with_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let used = Folder::new(place.path()).unwrap();
        let left = place.path().join(format!("{PREFIX}123-0"));
        let other = place.path().join(format!("{PREFIX}x-0"));
        let link = place.path().join(format!("{PREFIX}124-0"));
        fs::create_dir_all(left.join("team/in")).unwrap();
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();
        assert!(remove(&left) && !left.exists());
        for path in [used.path(), &other, &link] {
            assert!(!remove(path) && path.exists(), "{}", path.display());
        }
        let path = used.path().to_owned();
        drop(used);
        assert!(!path.exists());
    }
}
