//! The file systems that every program expects, mounted with no more rights than they need.

use std::ffi::CStr;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::MountFlags;

/// A file system that could not be mounted, or what goes with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("can't mount {target}")]
    Mount { target: &'static str, source: Errno },
    #[error("can't make {path}")]
    Make { path: &'static str, source: Errno },
    #[error("can't write {path}")]
    Setting { path: &'static str, source: Errno },
}

/// One line of the table below.
struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: Option<&'static CStr>,
}

/// Bounds come from the machine's memory: a full `/tmp` must leave room for programs.
const MOUNTS: [Mount; 8] = [
    // Devices first: the log is one.
    mount("devtmpfs", "/dev", NO_EXEC, Some(c"mode=0755")),
    mount("proc", "/proc", STRICT, None),
    mount("sysfs", "/sys", STRICT.union(MountFlags::RDONLY), None),
    mount("cgroup2", CGROUP, STRICT, Some(c"nsdelegate,memory_recursiveprot")),
    mount("devpts", "/dev/pts", NO_EXEC, Some(c"newinstance,ptmxmode=0666,mode=0620,gid=5")),
    mount("tmpfs", "/dev/shm", STRICT, Some(c"mode=1777,size=25%")),
    // Programs are built and run in /tmp, so it alone has no NOEXEC.
    mount(
        "tmpfs",
        "/tmp",
        MountFlags::NOSUID.union(MountFlags::NODEV),
        Some(c"mode=1777,size=25%"),
    ),
    mount("tmpfs", "/run", STRICT, Some(c"mode=0755,size=10%")),
];

/// Where the control groups are.
pub(crate) const CGROUP: &str = "/sys/fs/cgroup";

/// What the kernel is told once, when the files for it are there.
const SETTINGS: [(&str, &str); 2] = [
    // What can be limited and counted for each command. The supervisor stays in the root group,
    // which no controller limits and which alone may have both processes and groups under it.
    // Moving it would cost an RCU grace period (milliseconds): the kernel takes its lock against
    // forks for writing then.
    ("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +memory +pids"),
    // Kernel addresses are shown to nobody, root included: commands may be root.
    ("/proc/sys/kernel/kptr_restrict", "2"),
];

const NO_EXEC: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);
const STRICT: MountFlags = NO_EXEC.union(MountFlags::NODEV);

/// What devtmpfs does not have of what programs look for in `/dev`.
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

const fn mount(
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: Option<&'static CStr>,
) -> Mount {
    Mount { kind, target, flags, options }
}

/// Mounts everything. The root file system may be empty.
pub(crate) fn mount_all() -> Result<(), MountError> {
    for one in &MOUNTS {
        one.mount()?;
    }
    for (path, target) in LINKS {
        rustix::fs::symlink(target, path).map_err(|source| MountError::Make { path, source })?;
    }
    for (path, value) in SETTINGS {
        set(path, value).map_err(|source| MountError::Setting { path, source })?;
    }
    Ok(())
}

impl Mount {
    /// The directory is made only when it is missing: most are in the root image.
    fn mount(&self) -> Result<(), MountError> {
        let target = self.target;
        let mount = || rustix::mount::mount(self.kind, target, self.kind, self.flags, self.options);
        match mount() {
            Err(Errno::NOENT) => {
                rustix::fs::mkdir(target, Mode::from_raw_mode(0o755))
                    .map_err(|source| MountError::Make { path: target, source })?;
                mount()
            }
            result => result,
        }
        .map_err(|source| MountError::Mount { target, source })
    }
}

fn set(path: &str, value: &str) -> Result<(), Errno> {
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::io::write(file, value.as_bytes()).map(|_| ())
}
