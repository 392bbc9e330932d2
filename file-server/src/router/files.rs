//! The operations: each finds its share, lets through what the share's rules allow, and asks the
//! library.

use std::ffi::CStr;
use std::io;
use std::time::Duration;

use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};

use super::names::Listing;
use super::rules::{OPEN_FLAGS, opened, writes};
use super::{Router, error};
use crate::locks::nobody;
use crate::xattrs;

impl FileSystem for Router {
    type Inode = u64;
    type Handle = u64;
    type DirIter = Listing;

    fn init(&self, _capable: FsOptions) -> io::Result<FsOptions> {
        self.shares().iter().try_for_each(|share| share.reset())?;
        Ok(FsOptions::DO_READDIRPLUS
            | FsOptions::READDIRPLUS_AUTO
            | FsOptions::POSIX_LOCKS
            | FsOptions::FLOCK_LOCKS
            // The host's kernel takes set-id bits off what is written: the server has no capability.
            | FsOptions::HANDLE_KILLPRIV_V2
            | FsOptions::DIRECT_IO_ALLOW_MMAP)
    }

    fn destroy(&self) {
        for share in self.shares() {
            // What can't be opened again answers with errors.
            share.reset().ok();
        }
    }

    fn lookup(&self, context: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.serve_lookup(context, parent, name)
    }

    fn forget(&self, _: Context, inode: u64, count: u64) {
        if let Ok(Some((place, inode))) = self.split(inode) {
            place.share.forget(inode, count);
        }
    }

    fn getattr(&self, _: Context, inode: u64, _: Option<u64>) -> io::Result<(Attr, Duration)> {
        self.serve_getattr(inode)
    }

    fn setattr(
        &self,
        _: Context,
        inode: u64,
        attr: SetattrIn,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        self.serve_setattr(inode, attr, handle, valid)
    }

    fn readlink(&self, _: Context, inode: u64) -> io::Result<Vec<u8>> {
        let (place, inode) = self.file(inode)?;
        place.share.files.readlink(nobody(), inode)
    }

    fn symlink(
        &self,
        _: Context,
        target: &CStr,
        parent: u64,
        name: &CStr,
        _: Extensions,
    ) -> io::Result<Entry> {
        self.make(parent, |place, parent| {
            place.share.files.symlink(nobody(), target, parent, name, Extensions::default())
        })
    }

    fn mknod(
        &self,
        _: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        _rdev: u32,
        umask: u32,
        _: Extensions,
    ) -> io::Result<Entry> {
        self.serve_mknod(parent, name, mode, umask)
    }

    fn mkdir(
        &self,
        _: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
        _: Extensions,
    ) -> io::Result<Entry> {
        let mode = mode & 0o1777 & !umask;
        self.make(parent, |place, parent| {
            place.share.files.mkdir(nobody(), parent, name, mode, umask, Extensions::default())
        })
    }

    fn unlink(&self, _: Context, parent: u64, name: &CStr) -> io::Result<()> {
        let (place, parent) = self.writable(parent)?;
        place.share.files.unlink(nobody(), parent, name)
    }

    fn rmdir(&self, _: Context, parent: u64, name: &CStr) -> io::Result<()> {
        let (place, parent) = self.writable(parent)?;
        place.share.files.rmdir(nobody(), parent, name)
    }

    fn rename(
        &self,
        _: Context,
        old_parent: u64,
        old: &CStr,
        new_parent: u64,
        new: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        self.serve_rename(old_parent, old, new_parent, new, flags)
    }

    fn link(&self, _: Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        let (old, inode) = self.file(inode)?;
        self.make(parent, |place, parent| {
            if place.number != old.number {
                return Err(error(libc::EXDEV));
            }
            place.share.files.link(nobody(), inode, parent, name)
        })
    }

    fn open(
        &self,
        _: Context,
        inode: u64,
        kill: bool,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        let (place, inode) = if writes(flags) { self.writable(inode)? } else { self.file(inode)? };
        let share = &place.share;
        let open = || share.files.open(nobody(), inode, kill, flags & OPEN_FLAGS);
        opened(&place, share.open(open)?)
    }

    fn create(
        &self,
        _: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        kill: bool,
        flags: u32,
        umask: u32,
        _: Extensions,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        self.serve_create(parent, name, mode, kill, flags, umask)
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        _: Context,
        inode: u64,
        handle: u64,
        writer: W,
        size: u32,
        offset: u64,
        _: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        let (place, inode) = self.file(inode)?;
        let handle = place.handle(handle)?;
        place.share.files.read(nobody(), inode, handle, writer, size, offset, None, flags)
    }

    fn write<R: ZeroCopyReader>(
        &self,
        _: Context,
        inode: u64,
        handle: u64,
        reader: R,
        size: u32,
        offset: u64,
        _: Option<u64>,
        delayed: bool,
        kill: bool,
        flags: u32,
    ) -> io::Result<usize> {
        let (place, inode) = self.writable(inode)?;
        let handle = place.handle(handle)?;
        let files = &place.share.files;
        files.write(nobody(), inode, handle, reader, size, offset, None, delayed, kill, flags)
    }

    fn flush(&self, _: Context, inode: u64, handle: u64, owner: u64) -> io::Result<()> {
        let (place, inode) = self.file(inode)?;
        place.share.close_locks(inode, owner);
        place.share.files.flush(nobody(), inode, place.handle(handle)?, owner)
    }

    fn fsync(&self, _: Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()> {
        let (place, inode) = self.file(inode)?;
        place.share.files.fsync(nobody(), inode, data_only, place.handle(handle)?)
    }

    fn fallocate(
        &self,
        _: Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        self.serve_fallocate(inode, handle, mode, offset, length)
    }

    fn release(
        &self,
        _: Context,
        inode: u64,
        flags: u32,
        handle: u64,
        flush: bool,
        flock: bool,
        owner: Option<u64>,
    ) -> io::Result<()> {
        self.serve_release(inode, flags, handle, flush, flock, owner)
    }

    fn statfs(&self, _: Context, inode: u64) -> io::Result<libc::statvfs64> {
        self.serve_statfs(inode)
    }

    fn setxattr(
        &self,
        _: Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
        extra: SetxattrFlags,
    ) -> io::Result<()> {
        self.serve_setxattr(inode, name, value, flags, extra)
    }

    fn getxattr(
        &self,
        _: Context,
        inode: u64,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        self.serve_getxattr(inode, name, size)
    }

    fn listxattr(&self, _: Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        self.serve_listxattr(inode, size)
    }

    fn removexattr(&self, _: Context, inode: u64, name: &CStr) -> io::Result<()> {
        let (place, inode) = self.writable(inode)?;
        if !xattrs::is_allowed(name.to_bytes()) {
            return Err(error(libc::EOPNOTSUPP));
        }
        place.share.files.removexattr(nobody(), inode, name)
    }

    fn opendir(
        &self,
        _: Context,
        inode: u64,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        self.serve_opendir(inode, flags)
    }

    fn readdir(
        &self,
        _: Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
    ) -> io::Result<Listing> {
        if self.split(inode)?.is_none() {
            return Ok(Listing::of_shares(&self.shares(), offset));
        }
        let (place, inode) = self.file(inode)?;
        let handle = place.handle(handle)?;
        let read = |offset| place.share.files.readdir(nobody(), inode, handle, size, offset);
        Listing::of_directory(&place, offset, read)
    }

    fn fsyncdir(&self, _: Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()> {
        if self.split(inode)?.is_none() {
            return Ok(());
        }
        let (place, inode) = self.file(inode)?;
        place.share.files.fsyncdir(nobody(), inode, data_only, place.handle(handle)?)
    }

    fn releasedir(&self, _: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()> {
        if self.split(inode)?.is_none() {
            return Ok(());
        }
        let (place, inode) = self.file(inode)?;
        place.share.files.releasedir(nobody(), inode, flags, place.handle(handle)?)?;
        place.share.closed();
        Ok(())
    }

    fn lseek(
        &self,
        _: Context,
        inode: u64,
        handle: u64,
        offset: u64,
        whence: u32,
    ) -> io::Result<u64> {
        self.serve_lseek(inode, handle, offset, whence)
    }

    fn copyfilerange(
        &self,
        _: Context,
        from: u64,
        from_handle: u64,
        from_offset: u64,
        to: u64,
        to_handle: u64,
        to_offset: u64,
        length: u64,
        flags: u64,
    ) -> io::Result<usize> {
        self.serve_copyfilerange(
            from,
            from_handle,
            from_offset,
            to,
            to_handle,
            to_offset,
            length,
            flags,
        )
    }
}
