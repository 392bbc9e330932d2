//! Waiting for what is written to a log, and for its directory's end.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::CommandError;
use crate::audit::AuditError;

/// Tells what is written to a log, and when its directory is moved away or removed.
///
/// # Errors
/// The system refuses, or the directory is not there.
pub(super) fn watch(folder: &Path) -> Result<OwnedFd, CommandError> {
    let watch =
        inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(wrap(folder))?;
    let kinds =
        WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
    inotify::add_watch(&watch, folder, kinds).map_err(wrap(folder))?;
    // While a file of it is open, as the reader's is, a removed directory says nothing of itself: the one above does.
    if let Some(above) = folder.parent() {
        let kinds = WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::ONLYDIR;
        inotify::add_watch(&watch, above, kinds).map_err(wrap(above))?;
    }
    Ok(watch)
}

/// Waits until something was written.
///
/// # Errors
/// The directory is not there any more.
pub(super) fn wait(watch: &OwnedFd, folder: &Path) -> Result<(), CommandError> {
    match poll(&mut [PollFd::new(watch, PollFlags::IN)], None) {
        Ok(_) | Err(Errno::INTR) => take(watch, folder),
        Err(error) => Err(wrap(folder)(error)),
    }
}

/// Takes what has been told, without a wait.
///
/// # Errors
/// The directory is not there any more.
pub(super) fn take(watch: &OwnedFd, folder: &Path) -> Result<(), CommandError> {
    let mut told = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(watch, &mut told);
    loop {
        match events.next() {
            Ok(event) if is_end(&event, folder) => {
                return Err(CommandError::Moved(folder.to_owned()));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Ok(()),
            Err(error) => return Err(wrap(folder)(error)),
        }
    }
}

/// Why a log can't be read: it may be gone, before the kernel's word of that has come.
pub(super) fn or_moved(error: AuditError, folder: &Path) -> CommandError {
    if folder.is_dir() { error.into() } else { CommandError::Moved(folder.to_owned()) }
}

fn is_end(event: &inotify::Event<'_>, folder: &Path) -> bool {
    let own = ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF;
    // Only of the directory above these are told: other logs lie there too.
    let above = ReadFlags::DELETE | ReadFlags::MOVED_FROM;
    let name = event.file_name().map(|name| name.to_bytes());
    let of_it = name.is_some() && name == folder.file_name().map(|name| name.as_encoded_bytes());
    event.events().intersects(own) || event.events().intersects(above) && of_it
}

fn wrap(path: &Path) -> impl FnOnce(Errno) -> CommandError {
    let path = path.to_owned();
    move |errno| CommandError::Io { what: "watch", path, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    /// A log with one open file, and its watch.
    fn log() -> (tempfile::TempDir, std::path::PathBuf, OwnedFd, File) {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("t");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("segment"), "1\n").unwrap();
        let watch = watch(&folder).unwrap();
        let open = File::open(folder.join("segment")).unwrap();
        (place, folder, watch, open)
    }

    #[test]
    fn writes_are_told_and_the_end_of_other_logs_is_nobodys_concern() {
        let (place, folder, watch, _open) = log();
        fs::write(folder.join("segment"), "1\n2\n").unwrap();
        wait(&watch, &folder).unwrap();
        fs::write(folder.join("next"), "3\n").unwrap();
        wait(&watch, &folder).unwrap();
        fs::create_dir(place.path().join("u")).unwrap();
        fs::remove_dir(place.path().join("u")).unwrap();
        wait(&watch, &folder).unwrap();
    }

    #[test]
    fn a_directory_that_goes_ends_the_wait() {
        let (place, folder, watch, _open) = log();
        fs::rename(&folder, place.path().join("evidence")).unwrap();
        let end = wait(&watch, &folder).unwrap_err();
        assert_eq!(
            end.to_string(),
            format!("the log was moved away or removed: {}", folder.display())
        );
        // While a file of it is being read.
        let (_place, folder, watch, _open) = log();
        fs::remove_dir_all(&folder).unwrap();
        assert!(matches!(wait(&watch, &folder), Err(CommandError::Moved(_))));
    }
}
