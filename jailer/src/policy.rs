//! What the program may call between its execution and the point where its own filters, which are
//! narrower, join this one: the C library's and Rust's start, and building a machine.
//!
//! No call here makes a socket, opens a path, changes a namespace or a credential, or looks at
//! another process. Anything else is a SIGSYS: it ends the process, unless the vmm has installed its
//! handler, which says the call's number first.

use crate::spec::Role;

/// No system call: whoever makes it is killed, handler or not. The vmm's handler of SIGSYS ends with it.
pub const LAST_CALL: u32 = 0x3fff_ffff;

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// System call number.
    pub call: u32,
    /// Its name.
    pub name: &'static str,
    /// What its arguments must be; else the process is killed.
    pub check: Check,
    /// What it gets.
    pub answer: Answer,
    /// Why it is here.
    pub reason: &'static str,
}

/// A condition on an argument's low 32 bits; the kernel's type of each that is named has no more.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    /// None.
    Any,
    /// None of these bits is set.
    Lacks {
        /// Which argument, from 0.
        argument: u32,
        /// The bits.
        bits: u32,
    },
    /// Its masked bits have this value.
    Masked {
        /// Which argument, from 0.
        argument: u32,
        /// The mask.
        mask: u32,
        /// The value.
        value: u32,
    },
}

/// What a call gets.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// It is made.
    Allow,
    /// It is not made, and fails with this number: for calls that every program tries.
    Fail(i32),
}

/// Namespaces: none is made by `clone`, nor is a process, because threads share all of these.
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP)
    .unsigned_abs();
const THREAD: u32 = (libc::CLONE_VM | libc::CLONE_THREAD).unsigned_abs();
const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH.unsigned_abs();
const EXECUTABLE: u32 = libc::PROT_EXEC.unsigned_abs();

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "system call numbers of x86-64 are below 1000; `try_from` is not const"
)]
const fn line(call: i64, name: &'static str, reason: &'static str) -> Line {
    Line { call: call as u32, name, check: Check::Any, answer: Answer::Allow, reason }
}

const fn checked(line: Line, check: Check) -> Line {
    Line { check, ..line }
}

const fn fails(line: Line, errno: i32) -> Line {
    Line { answer: Answer::Fail(errno), ..line }
}

macro_rules! allow {
    ($name:ident, $reason:expr) => {
        line(libc::$name, stringify!($name), $reason)
    };
}

/// A role's whole policy.
#[must_use]
pub fn of(role: Role) -> Vec<Line> {
    let common = SETUP.iter().copied();
    match role {
        Role::Vmm => common.collect(),
        Role::FileServer => {
            let replaced = |line: &Line| FILES.iter().any(|other| other.call == line.call);
            common
                .filter(|line| !MACHINE.contains(&i64::from(line.call)) && !replaced(line))
                .chain(FILES.iter().copied())
                .collect()
        }
    }
}

/// What only a machine calls.
const MACHINE: &[i64] = &[
    libc::SYS_ioctl,
    libc::SYS_eventfd2,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_getsockopt,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_rt_sigreturn,
    libc::SYS_clock_gettime,
    libc::SYS_exit,
    libc::SYS_madvise,
];

/// What a file server may call beside; it loses [`MACHINE`]. Its own filter is narrower and joins this one when
/// its threads are there.
pub const FILES: &[Line] = &[
    checked(
        allow!(SYS_unshare, "a working directory for each thread, and nothing else"),
        Check::Masked { argument: 0, mask: u32::MAX, value: libc::CLONE_FS.unsigned_abs() },
    ),
    allow!(SYS_openat2, "a file by its name in a directory of a share"),
    allow!(
        SYS_openat,
        "a known file anew, by /proc/self/fd; by paths there is nothing: the root is empty"
    ),
    allow!(SYS_readlinkat, "a symbolic link's target"),
    allow!(SYS_fstatfs, "room on the file system"),
    allow!(SYS_getdents64, "listings"),
    allow!(SYS_preadv2, "reads"),
    allow!(SYS_pwritev2, "writes"),
    allow!(SYS_fallocate, "room and holes"),
    allow!(SYS_ftruncate, "a file's size"),
    allow!(SYS_copy_file_range, "copies within a share"),
    allow!(SYS_fsync, "what the guest wants on the disk"),
    allow!(SYS_fdatasync, "the same"),
    allow!(SYS_mkdirat, "a directory"),
    checked(
        allow!(SYS_mknodat, "a regular file; no device, FIFO or socket"),
        Check::Masked { argument: 2, mask: libc::S_IFMT, value: libc::S_IFREG },
    ),
    allow!(SYS_symlinkat, "a symbolic link"),
    allow!(SYS_linkat, "a hard link"),
    allow!(SYS_unlinkat, "removal"),
    allow!(SYS_renameat2, "another name"),
    allow!(SYS_fchmod, "permissions"),
    allow!(SYS_fchmodat, "permissions"),
    allow!(SYS_utimensat, "times"),
    allow!(SYS_fgetxattr, "extended attributes"),
    allow!(SYS_fsetxattr, "extended attributes"),
    allow!(SYS_flistxattr, "extended attributes"),
    allow!(SYS_fremovexattr, "extended attributes"),
    allow!(SYS_getxattr, "those of symbolic links"),
    allow!(SYS_setxattr, "those of symbolic links"),
    allow!(SYS_listxattr, "those of symbolic links"),
    allow!(SYS_removexattr, "those of symbolic links"),
    allow!(SYS_fchdir, "to a share when it is opened; to /proc/self/fd for the above"),
    allow!(SYS_umask, "the library clears it"),
    allow!(SYS_geteuid, "the library looks whether it would have to change its user"),
    allow!(SYS_getegid, "the same"),
    allow!(SYS_flock, "locks of whole files"),
    checked(
        allow!(SYS_newfstatat, "the same, as the C library asks"),
        Check::Masked { argument: 3, mask: EMPTY_PATH, value: EMPTY_PATH },
    ),
    allow!(SYS_dup, "a file that the guest closes, so that errors of its file system show"),
    allow!(SYS_name_to_handle_at, "is a file still the one that has its name"),
    allow!(SYS_clock_nanosleep, "time limits"),
    allow!(SYS_recvfrom, "jobs from the vmm"),
    allow!(SYS_sendto, "jobs done"),
];

/// The vmm's whole policy, and most of the file server's.
pub const SETUP: &[Line] = &[
    allow!(
        SYS_execveat,
        "the program itself; afterwards nothing can be executed: no path is there"
    ),
    allow!(SYS_arch_prctl, "the C library's start: thread-local storage"),
    allow!(SYS_set_tid_address, "the C library's start"),
    allow!(SYS_set_robust_list, "the start of the process and of each thread"),
    allow!(SYS_rseq, "the start and the end of each thread"),
    allow!(SYS_prlimit64, "the C library's start: the stack's size"),
    fails(allow!(SYS_readlink, "the C library looks for its own path"), libc::ENOENT),
    fails(allow!(SYS_readlinkat, "the C library looks for its own path"), libc::ENOENT),
    fails(allow!(SYS_openat, "Rust looks for its stack in /proc"), libc::ENOENT),
    fails(
        allow!(SYS_clone3, "threads; its flags can't be checked, so the C library uses clone"),
        libc::ENOSYS,
    ),
    checked(
        allow!(SYS_clone, "vCPU threads; no process and no namespace"),
        Check::Masked { argument: 0, mask: THREAD | NEW_NAMESPACES, value: THREAD },
    ),
    allow!(SYS_sched_getaffinity, "the stack of the first thread, as Rust asks for it"),
    allow!(SYS_poll, "Rust's start: are the standard streams open"),
    allow!(
        SYS_prctl,
        "names of threads; the vmm's own filters; nothing to be gained without privileges"
    ),
    allow!(SYS_seccomp, "the vmm's own filters"),
    checked(
        allow!(SYS_ioctl, "KVM's commands: their type is 0xae"),
        Check::Masked { argument: 1, mask: 0xff00, value: 0xae00 },
    ),
    allow!(SYS_brk, "the allocator"),
    checked(
        allow!(SYS_mmap, "memory; never executable"),
        Check::Lacks { argument: 2, bits: EXECUTABLE },
    ),
    checked(
        allow!(SYS_mprotect, "guard pages; never executable"),
        Check::Lacks { argument: 2, bits: EXECUTABLE },
    ),
    allow!(SYS_munmap, "memory"),
    allow!(SYS_mremap, "the allocator"),
    allow!(SYS_madvise, "guest memory: pages made beforehand, huge ones, no core dump"),
    allow!(SYS_rt_sigaction, "handlers of the vmm"),
    allow!(SYS_rt_sigprocmask, "the start of threads"),
    allow!(SYS_rt_sigreturn, "handlers return"),
    allow!(SYS_sigaltstack, "Rust's handler of stack overflows"),
    allow!(SYS_getrandom, "hash seeds"),
    allow!(SYS_clock_gettime, "time stamps, where the vDSO has no clock"),
    allow!(SYS_futex, "locks"),
    allow!(SYS_getpid, "abort"),
    allow!(SYS_gettid, "threads"),
    allow!(SYS_tgkill, "abort, kicks"),
    allow!(SYS_sched_yield, "contention"),
    allow!(SYS_fcntl, "flags of descriptors that came with a message"),
    checked(
        allow!(SYS_statx, "files that came with a message, without a path"),
        Check::Masked { argument: 2, mask: EMPTY_PATH, value: EMPTY_PATH },
    ),
    allow!(SYS_lseek, "kernel and root image"),
    allow!(SYS_read, "kernel and root image, event descriptors"),
    allow!(SYS_write, "event descriptors, log, standard error"),
    allow!(SYS_close, "descriptors"),
    allow!(SYS_eventfd2, "queues, interrupts, wake-ups"),
    allow!(SYS_epoll_create1, "the event loop"),
    allow!(SYS_epoll_ctl, "the event loop"),
    allow!(SYS_epoll_wait, "the event loop"),
    allow!(SYS_timerfd_create, "watchdog, time limits"),
    allow!(SYS_timerfd_settime, "watchdog, time limits"),
    allow!(SYS_getsockopt, "is the control socket what it should be"),
    allow!(SYS_recvmsg, "control messages, streams"),
    allow!(SYS_sendmsg, "streams"),
    allow!(SYS_shutdown, "streams"),
    allow!(SYS_exit, "a thread's end"),
    allow!(SYS_exit_group, "the process's end"),
];
