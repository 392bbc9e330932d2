//! `cloister-supervisor`: PID 1 of a team's virtual machine.
//!
//! It makes the machine usable, connects to the host, and runs the commands that the host asks
//! for. It is inside the blast radius: the host takes nothing that it says on trust.

#![cfg_attr(not(test), no_main)]

mod mounts;

mod network;

mod log;

mod host;

mod serve;

mod control;

mod identity;

mod command;

mod agent;

mod copy;

mod egress;

mod message;

mod stream;

mod terminal;

mod timer;

mod reaper;

mod poller;

mod sys;

mod kernel;

#[cfg(test)]
#[path = "agent_bed_test.rs"]
mod agent_bed;

#[cfg(test)]
#[path = "agent_test.rs"]
mod agent_test;

#[cfg(test)]
#[path = "agent_files_test.rs"]
mod agent_files_test;

#[cfg(test)]
#[path = "bounds_test.rs"]
mod bounds_test;

#[cfg(test)]
#[path = "egress_test.rs"]
mod egress_test;

#[cfg(test)]
#[path = "isolation_test.rs"]
mod isolation_test;

#[cfg(test)]
#[path = "bed_test.rs"]
mod test_bed;

use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::PanicHookInfo;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use rustix::system::RebootCommand;

use crate::agent::{Bounds, Common, Shares};
use crate::command::Groups;
use crate::host::{Host, Vsock};
use crate::log::Log;
use crate::serve::{ServeError, Server};

/// The word on the kernel's command line that asks for [`ANNOUNCEMENT`].
const ANNOUNCE: &[u8] = b"cloister.announce";

/// What a bench under another VMM waits for on the console.
const ANNOUNCEMENT: &str = "supervisor ready";

/// Open files of the supervisor: ten for each of its commands at most, and what commands may
/// raise their own limit to.
const OPEN_FILES: u64 = 524_288;

/// What ends the machine, if it is not the host's wish.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error("can't set up the file systems")]
    Mounts(#[from] mounts::MountError),
    #[error("can't set up the network")]
    Network(#[from] network::NetworkError),
    #[error("can't open {path}")]
    Open { path: &'static str, source: Errno },
    #[error("can't raise the limit of open files")]
    OpenFiles(#[source] Errno),
    #[error("can't connect to the host")]
    Connect(#[source] Errno),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// All of the program. Ends the machine; returns the exit code, at which the kernel panics, only
/// when even that fails.
fn run() -> i32 {
    // First: the host takes it for the end of the kernel's part of the boot.
    let start_tsc = sys::time_stamp();
    std::panic::set_hook(Box::new(log_panic));
    if let Err(error) = boot_and_serve(start_tsc)
        && let Ok(log) = Log::open()
    {
        log.fatal(&error);
    }
    end_machine()
}

/// The steps in their order. Comes back when the host asks for the end.
fn boot_and_serve(start_tsc: u64) -> Result<(), Fatal> {
    // Before anything can end a child.
    sys::block_signals();
    // On its way to the host and back while this side sets up.
    let control = begin_to_connect();
    mounts::mount_all()?;
    // Before any other descriptor that has to stay; needs /dev.
    occupy_standard_streams()?;
    let log = Log::open().map_err(|source| Fatal::Open { path: "/dev/kmsg", source })?;
    raise_open_files().map_err(Fatal::OpenFiles)?;
    network::set_up()?;
    let groups = Groups::open(mounts::CGROUP)
        .map_err(|source| Fatal::Open { path: mounts::CGROUP, source })?;
    let announced = announce_if_asked(&log)?;
    let control = match control.and_then(host::finish) {
        Ok(control) => control,
        Err(_) if announced => stay_up()?,
        Err(error) => return Err(Fatal::Connect(error)),
    };
    let common = Common::new(Shares::Device, Bounds::Kept);
    let server = Server::new(control, &Vsock, &groups, &log, common)?;
    server.run(start_tsc, || begin_to_connect().and_then(host::finish).map_err(Fatal::Connect))
}

/// A panic ends PID 1, and so the machine by a kernel panic, which the host sees; this says why.
fn log_panic(panic: &PanicHookInfo<'_>) {
    if let Ok(log) = Log::open() {
        log.panic(panic);
    }
}

fn end_machine() -> i32 {
    rustix::fs::sync();
    let _failed = rustix::system::reboot(RebootCommand::PowerOff);
    1
}

/// Without a console the kernel starts PID 1 with no standard streams. Commands get theirs by
/// `dup2`, which needs every other descriptor to be above them.
fn occupy_standard_streams() -> Result<(), Fatal> {
    let path = "/dev/null";
    loop {
        let file = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|source| Fatal::Open { path, source })?;
        if file.as_raw_fd() > 2 {
            return Ok(());
        }
        // Stays open as long as the machine runs.
        std::mem::forget(file);
    }
}

fn raise_open_files() -> Result<(), Errno> {
    let limit = Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) };
    rustix::process::setrlimit(Resource::Nofile, limit)
}

/// Whether the announcement was asked for, and so made.
fn announce_if_asked(log: &Log) -> Result<bool, Fatal> {
    let path = "/proc/cmdline";
    let open_error = |source| Fatal::Open { path, source };
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(open_error)?;
    // The kernel's command line has at most 2,048 bytes on x86.
    let mut line = [0; 2048];
    let length = rustix::io::read(file, &mut line).map_err(open_error)?;
    let mut words = line.get(..length).unwrap_or_default().split(u8::is_ascii_whitespace);
    let asked = words.any(|word| word == ANNOUNCE);
    if asked {
        log.announce(ANNOUNCEMENT);
    }
    Ok(asked)
}

/// The standard streams may be closed yet, and their places must stay free for them.
fn begin_to_connect() -> Result<OwnedFd, Errno> {
    let control = Vsock.connect(cloister_protocol::CONTROL_PORT)?;
    rustix::io::fcntl_dupfd_cloexec(&control, 3)
}

/// There is no host to serve; the machine was only to show that it gets here.
fn stay_up() -> Result<OwnedFd, Fatal> {
    let children = sys::child_signals().map_err(ServeError::Children)?;
    loop {
        while reaper::next().is_some() {}
        host::wait_readable(&children).map_err(ServeError::Poll)?;
        let mut told = [0; 128];
        let _empty = rustix::io::read(&children, &mut told);
    }
}
