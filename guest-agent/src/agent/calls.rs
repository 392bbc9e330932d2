//! Which system calls a command of an agent may make: a list, and an error for all others.
//!
//! The list is the one that container engines allow a container without capabilities (Docker's
//! default profile), without what else is refused there only for want of a capability, and without
//! some that give one program power over another or have a record of exploits:
//! `ptrace`, `process_vm_readv` and `process_vm_writev`, `kcmp`, `pidfd_getfd`,
//! `process_madvise`, `modify_ldt`. Sockets are of Unix, IPv4, IPv6 and routing alone: above all
//! not of vsock, where the host listens.

use libc::c_long;

/// What the kernel does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow,
    /// With this error.
    Refuse(i32),
    /// The supervisor is asked.
    Ask,
    /// Allowed if every test of one of these holds, else refused with the error.
    If(&'static [&'static [Test]], i32),
}

/// A test of the lower half of an argument: all that is tested has 32 bits to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Is { argument: u32, value: u32 },
    IsNot { argument: u32, value: u32 },
    Has { argument: u32, bits: u32 },
    Lacks { argument: u32, bits: u32 },
}

/// The highest number that this table decides on. Calls above are told to be missing, so that
/// programs fall back to older ones; a call that is refused is an error of rights.
pub(super) const LAST: u32 = 462;

/// Every kind of namespace (`CLONE_NEW*`); the one of times has a bit of the signal's here.
const NAMESPACES: u32 = 0x7e02_0000;
/// `MFD_NOEXEC_SEAL` of linux/memfd.h: the file never becomes executable.
const NEVER_EXECUTABLE: u32 = 8;
/// `NETLINK_ROUTE`.
const ROUTE: u32 = 0;
/// Putting characters into a terminal's input, for whoever reads there next.
const PUSH_CHARACTER: u32 = 0x5412;
/// The same by a console's selection.
const SELECTION: u32 = 0x541c;

const fn family(family: i32) -> Test {
    Test::Is { argument: 0, value: family.unsigned_abs() }
}

const fn personality(value: u32) -> Test {
    Test::Is { argument: 0, value }
}

/// Those that depend on their arguments, and those with an error of their own.
pub(super) const SPECIAL: [(c_long, Verdict); 7] = [
    (
        libc::SYS_clone,
        Verdict::If(&[&[Test::Lacks { argument: 0, bits: NAMESPACES }]], libc::EPERM),
    ),
    // Its flags lie in memory, where a filter can't look. C libraries take `clone` then.
    (libc::SYS_clone3, Verdict::Refuse(libc::ENOSYS)),
    (
        libc::SYS_ioctl,
        Verdict::If(
            &[&[
                Test::IsNot { argument: 1, value: PUSH_CHARACTER },
                Test::IsNot { argument: 1, value: SELECTION },
            ]],
            libc::EPERM,
        ),
    ),
    // Linux as it is, on 32 bits, and both with the name of an old version; and to ask.
    (
        libc::SYS_personality,
        Verdict::If(
            &[
                &[personality(0)],
                &[personality(8)],
                &[personality(0x2_0000)],
                &[personality(0x2_0008)],
                &[personality(u32::MAX)],
            ],
            libc::EPERM,
        ),
    ),
    (
        libc::SYS_socket,
        Verdict::If(
            &[
                &[family(libc::AF_UNIX)],
                &[family(libc::AF_INET)],
                &[family(libc::AF_INET6)],
                &[family(libc::AF_NETLINK), Test::Is { argument: 2, value: ROUTE }],
            ],
            libc::EAFNOSUPPORT,
        ),
    ),
    (libc::SYS_socketpair, Verdict::If(&[&[family(libc::AF_UNIX)]], libc::EAFNOSUPPORT)),
    (libc::SYS_memfd_create, Verdict::Allow),
];

/// In place of the above for an agent with a list of executables. A file in memory is none of the
/// files that Landlock knows, so it must not become a program.
pub(super) const LISTED: [(c_long, Verdict); 3] = [
    (libc::SYS_execve, Verdict::Ask),
    (libc::SYS_execveat, Verdict::Ask),
    (
        libc::SYS_memfd_create,
        Verdict::If(&[&[Test::Has { argument: 1, bits: NEVER_EXECUTABLE }]], libc::EACCES),
    ),
];

/// Newer than the table of the crate `libc`, in this order: `io_pgetevents`, `map_shadow_stack`,
/// `futex_wake`, `futex_wait`, `futex_requeue`.
pub(super) const ALLOWED_BY_NUMBER: [c_long; 5] = [333, 453, 454, 455, 456];

/// Allowed whatever the arguments.
#[rustfmt::skip]
pub(super) const ALLOWED: [c_long; 282] = [
    libc::SYS_accept, libc::SYS_accept4, libc::SYS_access, libc::SYS_adjtimex, libc::SYS_alarm,
    libc::SYS_arch_prctl, libc::SYS_bind, libc::SYS_brk, libc::SYS_capget, libc::SYS_capset,
    libc::SYS_chdir, libc::SYS_chmod, libc::SYS_chown, libc::SYS_clock_adjtime,
    libc::SYS_clock_getres, libc::SYS_clock_gettime, libc::SYS_clock_nanosleep, libc::SYS_close,
    libc::SYS_close_range, libc::SYS_connect, libc::SYS_copy_file_range, libc::SYS_creat,
    libc::SYS_dup, libc::SYS_dup2, libc::SYS_dup3, libc::SYS_epoll_create, libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_epoll_wait,
    libc::SYS_eventfd, libc::SYS_eventfd2, libc::SYS_execve, libc::SYS_execveat, libc::SYS_exit,
    libc::SYS_exit_group, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_fadvise64,
    libc::SYS_fallocate, libc::SYS_fchdir, libc::SYS_fchmod, libc::SYS_fchmodat,
    libc::SYS_fchmodat2, libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_fcntl, libc::SYS_fdatasync,
    libc::SYS_fgetxattr, libc::SYS_flistxattr, libc::SYS_flock, libc::SYS_fork,
    libc::SYS_fremovexattr, libc::SYS_fsetxattr, libc::SYS_fstat, libc::SYS_fstatfs,
    libc::SYS_fsync, libc::SYS_ftruncate, libc::SYS_futex, libc::SYS_futex_waitv,
    libc::SYS_futimesat, libc::SYS_getcpu, libc::SYS_getcwd, libc::SYS_getdents,
    libc::SYS_getdents64, libc::SYS_getegid, libc::SYS_geteuid, libc::SYS_getgid,
    libc::SYS_getgroups, libc::SYS_getitimer, libc::SYS_getpeername, libc::SYS_getpgid,
    libc::SYS_getpgrp, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_getpriority,
    libc::SYS_getrandom, libc::SYS_getresgid, libc::SYS_getresuid, libc::SYS_getrlimit,
    libc::SYS_get_robust_list, libc::SYS_getrusage, libc::SYS_getsid, libc::SYS_getsockname,
    libc::SYS_getsockopt, libc::SYS_get_thread_area, libc::SYS_gettid, libc::SYS_gettimeofday,
    libc::SYS_getuid, libc::SYS_getxattr, libc::SYS_inotify_add_watch, libc::SYS_inotify_init,
    libc::SYS_inotify_init1, libc::SYS_inotify_rm_watch, libc::SYS_io_cancel, libc::SYS_io_destroy,
    libc::SYS_io_getevents, libc::SYS_ioprio_get, libc::SYS_ioprio_set, libc::SYS_io_setup,
    libc::SYS_io_submit, libc::SYS_kill, libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset, libc::SYS_landlock_restrict_self, libc::SYS_lchown,
    libc::SYS_lgetxattr, libc::SYS_link, libc::SYS_linkat, libc::SYS_listen, libc::SYS_listxattr,
    libc::SYS_llistxattr, libc::SYS_lremovexattr, libc::SYS_lseek, libc::SYS_lsetxattr,
    libc::SYS_lstat, libc::SYS_madvise, libc::SYS_membarrier, libc::SYS_memfd_secret,
    libc::SYS_mincore, libc::SYS_mkdir, libc::SYS_mkdirat, libc::SYS_mknod, libc::SYS_mknodat,
    libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_mlockall, libc::SYS_mmap, libc::SYS_mprotect,
    libc::SYS_mq_getsetattr, libc::SYS_mq_notify, libc::SYS_mq_open, libc::SYS_mq_timedreceive,
    libc::SYS_mq_timedsend, libc::SYS_mq_unlink, libc::SYS_mremap, libc::SYS_mseal,
    libc::SYS_msgctl, libc::SYS_msgget, libc::SYS_msgrcv, libc::SYS_msgsnd, libc::SYS_msync,
    libc::SYS_munlock, libc::SYS_munlockall, libc::SYS_munmap, libc::SYS_name_to_handle_at,
    libc::SYS_nanosleep, libc::SYS_newfstatat, libc::SYS_open, libc::SYS_openat, libc::SYS_openat2,
    libc::SYS_pause, libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal, libc::SYS_pipe,
    libc::SYS_pipe2, libc::SYS_pkey_alloc, libc::SYS_pkey_free, libc::SYS_pkey_mprotect,
    libc::SYS_poll, libc::SYS_ppoll, libc::SYS_prctl, libc::SYS_pread64, libc::SYS_preadv,
    libc::SYS_preadv2, libc::SYS_prlimit64, libc::SYS_process_mrelease, libc::SYS_pselect6,
    libc::SYS_pwrite64, libc::SYS_pwritev, libc::SYS_pwritev2, libc::SYS_read, libc::SYS_readahead,
    libc::SYS_readlink, libc::SYS_readlinkat, libc::SYS_readv, libc::SYS_recvfrom,
    libc::SYS_recvmmsg, libc::SYS_recvmsg, libc::SYS_remap_file_pages, libc::SYS_removexattr,
    libc::SYS_rename, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_restart_syscall,
    libc::SYS_rmdir, libc::SYS_rseq, libc::SYS_rt_sigaction, libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend, libc::SYS_rt_sigtimedwait, libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_sched_getaffinity, libc::SYS_sched_getattr, libc::SYS_sched_getparam,
    libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getscheduler, libc::SYS_sched_rr_get_interval, libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr, libc::SYS_sched_setparam, libc::SYS_sched_setscheduler,
    libc::SYS_sched_yield, libc::SYS_seccomp, libc::SYS_select, libc::SYS_semctl, libc::SYS_semget,
    libc::SYS_semop, libc::SYS_semtimedop, libc::SYS_sendfile, libc::SYS_sendmmsg,
    libc::SYS_sendmsg, libc::SYS_sendto, libc::SYS_setfsgid, libc::SYS_setfsuid, libc::SYS_setgid,
    libc::SYS_setgroups, libc::SYS_setitimer, libc::SYS_setpgid, libc::SYS_setpriority,
    libc::SYS_setregid, libc::SYS_setresgid, libc::SYS_setresuid, libc::SYS_setreuid,
    libc::SYS_setrlimit, libc::SYS_set_robust_list, libc::SYS_setsid, libc::SYS_setsockopt,
    libc::SYS_set_thread_area, libc::SYS_set_tid_address, libc::SYS_setuid, libc::SYS_setxattr,
    libc::SYS_shmat, libc::SYS_shmctl, libc::SYS_shmdt, libc::SYS_shmget, libc::SYS_shutdown,
    libc::SYS_sigaltstack, libc::SYS_signalfd, libc::SYS_signalfd4, libc::SYS_splice,
    libc::SYS_stat, libc::SYS_statfs, libc::SYS_statx, libc::SYS_symlink, libc::SYS_symlinkat,
    libc::SYS_sync, libc::SYS_sync_file_range, libc::SYS_syncfs, libc::SYS_sysinfo, libc::SYS_tee,
    libc::SYS_tgkill, libc::SYS_time, libc::SYS_timer_create, libc::SYS_timer_delete,
    libc::SYS_timer_getoverrun, libc::SYS_timer_gettime, libc::SYS_timer_settime,
    libc::SYS_timerfd_create, libc::SYS_timerfd_gettime, libc::SYS_timerfd_settime, libc::SYS_times,
    libc::SYS_tkill, libc::SYS_truncate, libc::SYS_umask, libc::SYS_uname, libc::SYS_unlink,
    libc::SYS_unlinkat, libc::SYS_utime, libc::SYS_utimensat, libc::SYS_utimes, libc::SYS_vfork,
    libc::SYS_vmsplice, libc::SYS_wait4, libc::SYS_waitid, libc::SYS_write, libc::SYS_writev,
];
