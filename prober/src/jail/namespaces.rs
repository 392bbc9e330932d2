//! Attacks on what a process sees: namespaces, mounts, the root.
#![expect(clippy::too_many_lines, reason = "tables of attacks")]

use super::attack::{Attack, FILES, attack};
use crate::calls::call;
use crate::wire::Group::{FileServer, Vmm};
use crate::wire::{End, Stage};

use libc::{EACCES, EBADF, EINVAL, ENOENT, ENOSYS, EPERM, EROFS};

const CAPABILITY: &str =
    "the filters know no such call; beneath them, the process has no capability";
const FILTER: &str = "the filters know no such call, and no program here needs it";
const ROOT: &str =
    "there is no such path: the root is an empty file system, and the only mount that is seen";

fn got(what: &str) -> impl Fn(i64) -> String {
    move |result| format!("{what} ({result})")
}

/// The rows.
pub(super) fn rows() -> Vec<Attack> {
    let mut rows = spaces();
    rows.extend(mounts());
    rows.extend(paths());
    rows
}

macro_rules! unshare {
    ($name:literal, $what:literal, $flag:expr) => {
        attack($name, concat!("makes ", $what), CAPABILITY, |_| {
            call!(libc::SYS_unshare, $flag).map(got("it was made"))
        })
        .bare(&[EPERM, EINVAL])
    };
}

fn spaces() -> Vec<Attack> {
    vec![
        attack("new-user-namespace", "makes a user namespace, in which it has every capability", FILTER, |_| {
            call!(libc::SYS_unshare, libc::CLONE_NEWUSER).map(got("it was made"))
        }),
        unshare!("new-mount-namespace", "a mount namespace", libc::CLONE_NEWNS),
        unshare!("new-process-namespace", "a process namespace", libc::CLONE_NEWPID),
        unshare!("new-network-namespace", "a network namespace", libc::CLONE_NEWNET),
        unshare!("new-message-namespace", "a namespace of messages and shared memory", libc::CLONE_NEWIPC),
        unshare!("new-name-namespace", "a namespace of host names", libc::CLONE_NEWUTS),
        unshare!("new-group-namespace", "a control group namespace", libc::CLONE_NEWCGROUP),
        unshare!("new-time-namespace", "a time namespace", 0x80),
        attack("fork", "makes a process beside itself", FILTER, |_| {
            crate::calls::fork_waiting().map(got("a process"))
        }),
        attack("clone-in-user-namespace", "makes a process in a user namespace of its own", FILTER, |_| {
            call!(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0).map(got("a process"))
        }),
        attack(
            "clone3",
            "makes a process by the call whose flags no filter can read",
            "the run filters know no such call; while a program is set up it fails as on an old kernel",
            |_| call!(libc::SYS_clone3, 0, 0).map(got("a process")),
        )
        .at(Vmm, Stage::Setup, &[ENOSYS])
        .at(FileServer, Stage::Setup, &[ENOSYS])
        .bare(&[EINVAL]),
        attack("enter-namespace", "enters a mount namespace by a descriptor of a process", CAPABILITY, |_| {
            let process = call!(libc::SYS_pidfd_open, 1, 0);
            let entered = call!(libc::SYS_setns, process.unwrap_or(3), libc::CLONE_NEWNS);
            if let Ok(process) = process {
                call!(libc::SYS_close, process).ok();
            }
            entered.map(got("it is in"))
        })
        .bare(&[EPERM]),
    ]
}

fn mounts() -> Vec<Attack> {
    const BIND: u64 = libc::MS_BIND;
    vec![
        attack("mount-tmpfs", "mounts a file system in memory on the root", CAPABILITY, |_| {
            call!(libc::SYS_mount, c"t", c"/", c"tmpfs", 0, 0).map(got("mounted"))
        })
        .bare(&[EPERM]),
        attack("mount-proc", "mounts the list of processes", CAPABILITY, |_| {
            call!(libc::SYS_mount, c"p", c"/", c"proc", 0, 0).map(got("mounted"))
        })
        .bare(&[EPERM]),
        attack("mount-overlay", "mounts an overlay, whose code had escapes", CAPABILITY, |_| {
            call!(libc::SYS_mount, c"o", c"/", c"overlay", 0, c"lowerdir=/:/").map(got("mounted"))
        })
        .bare(&[EPERM]),
        attack("bind-mount", "binds a directory to another place", CAPABILITY, |_| {
            call!(libc::SYS_mount, c"/", c"/", 0, BIND, 0).map(got("bound"))
        })
        .bare(&[EPERM]),
        attack("remount-root-writable", "makes the root writable", CAPABILITY, |_| {
            call!(libc::SYS_mount, 0, c"/", 0, BIND | libc::MS_REMOUNT, 0).map(got("changed"))
        })
        .bare(&[EPERM]),
        attack(
            "unmount-root",
            "takes the empty root away, to find what lies beneath",
            CAPABILITY,
            |_| call!(libc::SYS_umount2, c"/", libc::MNT_DETACH).map(got("taken away")),
        )
        .bare(&[EPERM]),
        attack("pivot-root", "changes its root for another", CAPABILITY, |_| {
            call!(libc::SYS_pivot_root, c".", c".").map(got("changed"))
        })
        .bare(&[EPERM]),
        attack(
            "chroot",
            "changes its root, the first half of the oldest escape",
            CAPABILITY,
            |_| call!(libc::SYS_chroot, c"/").map(got("changed")),
        )
        .bare(&[EPERM]),
        attack(
            "open-file-system",
            "opens a file system to be mounted (fsopen)",
            CAPABILITY,
            |_| call!(libc::SYS_fsopen, c"tmpfs", 0).map(got("opened")),
        )
        .bare(&[EPERM]),
        attack("copy-mount", "copies a mount that it has a descriptor of", CAPABILITY, |world| {
            let from = world.share_read.max(world.file);
            let flags = 1 | libc::AT_EMPTY_PATH;
            call!(libc::SYS_open_tree, from, c"", flags).map(got("copied"))
        })
        .bare(&[EPERM]),
        attack("move-mount", "moves the mount of a share onto the root", CAPABILITY, |world| {
            call!(libc::SYS_move_mount, world.share_read, c"", libc::AT_FDCWD, c"/", 4)
                .map(got("moved"))
        })
        .only(FILES)
        .bare(&[EPERM]),
        attack(
            "make-share-writable",
            "takes the mark 'read-only' off the mount of a share",
            CAPABILITY,
            |world| {
                // struct mount_attr: what is set, what is cleared, propagation, user namespace.
                let clear = [0_u64, 1, 0, 0];
                let flags = libc::AT_EMPTY_PATH;
                call!(libc::SYS_mount_setattr, world.share_read, c"", flags, clear.as_ptr(), 32)
                    .map(got("changed"))
            },
        )
        .only(FILES)
        .bare(&[EPERM]),
        attack(
            "open-by-handle",
            "opens a file of the host by its handle, past all paths",
            CAPABILITY,
            |world| {
                // The root of a file system, as handles number it.
                let handle = [8_u32, 1, 2, 0, 0];
                let at = world.share_read.max(world.file);
                call!(libc::SYS_open_by_handle_at, at, handle.as_ptr(), 0).map(got("opened"))
            },
        )
        .bare(&[EPERM]),
    ]
}

macro_rules! absent {
    ($name:literal, $path:literal) => {
        absent!($name, $path, libc::O_RDONLY)
    };
    ($name:literal, $path:expr, $flags:expr) => {
        attack($name, concat!("opens ", stringify!($path)), ROOT, |_| {
            call!(libc::SYS_openat, libc::AT_FDCWD, $path, $flags, 0o600).map(got("opened as"))
        })
        .at(Vmm, Stage::Setup, &[ENOENT])
        .served(&[ENOENT])
        .bare(&[ENOENT])
    };
}

fn paths() -> Vec<Attack> {
    vec![
        absent!("open-passwd", c"/etc/passwd"),
        absent!("open-shadow-upwards", c"../../../../../../etc/shadow"),
        absent!("open-own-program", c"/proc/self/exe", libc::O_WRONLY),
        absent!("open-own-memory", c"/proc/self/mem", libc::O_RDWR),
        absent!("open-root-of-init", c"/proc/1/root/etc/passwd"),
        absent!("open-kvm", c"/dev/kvm", libc::O_RDWR),
        absent!("open-memory-device", c"/dev/mem", libc::O_RDWR),
        absent!("open-kernel-log", c"/dev/kmsg", libc::O_RDWR),
        absent!("open-core-pattern", c"/proc/sys/kernel/core_pattern", libc::O_WRONLY),
        absent!("open-sysrq", c"/proc/sysrq-trigger", libc::O_WRONLY),
        absent!("open-control-group", c"/sys/fs/cgroup/cgroup.procs", libc::O_WRONLY),
        absent!("open-release-agent", c"/sys/fs/cgroup/release_agent", libc::O_WRONLY),
        absent!("open-uevent-helper", c"/sys/kernel/uevent_helper", libc::O_WRONLY),
        absent!("open-run", c"/run/cloister/state"),
        attack(
            "list-root",
            "lists the root directory",
            "a vmm's filter lets nothing be opened, and Landlock denies it beneath; what a file server finds is empty",
            |_| {
                let flags = libc::O_RDONLY | libc::O_DIRECTORY;
                let root = call!(libc::SYS_openat, libc::AT_FDCWD, c"/", flags, 0)?;
                let mut list = [0_u8; 4096];
                let read = call!(libc::SYS_getdents64, root, list.as_mut_ptr(), list.len());
                call!(libc::SYS_close, root).ok();
                // "." and "..", 24 bytes each.
                match read? {
                    ..=48 => Err(End::Nothing),
                    more => Ok(format!("{more} bytes of names")),
                }
            },
        )
        .at(Vmm, Stage::Setup, &[ENOENT])
        .ends(FileServer, Stage::Serving, &[End::Nothing])
        .ends(FileServer, Stage::Setup, &[End::Nothing])
        .ends(FileServer, Stage::Bare, &[End::Nothing])
        .bare(&[EACCES]),
        attack("create-in-root", "makes a file in the root", "the root is read-only and has no room for a file", |_| {
            let flags = libc::O_CREAT | libc::O_RDWR;
            call!(libc::SYS_openat, libc::AT_FDCWD, c"/new", flags, 0o600).map(got("made"))
        })
        .at(Vmm, Stage::Setup, &[ENOENT])
        .served(&[EROFS])
        .bare(&[EROFS, EACCES]),
        attack("make-directory-in-root", "makes a directory in the root", "the root is read-only", |_| {
            call!(libc::SYS_mkdirat, libc::AT_FDCWD, c"/new", 0o700).map(got("made"))
        })
        .served(&[EROFS])
        .bare(&[EROFS, EACCES]),
        attack("stat-host-file", "asks for the attributes of a file of the host", ROOT, |_| {
            let mut status = [0_u8; 256];
            call!(libc::SYS_stat, c"/etc/passwd", status.as_mut_ptr()).map(got("it is there"))
        })
        .bare(&[ENOENT]),
        attack("change-to-parent", "climbs above the root by its working directory", ROOT, |_| {
            call!(libc::SYS_chdir, c"../../..")?;
            let mut status = [0_u8; 256];
            call!(libc::SYS_stat, c"etc/passwd", status.as_mut_ptr()).map(got("it is there"))
        })
        .bare(&[ENOENT]),
        attack("leave-by-descriptor", "climbs out by '..' from a descriptor that the host handed over", ROOT, |world| {
            let from = world.share_read.max(world.memory);
            let flags = libc::O_RDONLY;
            call!(libc::SYS_openat, from, c"../../../../etc/passwd", flags, 0).map(got("opened as"))
        })
        .at(Vmm, Stage::Setup, &[ENOENT])
        .at(Vmm, Stage::Bare, &[libc::ENOTDIR, EBADF])
        .served(&[ENOENT]),
        attack("see-host-name", "reads the host's name", "its own namespace of names says 'cloister'", |_| {
            let names = crate::calls::names()?;
            match names {
                [host, domain] if host == "cloister" && domain.is_empty() => Err(End::Nothing),
                [host, domain] => Ok(format!("host {host:?}, domain {domain:?}")),
            }
        })
        .bare_nothing(),
    ]
}
