//! Who owns a file of an image and what may be done with it: recorded, since the host's own owner
//! and mode are others.
//!
//! Every file of the store belongs to the user who imported it, without set-id bits, and readable.
//! The image's owner, group and mode are in an extended attribute. So
//! * an ordinary user and root get the same store, without sub-ids or a user namespace;
//! * nothing that an image brings can be a set-id program of this host, or a file of its users;
//! * the file server needs no privilege to read a root, and the store's owner none to remove it.
//!
//! The attribute's name and form are those of containers/storage, so fuse-overlayfs and others can
//! read it. Attributes of users can't be on symbolic links: their owners are in a list beside the
//! root (`images::store`).

use std::os::fd::BorrowedFd;

use rustix::fs::{self as sys, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags};

use super::entry::Entry;
use super::fault::Fault;

/// The attribute that holds the owner, group and mode that a guest is shown.
pub const OVERRIDE: &str = "user.containers.override_stat";
/// Attributes that mean something to the host's programs; an image must not set them.
const RESERVED: &[&[u8]] =
    &[b"user.containers.", b"user.overlay.", b"user.fuseoverlayfs.", b"user.cloister."];
/// Largest id; the one above means "no change" to chown.
const MAX_ID: u64 = 0xffff_fffe;
/// Set user id and set group id.
pub(crate) const SET_ID: u32 = 0o6000;

/// An owner as an image states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}

impl Owner {
    /// Of an entry.
    ///
    /// # Errors
    /// An id is out of range.
    pub fn of(entry: &Entry) -> Result<Self, Fault> {
        let id = |id: u64| u32::try_from(id).ok().filter(|_| id <= MAX_ID);
        match (id(entry.uid), id(entry.gid)) {
            (Some(uid), Some(gid)) => Ok(Self { uid, gid }),
            _ => Err(Fault::Owner { uid: entry.uid, gid: entry.gid }),
        }
    }
}

/// Records the owner and mode of a file or directory. `mode` has no set-id bits.
pub(super) fn record(file: BorrowedFd<'_>, owner: Owner, mode: u32) -> Result<(), Fault> {
    let value = format!("{}:{}:{mode:o}", owner.uid, owner.gid);
    sys::fsetxattr(file, OVERRIDE, value.as_bytes(), XattrFlags::empty())
        .map_err(Fault::store("record an owner"))
}

/// Sets the attributes that an image may set; tells how many it may not.
pub(super) fn set_xattrs(
    file: BorrowedFd<'_>,
    xattrs: &[(Vec<u8>, Vec<u8>)],
) -> Result<u64, Fault> {
    let mut dropped = 0;
    for (name, value) in xattrs {
        if !is_kept(name) {
            dropped += 1;
            continue;
        }
        sys::fsetxattr(file, name.as_slice(), value, XattrFlags::empty())
            .map_err(Fault::store("set an extended attribute"))?;
    }
    Ok(dropped)
}

/// Only attributes of users, and none that a program of the host would obey: file capabilities
/// (`security.`) would be a set-id bit by another name, and access lists (`system.`) would count
/// for users of this host.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.") && !RESERVED.iter().any(|prefix| name.starts_with(prefix))
}

/// The mode that a regular file has on the host.
pub(super) fn host_file(mode: u32) -> Mode {
    Mode::from_raw_mode(0o644 | (mode & 0o111))
}

/// A modification time; the access time is set to it as well, so that unpacking gives one result.
pub(super) fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds) };
    debug_assert!(time.tv_nsec < UTIME_OMIT);
    Timestamps { last_access: time, last_modification: time }
}
