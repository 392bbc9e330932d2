//! Messages between the supervisor and its own processes before they become programs: some bytes,
//! and at most one descriptor.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, IoSlice, IoSliceMut, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Receives a message into `bytes`: how long it is, and its descriptor. 0: all senders are gone.
pub(crate) fn receive(socket: impl AsFd, bytes: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut room);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut parts, &mut ancillary, flags)
    })?;
    let descriptor = ancillary.drain().find_map(|one| match one {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((message.bytes, descriptor))
}

/// Sends a message. Does not allocate.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut room);
    let descriptors = descriptor.as_slice();
    let rights = SendAncillaryMessage::ScmRights(descriptors);
    if !descriptors.is_empty() && !ancillary.push(rights) {
        return Err(Errno::NOBUFS);
    }
    let part = [IoSlice::new(bytes)];
    rustix::net::sendmsg(socket, &part, &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}
