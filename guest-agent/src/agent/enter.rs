//! How a process enters a container: from the supervisor's fork to the program's first
//! instruction, or to the copying of files. Each step takes something away.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cloister_protocol::agent::{AgentLimits, User, first_id};
use libc::sock_filter;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::process::{Gid, Pid, PidfdFlags, Resource, Rlimit, Uid, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::group::AgentGroup;
use super::identity;
use crate::command::Group;
use crate::{kernel, message, sys};

/// The message that brings the listener of a filter that asks.
pub(crate) const LISTENER: u8 = 0xfe;

/// Longest working directory that the kernel tells, with the NUL.
const MAX_DIRECTORY: usize = 4096;
/// What a command is given before others when the whole machine's memory is used up.
const OUT_OF_MEMORY_SCORE: &str = "500";
/// Waiting signals of one user: bounded, as they are kernel memory.
const PENDING_SIGNALS: u64 = 4096;
/// Locked memory: what container engines give.
const LOCKED_BYTES: u64 = 64 << 10;
/// POSIX message queues: the kernel's usual bound.
const QUEUE_BYTES: u64 = 819_200;

/// What commands of an agent are started with.
#[derive(Debug)]
pub(crate) struct Entrance {
    pub(super) agent: u32,
    /// Its init, as a process descriptor: names the namespaces.
    pub(super) init: OwnedFd,
    /// What it may execute and write, unless that is all.
    pub(super) rules: Option<OwnedFd>,
    /// Its instance of `devpts`.
    pub(super) terminals: OwnedFd,
    pub(super) filter: Vec<sock_filter>,
    /// Its filter asks about programs.
    pub(super) listed: bool,
    /// The list.
    pub(super) list: Vec<Vec<u8>>,
    pub(super) limits: AgentLimits,
    pub(super) group: AgentGroup,
}

impl Entrance {
    /// Makes the group of a command.
    pub(crate) fn command_group(&self, id: u32) -> Result<Group> {
        self.group.command(id)
    }

    /// Makes a process in the container's process namespace, a child of the supervisor like all.
    pub(crate) fn fork(&self, group: BorrowedFd<'_>, child: impl FnOnce() -> u8) -> Result<Pid> {
        let back = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
        let children = ThreadNameSpaceType::PROCESS_ID;
        move_into_thread_name_spaces(self.init.as_fd(), children)?;
        let result = sys::fork(Some(group), child);
        if move_into_thread_name_spaces(back.as_fd(), children).is_err() {
            // The next command of the machine would be made in the container.
            kernel::abort();
        }
        result
    }

    /// Makes a terminal of its own instance of `devpts`, for a user of it.
    pub(crate) fn open_terminal(&self, user: User) -> Result<(OwnedFd, OwnedFd)> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let master = rustix::fs::openat(&self.terminals, c"ptmx", flags, Mode::empty())?;
        rustix::pty::unlockpt(&master)?;
        let flags = rustix::pty::OpenptFlags::RDWR
            | rustix::pty::OpenptFlags::NOCTTY
            | rustix::pty::OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        let (uid, _) = self.ids(user);
        rustix::fs::fchown(&slave, Some(uid), None)?;
        Ok((master, slave))
    }

    /// Lets a user of it open a stream again by its name in `/dev`.
    pub(crate) fn give(&self, stream: impl AsFd, user: User) -> Result<()> {
        let (uid, gid) = self.ids(user);
        rustix::fs::fchown(stream, Some(uid), Some(gid))
    }

    /// The ids as the machine has them.
    fn ids(&self, user: User) -> (Uid, Gid) {
        let first = first_id(self.agent);
        (
            Uid::from_raw(first.saturating_add(user.uid)),
            Gid::from_raw(first.saturating_add(user.gid)),
        )
    }

    /// In the new process, whose first three descriptors are set: enters the container and gives up
    /// all rights. Of all other descriptors only those in `kept` stay.
    pub(crate) fn enter(&self, user: User, kept: BorrowedFd<'_>) -> Result<()> {
        let mut needed = vec![kept, self.init.as_fd()];
        needed.extend(self.rules.as_ref().map(AsFd::as_fd));
        kernel::close_all_but(3, &needed)?;
        self.limit_resources()?;
        // Not lowered again: for that it would need a right over the machine.
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let score = rustix::fs::open("/proc/self/oom_score_adj", flags, Mode::empty())?;
        rustix::io::write(&score, OUT_OF_MEMORY_SCORE.as_bytes())?;
        drop(score);
        kernel::unshare(libc::CLONE_NEWCGROUP)?;
        let namespaces = ThreadNameSpaceType::USER
            | ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::NETWORK
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
        move_into_thread_name_spaces(self.init.as_fd(), namespaces)?;
        kernel::leave_keyrings()?;
        identity::give_up_rights(Uid::from_raw(user.uid), Gid::from_raw(user.gid))
    }

    fn limit_resources(&self) -> Result<()> {
        let limits = [
            (Resource::Core, Some(0)),
            (Resource::Nofile, Some(self.limits.open_files.into())),
            (Resource::Fsize, self.limits.file_bytes),
            (Resource::Memlock, Some(LOCKED_BYTES)),
            (Resource::Msgqueue, Some(QUEUE_BYTES)),
            (Resource::Sigpending, Some(PENDING_SIGNALS)),
            (Resource::Nice, Some(0)),
            (Resource::Rtprio, Some(0)),
        ];
        for (resource, limit) in limits {
            rustix::process::setrlimit(resource, Rlimit { current: limit, maximum: limit })?;
        }
        Ok(())
    }

    /// The last steps before a program: rules, then the filter. No step after them needs a call that
    /// the filter refuses.
    pub(crate) fn confine(&self, report: BorrowedFd<'_>) -> Result<()> {
        if let Some(rules) = &self.rules {
            kernel::landlock_restrict(rules.as_fd())?;
        }
        if !self.listed {
            return kernel::filter(&self.filter);
        }
        let listener = kernel::filter_and_listen(&self.filter)?;
        message::send(report, &[LISTENER], Some(listener.as_fd()))
    }
}

/// Enters a working directory, and checks that it lies in the container's root (runc's
/// CVE-2024-21626: a descriptor that was left open led outside).
pub(crate) fn enter_directory(path: &CStr) -> Result<()> {
    rustix::process::chdir(path)?;
    let found = rustix::process::getcwd(Vec::with_capacity(MAX_DIRECTORY))?;
    if found.to_bytes().starts_with(b"/") { Ok(()) } else { Err(Errno::XDEV) }
}
