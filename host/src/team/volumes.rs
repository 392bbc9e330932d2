//! Named volumes: directories that Cloister keeps for a team, `volumes/TEAM/NAME` below the user's data
//! directory. Their size is not bounded: they are directories of the host's file system.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, Mode, OFlags};
use rustix::io::Errno;

use super::copy::copy_tree;
use super::keys::Rule;
use super::mounts::person::data_directory;
use crate::images::archive::tree::remove_all;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Only the owner looks into them.
const PRIVATE: u32 = 0o700;

/// Where the volumes of all the user's teams are, unless somebody says otherwise.
#[must_use]
pub fn usual_place() -> Option<PathBuf> {
    Some(data_directory()?.join("volumes"))
}

/// The directory of a team's volume, made if it is not there.
///
/// # Errors
/// A name is none, something else is in the way, or the file system refuses.
pub fn open_or_make(place: &Path, team: &str, name: &str) -> io::Result<OwnedFd> {
    std::fs::create_dir_all(place)?;
    let place = sys::open(place, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty())?;
    let team = sub(&place, checked(team)?)?;
    sub(&team, checked(name)?)
}

/// Copies volumes of a team for another, which has none of these names.
///
/// # Errors
/// A name is none, the other has such a volume, or the file system refuses.
pub fn copy(place: &Path, from: &str, to: &str, names: &[String]) -> io::Result<()> {
    for name in names {
        let (old, new) = (open_or_make(place, from, name)?, open_or_make(place, to, name)?);
        if sys::Dir::read_from(&new)?.any(|entry| {
            entry.is_ok_and(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
        }) {
            let words = format!("there is a volume {name} of team {to} already");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, words));
        }
        copy_tree(&old, &new)?;
    }
    Ok(())
}

/// Removes all volumes of a team; nothing if there are none.
///
/// # Errors
/// A name is none, or the file system refuses.
pub fn remove(place: &Path, team: &str) -> io::Result<()> {
    let team = checked(team)?;
    let place = match sys::open(place, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty()) {
        Ok(place) => place,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match remove_all(place.as_fd(), OsStr::new(team)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes the volumes of a team in which nothing is, as a start that failed leaves them.
///
/// # Errors
/// A name is none.
pub fn remove_empty(place: &Path, team: &str) -> io::Result<()> {
    let team = place.join(checked(team)?);
    let Ok(volumes) = std::fs::read_dir(&team) else {
        return Ok(());
    };
    // The kernel refuses where something is, and what is no directory.
    for volume in volumes.flatten() {
        std::fs::remove_dir(volume.path()).ok();
    }
    std::fs::remove_dir(&team).ok();
    Ok(())
}

fn sub(directory: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match sys::mkdirat(directory, name, Mode::from_raw_mode(PRIVATE)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(sys::openat(directory, name, DIRECTORY, Mode::empty())?)
}

/// Names come from team files and command lines; as parts of a path they must not lead elsewhere.
fn checked(name: &str) -> io::Result<&str> {
    match Rule::Name.check(name) {
        Ok(()) => Ok(name),
        Err((what, _)) => Err(io::Error::new(io::ErrorKind::InvalidInput, what)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn volumes_stay_until_their_team_goes() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("data/volumes");
        remove(&place, "team").unwrap();
        drop(open_or_make(&place, "team", "cache").unwrap());
        fs::write(place.join("team/cache/f"), "kept").unwrap();
        drop(open_or_make(&place, "team", "cache").unwrap());
        assert_eq!(fs::read(place.join("team/cache/f")).unwrap(), b"kept");
        let mode = fs::metadata(place.join("team/cache")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, PRIVATE);
        drop(open_or_make(&place, "other", "cache").unwrap());
        remove_empty(&place, "team").unwrap();
        assert!(place.join("team/cache/f").exists());
        drop(open_or_make(&place, "new", "cache").unwrap());
        remove_empty(&place, "new").unwrap();
        remove_empty(&place, "new").unwrap();
        assert!(!place.join("new").exists() && remove_empty(&place, "..").is_err());
        remove(&place, "team").unwrap();
        remove(&place, "team").unwrap();
        assert!(!place.join("team").exists() && place.join("other/cache").exists());
    }

    #[test]
    fn names_lead_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("elsewhere/cache")).unwrap();
        symlink("elsewhere", folder.path().join("team")).unwrap();
        assert!(open_or_make(folder.path(), "team", "cache").is_err());
        for name in ["..", "a/b", "", "."] {
            assert!(open_or_make(folder.path(), name, "cache").is_err(), "{name}");
            assert!(open_or_make(folder.path(), "other", name).is_err(), "{name}");
            assert!(remove(folder.path(), name).is_err(), "{name}");
        }
        assert!(folder.path().join("elsewhere/cache").exists());
    }
}
