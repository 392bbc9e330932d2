//! The root of the jail: an empty file system in memory that nobody can write, and nothing else.

use std::ffi::CStr;

use crate::sys::{self, Errno};

/// Of the file system: no room, no file beside its root directory, and not writable.
const OPTIONS: [(&CStr, Option<&CStr>); 4] =
    [(c"size", Some(c"4096")), (c"nr_inodes", Some(c"1")), (c"mode", Some(c"555")), (c"ro", None)];
/// Of the mount: read-only, nosuid, nodev, noexec (`MOUNT_ATTR_*` of linux/mount.h).
const ATTRIBUTES: u64 = 1 | 2 | 4 | 8;

/// Makes the empty root and takes everything else away. The namespace's copies of the host's mounts
/// are slaves, because it belongs to another user namespace: nothing done here reaches the host.
pub(crate) fn empty() -> Result<(), Errno> {
    let mount = sys::new_file_system(c"tmpfs", &OPTIONS, ATTRIBUTES)?;
    // On top of the old root; reached by its descriptor, since "/" still means what lies beneath.
    sys::mount_at(mount, c"/")?;
    sys::enter(mount)?;
    sys::pivot_here()?;
    sys::detach_here()?;
    sys::enter_root()?;
    sys::close(mount);
    Ok(())
}
