//! What the host's kernel offers to lock processes in: seccomp, control groups, namespaces, Landlock.
#![expect(unsafe_code, reason = "asking the kernel for versions, and trying namespaces in a child")]

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Access, access};

use super::{Check, Status};

/// Whether system call filters can be installed that end the process. The vmm runs behind one.
pub(super) fn seccomp() -> Check {
    let action: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the kernel only reads the four bytes behind the pointer, which live long enough.
    let answer = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
    };
    if answer == 0 {
        Check::new("seccomp", Status::Ok, "filters that end a process")
    } else {
        Check::new("seccomp", Status::Fail, io::Error::last_os_error().to_string())
            .remedy("use a host kernel with CONFIG_SECCOMP_FILTER=y")
    }
}

/// Which version of Landlock the kernel has. `cloister run` does not need it.
pub(super) fn landlock() -> Check {
    const CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag the kernel takes no pointer and makes nothing; it returns a number.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    if answer >= 1 {
        Check::new("landlock", Status::Ok, format!("ABI version {answer}")).fact("abi", answer)
    } else {
        let reason = io::Error::last_os_error();
        Check::new("landlock", Status::Warn, format!("not available ({reason})"))
            .fact("abi", 0)
            .remedy(
                "`cloister run` works without it; to have it, use a host kernel with \
                 CONFIG_SECURITY_LANDLOCK=y and `landlock` among its lsm= names",
            )
    }
}

/// Whether this user can make namespaces: tried, in a child that does nothing else.
pub(super) fn namespaces() -> Check {
    let mut child = Command::new("/proc/self/exe");
    child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: the closure runs in the forked child, makes only system calls there and always
    // returns an error, so nothing is ever executed.
    unsafe { child.pre_exec(try_namespaces) };
    let answer = child.spawn().err().and_then(|error| error.raw_os_error());
    judge_namespaces(answer)
}

/// Stands for "it worked", in the child's answer. No call of [`try_namespaces`] can fail so.
const WORKED: i32 = libc::ECANCELED;

/// A user namespace, and in it one of each other kind: some distributions allow the first and then
/// take every capability in it away.
fn try_namespaces() -> io::Result<()> {
    let others = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    for flags in [libc::CLONE_NEWUSER, others] {
        // SAFETY: changes only which namespaces this child is in, and it ends right after.
        if unsafe { libc::unshare(flags) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Err(io::Error::from_raw_os_error(WORKED))
}

fn judge_namespaces(answer: Option<i32>) -> Check {
    if answer == Some(WORKED) {
        return Check::new("user-namespaces", Status::Ok, "can be made, with all others in them")
            .fact("usable", true);
    }
    let reason = answer.map_or_else(
        || "no answer".to_owned(),
        |errno| io::Error::from_raw_os_error(errno).to_string(),
    );
    Check::new("user-namespaces", Status::Warn, format!("can't be made ({reason})"))
        .fact("usable", false)
        .remedy(
            "`cloister run` works without them; to have them, set user.max_user_namespaces above 0 \
             and, where they exist, kernel.unprivileged_userns_clone=1 and \
             kernel.apparmor_restrict_unprivileged_userns=0",
        )
}

/// The unified control group hierarchy, and what of it is ours. `cloister run` does not need it.
pub(super) fn cgroup() -> Check {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    match find_group(&mounts, &groups) {
        Some((mount, group)) => judge_group(&mount, &group),
        None => Check::new("cgroup", Status::Warn, "cgroup version 2 is not mounted").remedy(
            "`cloister run` works without it; to have it, start the host with \
             systemd.unified_cgroup_hierarchy=1",
        ),
    }
}

/// Where version 2 is mounted, and this process's own folder in it.
fn find_group(mounts: &str, groups: &str) -> Option<(PathBuf, PathBuf)> {
    let mount = mounts.lines().find_map(|line| {
        // proc_pid_mountinfo(5): ... mount point is the fifth word; after " - " comes the type.
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| place.split(' ').nth(4)).flatten()
    })?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some((PathBuf::from(mount), Path::new(mount).join(own)))
}

fn judge_group(mount: &Path, group: &Path) -> Check {
    let controllers: Vec<String> = fs::read_to_string(group.join("cgroup.controllers"))
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let writable = |name: &str| access(group.join(name), Access::WRITE_OK).is_ok();
    let delegated = writable("") && writable("cgroup.procs") && writable("cgroup.subtree_control");
    let missing: Vec<&str> =
        ["cpu", "memory", "pids"].into_iter().filter(|name| !has(&controllers, name)).collect();
    let found = format!(
        "version 2 at {}, controllers: {}; this process's group is {}ours to divide",
        mount.display(),
        if controllers.is_empty() { "none".to_owned() } else { controllers.join(" ") },
        if delegated { "" } else { "not " },
    );
    let check = if missing.is_empty() && delegated {
        Check::new("cgroup", Status::Ok, found)
    } else {
        Check::new("cgroup", Status::Warn, found).remedy(
            "`cloister run` works without it; to have it, run in a group of your own: \
             `systemd-run --user --scope -p Delegate=yes …`",
        )
    };
    check
        .fact("mount", mount.display().to_string())
        .fact("controllers", controllers)
        .fact("delegated", delegated)
}

fn has(controllers: &[String], name: &str) -> bool {
    controllers.iter().any(|controller| controller == name)
}

#[cfg(test)]
#[path = "kernel_test.rs"]
mod tests;
