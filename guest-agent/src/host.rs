//! The way to the host: connections to its ports, and what it makes of this machine.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use cloister_protocol::message::Identity;
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::identity::{self, IdentityError};
use crate::sys;

/// The context id that every machine's host has.
const HOST_CID: u32 = 2;

/// How long the host may take to answer. It keeps the limits on starts and commands itself; the
/// kernel's own of two seconds would end a machine on a host that is merely busy.
const CONNECT_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Who makes connections to the host, and has the machine that is another. Tests have one on Unix sockets.
pub(crate) trait Host {
    /// Begins a connection to a port; the descriptor doesn't block. It is writable when the
    /// connection is made or has failed, and its socket error then tells which.
    fn connect(&self, port: u32) -> Result<OwnedFd>;

    /// Makes this machine another than the saved one from which it goes on.
    fn take_in(&self, identity: &Identity) -> std::result::Result<(), IdentityError>;
}

/// The real host, by vsock.
#[derive(Debug)]
pub(crate) struct Vsock;

impl Host for Vsock {
    fn connect(&self, port: u32) -> Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)?;
        sys::set_connect_limit(socket.as_fd(), CONNECT_LIMIT)?;
        match sys::connect_vsock(socket.as_fd(), HOST_CID, port) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error),
        }
    }

    fn take_in(&self, identity: &Identity) -> std::result::Result<(), IdentityError> {
        identity::take_in(identity)
    }
}

/// Waits until a connection that was begun is made.
pub(crate) fn finish(socket: OwnedFd) -> Result<OwnedFd> {
    wait(&socket, PollFlags::OUT)?;
    rustix::net::sockopt::socket_error(&socket)??;
    Ok(socket)
}

/// Waits until there is something to read.
pub(crate) fn wait_readable(file: &OwnedFd) -> Result<()> {
    wait(file, PollFlags::IN)
}

fn wait(file: &OwnedFd, wanted: PollFlags) -> Result<()> {
    let mut files = [PollFd::new(file, wanted)];
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut files, None)).map(|_| ())
}
