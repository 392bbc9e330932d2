//! What every container has beside its image: `/proc`, `/dev` and `/tmp`. There is no `/sys`.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::process::{Gid, Uid};

use super::mount::{
    attach, below, file_system, find_or_make, is_directory, make_directory, memory, mount_id,
    own_directory, second,
};
use crate::kernel::{Attributes, restrict_mount};

/// For data: no program, device or set-id file in it means anything.
const DATA: Attributes =
    Attributes::NO_SUID.with(Attributes::NO_DEVICES).with(Attributes::NO_EXECUTION);
/// The same without the last.
const FILES: Attributes = Attributes::NO_SUID.with(Attributes::NO_DEVICES);

/// What is hidden in `/proc`: the machine's own state, and switches for it. Nearly all of it is for
/// the machine's root alone anyway, or missing in our kernel; this is the second lock.
const HIDDEN: [&CStr; 36] = [
    // Directories.
    c"acpi",
    c"asound",
    c"bus",
    c"driver",
    c"dynamic_debug",
    c"fs",
    c"irq",
    c"pressure",
    c"scsi",
    c"tty",
    // Files.
    c"allocinfo",
    c"buddyinfo",
    c"config.gz",
    c"consoles",
    c"interrupts",
    c"iomem",
    c"ioports",
    c"kallsyms",
    c"kcore",
    c"key-users",
    c"keys",
    c"kmsg",
    c"kpagecgroup",
    c"kpagecount",
    c"kpageflags",
    c"latency_stats",
    c"modules",
    c"pagetypeinfo",
    c"sched_debug",
    c"schedstat",
    c"slabinfo",
    c"softirqs",
    c"sysrq-trigger",
    c"timer_list",
    c"vmallocinfo",
    c"zoneinfo",
];

/// Character devices: name, major and minor number (Linux, Documentation/admin-guide/devices.txt).
const DEVICES: [(&CStr, u32, u32); 6] = [
    (c"null", 1, 3),
    (c"zero", 1, 5),
    (c"full", 1, 7),
    (c"random", 1, 8),
    (c"urandom", 1, 9),
    (c"tty", 5, 0),
];
const LINKS: [(&CStr, &CStr); 5] = [
    (c"ptmx", c"pts/ptmx"),
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
];
/// Room for what `/dev` itself holds.
const DEVICES_BYTES: u64 = 64 << 10;
const DEVICES_FILES: u64 = 32;
/// `/dev/shm`: what container engines give. It counts against the agent's memory.
const SHARED_MEMORY_BYTES: u64 = 64 << 20;
/// Of the group that terminals belong to, in the container, as in nearly every image.
const TERMINALS_GROUP: u32 = 5;

/// The instance of `devpts` for an agent whose ids begin at `first`: made by the supervisor, who
/// makes terminals in it by its descriptor.
pub(super) fn terminals(first: u32) -> Result<OwnedFd> {
    let group = first.saturating_add(TERMINALS_GROUP).to_string();
    let options = [
        ("newinstance", None),
        ("ptmxmode", Some("0666")),
        ("mode", Some("0620")),
        ("gid", Some(&*group)),
    ];
    let attributes = Attributes::NO_SUID.with(Attributes::NO_EXECUTION);
    file_system("devpts", &options, attributes)
}

/// Mounts `/proc` of this process namespace. Gives a second mount of it, nowhere in sight, where
/// nothing is hidden or read-only, for the steps to come.
pub(super) fn processes(root: &OwnedFd) -> Result<OwnedFd> {
    // What is hidden is covered by these, which lie below /proc, where no path leads.
    let blank = memory("0555", 4096, 4, DATA)?;
    drop(make_directory(&blank, c"directory", 0o555)?);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(rustix::fs::openat(&blank, c"file", flags, Mode::from_raw_mode(0o444))?);
    restrict_mount(&blank, Attributes::READ_ONLY)?;
    attach(&blank, own_directory(root, c"proc")?)?;
    let (blank_directory, blank_file) = (below(&blank, c"directory")?, below(&blank, c"file")?);

    let processes = file_system("proc", &[("hidepid", Some("2"))], DATA)?;
    attach(&processes, own_directory(root, c"proc")?)?;
    let plain = second(&processes, DATA)?;
    for name in HIDDEN {
        let place = match below(&processes, name) {
            Err(Errno::NOENT) => continue,
            result => result?,
        };
        let cover = if is_directory(&place)? { &blank_directory } else { &blank_file };
        attach(&second(cover, DATA.with(Attributes::READ_ONLY))?, &place)?;
    }
    let settings = below(&processes, c"sys")?;
    attach(&second(&settings, DATA.with(Attributes::READ_ONLY))?, &settings)?;
    Ok(plain)
}

/// Mounts `/dev`, which is read-only but for what lies in `pts` and `shm`.
pub(super) fn devices(
    root: &OwnedFd,
    terminals: BorrowedFd<'_>,
    first: u32,
    files: u64,
) -> Result<OwnedFd> {
    let attributes = Attributes::NO_SUID.with(Attributes::NO_EXECUTION);
    let devices = memory("0755", DEVICES_BYTES, DEVICES_FILES, attributes)?;
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_raw_mode(0o666);
        let number = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(&devices, name, FileType::CharacterDevice, mode, number)?;
        // Whatever the mask of the process is.
        rustix::fs::chmodat(&devices, name, mode, AtFlags::empty())?;
        belongs_to(&devices, name, first)?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, &devices, name)?;
    }
    let terminals_place = make_directory(&devices, c"pts", 0o755)?;
    let shared_place = make_directory(&devices, c"shm", 0o755)?;
    attach(&devices, own_directory(root, c"dev")?)?;
    let flags = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
        | rustix::mount::MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(terminals, c"", terminals_place.as_fd(), c"", flags)?;
    attach(&memory("1777", SHARED_MEMORY_BYTES, files, DATA)?, &shared_place)?;
    Ok(devices)
}

/// Mounts `/tmp`; programs are built and run there.
pub(super) fn temporary(root: &OwnedFd, bytes: u64, files: u64, run: bool) -> Result<OwnedFd> {
    let temporary = memory("1777", bytes, files, if run { FILES } else { DATA })?;
    attach(&temporary, own_directory(root, c"tmp")?)?;
    Ok(temporary)
}

/// Names the name server in `/etc/resolv.conf`, in place of what the image has there.
pub(super) fn name_server(root: &OwnedFd) -> Result<()> {
    let own = [mount_id(root)?];
    let folder = find_or_make(root.as_fd(), b"/etc", true, &own, &own)?;
    // In many images it is a link that leads nowhere here.
    match rustix::fs::unlinkat(&folder, c"resolv.conf", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o444);
    let file = rustix::fs::openat(&folder, c"resolv.conf", flags, mode)?;
    let text = format!("nameserver {}\n", cloister_protocol::egress::NAME_SERVER);
    let written = rustix::io::write(&file, text.as_bytes())?;
    if written == text.len() { Ok(()) } else { Err(Errno::NOSPC) }
}

/// Gives a file to the container's user 0.
fn belongs_to(directory: &OwnedFd, name: &CStr, first: u32) -> Result<()> {
    let (user, group) = (Uid::from_raw(first), Gid::from_raw(first));
    rustix::fs::chownat(directory, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
}
