//! The system calls and instructions that have no safe wrapper elsewhere.
#![expect(unsafe_code, reason = "this is the one place for what the compiler can't check")]

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use cloister_protocol::limits::ENTROPY_BYTES;
use libc::{c_char, c_int};
use rustix::io::{Errno, Result};
use rustix::process::Pid;

/// From linux/sched.h; libc has it in a type that it does not fit into.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The processor's time-stamp counter.
pub(crate) fn time_stamp() -> u64 {
    // SAFETY: the instruction reads a register; every x86-64 processor has it, and the supervisor
    // runs on no other.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Blocks every signal: what matters comes by [`child_signals`], and a broken pipe is an error.
pub(crate) fn block_signals() {
    let mut set = empty_signal_set();
    // SAFETY: `set` is a signal set that outlives the call.
    unsafe { libc::sigfillset(&raw mut set) };
    set_signal_mask(&set);
}

/// Lets every signal in again, as a new program expects it.
pub(crate) fn unblock_signals() {
    set_signal_mask(&empty_signal_set());
}

/// A descriptor that is readable when a child has changed its state; [`block_signals`] first.
pub(crate) fn child_signals() -> Result<OwnedFd> {
    let mut set = empty_signal_set();
    // SAFETY: `set` is a signal set that outlives the call, and the signal's number is valid.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGCHLD) };
    // SAFETY: `set` outlives the call; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
    owned(fd)
}

fn empty_signal_set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: the call initializes what it is given, which is as big as a set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: just initialized.
    unsafe { set.assume_init() }
}

/// Can't fail: the operation is known and the pointer valid.
fn set_signal_mask(set: &libc::sigset_t) {
    // SAFETY: `set` outlives the call, and no old mask is asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, set, ptr::null_mut()) };
}

/// Connects a vsock socket.
pub(crate) fn connect_vsock(socket: BorrowedFd<'_>, cid: u32, port: u32) -> Result<()> {
    let family = libc::sa_family_t::try_from(libc::AF_VSOCK).map_err(|_| Errno::AFNOSUPPORT)?;
    let address = libc::sockaddr_vm {
        svm_family: family,
        svm_reserved1: 0,
        svm_port: port,
        svm_cid: cid,
        svm_zero: [0; 4],
    };
    let length = libc::socklen_t::try_from(size_of_val(&address)).map_err(|_| Errno::INVAL)?;
    // SAFETY: the address is a whole sockaddr_vm of the length given and outlives the call.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

/// Sets how long a vsock socket waits for a connection.
pub(crate) fn set_connect_limit(socket: BorrowedFd<'_>, limit: Duration) -> Result<()> {
    // `SO_VM_SOCKETS_CONNECT_TIMEOUT` of linux/vm_sockets.h, where a long has 64 bits.
    const CONNECT_TIMEOUT: c_int = 6;
    let seconds = libc::time_t::try_from(limit.as_secs()).map_err(|_| Errno::INVAL)?;
    let time = libc::timeval { tv_sec: seconds, tv_usec: limit.subsec_micros().into() };
    let length = libc::socklen_t::try_from(size_of_val(&time)).map_err(|_| Errno::INVAL)?;
    // SAFETY: the value is a whole timeval of the length given and outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::AF_VSOCK,
            CONNECT_TIMEOUT,
            (&raw const time).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

/// Brings the loopback interface up; the kernel gives it its addresses.
pub(crate) fn bring_loopback_up(socket: BorrowedFd<'_>) -> Result<()> {
    let flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(|_| Errno::INVAL)?;
    let mut name = [0; libc::IFNAMSIZ];
    for (place, byte) in name.iter_mut().zip(c"lo".to_bytes()) {
        *place = c_char::from_ne_bytes([*byte]);
    }
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    // SAFETY: SIOCSIFFLAGS reads one ifreq, of which name and flags are set, and keeps nothing.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

/// Mixes bytes into the kernel's random number generator, counted as random, and has every processor draw from it
/// anew: `RNDADDENTROPY` and `RNDRESEEDCRNG` of linux/random.h.
pub(crate) fn add_entropy(random: &OwnedFd, bytes: &[u8; ENTROPY_BYTES]) -> Result<()> {
    const ADD_ENTROPY: libc::Ioctl = 0x4008_5203;
    const RESEED: libc::Ioctl = 0x5207;
    #[repr(C)]
    struct PoolInfo {
        entropy_bits: c_int,
        size: c_int,
        bytes: [u8; ENTROPY_BYTES],
    }
    let size = c_int::try_from(ENTROPY_BYTES).map_err(|_| Errno::INVAL)?;
    let info = PoolInfo { entropy_bits: 8 * size, size, bytes: *bytes };
    // SAFETY: the kernel reads the two numbers and the `size` bytes that follow them, all of `info`.
    let added = unsafe { libc::ioctl(random.as_raw_fd(), ADD_ENTROPY, &raw const info) };
    if added != 0 {
        return Err(last_error());
    }
    // SAFETY: no memory is passed.
    let reseeded = unsafe { libc::ioctl(random.as_raw_fd(), RESEED) };
    if reseeded == 0 { Ok(()) } else { Err(last_error()) }
}

/// Strings in the form that `execve` wants.
pub(crate) struct StringList {
    /// What `pointers` points into; never changed after [`StringList::new`].
    _strings: Vec<CString>,
    /// One for each string, then a null.
    pointers: Vec<*const c_char>,
}

impl StringList {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers =
            strings.iter().map(|one| one.as_ptr()).chain(std::iter::once(ptr::null())).collect();
        Self { _strings: strings, pointers }
    }
}

/// Makes a process, in the control group if one is given, that does `child` and ends with the
/// code it returns. For a process with one thread only, which the supervisor is; `child` should
/// still neither allocate nor lock, so that it stays right where tests have more.
pub(crate) fn fork(group: Option<BorrowedFd<'_>>, child: impl FnOnce() -> u8) -> Result<Pid> {
    fork_with(group, 0, child)
}

/// The same for a process that is born in new namespaces (`CLONE_NEW*`).
pub(crate) fn fork_with(
    group: Option<BorrowedFd<'_>>,
    namespaces: u64,
    child: impl FnOnce() -> u8,
) -> Result<Pid> {
    // SAFETY: all-zero is this structure's "nothing asked for".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    arguments.flags = namespaces;
    if let Some(group) = group {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(group.as_raw_fd().unsigned_abs());
    }
    // SAFETY: the structure has the size given and outlives the call. Memory is copied and not
    // shared (no CLONE_VM), so the child can't disturb this process's.
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>())
    };
    if result == 0 {
        let code = child();
        // SAFETY: ends this process here, without what belongs to the parent (buffers, handlers).
        unsafe { libc::_exit(c_int::from(code)) };
    }
    i32::try_from(result).ok().and_then(Pid::from_raw).ok_or_else(last_error)
}

/// Replaces the process by a program; returns only when that failed.
pub(crate) fn execute(path: &CStr, arguments: &StringList, environment: &StringList) -> Errno {
    // SAFETY: a `StringList` keeps its null-terminated pointers and what they point to alive and
    // unchanged, and `path` is a C string.
    unsafe {
        libc::execve(path.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr())
    };
    last_error()
}

/// Sends a signal, by number, to a process group.
pub(crate) fn signal_group(group: Pid, signal: u8) -> Result<()> {
    kill(-group.as_raw_nonzero().get(), signal)
}

/// Sends a signal, by number, to a process.
pub(crate) fn signal_process(process: Pid, signal: u8) -> Result<()> {
    kill(process.as_raw_nonzero().get(), signal)
}

/// Real-time signals have no names, so this is not done by a type for names.
fn kill(target: i32, signal: u8) -> Result<()> {
    // SAFETY: no memory is passed; the kernel checks both numbers.
    let result = unsafe { libc::kill(target, c_int::from(signal)) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

/// Marks every descriptor from `first` on to be closed by `execve`.
pub(crate) fn close_on_exec_from(first: u32) {
    // SAFETY: no memory is passed, and nothing is closed now.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

fn owned(fd: c_int) -> Result<OwnedFd> {
    if fd < 0 {
        return Err(last_error());
    }
    // SAFETY: the kernel has just made the descriptor for the caller, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Does not allocate.
fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

/// The C library's entry point, in place of the standard library's, which would open `/dev/null`
/// for closed standard streams (there is no `/dev` yet: it would abort), read `/proc` and set up
/// a signal stack.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[cfg_attr(test, expect(dead_code, reason = "a test's entry point is the harness's"))]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    crate::run()
}
