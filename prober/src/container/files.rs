//! Tries on mounts, devices, files and shares.
#![expect(clippy::too_many_lines, reason = "tables of attacks")]

use super::{Rows, end, exists, list_some, made, open, read_some, write_text};
use crate::calls::call;
use crate::wire::End;

const BIND: u64 = libc::MS_BIND;
const REMOUNT: u64 = libc::MS_REMOUNT;

/// Where `cloister prove` mounts a read-only share, and a writable one.
const READ_ONLY: &str = "/in";
const WRITABLE: &str = "/out";

pub(super) fn add(rows: &mut Rows) {
    mounts(rows);
    devices(rows);
    files(rows);
    shares(rows);
    runtime(rows);
}

fn mounts(rows: &mut Rows) {
    rows.why = "the list of system calls knows no mounts; beneath it, no capability";
    rows.row("mount a tmpfs", || made!(libc::SYS_mount, c"t", c"/tmp", c"tmpfs", 0, 0));
    rows.row("mount proc again", || made!(libc::SYS_mount, c"p", c"/tmp", c"proc", 0, 0));
    rows.row("mount the shares", || {
        made!(libc::SYS_mount, c"cloister", c"/tmp", c"virtiofs", 0, 0)
    });
    rows.row("mount an overlay", || {
        made!(libc::SYS_mount, c"o", c"/tmp", c"overlay", 0, c"lowerdir=/:/etc")
    });
    rows.row("mount control groups", || made!(libc::SYS_mount, c"c", c"/tmp", c"cgroup2", 0, 0));
    rows.row("mount control groups of version 1 with a release agent", || {
        made!(libc::SYS_mount, c"c", c"/tmp", c"cgroup", 0, c"rdma")
    });
    rows.row("bind a directory", || made!(libc::SYS_mount, c"/", c"/tmp", 0, BIND, 0));
    rows.row("make the root writable", || made!(libc::SYS_mount, 0, c"/", 0, REMOUNT | BIND, 0));
    rows.row("uncover /proc/sys", || made!(libc::SYS_umount2, c"/proc/sys", 0));
    rows.row("uncover /proc", || made!(libc::SYS_umount2, c"/proc", libc::MNT_DETACH));
    rows.row("copy a mount", || made!(libc::SYS_open_tree, libc::AT_FDCWD, c"/", 1));
    rows.row("change a mount", || {
        let clear = [0_u64, 1, 0, 0];
        made!(libc::SYS_mount_setattr, libc::AT_FDCWD, c"/", 0, clear.as_ptr(), 32)
    });
    rows.row("move a mount", || {
        made!(libc::SYS_move_mount, libc::AT_FDCWD, c"/tmp", libc::AT_FDCWD, c"/dev", 0)
    });
    rows.row("open a file system", || made!(libc::SYS_fsopen, c"tmpfs", 0));
    rows.row("configure a file system with a long text", || {
        made!(libc::SYS_fsconfig, 0, 1, c"source", c"x", 0)
    });
    rows.row("pivot the root", || made!(libc::SYS_pivot_root, c"/tmp", c"/tmp"));
    rows.row("change the root", || made!(libc::SYS_chroot, c"/tmp"));
    rows.why = "the root of the container is its own, and nothing lies above it";
    rows.row("climb out of the root", || exists("/../../../../../run/cloister"));
    rows.row("climb out by a descriptor", || {
        use std::os::fd::AsRawFd as _;
        let root = std::fs::File::open("/").map_err(|error| end(&error))?;
        made!(libc::SYS_openat, root.as_raw_fd(), c"../../lower", 0, 0)
    });
    rows.row("open a file by its handle", || {
        let handle = [8_u32, 1, 2, 0, 0];
        made!(libc::SYS_open_by_handle_at, libc::AT_FDCWD, handle.as_ptr(), 0)
    });
    rows.row("see the overlay's layers", || exists("/tmp/lower"));
    rows.row("see the shares", || exists("/run/cloister/shares"));
}

fn devices(rows: &mut Rows) {
    rows.why = "no device can be made, and of those that there are an agent sees six harmless ones";
    rows.row("make a device", || {
        made!(libc::SYS_mknodat, libc::AT_FDCWD, c"/tmp/mem", libc::S_IFCHR | 0o600, 0x101)
    });
    rows.row("make a disk", || {
        made!(libc::SYS_mknodat, libc::AT_FDCWD, c"/tmp/disk", libc::S_IFBLK | 0o600, 0x800)
    });
    rows.row("make a file in /dev", || open("/dev/new", libc::O_CREAT | libc::O_WRONLY));
    for device in [
        "mem",
        "kmem",
        "port",
        "kmsg",
        "vsock",
        "fuse",
        "kvm",
        "console",
        "ptp0",
        "loop0",
        "vport0p1",
        "net/tun",
        "vhost-vsock",
        "userfaultfd",
        "cpu/0/msr",
        "nvram",
        "sda",
    ] {
        rows.row(&format!("open /dev/{device}"), move || {
            open(&format!("/dev/{device}"), libc::O_RDONLY)
        });
    }
    rows.row("type into a terminal", || made!(libc::SYS_ioctl, 0, libc::TIOCSTI, c"x"));
    rows.row("take a terminal", || made!(libc::SYS_ioctl, 0, libc::TIOCSCTTY, 1));
    rows.row("paste by the console", || {
        made!(libc::SYS_ioctl, 0, libc::TIOCLINUX, [2_u8, 0].as_ptr())
    });
}

fn files(rows: &mut Rows) {
    rows.why = "a read-only root, and files of the image belong to other users";
    rows.row("write the root", || open("/new", libc::O_CREAT | libc::O_WRONLY));
    rows.row("write a file of the image", || open("/etc/passwd", libc::O_WRONLY));
    rows.row("read a file of the container's root", || open("/etc/secret", libc::O_RDONLY))
        .as_root = false;
    rows.row("give a file away", || {
        std::fs::write("/tmp/mine", "x").map_err(|error| end(&error))?;
        made!(libc::SYS_chown, c"/tmp/mine", 7, 7)
    });
    rows.row("give a program capabilities", || {
        std::fs::write("/tmp/mine", "x").map_err(|error| end(&error))?;
        let value = [0x0200_0001_u32, 1 << 21, 0, 0, 0];
        made!(libc::SYS_setxattr, c"/tmp/mine", c"security.capability", value.as_ptr(), 20, 0)
    });
    rows.why = "the kernel's switches are read-only or masked, and there is no /sys";
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/sysrq",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/fs/file-max",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/user/max_user_namespaces",
        "/proc/sysrq-trigger",
        "/proc/self/uid_map",
        "/proc/self/gid_map",
        "/proc/self/setgroups",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/release_agent",
    ] {
        rows.row(&format!("write {path}"), move || write_text(path, "1"));
    }
    for path in [
        "kcore",
        "kmsg",
        "keys",
        "key-users",
        "kallsyms",
        "timer_list",
        "latency_stats",
        "sched_debug",
        "interrupts",
        "iomem",
        "ioports",
        "modules",
        "slabinfo",
        "zoneinfo",
        "config.gz",
        "vmallocinfo",
        "kpagecount",
        "bus",
        "fs",
        "irq",
        "acpi",
        "scsi",
        "driver",
    ] {
        rows.row(&format!("read /proc/{path}"), move || {
            let path = format!("/proc/{path}");
            if std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                list_some(&path)
            } else {
                read_some(&path)
            }
        });
    }
}

fn shares(rows: &mut Rows) {
    rows.why = "the host mounts a share read-only, and its server refuses as well";
    let read_only = |rest: &'static str| format!("{READ_ONLY}/{rest}");
    rows.row("write a file of a read-only share", move || open(&read_only("file"), libc::O_WRONLY));
    rows.row("make a file in a read-only share", move || {
        open(&read_only("new"), libc::O_CREAT | libc::O_WRONLY)
    });
    rows.row("remove a file of a read-only share", || made!(libc::SYS_unlink, c"/in/file"));
    rows.row("rename a file of a read-only share", || {
        made!(libc::SYS_rename, c"/in/file", c"/in/other")
    });
    rows.row("change a mode in a read-only share", || made!(libc::SYS_chmod, c"/in/file", 0o777));
    rows.row("link a file of a read-only share into a writable one", || {
        made!(libc::SYS_link, c"/in/file", c"/out/taken")
    });
    rows.row("open a file of a read-only share anew by its descriptor", || {
        let file = call!(libc::SYS_openat, libc::AT_FDCWD, c"/in/file", libc::O_RDONLY, 0)?;
        let again = open(&format!("/proc/self/fd/{file}"), libc::O_WRONLY);
        call!(libc::SYS_close, file).ok();
        again
    });
    rows.why = "a share is a mount of its own in the guest and on the host; links are followed in the container";
    rows.row("leave a share upwards", || read_some("/out/../../../../../run/cloister/host"));
    rows.row("leave a share by a link of the host", || read_some("/in/out/shadow"));
    rows.row("leave a share by a link of its own", || {
        let link = format!("{WRITABLE}/link");
        std::fs::remove_file(&link).ok();
        std::os::unix::fs::symlink("/proc/1/root/etc", &link).map_err(|error| end(&error))?;
        let got = list_some(&link);
        std::fs::remove_file(&link).ok();
        got
    });
    rows.why = "the file server makes regular files, directories and symbolic links, and nothing that the host obeys";
    rows.row("make a device in a share", || {
        made!(libc::SYS_mknodat, libc::AT_FDCWD, c"/out/mem", libc::S_IFCHR | 0o600, 0x101)
    });
    rows.row("make a FIFO in a share", || {
        made!(libc::SYS_mknodat, libc::AT_FDCWD, c"/out/fifo", libc::S_IFIFO | 0o600, 0)
    });
    rows.row("make a program set-id in a share", || {
        let path = format!("{WRITABLE}/program");
        std::fs::write(&path, "x").map_err(|error| end(&error))?;
        call!(libc::SYS_chmod, c"/out/program", 0o4755)?;
        let mode = std::fs::metadata(&path).map(|found| {
            use std::os::unix::fs::PermissionsExt as _;
            found.permissions().mode()
        });
        match mode {
            Ok(mode) if mode & 0o6000 != 0 => Ok(format!("its mode is {mode:o}")),
            _ => Err(End::Nothing),
        }
    });
    rows.row("set an attribute in a share that the host obeys", || {
        let value = [0x0200_0001_u32, 1 << 21, 0, 0, 0];
        made!(libc::SYS_setxattr, c"/out/file", c"security.capability", value.as_ptr(), 20, 0)
    });
    rows.row("set a trusted attribute in a share", || {
        made!(libc::SYS_setxattr, c"/out/file", c"trusted.overlay.opaque", c"y", 1, 0)
    });
    rows.row("give a file of a share to another user", || {
        made!(libc::SYS_chown, c"/out/file", 7, 7)
    });
}

fn runtime(rows: &mut Rows) {
    rows.why = "a process that enters a container brings nothing with it: no descriptor, no directory, no program of \
                the runtime";
    rows.row("overwrite the program of the runtime", || open("/proc/1/exe", libc::O_WRONLY));
    rows.row("overwrite the program that it runs from", || open("/proc/self/exe", libc::O_WRONLY));
    rows.row("find a descriptor that was left open", || {
        for fd in 3..1024 {
            if call!(libc::SYS_fcntl, fd, libc::F_GETFD).is_ok() {
                let path = format!("/proc/self/fd/{fd}");
                let what = std::fs::read_link(path).map(|to| to.display().to_string());
                return Ok(format!("{fd}: {}", what.unwrap_or_default()));
            }
        }
        Err(End::Nothing)
    });
    rows.row("leave by a working directory outside of the root", || {
        let here = std::fs::read_link("/proc/self/cwd").map_err(|error| end(&error))?;
        if here.to_string_lossy().starts_with("(unreachable)") {
            return Ok(here.display().to_string());
        }
        exists("../../../../../../../run/cloister")
    });
    rows.row("find a secret in the environment", || {
        let known = ["PATH", "HOME", "TERM", "USER", "LANG", "HOSTNAME", "PWD", "SHLVL"];
        let other = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
        let mut other = other
            .filter(|name| !known.contains(&name.as_str()) && !name.starts_with("CLOISTER_VICTIM"));
        other.next().ok_or(End::Nothing)
    });
}
