//! How many bytes of a TCP connection the other side has not acknowledged. No safe call of a library asks for it.
#![expect(unsafe_code, reason = "an ioctl that writes one number")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Bytes that were written and are not acknowledged; with a connection that was reset those that never were.
///
/// # Errors
/// It is no TCP connection.
pub(super) fn unacknowledged(socket: impl AsFd) -> io::Result<u64> {
    let mut count: libc::c_int = 0;
    // SAFETY: the descriptor is open while it is borrowed, and TIOCOUTQ of a socket (SIOCOUTQ) writes one int to where
    // the last argument points.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    u64::try_from(count).map_err(io::Error::other)
}
