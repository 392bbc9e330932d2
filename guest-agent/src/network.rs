//! The machine's name and its only network interface, the loopback.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::sys;

/// What `uname -n` says.
const HOST_NAME: &[u8] = b"cloister";

/// A network step that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("can't set the host name")]
    Name(#[source] Errno),
    #[error("can't bring the loopback interface up")]
    Loopback(#[source] Errno),
}

/// Names the machine and brings its loopback up.
pub(crate) fn set_up() -> Result<(), NetworkError> {
    rustix::system::sethostname(HOST_NAME).map_err(NetworkError::Name)?;
    // Any socket of the family will do to reach the interface.
    rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| sys::bring_loopback_up(socket.as_fd()))
        .map_err(NetworkError::Loopback)
}
