//! A container's root: an overlay of the image's share and a bounded file system in memory, which
//! takes the place of the old root and of everything that was mounted there.
//!
//! It is an overlay also when it is read-only, since the places that mounts need are missing in
//! most images. They are made in its upper layer, and then the whole is made read-only.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::mount::UnmountFlags;

use super::mount::{attach, directory, file_system, make_directory, memory, root};
use crate::kernel::Attributes;

/// Room for the places of mounts: directories, with copies of those above them.
const PLACES_BYTES: u64 = 1 << 20;
/// More than [`cloister_protocol::limits::MAX_MOUNTS`] paths have parts, but for absurd ones.
const PLACES: u64 = 4096;

/// Where the layers are put together.
const STAGE: &str = "/tmp";

/// Makes the overlay. `share` is a mount of the image that is mounted nowhere; `writable` is what
/// may be written, in bytes and files.
pub(super) fn overlay(share: &OwnedFd, writable: Option<(u64, u64)>) -> Result<OwnedFd> {
    let plain = Attributes::NO_SUID.with(Attributes::NO_DEVICES);
    let (bytes, files) = writable.unwrap_or((PLACES_BYTES, PLACES));
    let layers = memory("0700", bytes, files, plain)?;
    // Options of an overlay are paths, and so all must be mounted somewhere: in this process's own
    // namespace, over a directory of the machine's that will be left anyway.
    attach(&layers, directory(STAGE)?)?;
    rustix::process::fchdir(&layers)?;
    let lower = make_directory(&layers, c"lower", 0o755)?;
    attach(share, &lower)?;
    // The upper layer's root is the container's.
    drop(make_directory(&layers, c"upper", 0o755)?);
    drop(make_directory(&layers, c"work", 0o700)?);
    let paths =
        [("lowerdir", Some("lower")), ("upperdir", Some("upper")), ("workdir", Some("work"))];
    file_system("overlay", &paths, plain)
}

/// Makes `mount` the root, and takes away whatever else is mounted in this namespace.
///
/// The kernel's first file system, which the machine's root is, can't be moved or taken away; it
/// stays below, where no path leads.
pub(super) fn take_place(mount: &OwnedFd) -> Result<()> {
    for place in mounted_places()?.iter().rev() {
        if place != b"/" {
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            match rustix::mount::unmount(OsStr::from_bytes(place), flags) {
                // It went with one above it.
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    attach(mount, root()?)?;
    rustix::process::fchdir(mount)?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => rustix::mount::unmount(".", UnmountFlags::DETACH)?,
        Err(Errno::INVAL) => rustix::process::chroot(".")?,
        Err(error) => return Err(error),
    }
    rustix::process::chdir("/")
}

/// Every place in this namespace that something is mounted at, in the order of mounting.
fn mounted_places() -> Result<Vec<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open("/proc/self/mountinfo", flags, Mode::empty())?;
    let mut text = Vec::new();
    let mut part = [0; 4096];
    loop {
        match rustix::io::read(file.as_fd(), &mut part)? {
            0 => break,
            count => text.extend_from_slice(part.get(..count).unwrap_or_default()),
        }
    }
    let lines = text.split(|byte| *byte == b'\n');
    // proc_pid_mountinfo(5): the fifth field, with some bytes in octal.
    let fifth = |line: &[u8]| line.split(|byte| *byte == b' ').nth(4).map(unescape);
    Ok(lines.filter_map(fifth).collect())
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        if let Some(byte) = octal {
            plain.push(byte);
            rest = after.get(3..).unwrap_or_default();
        } else {
            plain.push(*first);
            rest = after;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::unescape;

    #[test]
    fn mounted_places_are_read_with_their_odd_bytes() {
        assert_eq!(unescape(b"/a\\040b\\134"), b"/a b\\");
        assert_eq!(unescape(b"/\\0"), b"/\\0");
    }
}
