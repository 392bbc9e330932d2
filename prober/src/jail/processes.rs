//! Attacks on other processes, on identity, and on the limits of the own process.
#![expect(clippy::too_many_lines, reason = "tables of attacks")]

use super::attack::{Attack, FILES, VMM, attack};
use crate::calls::{self, call};
use crate::wire::Group::{FileServer, Vmm};
use crate::wire::{End, Stage};

use libc::{
    EACCES, EAGAIN, EBADF, EFBIG, EINVAL, EMFILE, ENOENT, ENOMEM, ENOSYS, EPERM, EROFS, ESRCH,
};

const NOBODY: &str =
    "the filters know no such call; beneath them, its process namespace holds nobody else";
const CAPABILITY: &str =
    "the filters know no such call; beneath them, the process has no capability";
const FILTER: &str = "the filters know no such call, and no program here needs it";
/// More than any of these jails may use.
const MUCH_MEMORY: usize = 3 << 29;
/// More than the limit on descriptors of a vmm.
const MANY: usize = 4096;
/// A process that would be there, were the namespace shared.
const OTHER: i32 = 2;

fn got(what: &str) -> impl Fn(i64) -> String {
    move |result| format!("{what} ({result})")
}

/// The rows.
pub(super) fn rows() -> Vec<Attack> {
    let mut rows = others();
    rows.extend(identity());
    rows.extend(limits());
    rows
}

fn others() -> Vec<Attack> {
    vec![
        attack("trace", "traces another process", NOBODY, |_| {
            call!(libc::SYS_ptrace, libc::PTRACE_SEIZE, OTHER, 0, 0).map(got("traced"))
        })
        .bare(&[ESRCH, EPERM]),
        attack("read-other-memory", "reads another process's memory", NOBODY, |_| {
            let mut byte = [0_u8; 1];
            let part = [byte.as_mut_ptr() as u64, 1];
            call!(libc::SYS_process_vm_readv, OTHER, part.as_ptr(), 1, part.as_ptr(), 1, 0).map(got("read"))
        })
        .bare(&[ESRCH, EPERM]),
        attack("write-other-memory", "writes another process's memory", NOBODY, |_| {
            let byte = [0_u8; 1];
            let part = [byte.as_ptr() as u64, 1];
            call!(libc::SYS_process_vm_writev, OTHER, part.as_ptr(), 1, part.as_ptr(), 1, 0).map(got("written"))
        })
        .bare(&[ESRCH, EPERM]),
        attack("signal-all", "sends a signal to every process that it may", NOBODY, |_| {
            call!(libc::SYS_kill, -1, 0).map(got("sent"))
        })
        .bare(&[ESRCH]),
        attack("signal-other", "sends a signal to another process", NOBODY, |_| {
            call!(libc::SYS_kill, OTHER, 0).map(got("sent"))
        })
        .bare(&[ESRCH]),
        attack(
            "signal-other-thread",
            "sends a signal to a thread of another process, by the call that threads are woken with",
            "the filters let it through, and its process namespace holds nobody else",
            |_| call!(libc::SYS_tgkill, OTHER, OTHER, 0).map(got("sent")),
        )
        .at(Vmm, Stage::Loop, &[ESRCH])
        .at(Vmm, Stage::Vcpu, &[ESRCH])
        .at(Vmm, Stage::Setup, &[ESRCH])
        .served(&[ESRCH])
        .bare(&[ESRCH]),
        attack("open-process", "takes a descriptor of another process", NOBODY, |_| {
            call!(libc::SYS_pidfd_open, OTHER, 0).map(got("opened"))
        })
        .bare(&[ESRCH, EINVAL]),
        attack("take-descriptor", "takes a descriptor out of another process", NOBODY, |_| {
            call!(libc::SYS_pidfd_getfd, 3, 0, 0).map(got("taken"))
        })
        .bare(&[EBADF]),
        attack("compare-objects", "compares kernel objects of processes, which tells addresses", NOBODY, |_| {
            call!(libc::SYS_kcmp, 1, OTHER, 0, 0, 0).map(got("compared"))
        })
        .bare(&[ESRCH, EPERM, ENOSYS]),
        attack("limit-other", "changes the limits of another process", NOBODY, |_| {
            let limit = [0_u64; 2];
            call!(libc::SYS_prlimit64, OTHER, libc::RLIMIT_CPU, limit.as_ptr(), 0).map(got("changed"))
        })
        .at(Vmm, Stage::Setup, &[ESRCH])
        .at(FileServer, Stage::Setup, &[ESRCH])
        .bare(&[ESRCH]),
        attack("move-other-pages", "moves another process's memory", NOBODY, |_| {
            call!(libc::SYS_migrate_pages, OTHER, 0, 0, 0).map(got("moved"))
        })
        .bare(&[ESRCH, EPERM, ENOSYS, EINVAL]),
        attack(
            "find-processes",
            "looks for other processes by the directory of its own descriptors",
            "that list of processes belongs to its own namespace and holds nobody else",
            |world| {
                let path = c"../../2/status";
                call!(libc::SYS_openat, world.own_descriptors, path, libc::O_RDONLY, 0).map(got("opened as"))
            },
        )
        .only(FILES)
        .served(&[ENOENT]),
        attack(
            "find-kernel-switches",
            "looks for the kernel's switches beside the directory of its own descriptors",
            "that list shows processes and nothing else of the kernel's",
            |world| {
                let path = c"../../sys/kernel/core_pattern";
                call!(libc::SYS_openat, world.own_descriptors, path, libc::O_RDONLY, 0).map(got("opened as"))
            },
        )
        .only(FILES)
        .served(&[ENOENT]),
        attack(
            "write-own-process-file",
            "writes a file of its own process: be spared when memory ends",
            "the list of processes can't be written",
            |world| {
                let path = c"../oom_score_adj";
                call!(libc::SYS_openat, world.own_descriptors, path, libc::O_WRONLY, 0).map(got("opened as"))
            },
        )
        .only(FILES)
        .served(&[EROFS, EACCES]),
        attack(
            "write-own-memory-file",
            "opens its own memory as a file for writing, which no protection of pages binds",
            "the list of processes can't be written",
            |world| {
                call!(libc::SYS_openat, world.own_descriptors, c"../mem", libc::O_RDWR, 0).map(got("opened as"))
            },
        )
        .only(FILES)
        .served(&[EROFS]),
        attack(
            "stay-in-session",
            "stays in the session of whoever started it, whose terminal it could write to",
            "a session of its own",
            |_| match call!(libc::SYS_getsid, 0)? {
                1 => Err(End::Nothing),
                other => Ok(format!("session {other}, of the host")),
            },
        )
        .bare_nothing(),
        attack(
            "be-dumped",
            "leaves its memory in a core dump, or to be read by others of its user",
            "not dumpable, and no core is written; later the filter forbids to change that",
            |_| {
                let dumpable = call!(libc::SYS_prctl, libc::PR_GET_DUMPABLE, 0, 0, 0, 0)?;
                let mut core = [1_u64; 2];
                call!(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, 0, core.as_mut_ptr())?;
                match (dumpable, core) {
                    (0, [0, 0]) => Err(End::Nothing),
                    other => Ok(format!("dumpable, core limit: {other:?}")),
                }
            },
        )
        .ends(Vmm, Stage::Setup, &[End::Nothing])
        .ends(FileServer, Stage::Setup, &[End::Nothing])
        .bare_nothing(),
    ]
}

fn identity() -> Vec<Attack> {
    vec![
        attack("become-another-user", "becomes another user", CAPABILITY, |_| {
            call!(libc::SYS_setresuid, 1, 1, 1).map(got("it is"))
        })
        .bare(&[EINVAL, EPERM]),
        attack("take-a-group", "takes another group", CAPABILITY, |_| {
            call!(libc::SYS_setresgid, 1, 1, 1).map(got("it has"))
        })
        .bare(&[EINVAL, EPERM]),
        attack("take-more-groups", "takes further groups", CAPABILITY, |_| {
            call!(libc::SYS_setgroups, 1, [0_u32].as_ptr()).map(got("it has"))
        })
        .bare(&[EPERM]),
        attack("take-capabilities", "takes every capability", CAPABILITY, |_| {
            let header = [0x2008_0522_u32, 0];
            let sets = [u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX];
            call!(libc::SYS_capset, header.as_ptr(), sets.as_ptr()).map(got("it has"))
        })
        .bare(&[EPERM]),
        attack(
            "unlock-secure-bits",
            "makes user 0 mean something again",
            "locked secure bits",
            |_| call!(libc::SYS_prctl, libc::PR_SET_SECUREBITS, 0, 0, 0, 0).map(got("it does")),
        )
        .at(Vmm, Stage::Setup, &[EPERM])
        .at(FileServer, Stage::Setup, &[EPERM])
        .bare(&[EPERM]),
        attack(
            "execute-with-privileges",
            "waits for a program that brings privileges",
            "no_new_privs is set, and nothing takes it away",
            |_| match call!(libc::SYS_prctl, libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)? {
                1 => {
                    call!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0)?;
                    Ok("it was taken away".into())
                }
                _ => Ok("it is not set".into()),
            },
        )
        .at(Vmm, Stage::Setup, &[EINVAL])
        .at(FileServer, Stage::Setup, &[EINVAL])
        .bare(&[EINVAL]),
        attack(
            "raise-ambient-capability",
            "keeps a capability over an execution",
            CAPABILITY,
            |_| {
                call!(libc::SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, 21, 0, 0)
                    .map(got("it does"))
            },
        )
        .at(Vmm, Stage::Setup, &[EPERM])
        .at(FileServer, Stage::Setup, &[EPERM])
        .bare(&[EPERM]),
        attack(
            "raise-priority",
            "runs before everybody else",
            "the limit on priority is 0",
            |_| call!(libc::SYS_setpriority, 0, 0, -20).map(got("it does")),
        )
        .bare(&[EACCES, EPERM]),
        attack(
            "be-real-time",
            "runs whenever it likes, as a real-time process",
            "the limit on priority is 0",
            |_| call!(libc::SYS_sched_setscheduler, 0, 1, [1_i32].as_ptr()).map(got("it does")),
        )
        .bare(&[EPERM]),
        attack("real-time-disk", "takes the disk's first class", CAPABILITY, |_| {
            call!(libc::SYS_ioprio_set, 1, 0, 1 << 13).map(got("it has"))
        })
        .bare(&[EPERM]),
        attack(
            "raise-limit",
            "raises its limit on descriptors",
            "a hard limit, and no capability",
            |_| {
                let more = [1_u64 << 30; 2];
                call!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, more.as_ptr(), 0)
                    .map(got("raised"))
            },
        )
        .at(Vmm, Stage::Setup, &[EPERM])
        .at(FileServer, Stage::Setup, &[EPERM])
        .bare(&[EPERM]),
        attack("personality", "makes all readable memory executable", FILTER, |_| {
            call!(libc::SYS_personality, 0x040_0000).map(got("it is"))
        }),
    ]
}

fn limits() -> Vec<Attack> {
    vec![
        attack(
            "fork-bomb",
            "makes processes without end",
            "the filters let no process be made; beneath them, the control group's limit on processes",
            |_| {
                for made in 0..MANY {
                    if let Err(end) = calls::fork_waiting() {
                        return if made < 64 { Err(end) } else { Ok(format!("{made} processes")) };
                    }
                }
                Ok(format!("{MANY} processes"))
            },
        )
        .alone()
        .bare(&[EAGAIN]),
        attack(
            "thread-bomb",
            "makes threads without end, while a program is set up, which may make some",
            "the control group's limit on processes and threads",
            |_| {
                for made in 0..MANY {
                    let waiting = || loop {
                        std::thread::park();
                    };
                    if let Err(error) = std::thread::Builder::new().stack_size(1 << 14).spawn(waiting) {
                        let end = End::Errno(error.raw_os_error().unwrap_or(0));
                        return if made < 64 { Err(end) } else { Ok(format!("{made} threads")) };
                    }
                }
                Ok(format!("{MANY} threads"))
            },
        )
        .alone()
        .ends(Vmm, Stage::Loop, &[])
        .ends(Vmm, Stage::Vcpu, &[])
        .ends(FileServer, Stage::Serving, &[])
        .at(Vmm, Stage::Setup, &[EAGAIN])
        .at(FileServer, Stage::Setup, &[EAGAIN]),
        attack(
            "memory-bomb",
            "takes more memory than its jail has",
            "the control group's limit on memory; there is no swap",
            |_| calls::touch_memory(MUCH_MEMORY).map(|bytes| format!("{} MiB", bytes >> 20)),
        )
        .alone()
        .only(VMM)
        .ends(Vmm, Stage::Loop, &[End::Killed(libc::SIGKILL)])
        .ends(Vmm, Stage::Vcpu, &[])
        .ends(Vmm, Stage::Setup, &[]),
        attack(
            "descriptor-bomb",
            "opens descriptors without end",
            "the filters know no such call; beneath them, the limit on descriptors",
            |world| {
                for made in 0..MANY {
                    if let Err(end) = call!(libc::SYS_dup, world.file) {
                        let closed = call!(libc::SYS_close_range, 64, u32::MAX, 0);
                        return match (end, closed) {
                            (end, Ok(_) | Err(End::Trapped)) => Err(end),
                            _ => Ok(format!("{made} descriptors, which can't be closed")),
                        };
                    }
                }
                Ok(format!("{MANY} descriptors"))
            },
        )
        .alone()
        .only(VMM)
        .bare(&[EMFILE]),
        attack(
            "leaked-descriptor",
            "uses a descriptor that the starting process left open by mistake (`cloister prove` leaves one)",
            "the jailer closes every descriptor that is not the jail's",
            |world| {
                let mine = world.descriptors();
                let open = |fd: &i32| call!(libc::SYS_fcntl, *fd, libc::F_GETFD).is_ok();
                match (0..1024).filter(|fd| !mine.contains(fd)).find(open) {
                    Some(fd) => Ok(format!("descriptor {fd} is open")),
                    None => Err(End::Nothing),
                }
            },
        )
        .ends(Vmm, Stage::Loop, &[End::Nothing])
        .ends(Vmm, Stage::Vcpu, &[End::Nothing])
        .ends(Vmm, Stage::Setup, &[End::Nothing])
        .ends(FileServer, Stage::Serving, &[End::Nothing])
        .ends(FileServer, Stage::Setup, &[End::Nothing])
        .bare_nothing(),
        attack(
            "write-file",
            "writes into a file in memory",
            "the filters know no such call; beneath them, a vmm's limit on the size of files is 0",
            |_| {
                let file = call!(libc::SYS_memfd_create, c"f", 0)?;
                let written = call!(libc::SYS_write, file, c"x", 1);
                call!(libc::SYS_close, file).ok();
                written.map(got("written"))
            },
        )
        .only(VMM)
        .bare(&[EFBIG]),
        attack("lock-memory", "locks memory, so that the host runs short of it", "the limit on locked memory is 0", |_| {
            call!(libc::SYS_mlockall, libc::MCL_FUTURE).map(got("locked"))
        })
        .bare(&[EPERM, ENOMEM]),
        attack("message-queue", "fills the kernel's memory by message queues", "the limit on them is 0", |_| {
            call!(libc::SYS_mq_open, c"q", libc::O_CREAT | libc::O_RDWR, 0o600, 0).map(got("made"))
        })
        .bare(&[EMFILE, ENOSYS, EACCES, ENOENT]),
    ]
}
