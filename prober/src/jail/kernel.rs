//! Attacks on the host's kernel: interfaces that no program here needs, and memory that could be executed.
#![expect(clippy::too_many_lines, reason = "tables of attacks")]

use super::attack::{Attack, FILES, VMM, attack};
use crate::calls::{self, call};
use crate::wire::Group::{FileServer, Vmm};
use crate::wire::{End, Stage};

use libc::{EACCES, EAFNOSUPPORT, EBADF, EINVAL, ENODEV, ENOENT, ENOSYS, ENOTTY, EPERM};

const CAPABILITY: &str =
    "the filters know no such call; beneath them, the process has no capability";
const FILTER: &str = "the filters know no such call, and no program here needs it";
const NEVER_EXECUTABLE: &str =
    "the filters allow no memory that is executable, so no new code comes in";

fn got(what: &str) -> impl Fn(i64) -> String {
    move |result| format!("{what} ({result})")
}

macro_rules! filtered {
    ($name:literal, $tries:literal, $number:expr $(, $argument:expr)*) => {
        attack($name, $tries, FILTER, |_| call!($number $(, $argument)*).map(got("done")))
    };
}

macro_rules! privileged {
    ($name:literal, $tries:literal, $errnos:expr, $number:expr $(, $argument:expr)*) => {
        attack($name, $tries, CAPABILITY, |_| call!($number $(, $argument)*).map(got("done"))).bare($errnos)
    };
}

/// The rows.
pub(super) fn rows() -> Vec<Attack> {
    let mut rows = interfaces();
    rows.extend(code());
    rows.extend(devices());
    rows
}

fn interfaces() -> Vec<Attack> {
    // BPF_PROG_GET_NEXT_ID, which tells of everybody's.
    const NEXT_PROGRAM: i32 = 11;
    // SYSLOG_ACTION_CLEAR.
    const CLEAR: i32 = 5;
    vec![
        privileged!("bpf", "looks at other people's BPF programs", &[EPERM, ENOSYS], libc::SYS_bpf, NEXT_PROGRAM, [0_u64; 16].as_ptr(), 128),
        privileged!("perf-events", "watches a whole processor (perf_event_open)", &[EPERM, EACCES, ENOENT, ENOSYS], libc::SYS_perf_event_open, [128_u64 << 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].as_ptr(), -1, 0, -1, 0),
        filtered!("userfaultfd", "holds the kernel up in its own page faults", libc::SYS_userfaultfd, 0),
        filtered!("io-uring", "makes calls past the filter, by a ring", libc::SYS_io_uring_setup, 8, [0_u8; 120].as_ptr()),
        filtered!("key-add", "adds a key to a keyring", libc::SYS_add_key, c"user", c"k", c"v", 1, -3),
        filtered!("key-request", "asks for somebody's key", libc::SYS_request_key, c"user", c"k", 0, 0),
        filtered!("key-control", "joins a session keyring", libc::SYS_keyctl, 1, 0),
        privileged!("kexec", "loads another kernel", &[EPERM, ENOSYS], libc::SYS_kexec_load, 0, 0, 0, 0),
        privileged!("load-module", "loads a kernel module", &[EPERM, ENOSYS], libc::SYS_init_module, 0, 0, c""),
        privileged!("load-module-file", "loads a kernel module from a file", &[EPERM, ENOSYS], libc::SYS_finit_module, 3, c"", 0),
        privileged!("remove-module", "removes a kernel module", &[EPERM, ENOSYS], libc::SYS_delete_module, c"kvm", libc::O_NONBLOCK),
        privileged!("reboot", "restarts the host", &[EPERM, EINVAL], libc::SYS_reboot, 0xfee1_dead_u32, 0x2812_1969, 0, 0),
        privileged!("clear-kernel-log", "clears the kernel's log", &[EPERM], libc::SYS_syslog, CLEAR, 0, 0),
        privileged!("set-clock", "sets the clock", &[EPERM], libc::SYS_clock_settime, 0, [0_i64; 2].as_ptr()),
        privileged!("adjust-clock", "tunes the clock", &[EPERM, EINVAL], libc::SYS_adjtimex, [1_u64; 26].as_mut_ptr()),
        privileged!("set-host-name", "renames its host", &[EPERM], libc::SYS_sethostname, c"x", 1),
        privileged!("swap", "makes a file swap space", &[EPERM, ENOSYS], libc::SYS_swapon, c"/x", 0),
        privileged!("accounting", "has every process's end written to a file", &[EPERM, ENOSYS], libc::SYS_acct, c"/x"),
        privileged!("port-privilege", "takes the processor's input and output ports", &[EPERM, ENOSYS], libc::SYS_iopl, 3),
        privileged!("port-bitmap", "takes one port", &[EPERM, ENOSYS], libc::SYS_ioperm, 0x70, 2, 1),
        privileged!("hang-up", "hangs a terminal up", &[EPERM], libc::SYS_vhangup),
        filtered!("watch-files", "watches whole file systems (fanotify)", libc::SYS_fanotify_init, 0, 0),
        filtered!("segments", "makes a segment descriptor (modify_ldt)", libc::SYS_modify_ldt, 0, 0, 0),
        filtered!("splice", "splices a file's pages into a pipe, where a kernel's fault once let them be written", libc::SYS_splice, 3, 0, 4, 0, 1, 0),
        filtered!("vmsplice", "gives its own pages to a pipe", libc::SYS_vmsplice, 4, 0, 0, 0),
        filtered!("shared-memory", "makes System V shared memory", libc::SYS_shmget, 0, 4096, 0o1600),
        filtered!("own-filter", "adds a filter of its own, to change what calls return", libc::SYS_seccomp, 1, 8, 0)
            // Which is what a program does at the end of its set-up.
            .ends(Vmm, Stage::Setup, &[])
            .ends(FileServer, Stage::Setup, &[]),
        filtered!("own-handler", "replaces the handler that tells of refused calls", libc::SYS_rt_sigaction, libc::SIGSYS, 0, 0, 8)
            .ends(Vmm, Stage::Setup, &[])
            .ends(FileServer, Stage::Setup, &[]),
        attack("x32-call", "makes a call by the numbers of x32 programs", "the filters know no such number", |_| {
            call!(0x4000_0000 | libc::SYS_getpid).map(got("made"))
        })
        .bare(&[ENOSYS]),
        attack(
            "unknown-call",
            "makes calls whose numbers no kernel has yet",
            "the filters know what is allowed, not what is forbidden",
            |_| {
                let mut last = Err(End::Nothing);
                for number in 470..1024 {
                    last = call!(number, -1, -1, -1, -1, -1, -1);
                    if last != Err(End::Trapped) && last != Err(End::Errno(ENOSYS)) {
                        break;
                    }
                }
                last.map(got("made"))
            },
        )
        .bare(&[ENOSYS]),
        attack(
            "interrupt-call",
            "makes a call by the entry of 32-bit programs (int 0x80), whose numbers mean other calls",
            "the filters look at the architecture first, and kill",
            |_| Ok(format!("process {}", calls::call_by_interrupt())),
        )
        .alone()
        .ends(Vmm, Stage::Loop, &[End::Killed(libc::SIGSYS), End::Killed(libc::SIGSEGV)])
        .ends(Vmm, Stage::Vcpu, &[])
        .ends(Vmm, Stage::Setup, &[End::Killed(libc::SIGSYS), End::Killed(libc::SIGSEGV)])
        .ends(FileServer, Stage::Serving, &[End::Killed(libc::SIGSYS), End::Killed(libc::SIGSEGV)])
        .ends(FileServer, Stage::Setup, &[End::Killed(libc::SIGSYS), End::Killed(libc::SIGSEGV)]),
    ]
}

fn code() -> Vec<Attack> {
    const EXECUTABLE: i32 = libc::PROT_READ | libc::PROT_EXEC;
    const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    vec![
        attack("map-executable", "maps memory that is executable", NEVER_EXECUTABLE, |_| {
            call!(libc::SYS_mmap, 0, 4096, EXECUTABLE, ANONYMOUS, -1, 0).map(got("mapped"))
        }),
        attack("map-file-executable", "maps a file that it was handed as executable", NEVER_EXECUTABLE, |world| {
            call!(libc::SYS_mmap, 0, 4096, EXECUTABLE, libc::MAP_PRIVATE, world.file, 0).map(got("mapped"))
        })
        .only(VMM),
        attack("make-executable", "makes memory executable that it has written", NEVER_EXECUTABLE, |_| {
            let writable = libc::PROT_READ | libc::PROT_WRITE;
            let place = call!(libc::SYS_mmap, 0, 4096, writable, ANONYMOUS, -1, 0)?;
            let made = call!(libc::SYS_mprotect, place, 4096, EXECUTABLE);
            call!(libc::SYS_munmap, place, 4096).ok();
            made.map(got("it is"))
        }),
        filtered!("make-executable-by-key", "the same by the call with a protection key", libc::SYS_pkey_mprotect, 0, 4096, EXECUTABLE, -1),
        filtered!("attach-executable", "the same by shared memory", libc::SYS_shmat, 0, 0, 0o100_000),
        filtered!("program-in-memory", "makes a file in memory to put a program in", libc::SYS_memfd_create, c"p", 0),
        attack("execute-shell", "executes a shell", "the filters know no such call; beneath them, the root is empty", |_| {
            call!(libc::SYS_execve, c"/bin/sh", 0, 0).map(got("executed"))
        })
        .bare(&[ENOENT, EACCES]),
        attack(
            "execute-by-descriptor",
            "executes a program by a descriptor that it was handed",
            "the run filters know no such call; while a vmm is set up, which the jailer executes so, Landlock denies it; \
             a file server's shares are mounted noexec",
            |world| {
                let name = [c"program".as_ptr(), std::ptr::null()];
                let none = [std::ptr::null::<libc::c_char>()];
                let flag = libc::AT_EMPTY_PATH;
                call!(libc::SYS_execveat, world.program, c"", name.as_ptr(), none.as_ptr(), flag).map(got("executed"))
            },
        )
        .alone()
        .at(Vmm, Stage::Setup, &[EACCES])
        .at(FileServer, Stage::Setup, &[EACCES])
        .bare(&[EACCES]),
    ]
}

fn devices() -> Vec<Attack> {
    /// `KVM_CREATE_VM`, and of a machine `KVM_SET_USER_MEMORY_REGION`.
    const CREATE_VM: u32 = 0xae01;
    const SET_MEMORY: u32 = 0x4020_ae46;
    vec![
        attack(
            "type-into-terminal",
            "types into the terminal of whoever started it (TIOCSTI)",
            "the filters know KVM's commands at most; beneath them, its standard streams are no terminal",
            |_| call!(libc::SYS_ioctl, 0, libc::TIOCSTI, c"x").map(got("typed")),
        )
        .bare(&[ENOTTY, EBADF]),
        attack(
            "new-machine",
            "makes a second machine by /dev/kvm",
            "a running vmm may run its own and ask for two of its states",
            |world| call!(libc::SYS_ioctl, world.kvm, CREATE_VM, 0).map(got("made")),
        )
        .only(VMM)
        .ends(Vmm, Stage::Setup, &[]),
        attack(
            "change-guest-memory",
            "changes a guest's memory slots",
            "a running vmm may run its own machine and ask for two of its states",
            |world| call!(libc::SYS_ioctl, world.kvm, SET_MEMORY, 0).map(got("changed")),
        )
        .only(VMM)
        .ends(Vmm, Stage::Setup, &[]),
        attack(
            "file-flags",
            "makes a file of a share immutable by ioctl",
            "a file server has no ioctl; beneath that, no capability",
            |world| {
                const SET_FLAGS: u32 = 0x4008_6602;
                const IMMUTABLE: [u32; 2] = [0x10, 0];
                call!(libc::SYS_ioctl, world.share_write, SET_FLAGS, IMMUTABLE.as_ptr()).map(got("made"))
            },
        )
        .only(FILES)
        .bare(&[EPERM, ENOTTY, libc::EOPNOTSUPP, EBADF]),
        attack("any-ioctl", "sends every group of device commands to what it has", "the filters know KVM's commands at most", |world| {
            let mut last = Err(End::Nothing);
            for kind in (0..=255_u32).filter(|kind| *kind != 0xae) {
                for fd in [0, 3, world.memory.max(world.area)] {
                    last = call!(libc::SYS_ioctl, fd, kind << 8 | 0xfe, 0);
                    if last != Err(End::Trapped) {
                        return last.map(got("done"));
                    }
                }
            }
            last.map(got("done"))
        }),
        attack("make-device", "makes the device of the kernel's memory", "no device can be made: filter, capability, nodev", |world| {
            let at = if world.share_write < 0 { libc::AT_FDCWD } else { world.share_write };
            call!(libc::SYS_mknodat, at, c"memory", libc::S_IFCHR | 0o600, 0x101).map(got("made"))
        })
        .bare(&[EPERM, libc::EROFS, EACCES]),
        attack("vsock", "opens the host's side of vsock", "the filters know no sockets: no program here opens one", |_| {
            call!(libc::SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0).map(got("opened"))
        }),
        attack("vhost", "opens a vhost device", "the root is empty", |_| {
            call!(libc::SYS_openat, libc::AT_FDCWD, c"/dev/vhost-vsock", libc::O_RDWR, 0).map(got("opened as"))
        })
        .at(Vmm, Stage::Setup, &[ENOENT])
        .served(&[ENOENT])
        .bare(&[ENOENT]),
        attack("ciphers", "opens the kernel's ciphers as a socket (AF_ALG)", "the filters know no sockets", |_| {
            call!(libc::SYS_socket, libc::AF_ALG, libc::SOCK_SEQPACKET, 0).map(got("opened"))
        }),
        attack("packets", "opens a socket of raw packets", "the filters know no sockets; beneath them, no capability", |_| {
            call!(libc::SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0).map(got("opened"))
        })
        .bare(&[EPERM, EAFNOSUPPORT, ENODEV]),
        attack("raw-socket", "opens a raw socket", "the filters know no sockets; beneath them, no capability", |_| {
            call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_RAW, 1).map(got("opened"))
        })
        .bare(&[EPERM, EAFNOSUPPORT]),
    ]
}
