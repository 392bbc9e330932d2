//! File systems that are made and mounted by descriptor, and places found within the container.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::kernel::{Attributes, restrict_mount};

/// No symbolic link leads out of the root, and none of the kernel's own is followed.
const WITHIN: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// Neither link nor mount is passed.
const PLAIN: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

const PLACE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// How often a path is tried that somebody's renaming makes unsure: each takes microseconds.
const MAX_TRIES: u32 = 1000;

/// A new file system that is mounted nowhere yet; an option without a value is a flag.
pub(super) fn file_system(
    kind: &str,
    options: &[(&str, Option<&str>)],
    attributes: Attributes,
) -> Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(context.as_fd(), *key, *value)?,
            None => fsconfig_set_flag(context.as_fd(), *key)?,
        }
    }
    fsconfig_create(context.as_fd())?;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    restrict_mount(&mount, attributes)?;
    Ok(mount)
}

/// A file system in memory. The kernel takes 0 for "no bound", which the protocol lets nobody ask.
pub(super) fn memory(
    mode: &str,
    bytes: u64,
    files: u64,
    attributes: Attributes,
) -> Result<OwnedFd> {
    let (bytes, files) = (bytes.max(1).to_string(), files.max(1).to_string());
    let options = [("mode", Some(mode)), ("size", Some(&*bytes)), ("nr_inodes", Some(&*files))];
    file_system("tmpfs", &options, attributes)
}

/// A second mount of what lies at a place, with everything mounted below, itself mounted nowhere.
pub(super) fn second(place: impl AsFd, attributes: Attributes) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = open_tree(place.as_fd(), c"", flags)?;
    restrict_mount(&mount, attributes)?;
    Ok(mount)
}

/// Mounts it at the place that was found.
pub(super) fn attach(mount: &OwnedFd, place: impl AsFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount.as_fd(), c"", place.as_fd(), c"", flags)
}

/// A directory or file right below another directory, and not by a link.
pub(super) fn below(directory: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd> {
    rustix::fs::openat2(directory, name, PLACE | OFlags::NOFOLLOW, Mode::empty(), PLAIN)
}

/// The root that this process has.
pub(super) fn root() -> Result<OwnedFd> {
    directory(c"/")
}

/// A directory by its path: one of the machine's own.
pub(super) fn directory(path: impl rustix::path::Arg) -> Result<OwnedFd> {
    rustix::fs::open(path, PLACE | OFlags::DIRECTORY, Mode::empty())
}

/// What lies at a path within a root, whatever links there are.
pub(super) fn within(root: impl AsFd, path: &[u8]) -> Result<OwnedFd> {
    let mut tries = 0;
    loop {
        tries += 1;
        match rustix::fs::openat2(&root, path, PLACE, Mode::empty(), WITHIN) {
            // Of a path with `..` in it, or in a link: something was renamed or mounted meanwhile, anywhere (openat2(2)).
            Err(Errno::AGAIN) if tries < MAX_TRIES => {}
            result => return result,
        }
    }
}

/// A directory of the image itself, right below its root, made if it is missing. A link would lead
/// what is mounted there to another place (runc's CVE-2021-30465), so it is refused.
pub(super) fn own_directory(root: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    match below(&root, name) {
        Err(Errno::NOENT) => {
            rustix::fs::mkdirat(&root, name, Mode::from_raw_mode(0o755))?;
            below(&root, name)
        }
        result => result,
    }
}

/// The number of the mount that a place is in.
pub(super) fn mount_id(place: impl AsFd) -> Result<u64> {
    let stat = rustix::fs::statx(place, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(Errno::NOTSUP);
    }
    Ok(stat.stx_mnt_id)
}

/// Whether it is a directory; anything else but a file is refused.
pub(super) fn is_directory(place: impl AsFd) -> Result<bool> {
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(place)?.st_mode);
    match kind {
        rustix::fs::FileType::Directory => Ok(true),
        rustix::fs::FileType::RegularFile => Ok(false),
        _ => Err(Errno::NOTSUP),
    }
}

/// The place at `path` to mount a directory or a file on, made if it is missing in the root file
/// system itself. It must lie in one of the mounts `allowed`: the root is the first.
///
/// # Errors
/// `XDEV`: it lies in none of them. `ROFS`: it is missing in another mount: nothing is ever made in
/// a share.
pub(super) fn find_or_make(
    root: BorrowedFd<'_>,
    path: &[u8],
    directory: bool,
    allowed: &[u64],
    made_in: &[u64],
) -> Result<OwnedFd> {
    let check = |place: OwnedFd| -> Result<OwnedFd> {
        if allowed.contains(&mount_id(&place)?) { Ok(place) } else { Err(Errno::XDEV) }
    };
    match within(root, path) {
        Err(Errno::NOENT) => {}
        result => return result.and_then(check),
    }
    let end = path.len();
    let ends = (1..=end).filter(|at| *at == end || path.get(*at) == Some(&b'/'));
    let mut parent = root.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
    for at in ends {
        let part = path.get(..at).unwrap_or_default();
        match within(root, part) {
            Ok(found) => {
                parent = found;
                continue;
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        if !made_in.contains(&mount_id(&parent)?) {
            return Err(Errno::ROFS);
        }
        let name = part.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if at < end || directory {
            rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        } else {
            // Not through a link that leads nowhere, which `EXCL` refuses.
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            drop(rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?);
        }
        parent = within(root, part)?;
    }
    check(parent)
}

/// Makes a place that the supervisor alone writes, in a file system of its own making.
pub(super) fn make_directory(parent: impl AsFd, name: &CStr, mode: u32) -> Result<OwnedFd> {
    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode))?;
    below(parent, name)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, rename};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::{within, *};

    #[test]
    fn a_place_is_found_whatever_is_renamed_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        File::create(&one).unwrap();
        let root = File::open(folder.path()).unwrap();
        let path = b"/sub/../sub/../sub/../sub/..";
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    rename(&one, &other).unwrap();
                    rename(&other, &one).unwrap();
                }
            });
            let alone = || rustix::fs::openat2(&root, &path[..], PLACE, Mode::empty(), WITHIN);
            let has_failed = (0..100_000).any(|_| matches!(alone(), Err(Errno::AGAIN)));
            let found = (0..1000).all(|_| within(&root, path).is_ok());
            ended.store(true, Ordering::Relaxed);
            assert!(has_failed, "nobody was in the way");
            assert!(found);
        });
    }
}
