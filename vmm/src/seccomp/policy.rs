//! The allow-list itself: system call, threads, conditions on arguments, reason.

use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

/// Kind of thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thread {
    /// The event loop (the main thread).
    Loop,
    /// A vCPU.
    Vcpu,
}

/// One line of the table.
pub(super) struct Line {
    /// System call number.
    pub(super) call: i64,
    /// Threads that may make it.
    pub(super) threads: &'static [Thread],
    /// Conditions on the arguments; several lines for one call: any of them.
    pub(super) conditions: Option<fn() -> Result<SeccompRule, BackendError>>,
    /// Why it is needed. For the reader (and the test that none is empty).
    #[cfg_attr(not(test), expect(dead_code, reason = "documentation that a test reads"))]
    pub(super) reason: &'static str,
}

const BOTH: &[Thread] = &[Thread::Loop, Thread::Vcpu];
const LOOP: &[Thread] = &[Thread::Loop];
const VCPU: &[Thread] = &[Thread::Vcpu];

/// `KVM_RUN`, `_GET_MP_STATE`, `_GET_REGS` of the KVM API.
const KVM_RUN: u64 = 0xae80;
const KVM_GET_MP_STATE: u64 = 0x8004_ae98;
const KVM_GET_REGS: u64 = 0x8090_ae81;

/// `fcntl`'s commands as the filter compares them.
const F_GETFD: u64 = libc::F_GETFD.unsigned_abs() as u64;
const F_GETFL: u64 = libc::F_GETFL.unsigned_abs() as u64;
const F_SETFL: u64 = libc::F_SETFL.unsigned_abs() as u64;

const fn line(call: i64, threads: &'static [Thread], reason: &'static str) -> Line {
    Line { call, threads, conditions: None, reason }
}

const fn if_arguments(
    call: i64,
    threads: &'static [Thread],
    conditions: fn() -> Result<SeccompRule, BackendError>,
    reason: &'static str,
) -> Line {
    Line { call, threads, conditions: Some(conditions), reason }
}

fn argument_is(index: u8, value: u64) -> Result<SeccompRule, BackendError> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
    SeccompRule::new(vec![condition])
}

fn argument_lacks(index: u8, bits: u64) -> Result<SeccompRule, BackendError> {
    let operator = SeccompCmpOp::MaskedEq(bits);
    SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, 0)?])
}

fn not_executable() -> Result<SeccompRule, BackendError> {
    argument_lacks(2, u64::from(libc::PROT_EXEC.unsigned_abs()))
}

/// The whole policy.
pub(super) const TABLE: &[Line] = &[
    if_arguments(libc::SYS_ioctl, VCPU, || argument_is(1, KVM_RUN), "runs the guest"),
    if_arguments(libc::SYS_ioctl, VCPU, || argument_is(1, KVM_GET_MP_STATE), "watchdog"),
    if_arguments(libc::SYS_ioctl, VCPU, || argument_is(1, KVM_GET_REGS), "watchdog, exit report"),
    line(libc::SYS_epoll_wait, LOOP, "the event loop waits"),
    line(libc::SYS_epoll_pwait, LOOP, "the same, as some C libraries call it"),
    line(libc::SYS_epoll_ctl, LOOP, "watches streams as they come and go"),
    line(libc::SYS_recvmsg, LOOP, "control messages with their descriptors"),
    line(libc::SYS_sendto, LOOP, "control messages to the host; vsock streams"),
    line(libc::SYS_sendmsg, LOOP, "vsock streams: gathered from guest buffers"),
    line(libc::SYS_recvfrom, LOOP, "vsock streams"),
    line(libc::SYS_read, BOTH, "event descriptors, timers, vsock streams"),
    line(libc::SYS_readv, LOOP, "vsock streams: scattered into guest buffers"),
    line(libc::SYS_write, BOTH, "event descriptors, serial log, vsock streams"),
    line(libc::SYS_writev, LOOP, "vsock streams: gathered from guest buffers"),
    line(libc::SYS_shutdown, LOOP, "half-closes a vsock stream"),
    line(libc::SYS_close, BOTH, "a stream's end"),
    if_arguments(libc::SYS_fcntl, LOOP, || argument_is(1, F_GETFL), "received streams' flags"),
    if_arguments(libc::SYS_fcntl, LOOP, || argument_is(1, F_SETFL), "makes them non-blocking"),
    if_arguments(libc::SYS_fcntl, BOTH, || argument_is(1, F_GETFD), "close, in debug builds"),
    line(libc::SYS_timerfd_settime, LOOP, "time limits of connections, entropy rate"),
    line(libc::SYS_getrandom, LOOP, "the guest's entropy; hash seeds"),
    line(libc::SYS_futex, BOTH, "locks and the vCPU threads' orders"),
    line(libc::SYS_clock_gettime, BOTH, "rate limits, where the vDSO has no clock"),
    line(libc::SYS_brk, BOTH, "the allocator"),
    if_arguments(libc::SYS_mmap, BOTH, not_executable, "the allocator; never executable"),
    line(libc::SYS_munmap, BOTH, "the allocator; a thread's stack at its end"),
    line(libc::SYS_mremap, BOTH, "the allocator"),
    if_arguments(libc::SYS_mprotect, BOTH, not_executable, "the allocator; never executable"),
    line(libc::SYS_madvise, BOTH, "the allocator; a thread's stack at its end"),
    line(libc::SYS_sigaltstack, BOTH, "a thread's end"),
    line(libc::SYS_rt_sigprocmask, BOTH, "a thread's end, abort, pthread_kill"),
    line(libc::SYS_rt_sigaction, BOTH, "abort"),
    line(libc::SYS_rt_sigreturn, BOTH, "the kick's handler returns"),
    line(libc::SYS_rseq, VCPU, "a thread's end"),
    line(libc::SYS_sched_yield, BOTH, "channel contention"),
    line(libc::SYS_getpid, BOTH, "abort, pthread_kill"),
    line(libc::SYS_gettid, BOTH, "abort"),
    line(libc::SYS_tgkill, BOTH, "kicks vCPU threads; abort"),
    line(libc::SYS_exit, BOTH, "a thread's end"),
    line(libc::SYS_exit_group, LOOP, "the process's end"),
];
