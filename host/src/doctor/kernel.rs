//! What the host's kernel offers to lock processes in: seccomp, control groups, namespaces, Landlock.
#![expect(unsafe_code, reason = "asking the kernel for versions, and trying namespaces in a child")]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Check, Status};
use crate::launch::jail::{JailSpec, limits_of_probe};
use crate::report::chain;

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

/// The kernel's version of Landlock; below 1: none.
#[must_use]
pub fn landlock_abi() -> i64 {
    const CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag the kernel takes no pointer and makes nothing; it returns a number.
    unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0usize,
            CREATE_RULESET_VERSION,
        )
    }
}

/// Which version of Landlock the kernel has; any will do.
pub(super) fn landlock() -> Check {
    let answer = landlock_abi();
    if answer >= 1 {
        Check::new("landlock", Status::Ok, format!("ABI version {answer}")).fact("abi", answer)
    } else {
        let reason = io::Error::last_os_error();
        Check::new("landlock", Status::Fail, format!("not available ({reason})"))
            .fact("abi", 0)
            .remedy(
                "use a host kernel with CONFIG_SECURITY_LANDLOCK=y and `landlock` among its lsm= \
                 names",
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
    Check::new("user-namespaces", Status::Fail, format!("can't be made ({reason})"))
        .fact("usable", false)
        .remedy(
            "set user.max_user_namespaces above 0 and, where they exist, \
             kernel.unprivileged_userns_clone=1 and \
             kernel.apparmor_restrict_unprivileged_userns=0",
        )
}

/// The control group that machines are put into: made with all its limits, and removed.
pub(super) fn cgroup(jail: &JailSpec) -> Check {
    const NAME: &str = "cgroup";
    let place = match jail.place() {
        Ok(place) => place,
        Err(error) => return Check::new(NAME, Status::Fail, chain(&error)).remedy(error.remedy()),
    };
    let folder = place.folder.display().to_string();
    let check = match jail.cell(limits_of_probe()) {
        Ok(cell) => judge_group(cell.group.path(), &folder),
        Err(error) => Check::new(NAME, Status::Fail, chain(&error)).remedy(error.remedy()),
    };
    check.fact("folder", folder)
}

fn judge_group(group: &Path, folder: &str) -> Check {
    let has = |name: &&str| group.join(name).exists();
    let missing: Vec<&str> =
        ["memory.max", "pids.max", "cpu.max"].into_iter().filter(|name| !has(name)).collect();
    if !missing.is_empty() {
        let found = format!("control groups in {folder} lack {}", missing.join(", "));
        return Check::new("cgroup", Status::Fail, found)
            .remedy("use a host kernel with the controllers memory, pids and cpu");
    }
    let found = format!("machines get groups with limits in {folder}");
    Check::new("cgroup", Status::Ok, found).fact("io_weight", has(&"io.weight"))
}

#[cfg(test)]
#[path = "kernel_test.rs"]
mod tests;
