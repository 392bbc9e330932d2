//! The longer operations: what a share's rules let through, and how it is asked for.
#![expect(clippy::too_many_arguments, reason = "the operations have as many")]

use std::ffi::CStr;
use std::io;
use std::time::Duration;

use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem as _, GetxattrReply, ListxattrReply, OpenOptions,
    ROOT_ID, SetattrValid, SetxattrFlags,
};
use virtiofsd::fuse::{Attr, SetattrIn};

use super::{Place, Router, error};
use crate::decode::LISTING;
use crate::keep;
use crate::limits::{MAX_NAME, MAX_PRIVATE_REQUEST};
use crate::locks::nobody;
use crate::owner::SET_ID;
use crate::xattrs;

/// Most bytes that one request copies within the host.
const MAX_COPY: u64 = 16 << 20;
/// Flags of an opening that mean something here; the rest is the guest's own business.
pub(super) const OPEN_FLAGS: u32 =
    (libc::O_ACCMODE | libc::O_TRUNC | libc::O_APPEND | libc::O_SYNC | libc::O_DSYNC)
        .unsigned_abs();
pub(super) const CREATE_FLAGS: u32 = OPEN_FLAGS | libc::O_EXCL.unsigned_abs();
/// Of `fallocate`: room, holes, zeros. The others move data, which no file server needs.
pub(super) const ALLOCATIONS: u32 = (libc::FALLOC_FL_KEEP_SIZE
    | libc::FALLOC_FL_PUNCH_HOLE
    | libc::FALLOC_FL_ZERO_RANGE
    | libc::FALLOC_FL_UNSHARE_RANGE)
    .unsigned_abs();

pub(super) fn is_listing(context: Context) -> bool {
    u32::try_from(context.pid) == Ok(LISTING)
}

/// The directory of shares.
pub(super) fn root_attributes() -> Attr {
    Attr { ino: ROOT_ID, mode: libc::S_IFDIR | 0o555, nlink: 2, blksize: 4096, ..Attr::default() }
}

pub(super) fn writes(flags: u32) -> bool {
    flags & libc::O_ACCMODE.unsigned_abs() != 0 || flags & libc::O_TRUNC.unsigned_abs() != 0
}

/// An entry in the router's numbers.
pub(super) fn outward(place: &Place, mut entry: Entry) -> io::Result<Entry> {
    entry.inode = place.join(entry.inode)?;
    entry.attr.ino = place.ino(entry.attr.ino);
    Ok(entry)
}

pub(super) fn opened(
    place: &Place,
    (handle, options): (Option<u64>, OpenOptions),
) -> io::Result<(Option<u64>, OpenOptions)> {
    let handle = handle.ok_or_else(|| error(libc::EIO))?;
    Ok((Some(place.join(handle)?), options))
}

impl Router {
    pub(super) fn lookup_share(&self, name: &CStr) -> io::Result<Entry> {
        let shares = self.shares();
        let found =
            (1..).zip(shares).find(|(_, share)| share.spec.name.as_bytes() == name.to_bytes());
        let (number, share) = found.ok_or_else(|| error(libc::ENOENT))?;
        let place = Place { number, share };
        outward(&place, place.share.entrance()?)
    }

    /// What is made: by the library, then booked and shown.
    pub(super) fn make(
        &self,
        parent: u64,
        make: impl FnOnce(&Place, u64) -> io::Result<Entry>,
    ) -> io::Result<Entry> {
        let (place, parent) = self.writable(parent)?;
        let entry = make(&place, parent)?;
        outward(&place, place.share.adopt(entry)?)
    }
}

impl Router {
    pub(super) fn serve_lookup(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
    ) -> io::Result<Entry> {
        let found = match self.split(parent)? {
            None => self.lookup_share(name),
            Some((place, parent)) => place
                .share
                .known(parent)
                .and_then(|parent| place.share.lookup(nobody(), parent, name))
                .and_then(|entry| outward(&place, entry)),
        };
        match found {
            Err(_) if is_listing(context) => Ok(Entry {
                inode: 0,
                generation: 0,
                attr: Attr::default(),
                attr_timeout: Duration::ZERO,
                entry_timeout: Duration::ZERO,
            }),
            found => found,
        }
    }

    pub(super) fn serve_getattr(&self, inode: u64) -> io::Result<(Attr, Duration)> {
        if self.split(inode)?.is_none() {
            // They are the same for ever.
            return Ok((root_attributes(), keep::ALWAYS));
        }
        let (place, inode) = self.file(inode)?;
        let (attr, _) = place.share.files.getattr(nobody(), inode, None)?;
        let mut attr = place.share.attributes(inode, attr)?;
        let time = keep::attributes(place.share.spec.owner, attr.mode);
        attr.ino = place.ino(attr.ino);
        Ok((attr, time))
    }

    pub(super) fn serve_setattr(
        &self,
        inode: u64,
        attr: SetattrIn,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        let (place, inode) = self.writable(inode)?;
        let handle = handle.map(|handle| place.handle(handle)).transpose()?;
        let (attr, valid) = place.share.changes(attr, valid)?;
        let (attr, _) = place.share.files.setattr(nobody(), inode, attr, handle, valid)?;
        let mut attr = place.share.attributes(inode, attr)?;
        let time = keep::attributes(place.share.spec.owner, attr.mode);
        attr.ino = place.ino(attr.ino);
        Ok((attr, time))
    }

    pub(super) fn serve_mknod(
        &self,
        parent: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        if !matches!(mode & libc::S_IFMT, 0 | libc::S_IFREG) {
            return Err(error(libc::EPERM));
        }
        let mode = libc::S_IFREG | (mode & 0o1777 & !umask);
        self.make(parent, |place, parent| {
            place.share.files.mknod(nobody(), parent, name, mode, 0, umask, Extensions::default())
        })
    }

    pub(super) fn serve_rename(
        &self,
        old_parent: u64,
        old: &CStr,
        new_parent: u64,
        new: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        let (place, old_parent) = self.writable(old_parent)?;
        let (other, new_parent) = self.writable(new_parent)?;
        if place.number != other.number {
            return Err(error(libc::EXDEV));
        }
        // A whiteout is a device.
        if flags & !(libc::RENAME_EXCHANGE | libc::RENAME_NOREPLACE) != 0 {
            return Err(error(libc::EINVAL));
        }
        place.share.files.rename(nobody(), old_parent, old, new_parent, new, flags)
    }

    pub(super) fn serve_create(
        &self,
        parent: u64,
        name: &CStr,
        mode: u32,
        kill: bool,
        flags: u32,
        umask: u32,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        let (place, parent) = self.writable(parent)?;
        let (share, mode) = (&place.share, mode & 0o1777 & !umask & !SET_ID);
        let (entry, handle, options) = share.open(|| {
            let (flags, more) = (flags & CREATE_FLAGS, Extensions::default());
            share.files.create(nobody(), parent, name, mode, kill, flags, umask, more)
        })?;
        let inode = entry.inode;
        let adopted = share.adopt(entry).and_then(|entry| outward(&place, entry));
        let entry = adopted.inspect_err(|_| {
            if let Some(handle) = handle {
                share.files.release(nobody(), inode, 0, handle, false, false, None).ok();
            }
            share.closed();
        })?;
        let (handle, options) = opened(&place, (handle, options))?;
        Ok((entry, handle, options))
    }

    pub(super) fn serve_fallocate(
        &self,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let (place, inode) = self.writable(inode)?;
        if mode & !ALLOCATIONS != 0 {
            return Err(error(libc::EOPNOTSUPP));
        }
        place.share.files.fallocate(nobody(), inode, place.handle(handle)?, mode, offset, length)
    }

    pub(super) fn serve_release(
        &self,
        inode: u64,
        flags: u32,
        handle: u64,
        flush: bool,
        flock: bool,
        owner: Option<u64>,
    ) -> io::Result<()> {
        let (place, inode) = self.file(inode)?;
        if let Some(owner) = owner {
            place.share.close_locks(inode, owner);
        }
        let handle = place.handle(handle)?;
        place.share.files.release(nobody(), inode, flags, handle, flush, flock, owner)?;
        place.share.locks.closed(handle);
        place.share.closed();
        Ok(())
    }

    pub(super) fn serve_statfs(&self, inode: u64) -> io::Result<libc::statvfs64> {
        let shares = self.shares();
        let status = match self.split(inode)? {
            Some((place, inode)) => {
                place.share.files.statfs(nobody(), place.share.known(inode)?)?
            }
            // The directory of shares has nothing of its own.
            None => {
                let first = shares.first().ok_or_else(|| error(libc::ENOSYS))?;
                let mut status = first.files.statfs(nobody(), ROOT_ID)?;
                (status.f_blocks, status.f_bfree, status.f_bavail) = (0, 0, 0);
                (status.f_files, status.f_ffree, status.f_favail) = (0, 0, 0);
                status.f_namemax = MAX_NAME.try_into().unwrap_or(u64::MAX);
                status
            }
        };
        Ok(status)
    }

    pub(super) fn serve_setxattr(
        &self,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
        extra: SetxattrFlags,
    ) -> io::Result<()> {
        let (place, inode) = self.writable(inode)?;
        if !xattrs::is_allowed(name.to_bytes()) {
            return Err(error(libc::EOPNOTSUPP));
        }
        place.share.files.setxattr(nobody(), inode, name, value, flags, extra)
    }

    pub(super) fn serve_getxattr(
        &self,
        inode: u64,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        let Some((place, inode)) = self.split(inode)? else { return Err(error(libc::EOPNOTSUPP)) };
        let inode = place.share.known(inode)?;
        if !xattrs::is_allowed(name.to_bytes()) {
            return Err(error(libc::EOPNOTSUPP));
        }
        place.share.files.getxattr(nobody(), inode, name, size)
    }

    pub(super) fn serve_listxattr(&self, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        let Some((place, inode)) = self.split(inode)? else { return Err(error(libc::EOPNOTSUPP)) };
        let inode = place.share.known(inode)?;
        // All of it is read, so that the length is that of what is shown.
        let all = u32::try_from(MAX_PRIVATE_REQUEST).unwrap_or(u32::MAX);
        let ListxattrReply::Names(names) = place.share.files.listxattr(nobody(), inode, all)?
        else {
            return Err(error(libc::EIO));
        };
        let names = xattrs::allowed_of(&names);
        let length = u32::try_from(names.len()).unwrap_or(u32::MAX);
        match size {
            0 => Ok(ListxattrReply::Count(length)),
            _ if size < length => Err(error(libc::ERANGE)),
            _ => Ok(ListxattrReply::Names(names)),
        }
    }

    pub(super) fn serve_opendir(
        &self,
        inode: u64,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        if self.split(inode)?.is_none() {
            return Ok((Some(0), OpenOptions::empty()));
        }
        let (place, inode) = self.file(inode)?;
        let share = &place.share;
        // A directory is opened for reading alone.
        let flags = flags & (OPEN_FLAGS & !(libc::O_ACCMODE | libc::O_TRUNC).unsigned_abs());
        opened(&place, share.open(|| share.files.opendir(nobody(), inode, flags))?)
    }

    pub(super) fn serve_lseek(
        &self,
        inode: u64,
        handle: u64,
        offset: u64,
        whence: u32,
    ) -> io::Result<u64> {
        let (place, inode) = self.file(inode)?;
        // Holes and data: the guest's kernel knows all other positions itself.
        if ![libc::SEEK_DATA, libc::SEEK_HOLE].map(i32::unsigned_abs).contains(&whence) {
            return Err(error(libc::EINVAL));
        }
        place.share.files.lseek(nobody(), inode, place.handle(handle)?, offset, whence)
    }

    pub(super) fn serve_copyfilerange(
        &self,
        from: u64,
        from_handle: u64,
        from_offset: u64,
        to: u64,
        to_handle: u64,
        to_offset: u64,
        length: u64,
        flags: u64,
    ) -> io::Result<usize> {
        let ((place, from), (other, to)) = (self.file(from)?, self.writable(to)?);
        if place.number != other.number {
            return Err(error(libc::EXDEV));
        }
        let handles = (place.handle(from_handle)?, place.handle(to_handle)?);
        // A piece at a time: one request must not keep a thread for long.
        let length = length.min(MAX_COPY);
        let files = &place.share.files;
        files.copyfilerange(
            nobody(),
            from,
            handles.0,
            from_offset,
            to,
            handles.1,
            to_offset,
            length,
            flags,
        )
    }
}
