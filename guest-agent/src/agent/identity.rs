//! Who a container's processes are: the user namespace, and the rights that are given up.

use std::os::fd::{AsFd, OwnedFd};

use cloister_protocol::limits::IDS_PER_AGENT;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, Gid, Uid, WaitOptions, waitpid};

use crate::{kernel, sys};

/// Kinds of namespaces, as `/proc/sys/user` names their bounds. A process that somehow got every
/// capability of its user namespace still could make none.
const KINDS: [&str; 8] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];

/// Puts this process, which is the first of its process namespace, into a new user namespace. All
/// its other namespaces stay the machine's: full rights in the new one give none over them.
///
/// `processes` is `/proc` of the process namespace.
pub(super) fn new_user_namespace(processes: &OwnedFd, first: u32) -> Result<()> {
    // The ids can be mapped by nobody but a process that stays outside.
    let (ready, tell) = pipe_with(PipeFlags::CLOEXEC)?;
    let mapper = sys::fork(None, || {
        let mut byte = [0];
        let told = rustix::io::read(&ready, &mut byte);
        let mapped = told.and_then(|_| map_ids(processes, first));
        mapped.map_or_else(|error| error.raw_os_error().try_into().unwrap_or(u8::MAX), |()| 0)
    })?;
    let made = kernel::unshare(libc::CLONE_NEWUSER);
    rustix::io::write(&tell, &[1])?;
    let status = waitpid(Some(mapper), WaitOptions::empty())?.map(|(_, status)| status);
    made?;
    match status.and_then(|status| status.exit_status()) {
        Some(0) => Ok(()),
        Some(error) => Err(Errno::from_raw_os_error(error)),
        None => Err(Errno::CHILD),
    }
}

fn map_ids(processes: &OwnedFd, first: u32) -> Result<()> {
    let map = format!("0 {first} {IDS_PER_AGENT}");
    write_at(processes, "1/uid_map", &map)?;
    write_at(processes, "1/gid_map", &map)
}

/// Forbids namespaces below the present user namespace, of any kind.
pub(super) fn forbid_namespaces(processes: &OwnedFd) -> Result<()> {
    for kind in KINDS {
        write_at(processes, &format!("sys/user/max_{kind}_namespaces"), "0")?;
    }
    Ok(())
}

pub(super) fn write_at(directory: impl AsFd, path: &str, text: &str) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, path, flags, Mode::empty())?;
    rustix::io::write(file, text.as_bytes()).map(drop)
}

/// Takes these ids of the user namespace and gives up all rights of it. Does not allocate.
pub(super) fn give_up_rights(user: Uid, group: Gid) -> Result<()> {
    kernel::bound_capabilities()?;
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    kernel::drop_capabilities()?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)
}
