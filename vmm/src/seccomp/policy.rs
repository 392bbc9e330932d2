//! The allow-list itself: system call, threads, conditions on arguments, reason.

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
    pub(super) call: u32,
    /// Threads that may make it.
    pub(super) threads: &'static [Thread],
    /// What its arguments must be; several lines for one call: any of them.
    pub(super) check: Check,
    /// Why it is needed. For the reader (and the test that none is empty).
    #[cfg_attr(not(test), expect(dead_code, reason = "documentation that a test reads"))]
    pub(super) reason: &'static str,
}

/// What an argument must be. Only its low 32 bits are compared: the kernel's own type of each
/// argument that is named here has no more.
#[derive(Clone, Copy, Debug)]
pub(super) enum Check {
    /// Anything.
    Any,
    /// Exactly this.
    Is {
        /// Which argument, from 0.
        argument: u32,
        /// Its value.
        value: u32,
    },
    /// None of these bits is set.
    Lacks {
        /// Which argument, from 0.
        argument: u32,
        /// The bits.
        bits: u32,
    },
}

const BOTH: &[Thread] = &[Thread::Loop, Thread::Vcpu];
const LOOP: &[Thread] = &[Thread::Loop];
const VCPU: &[Thread] = &[Thread::Vcpu];

/// `KVM_RUN`, `_GET_MP_STATE`, `_GET_REGS` of the KVM API.
const KVM_RUN: u32 = 0xae80;
const KVM_GET_MP_STATE: u32 = 0x8004_ae98;
const KVM_GET_REGS: u32 = 0x8090_ae81;

/// Protection is argument 2 of `mmap` and `mprotect`.
const NOT_EXECUTABLE: Check = Check::Lacks { argument: 2, bits: libc::PROT_EXEC.unsigned_abs() };

/// The signal is argument 0 of `rt_sigaction`.
const ONLY_ABORT: Check = Check::Is { argument: 0, value: libc::SIGABRT.unsigned_abs() };

const fn line(call: i64, threads: &'static [Thread], reason: &'static str) -> Line {
    line_if(call, threads, Check::Any, reason)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "system call numbers of x86-64 are below 1000; `try_from` is not const"
)]
const fn line_if(
    call: i64,
    threads: &'static [Thread],
    check: Check,
    reason: &'static str,
) -> Line {
    Line { call: call as u32, threads, check, reason }
}

/// The command is argument 1 of `ioctl`.
const fn ioctl(value: u32, reason: &'static str) -> Line {
    line_if(libc::SYS_ioctl, VCPU, Check::Is { argument: 1, value }, reason)
}

/// The command is argument 1 of `fcntl`.
const fn fcntl(command: i32, threads: &'static [Thread], reason: &'static str) -> Line {
    let value = command.unsigned_abs();
    line_if(libc::SYS_fcntl, threads, Check::Is { argument: 1, value }, reason)
}

/// The whole policy.
pub(super) const TABLE: &[Line] = &[
    ioctl(KVM_RUN, "runs the guest"),
    ioctl(KVM_GET_MP_STATE, "watchdog"),
    ioctl(KVM_GET_REGS, "watchdog, exit report"),
    line(libc::SYS_epoll_wait, LOOP, "the event loop waits"),
    line(libc::SYS_epoll_ctl, LOOP, "watches streams as they come and go"),
    line(libc::SYS_recvmsg, LOOP, "control messages with their descriptors; vsock streams"),
    line(libc::SYS_sendto, LOOP, "control messages to the host"),
    line(libc::SYS_sendmsg, LOOP, "vsock streams: gathered from guest buffers"),
    line(libc::SYS_read, BOTH, "event descriptors, timers"),
    line(libc::SYS_write, BOTH, "event descriptors, serial log"),
    line(libc::SYS_shutdown, LOOP, "half-closes a vsock stream"),
    line(libc::SYS_close, BOTH, "a stream's end"),
    fcntl(libc::F_GETFD, BOTH, "close, in debug builds"),
    line(libc::SYS_timerfd_settime, LOOP, "time limits of connections, entropy rate"),
    line(libc::SYS_getrandom, LOOP, "the guest's entropy; hash seeds"),
    line(libc::SYS_futex, BOTH, "locks and the vCPU threads' orders"),
    line(libc::SYS_clock_gettime, BOTH, "rate limits, where the vDSO has no clock"),
    line(libc::SYS_brk, BOTH, "the allocator"),
    line_if(libc::SYS_mmap, BOTH, NOT_EXECUTABLE, "the allocator; never executable"),
    line(libc::SYS_munmap, BOTH, "the allocator; a thread's stack at its end"),
    line(libc::SYS_mremap, BOTH, "the allocator"),
    line_if(libc::SYS_mprotect, BOTH, NOT_EXECUTABLE, "the allocator; never executable"),
    line(libc::SYS_madvise, BOTH, "the allocator; a thread's stack at its end"),
    line(libc::SYS_sigaltstack, BOTH, "a thread's end"),
    line(libc::SYS_rt_sigprocmask, BOTH, "a thread's end, abort, pthread_kill"),
    line_if(libc::SYS_rt_sigaction, BOTH, ONLY_ABORT, "abort; no other handler can be changed"),
    line(libc::SYS_rt_sigreturn, BOTH, "the kick's handler returns"),
    line(libc::SYS_rseq, VCPU, "a thread's end"),
    line(libc::SYS_sched_yield, BOTH, "channel contention"),
    line(libc::SYS_getpid, BOTH, "abort, pthread_kill"),
    line(libc::SYS_gettid, BOTH, "abort"),
    line(libc::SYS_tgkill, BOTH, "kicks vCPU threads; abort"),
    line(libc::SYS_exit, BOTH, "a thread's end"),
    line(libc::SYS_exit_group, LOOP, "the process's end"),
];
