//! The fake's end of the control socket, blocking and trusting.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
use std::process::exit;
use std::sync::Arc;

use cloister_vmm::control::{Command, Event, MAX_DESCRIPTORS};
use cloister_vmm::exit::ExitCode;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

#[derive(Clone)]
pub(crate) struct Control {
    socket: Arc<OwnedFd>,
}

impl Control {
    /// Descriptor 3.
    #[expect(unsafe_code, reason = "takes over a descriptor that the process was started with")]
    pub(crate) fn inherited() -> Self {
        // SAFETY: the host left it for us, and nothing else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(3) };
        Self { socket: Arc::new(socket) }
    }

    /// The next command; `None` when the host has closed its end.
    pub(crate) fn receive(&self) -> Option<(Command, Vec<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = [0; 16 << 10];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let length = match recvmsg(&self.socket, &mut parts, &mut ancillary, flags) {
            Ok(message) if message.bytes > 0 => message.bytes,
            _ => return None,
        };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        Some((postcard::from_bytes(&buffer[..length]).expect("a command"), descriptors))
    }

    pub(crate) fn send(&self, event: &Event) {
        self.send_bytes(&postcard::to_allocvec(event).expect("an event"));
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8]) {
        let mut none = SendAncillaryBuffer::default();
        // The host may be gone; reading tells.
        sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut none, SendFlags::NOSIGNAL).ok();
    }

    pub(crate) fn send_with_descriptor(&self, event: &Event) {
        let bytes = postcard::to_allocvec(event).expect("an event");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let rights = [self.socket.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&rights)));
        sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)
            .expect("a packet sent");
    }

    /// Connects without end and never reads the answers.
    pub(crate) fn flood(&self) {
        for id in 0..u32::MAX {
            self.send(&Event::Incoming { id, port: 77 });
        }
    }

    /// Reads commands and does nothing else.
    pub(crate) fn until_closed(&self) -> ! {
        while self.receive().is_some() {}
        exit(i32::from(ExitCode::HostGone as u8))
    }
}
