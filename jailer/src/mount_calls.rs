//! The system calls for shares: mounts that are nowhere, files beneath descriptors, one message with a
//! descriptor each way.
#![expect(unsafe_code, reason = "mounts and messages with descriptors have no safe interface")]

use std::ffi::CStr;

use crate::sys::{Errno, call, close, set_close_on_exec};

/// Which file it is, and of what kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    /// The `S_IFMT` bits.
    pub kind: u32,
}

/// Which file a descriptor is of.
///
/// # Errors
/// It is not open.
pub fn identity(fd: i32) -> Result<Identity, Errno> {
    // SAFETY: all zeros is a value of this structure of numbers.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    call!(libc::SYS_fstat, fd, &raw mut status)?;
    let kind = status.st_mode & libc::S_IFMT;
    Ok(Identity { device: status.st_dev, inode: status.st_ino, kind })
}

/// Whether the process is root's, as its namespace counts.
#[must_use]
pub fn is_root() -> bool {
    call!(libc::SYS_geteuid) == Ok(0)
}

/// User and group of the process.
#[must_use]
pub fn own_ids() -> (u32, u32) {
    let id = |number| call!(number).ok().and_then(|id| u32::try_from(id).ok()).unwrap_or(u32::MAX);
    (id(libc::SYS_geteuid), id(libc::SYS_getegid))
}

/// Where a descriptor's file lies, with its NUL, as the kernel tells it.
///
/// # Errors
/// The system's; it is too long.
pub fn path_of(fd: i32) -> Result<Vec<u8>, Errno> {
    let link = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).map_err(|_| libc::EINVAL)?;
    let mut path = vec![0_u8; 4096];
    let room = path.len() - 1;
    let length =
        call!(libc::SYS_readlinkat, libc::AT_FDCWD, link.as_ptr(), path.as_mut_ptr(), room)?;
    let length = usize::try_from(length).map_err(|_| libc::EIO)?;
    if length == room {
        return Err(libc::ENAMETOOLONG);
    }
    path.truncate(length + 1);
    Ok(path)
}

/// Opens what lies at a path in which no link is followed, without rights to its content.
///
/// # Errors
/// The system's: there is a link in it, or nothing.
pub fn open_plain(path: &CStr) -> Result<i32, Errno> {
    // SAFETY: all zeros is a value of this structure of numbers.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    let flags = libc::O_PATH | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    how.flags = u64::from(flags.unsigned_abs());
    how.resolve = libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    let size = size_of::<libc::open_how>();
    let fd = call!(libc::SYS_openat2, libc::AT_FDCWD, path.as_ptr(), &raw const how, size)?;
    i32::try_from(fd).map_err(|_| libc::EIO)
}

/// Makes an empty file beneath `folder`.
///
/// # Errors
/// The system's.
pub fn make_file(folder: i32, name: &CStr) -> Result<(), Errno> {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC;
    let fd = call!(libc::SYS_openat, folder, name.as_ptr(), flags, 0o444)?;
    close(i32::try_from(fd).map_err(|_| libc::EIO)?);
    Ok(())
}

/// A mount of what a descriptor is of, with all mounts beneath, that is nowhere yet.
///
/// # Errors
/// The system's.
pub fn clone_mount(fd: i32) -> Result<i32, Errno> {
    const CLONE: libc::c_uint = 1;
    let flags = CLONE | (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE | libc::O_CLOEXEC).unsigned_abs();
    let mount = call!(libc::SYS_open_tree, fd, c"".as_ptr(), flags)?;
    i32::try_from(mount).map_err(|_| libc::EIO)
}

/// Sets attributes (`MOUNT_ATTR_*` of linux/mount.h) and, if not 0, the propagation of a mount and all
/// beneath it.
///
/// # Errors
/// The system's.
pub fn set_mount(fd: i32, attributes: u64, propagation: u64) -> Result<(), Errno> {
    // struct mount_attr: set, clear, propagation, user namespace.
    let change = [attributes, 0, propagation, 0];
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let size = size_of_val(&change);
    call!(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, change.as_ptr(), size).map(drop)
}

/// Puts a mount onto a file or directory beneath `folder`.
///
/// # Errors
/// The system's.
pub fn mount_onto(mount: i32, folder: i32, name: &CStr) -> Result<(), Errno> {
    const FROM_EMPTY_PATH: u32 = 4;
    call!(libc::SYS_move_mount, mount, c"".as_ptr(), folder, name.as_ptr(), FROM_EMPTY_PATH)
        .map(drop)
}

/// Room for one descriptor in a message, aligned as the kernel wants it.
#[repr(C)]
struct OneDescriptor {
    header: libc::cmsghdr,
    fd: i32,
}

/// `CMSG_LEN` of one descriptor.
const ONE: usize = size_of::<libc::cmsghdr>() + size_of::<i32>();

fn message(part: &mut libc::iovec, control: &mut OneDescriptor, with: bool) -> libc::msghdr {
    libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: std::ptr::from_mut(part),
        msg_iovlen: 1,
        msg_control: std::ptr::from_mut(control).cast(),
        msg_controllen: if with { size_of::<OneDescriptor>() } else { 0 },
        msg_flags: 0,
    }
}

fn empty() -> OneDescriptor {
    let header =
        libc::cmsghdr { cmsg_len: ONE, cmsg_level: libc::SOL_SOCKET, cmsg_type: libc::SCM_RIGHTS };
    OneDescriptor { header, fd: -1 }
}

/// Receives one packet with exactly one descriptor; its length and the descriptor.
///
/// # Errors
/// The system's; it came without one.
pub fn receive_one(socket: i32, buffer: &mut [u8]) -> Result<(usize, i32), Errno> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = empty();
    let mut message = message(&mut part, &mut control, true);
    let length = call!(libc::SYS_recvmsg, socket, &raw mut message, libc::MSG_CMSG_CLOEXEC)?;
    let (room, whole) =
        (message.msg_controllen, message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC));
    if room < ONE || whole != 0 || control.header.cmsg_type != libc::SCM_RIGHTS || control.fd < 0 {
        return Err(libc::EBADMSG);
    }
    Ok((usize::try_from(length).map_err(|_| libc::EIO)?, control.fd))
}

/// Sends one packet, with a descriptor or without.
///
/// # Errors
/// The system's.
pub fn send_one(socket: i32, bytes: &mut [u8], fd: Option<i32>) -> Result<(), Errno> {
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = empty();
    control.fd = fd.unwrap_or(-1);
    let message = message(&mut part, &mut control, fd.is_some());
    call!(libc::SYS_sendmsg, socket, &raw const message, libc::MSG_NOSIGNAL).map(drop)
}

/// Opens a directory beneath `folder`, only to look things up in it.
///
/// # Errors
/// The system's.
pub fn open_directory(folder: i32, path: &CStr) -> Result<i32, Errno> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let fd = call!(libc::SYS_openat, folder, path.as_ptr(), flags, 0)?;
    i32::try_from(fd).map_err(|_| libc::EIO)
}

/// Moves a descriptor to a number, where it is kept over execution.
///
/// # Errors
/// The system's.
pub fn place(fd: i32, number: i32) -> Result<(), Errno> {
    if fd == number {
        return set_close_on_exec(fd, false);
    }
    call!(libc::SYS_dup3, fd, number, 0)?;
    close(fd);
    Ok(())
}
