//! The allow-list itself: system call, threads, conditions on arguments, reason.

/// Kind of thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// The event loop (the main thread).
    Loop,
    /// A vCPU.
    Vcpu,
    /// The event loop of a machine that can be saved, or of a rehearsal: what [`Self::Loop`] may, and more.
    SavableLoop,
    /// A vCPU of a machine that can be saved: what [`Self::Vcpu`] may, and more.
    SavableVcpu,
}

impl Thread {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Loop, Self::Vcpu, Self::SavableLoop, Self::SavableVcpu];

    /// Whether a line is for this kind of thread.
    #[must_use]
    pub fn has(self, line: &Line) -> bool {
        let ordinary = match self {
            Self::SavableLoop => Self::Loop,
            Self::SavableVcpu => Self::Vcpu,
            ordinary => ordinary,
        };
        line.threads.contains(&self) || line.threads.contains(&ordinary)
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// System call number.
    pub call: u32,
    /// Threads that may make it.
    pub threads: &'static [Thread],
    /// What its arguments must be; several lines for one call: any of them.
    pub check: Check,
    /// Why it is needed. For the reader (and the test that none is empty).
    pub reason: &'static str,
}

/// What an argument must be. Only its low 32 bits are compared: the kernel's own type of each
/// argument that is named here has no more.
#[derive(Clone, Copy, Debug)]
pub enum Check {
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
const SAVABLE_LOOP: &[Thread] = &[Thread::SavableLoop];
const SAVABLE_VCPU: &[Thread] = &[Thread::SavableVcpu];

/// `KVM_RUN`, `_IRQ_LINE`, `_GET_MP_STATE`, `_GET_REGS` of the KVM API.
const KVM_RUN: u32 = 0xae80;
const KVM_IRQ_LINE: u32 = 0x4008_ae61;
const KVM_GET_MP_STATE: u32 = 0x8004_ae98;
const KVM_GET_REGS: u32 = 0x8090_ae81;
/// `KVM_KVMCLOCK_CTRL`: it sets one flag for the guest and has no argument.
const KVM_KVMCLOCK_CTRL: u32 = 0xaead;
/// Those that read a machine's state. None of them changes anything.
const KVM_GET_SREGS: u32 = 0x8138_ae83;
const KVM_GET_XSAVE: u32 = 0x9000_aea4;
const KVM_GET_XCRS: u32 = 0x8188_aea6;
const KVM_GET_DEBUGREGS: u32 = 0x8080_aea1;
const KVM_GET_LAPIC: u32 = 0x8400_ae8e;
const KVM_GET_MSRS: u32 = 0xc008_ae88;
const KVM_GET_DEVICE_ATTR: u32 = 0x4018_aee2;
const KVM_GET_VCPU_EVENTS: u32 = 0x8040_ae9f;
const KVM_GET_CLOCK: u32 = 0x8030_ae7c;
const KVM_GET_IRQCHIP: u32 = 0xc208_ae62;
const KVM_GET_DIRTY_LOG: u32 = 0x4010_ae42;

/// `SEEK_DATA` and `SEEK_HOLE`, argument 2 of `lseek`.
const SEEK_DATA: Check = Check::Is { argument: 2, value: libc::SEEK_DATA.unsigned_abs() };
const SEEK_HOLE: Check = Check::Is { argument: 2, value: libc::SEEK_HOLE.unsigned_abs() };

/// Protection is argument 2 of `mmap`.
const NOT_EXECUTABLE: Check = Check::Lacks { argument: 2, bits: libc::PROT_EXEC.unsigned_abs() };

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
const fn ioctl(value: u32, threads: &'static [Thread], reason: &'static str) -> Line {
    line_if(libc::SYS_ioctl, threads, Check::Is { argument: 1, value }, reason)
}

/// The command is argument 1 of `fcntl`.
#[cfg(debug_assertions)]
const fn fcntl(command: i32, threads: &'static [Thread], reason: &'static str) -> Line {
    let value = command.unsigned_abs();
    line_if(libc::SYS_fcntl, threads, Check::Is { argument: 1, value }, reason)
}

/// The whole policy. `vmm/tests/seccomp` shows of each line, and of each thread that it names, that a machine
/// needs it.
pub const TABLE: &[Line] = &[
    ioctl(KVM_RUN, VCPU, "runs the guest"),
    ioctl(KVM_IRQ_LINE, BOTH, "a device's interrupt"),
    ioctl(KVM_GET_MP_STATE, VCPU, "watchdog"),
    ioctl(KVM_GET_REGS, VCPU, "watchdog, exit report"),
    ioctl(KVM_KVMCLOCK_CTRL, VCPU, "goes on after a pause: the guest is told of it"),
    ioctl(KVM_GET_SREGS, SAVABLE_VCPU, "state: segments, control registers"),
    ioctl(KVM_GET_XSAVE, SAVABLE_VCPU, "state: floating point, vectors"),
    ioctl(KVM_GET_XCRS, SAVABLE_VCPU, "state: what of them is on"),
    ioctl(KVM_GET_DEBUGREGS, SAVABLE_VCPU, "state: debug registers"),
    ioctl(KVM_GET_LAPIC, SAVABLE_VCPU, "state: local APIC"),
    ioctl(KVM_GET_MSRS, SAVABLE_VCPU, "state: model-specific registers"),
    ioctl(KVM_GET_DEVICE_ATTR, SAVABLE_VCPU, "state: distance of the time-stamp counters"),
    ioctl(KVM_GET_VCPU_EVENTS, SAVABLE_VCPU, "state: what is pending"),
    ioctl(KVM_GET_CLOCK, SAVABLE_LOOP, "state: the guest's clock"),
    ioctl(KVM_GET_IRQCHIP, SAVABLE_LOOP, "state: interrupt controllers"),
    ioctl(KVM_GET_DIRTY_LOG, SAVABLE_LOOP, "a rehearsal: which pages were written"),
    line_if(libc::SYS_lseek, SAVABLE_LOOP, SEEK_DATA, "memory: the next page that there is"),
    line_if(libc::SYS_lseek, SAVABLE_LOOP, SEEK_HOLE, "memory: how far the pages reach"),
    line(libc::SYS_epoll_wait, LOOP, "the event loop waits"),
    line(libc::SYS_epoll_ctl, LOOP, "watches streams as they come and go"),
    line(libc::SYS_recvmsg, LOOP, "control messages with their descriptors; vsock streams"),
    line(
        libc::SYS_sendmsg,
        BOTH,
        "vsock streams: gathered from guest buffers; requests to the file server",
    ),
    line(libc::SYS_read, LOOP, "event descriptors, timers"),
    line(libc::SYS_write, BOTH, "event descriptors, control messages, serial log, standard error"),
    line(libc::SYS_shutdown, LOOP, "half-closes a vsock stream"),
    line(libc::SYS_close, BOTH, "a stream's end; a vCPU's own descriptor"),
    #[cfg(debug_assertions)]
    fcntl(libc::F_GETFD, BOTH, "close, in debug builds"),
    line(libc::SYS_timerfd_settime, LOOP, "time limits of connections, entropy rate"),
    line(libc::SYS_getrandom, LOOP, "the guest's entropy"),
    line(libc::SYS_futex, BOTH, "locks and the vCPU threads' orders"),
    line(libc::SYS_clock_gettime, BOTH, "rate limits, where the vDSO has no clock"),
    line(libc::SYS_brk, BOTH, "the allocator"),
    line_if(
        libc::SYS_mmap,
        BOTH,
        NOT_EXECUTABLE,
        "the allocator: long backlogs, and before it gives up; memory goes back to the host",
    ),
    line(libc::SYS_munmap, BOTH, "the allocator; a thread's stacks at its end"),
    line(libc::SYS_mremap, LOOP, "the allocator: backlogs that grow"),
    line(libc::SYS_madvise, BOTH, "memory goes back to the host; a thread's stack at its end"),
    line(libc::SYS_sigaltstack, BOTH, "a thread's end"),
    line(libc::SYS_rt_sigprocmask, BOTH, "a thread's end, abort, pthread_kill"),
    line(libc::SYS_rt_sigreturn, VCPU, "the kick's handler returns"),
    line(libc::SYS_sched_yield, BOTH, "channel contention"),
    line(libc::SYS_getpid, BOTH, "abort, pthread_kill"),
    line(libc::SYS_gettid, BOTH, "abort"),
    line(libc::SYS_tgkill, BOTH, "kicks vCPU threads; abort"),
    line(libc::SYS_exit, VCPU, "a thread's end"),
    line(libc::SYS_exit_group, LOOP, "the process's end"),
];
