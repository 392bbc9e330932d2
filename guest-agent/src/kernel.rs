//! The system calls of containers that have no safe wrapper elsewhere.
#![expect(unsafe_code, reason = "the kernel's interfaces for containers take raw structures")]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_long};
use rustix::io::{Errno, Result};

/// A system call by number, whose arguments are numbers and pointers that its own `SAFETY` speaks of.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {{
        // SAFETY: every pointer that a function of this file passes is to memory of its own or its
        // caller's that is as long as the kernel is told and outlives the call.
        let result = unsafe { libc::syscall($number $(, $argument)*) };
        checked(result)
    }};
}

fn checked(result: c_long) -> Result<c_long> {
    if result >= 0 {
        return Ok(result);
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}

/// Takes what the kernel has just made.
fn owned(result: c_long) -> Result<OwnedFd> {
    let fd = c_int::try_from(result).map_err(|_| Errno::BADF)?;
    // SAFETY: a descriptor that the kernel has just made for the caller has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attributes of mounts (`MOUNT_ATTR_*` of linux/mount.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes(pub(crate) u64);

impl Attributes {
    pub(crate) const READ_ONLY: Self = Self(1);
    pub(crate) const NO_SUID: Self = Self(2);
    pub(crate) const NO_DEVICES: Self = Self(4);
    pub(crate) const NO_EXECUTION: Self = Self(8);

    pub(crate) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn with_if(self, wanted: bool, other: Self) -> Self {
        if wanted { self.with(other) } else { self }
    }
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

impl MountAttributes {
    const fn adding(attributes: Attributes) -> Self {
        Self { set: attributes.0, clear: 0, propagation: 0, user_namespace: 0 }
    }
}

fn set_mount(mount: BorrowedFd<'_>, attributes: &MountAttributes, below: c_int) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | below;
    let (path, size) = (c"".as_ptr(), size_of::<MountAttributes>());
    let attributes: *const MountAttributes = attributes;
    call!(libc::SYS_mount_setattr, mount.as_raw_fd(), path, flags, attributes, size).map(drop)
}

/// Adds attributes to a mount and everything mounted below.
pub(crate) fn restrict_mount(mount: impl AsFd, attributes: Attributes) -> Result<()> {
    set_mount(mount.as_fd(), &MountAttributes::adding(attributes), libc::AT_RECURSIVE)
}

/// Adds attributes to one mount alone.
pub(crate) fn restrict_one_mount(mount: impl AsFd, attributes: Attributes) -> Result<()> {
    set_mount(mount.as_fd(), &MountAttributes::adding(attributes), 0)
}

/// No mount or unmount passes between this mount, those below, and any other namespace.
pub(crate) fn make_mount_private(mount: impl AsFd) -> Result<()> {
    let none = MountAttributes::adding(Attributes(0));
    let private = MountAttributes { propagation: libc::MS_PRIVATE, ..none };
    set_mount(mount.as_fd(), &private, libc::AT_RECURSIVE)
}

/// Makes namespaces (`CLONE_NEW*`) for the calling process, which has one thread.
pub(crate) fn unshare(namespaces: c_int) -> Result<()> {
    call!(libc::SYS_unshare, namespaces).map(drop)
}

/// Closes every descriptor from `first` on but these. Only for a process that never comes back to what
/// owned the others.
pub(crate) fn close_all_but(first: c_int, kept: &[BorrowedFd<'_>]) -> Result<()> {
    let mut first = first;
    let mut kept: Vec<c_int> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    kept.sort_unstable();
    for fd in kept.into_iter().chain([c_int::MAX]) {
        if fd > first {
            call!(libc::SYS_close_range, first, fd - 1, 0)?;
        }
        first = first.max(fd.saturating_add(1));
    }
    Ok(())
}

/// A session keyring of its own. Nothing to do where the kernel has no keys at all.
pub(crate) fn leave_keyrings() -> Result<()> {
    let unnamed = std::ptr::null::<u8>();
    match call!(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, unnamed) {
        Ok(_) | Err(Errno::NOSYS) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes every capability out of the bounding set and the ambient set, and locks the secure bits:
/// user 0 means nothing, and nothing raises one.
pub(crate) fn bound_capabilities() -> Result<()> {
    // All four bits and their locks, but not "keep" itself (linux/securebits.h).
    const BITS: c_long = 0b1110_1111;
    // Fewer have never been known to a kernel with user namespaces.
    const LEAST: c_long = 30;
    call!(libc::SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)?;
    call!(libc::SYS_prctl, libc::PR_SET_SECUREBITS, BITS, 0, 0, 0)?;
    for capability in 0.. {
        match call!(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0) {
            Ok(_) => {}
            // The first that this kernel does not know.
            Err(Errno::INVAL) if capability >= LEAST => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Empties the effective, permitted and inheritable sets.
pub(crate) fn drop_capabilities() -> Result<()> {
    // _LINUX_CAPABILITY_VERSION_3, this process; then three sets in two halves.
    let header = [0x2008_0522_u32, 0];
    let sets = [0_u32; 6];
    call!(libc::SYS_capset, header.as_ptr(), sets.as_ptr()).map(drop)
}

/// Dead children vanish by themselves, also after the next `execve`.
pub(crate) fn ignore_children() -> Result<()> {
    // The kernel's structure: handler, flags, restorer, mask.
    let ignore = [libc::SIG_IGN, 0, 0, 0];
    let none = std::ptr::null::<usize>();
    call!(libc::SYS_rt_sigaction, libc::SIGCHLD, ignore.as_ptr(), none, 8_usize).map(drop)
}

/// Becomes the program behind a descriptor, with its name as only argument and no environment.
/// Returns only when that failed.
pub(crate) fn execute_descriptor(program: BorrowedFd<'_>, name: &CStr) -> Errno {
    let arguments = [name.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null::<u8>()];
    let (path, flag) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    let (arguments, environment) = (arguments.as_ptr(), environment.as_ptr());
    let fd = program.as_raw_fd();
    match call!(libc::SYS_execveat, fd, path, arguments, environment, flag) {
        Err(error) => error,
        // It does not return otherwise.
        Ok(_) => Errno::IO,
    }
}

/// Which version of Landlock this kernel has.
pub(crate) fn landlock_version() -> Result<u32> {
    const VERSION: u32 = 1;
    let none = std::ptr::null::<u8>();
    let version = call!(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION)?;
    u32::try_from(version).map_err(|_| Errno::INVAL)
}

/// Rules that deny these rights of files, but where [`landlock_allow`] gives them.
pub(crate) fn landlock_rules(handled: u64) -> Result<OwnedFd> {
    let handled = [handled];
    call!(libc::SYS_landlock_create_ruleset, handled.as_ptr(), size_of_val(&handled), 0)
        .and_then(owned)
}

/// Gives rights at a file, or at a directory and everything below.
pub(crate) fn landlock_allow(
    rules: BorrowedFd<'_>,
    rights: u64,
    place: BorrowedFd<'_>,
) -> Result<()> {
    #[repr(C, packed)]
    struct PathBeneath {
        rights: u64,
        parent: i32,
    }
    const PATH_BENEATH: u32 = 1;
    let rule = PathBeneath { rights, parent: place.as_raw_fd() };
    let rule = &raw const rule;
    call!(libc::SYS_landlock_add_rule, rules.as_raw_fd(), PATH_BENEATH, rule, 0).map(drop)
}

/// Binds the process, and all that it starts, to the rules.
pub(crate) fn landlock_restrict(rules: BorrowedFd<'_>) -> Result<()> {
    call!(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0).map(drop)
}

/// Installs a filter of system calls for ever.
pub(crate) fn filter(program: &[libc::sock_filter]) -> Result<()> {
    install(program, 0).map(drop)
}

/// The same; gives the descriptor at which calls wait that the filter asks about.
pub(crate) fn filter_and_listen(program: &[libc::sock_filter]) -> Result<OwnedFd> {
    install(program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER).and_then(owned)
}

fn install(program: &[libc::sock_filter], flags: libc::c_ulong) -> Result<c_long> {
    let length = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::TOOBIG)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    call!(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
}

/// A system call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// The kernel's number for it.
    pub(crate) id: u64,
    /// The thread that made it, as the caller's process namespace numbers it.
    pub(crate) thread: u32,
    /// Which call.
    pub(crate) call: c_int,
    /// Its arguments.
    pub(crate) arguments: [u64; 6],
}

/// The next call that waits. Blocks if there is none: wait until the descriptor is readable.
pub(crate) fn next_waiting(listener: BorrowedFd<'_>) -> Result<Waiting> {
    // `SECCOMP_IOCTL_NOTIF_RECV` of linux/seccomp.h: _IOWR('!', 0, struct seccomp_notif of 80 bytes).
    const RECEIVE: libc::c_ulong = 0xc050_2100;
    // SAFETY: all zeros is a value of this structure of numbers, and what the kernel asks for.
    let mut told: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    call!(libc::SYS_ioctl, listener.as_raw_fd(), RECEIVE, &raw mut told)?;
    Ok(Waiting { id: told.id, thread: told.pid, call: told.data.nr, arguments: told.data.args })
}

/// Whether the call still waits, and so its thread is the one that was meant.
pub(crate) fn still_waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    // `SECCOMP_IOCTL_NOTIF_ID_VALID`: _IOW('!', 2, u64).
    const VALID: libc::c_ulong = 0x4008_2102;
    call!(libc::SYS_ioctl, listener.as_raw_fd(), VALID, &raw const id).is_ok()
}

/// Lets the call go on as if nobody had asked.
pub(crate) fn let_go_on(listener: BorrowedFd<'_>, id: u64) -> Result<()> {
    // `SECCOMP_IOCTL_NOTIF_SEND`: _IOWR('!', 1, struct seccomp_notif_resp of 24 bytes).
    const SEND: libc::c_ulong = 0xc018_2101;
    // `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
    let answer = libc::seccomp_notif_resp { id, val: 0, error: 0, flags: 1 };
    call!(libc::SYS_ioctl, listener.as_raw_fd(), SEND, &raw const answer).map(drop)
}

/// Ends this process by a signal that nothing handles: for a state that must not go on.
pub(crate) fn abort() -> ! {
    std::process::abort()
}
