//! A team's lock. Its warden holds it for as long as it lives, and the command that starts the warden held it before:
//! with the first word that a team is there, its lock is held.
//!
//! Record locks of an open file (`F_OFD_SETLK`, fcntl(2)) on two bytes of it. Whoever asks whether the first is held
//! takes nothing, so that looking at a team never stands in the way of its start. Whoever waits for the end waits for the
//! second, and has it for a moment; who takes the lock waits for those, and for nobody else.
#![expect(unsafe_code, reason = "no safe call of a library knows these locks")]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Held: the team has a warden, or will have one.
const LIFE: libc::off_t = 0;
/// Held with the first; that of those who wait.
const END: libc::off_t = 1;

/// A team's lock; the kernel lets go of it when the last process that holds it ends, however that ends.
#[derive(Debug)]
pub struct TeamLock {
    file: File,
}

impl TeamLock {
    /// Takes the lock; `None`: it is held.
    ///
    /// # Errors
    /// Its directory is not there, or the file system refuses.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let file =
                File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
            match ask(&file, libc::F_OFD_SETLK, (libc::F_WRLCK, LIFE)) {
                // fcntl(2): either of them.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                    return Ok(None);
                }
                done => done?,
            };
            // Was it removed by who held it before? Then another one may be there by now.
            let ours = file.metadata()?;
            let is_there = fs::metadata(path)
                .is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino()));
            if is_there {
                ask(&file, libc::F_OFD_SETLKW, (libc::F_WRLCK, END))?;
                return Ok(Some(Self { file }));
            }
        }
    }

    /// That of another process, which handed it over.
    #[must_use]
    pub fn adopt(descriptor: OwnedFd) -> Self {
        Self { file: File::from(descriptor) }
    }

    /// Whether somebody holds it.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn is_held(path: &Path) -> io::Result<bool> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened?,
        };
        let found = ask(&file, libc::F_OFD_GETLK, (libc::F_WRLCK, LIFE))?;
        Ok(libc::c_int::from(found.l_type) != libc::F_UNLCK)
    }

    /// Waits until nobody holds it. One that was removed with its team is held by nobody.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn await_end(path: &Path) -> io::Result<()> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        ask(&file, libc::F_OFD_SETLKW, (libc::F_RDLCK, END)).map(drop)
    }
}

impl AsFd for TeamLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Asks for a lock of a kind on one byte, or about it.
fn ask(
    file: &File,
    command: libc::c_int,
    (kind, byte): (libc::c_int, libc::off_t),
) -> io::Result<libc::flock> {
    let l_type = libc::c_short::try_from(kind).map_err(io::Error::other)?;
    let whence = libc::c_short::try_from(libc::SEEK_SET).map_err(io::Error::other)?;
    let mut lock = libc::flock { l_type, l_whence: whence, l_start: byte, l_len: 1, l_pid: 0 };
    loop {
        // SAFETY: the descriptor is open while it is borrowed, and these commands read and write the one structure that
        // the last argument points to.
        let done = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
        if done >= 0 {
            return Ok(lock);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn it_is_held_once_and_by_every_copy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert!(!TeamLock::is_held(&path).unwrap() && !path.exists());
        let lock = TeamLock::take(&path).unwrap().expect("nobody has it");
        assert!(TeamLock::is_held(&path).unwrap());
        assert!(TeamLock::take(&path).unwrap().is_none());
        let other = TeamLock::adopt(lock.as_fd().try_clone_to_owned().unwrap());
        drop(lock);
        assert!(TeamLock::is_held(&path).unwrap());
        drop(other);
        assert!(!TeamLock::is_held(&path).unwrap());
        assert!(TeamLock::take(&path).unwrap().is_some());
    }

    #[test]
    fn one_that_was_removed_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let old = TeamLock::take(&path).unwrap().expect("nobody has it");
        fs::remove_file(&path).unwrap();
        TeamLock::await_end(&path).unwrap();
        let new = TeamLock::take(&path).unwrap().expect("another file");
        drop(old);
        assert!(TeamLock::is_held(&path).unwrap());
        drop(new);
        fs::remove_dir_all(folder.path()).unwrap();
        assert_eq!(TeamLock::take(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn who_waits_is_told_of_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = TeamLock::take(&path).unwrap().expect("nobody has it");
        let (tell, told) = mpsc::channel();
        let waiting = path.clone();
        let waiter = thread::spawn(move || tell.send(TeamLock::await_end(&waiting)));
        assert!(told.try_recv().is_err());
        drop(lock);
        told.recv().unwrap().unwrap();
        waiter.join().unwrap().unwrap();
    }

    #[test]
    fn neither_who_looks_nor_who_waits_is_in_the_way() {
        const TIMES: usize = 2000;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let is_done = AtomicBool::new(false);
        let until_done = |work: &dyn Fn()| {
            while !is_done.load(Ordering::Relaxed) {
                work();
            }
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| until_done(&|| assert!(TeamLock::is_held(&path).is_ok())));
                scope.spawn(|| until_done(&|| TeamLock::await_end(&path).unwrap()));
            }
            let taken = (0..TIMES).filter(|_| TeamLock::take(&path).unwrap().is_some()).count();
            is_done.store(true, Ordering::Relaxed);
            assert_eq!(taken, TIMES);
        });
    }
}
