//! The few raw system interfaces of the vmm, each behind a safe function.
#![expect(unsafe_code, reason = "signals, clocks and descriptors that arrive from outside")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

use kvm_bindings::kvm_run;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::control::MAX_DESCRIPTORS;

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // Nothing to do: the signal only has to interrupt KVM_RUN (and handlers do as little as this).
}

/// The signal that takes a vCPU thread out of `KVM_RUN` has a handler and so ends nothing.
///
/// # Errors
/// `sigaction`'s.
pub fn install_kick_handler() -> io::Result<()> {
    register_signal_handler(SIGRTMIN(), on_kick).map_err(io::Error::from)
}

/// Interrupts `KVM_RUN` of a thread.
pub fn kick<T>(thread: &JoinHandle<T>) {
    // SAFETY: the handle is not joined yet (it is borrowed), so its pthread id is valid even if the
    // thread has ended.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGRTMIN()) };
}

/// Threads share one heap: a vCPU thread allocates next to nothing, and each heap of its own would
/// cost a mapping of 128 MiB and several system calls at its start.
pub fn share_one_heap() {
    // SAFETY: sets a number in the allocator, before there are threads.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// A system call that a filter does not allow: says its number and ends the process. Makes two
/// calls and nothing else (the thread may have been anywhere).
extern "C" fn on_trap(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // `si_syscall` of a SIGSYS: after three numbers, padding and the caller's address.
    const OFFSET: usize = 24;
    const BEFORE: &[u8] = b"cloister-vmm: system call ";
    const AFTER: &[u8] = b" is not allowed\n";
    // SAFETY: the kernel hands over a whole siginfo_t, of which this is an aligned member.
    let mut number = unsafe { info.cast::<u8>().wrapping_add(OFFSET).cast::<u32>().read() };
    let mut digits = [b'0'; 10];
    let mut first = digits.len();
    while number > 0 || first == digits.len() {
        first -= 1;
        if let Some(digit) = digits.get_mut(first) {
            *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        }
        number /= 10;
    }
    let mut text = [0_u8; 64];
    let digits = digits.get(first..).unwrap_or_default();
    let parts = BEFORE.iter().chain(digits).chain(AFTER);
    let length = text.iter_mut().zip(parts).map(|(place, byte)| *place = *byte).count();
    // SAFETY: a live buffer, and not more than its length.
    unsafe { libc::syscall(libc::SYS_write, 2, text.as_ptr(), length) };
    // SAFETY: no pointer; the filters kill the process for it.
    unsafe { libc::syscall(libc::c_long::from(crate::seccomp::LAST_CALL)) };
}

/// Lets the host see which system call ended the process. Comes before the filters; they let nobody
/// change the handler.
///
/// # Errors
/// `sigaction`'s.
pub fn install_trap_handler() -> io::Result<()> {
    register_signal_handler(libc::SIGSYS, on_trap).map_err(io::Error::from)
}

/// Names the process in lists: it was executed from a memory file, which has a number for a name.
pub fn name_process(name: &std::ffi::CStr) {
    // SAFETY: the kernel copies the name, which is a C string. A failure would change nothing else.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// `CLOCK_MONOTONIC`, in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the result; the call can't fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000) + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The suberror of `KVM_EXIT_INTERNAL_ERROR`, if that was the last exit.
#[must_use]
pub fn internal_suberror(run: &kvm_run) -> Option<u32> {
    if run.exit_reason != kvm_bindings::KVM_EXIT_INTERNAL_ERROR {
        return None;
    }
    // SAFETY: the exit reason says which member of the union KVM filled.
    Some(unsafe { run.__bindgen_anon_1.internal.suberror })
}

/// Takes over a descriptor that the process was started with.
///
/// # Errors
/// It is not open.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only reads the descriptor's flags.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by the contract of `control::CONTROL_FD` nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Receives one packet and its descriptors into `buffer`.
///
/// # Errors
/// `recvmsg`'s; `WouldBlock` if there is none on a non-blocking socket.
pub fn receive(socket: &UnixDatagram, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut descriptors: [RawFd; MAX_DESCRIPTORS] = [-1; MAX_DESCRIPTORS];
    let mut parts = [libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() }];
    // SAFETY: the one part is `buffer`, borrowed mutably for the call, which may hold any bytes.
    let received = unsafe { socket.recv_with_fds(&mut parts, &mut descriptors) };
    let (bytes, count) = received.map_err(io::Error::from)?;
    let owned = descriptors
        .iter()
        .take(count)
        // SAFETY: the kernel made these descriptors for this call, and nothing else has them.
        .map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) })
        .collect();
    Ok((bytes, owned))
}

/// Is it a seqpacket socket?
///
/// # Errors
/// It is not a socket at all.
pub fn is_seqpacket(fd: &impl AsRawFd) -> io::Result<bool> {
    let mut kind: libc::c_int = 0;
    let mut length: libc::socklen_t = 4;
    // SAFETY: `kind` and `length` are valid places and agree about the size.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TYPE,
            (&raw mut kind).cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok(kind == libc::SOCK_SEQPACKET),
        _ => Err(io::Error::last_os_error()),
    }
}
