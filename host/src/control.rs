//! The host's end of the control socket: one postcard message per packet, with descriptors.
//!
//! The format is [`cloister_vmm::control`]'s. What comes in is hostile once the guest runs: a packet
//! that is too long, not a message, or that carries descriptors ends the machine.
#![expect(unsafe_code, reason = "registering a descriptor with the runtime is unsafe there")]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cloister_vmm::control::{Command, Event, MAX_DESCRIPTORS, MAX_MESSAGE};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Why the control socket can't be used any further.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket pair could not be made or registered.
    #[error("can't make the control socket")]
    Create(#[source] io::Error),
    /// A packet could not be sent.
    #[error("can't send on the control socket")]
    Send(#[source] io::Error),
    /// A packet could not be received.
    #[error("can't receive on the control socket")]
    Receive(#[source] io::Error),
    /// A packet is longer than any message.
    #[error("cloister-vmm sent a packet of more than {MAX_MESSAGE} bytes")]
    TooLong,
    /// A packet came with descriptors, which none from the vmm does.
    #[error("cloister-vmm sent descriptors, which it never does")]
    Descriptors,
    /// A packet is not a message.
    #[error("cloister-vmm sent a packet of {length} bytes that is not a message")]
    Malformed {
        /// The packet's length.
        length: usize,
        /// What the encoding found.
        #[source]
        source: postcard::Error,
    },
    /// A packet goes on after its message.
    #[error("cloister-vmm sent {extra} bytes after a message")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// A message of the host's own can't be encoded, or is over the limit.
    #[error("the host's own message does not fit a packet")]
    Unencodable,
    /// The vmm does not read its commands, and the queue of them is full.
    #[error("cloister-vmm does not read its commands")]
    NotReading,
}

/// A command, encoded, with its descriptors; these are closed once it is sent.
#[derive(Debug)]
pub struct Packet {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Packet {
    /// Encodes `command`.
    ///
    /// # Errors
    /// It is over the limits of a packet.
    pub fn new(command: &Command, descriptors: Vec<OwnedFd>) -> Result<Self, ControlError> {
        let bytes = postcard::to_allocvec(command).map_err(|_| ControlError::Unencodable)?;
        if bytes.len() > MAX_MESSAGE || descriptors.len() > MAX_DESCRIPTORS {
            return Err(ControlError::Unencodable);
        }
        Ok(Self { bytes, descriptors })
    }
}

/// The host's end of one vmm's control socket.
#[derive(Debug)]
pub struct ControlSocket {
    socket: AsyncFd<OwnedFd>,
}

impl ControlSocket {
    /// A connected pair: the host's end and the vmm's, which blocks and closes on exec.
    ///
    /// # Errors
    /// The system refuses.
    pub fn pair() -> Result<(Self, OwnedFd), ControlError> {
        let (host, vmm) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|errno| ControlError::Create(errno.into()))?;
        Ok((Self::of_host(host)?, vmm))
    }

    /// The host's end of a pair that another process made.
    ///
    /// # Errors
    /// The system refuses.
    pub fn of_host(host: OwnedFd) -> Result<Self, ControlError> {
        rustix::io::ioctl_fionbio(&host, true)
            .map_err(|errno| ControlError::Create(errno.into()))?;
        // SAFETY: the descriptor is open and moves into the AsyncFd, which never gives it away
        // again, so it stays open and the same for as long as it is registered.
        let registered = unsafe { AsyncFd::register(host) };
        let socket = registered.map_err(|refused| ControlError::Create(refused.into_parts().1))?;
        Ok(Self { socket })
    }

    /// Sends a packet, waiting for room. Nothing is sent when the future is dropped before its end.
    ///
    /// # Errors
    /// The vmm has gone, or the system refuses.
    pub async fn send(&self, packet: &Packet) -> Result<(), ControlError> {
        self.socket
            .async_io(Interest::WRITABLE, |socket| send(socket.as_fd(), packet))
            .await
            .map_err(ControlError::Send)
    }

    /// Receives the next event; `None` when the vmm has closed its end. No event is lost when the
    /// future is dropped before its end.
    ///
    /// # Errors
    /// The packet breaks the format; nothing further from this vmm is to be believed.
    pub async fn receive(&self) -> Result<Option<Event>, ControlError> {
        let mut buffer = [0; MAX_MESSAGE];
        let (length, flags) = self
            .socket
            .async_io(Interest::READABLE, |socket| receive(socket.as_fd(), &mut buffer))
            .await
            .map_err(ControlError::Receive)?;
        if flags.contains(ReturnFlags::CTRUNC) {
            return Err(ControlError::Descriptors);
        }
        if flags.contains(ReturnFlags::TRUNC) {
            return Err(ControlError::TooLong);
        }
        match buffer.get(..length) {
            None => Err(ControlError::TooLong),
            Some([]) => Ok(None),
            Some(packet) => decode(packet).map(Some),
        }
    }
}

/// One packet's message; nothing may follow it.
fn decode(packet: &[u8]) -> Result<Event, ControlError> {
    let (event, rest) = postcard::take_from_bytes(packet)
        .map_err(|source| ControlError::Malformed { length: packet.len(), source })?;
    if rest.is_empty() { Ok(event) } else { Err(ControlError::TrailingBytes { extra: rest.len() }) }
}

fn send(socket: BorrowedFd<'_>, packet: &Packet) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = packet.descriptors.iter().map(AsFd::as_fd).collect();
    // `Packet::new` has bounded the count, so there is always room.
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // NOSIGNAL: a dead vmm is an error here, not a SIGPIPE for whoever uses the library.
    sendmsg(socket, &[IoSlice::new(&packet.bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, ReturnFlags)> {
    loop {
        // Without room for ancillary data the kernel drops descriptors and says so by CTRUNC.
        let mut none = RecvAncillaryBuffer::default();
        let mut parts = [IoSliceMut::new(buffer)];
        match recvmsg(socket, &mut parts, &mut none, RecvFlags::CMSG_CLOEXEC) {
            // The vmm ended with unread commands. It is said once; what it sent before its end is
            // still in the queue, and the exit report is what matters most.
            Err(Errno::CONNRESET | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(message) => return Ok((message.bytes, message.flags)),
        }
    }
}

#[cfg(test)]
#[path = "control_test.rs"]
mod tests;
