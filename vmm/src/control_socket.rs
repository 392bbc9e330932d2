//! The vmm's end of the control socket: packets to messages and back.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;

use crate::control::{Command, Event, MAX_DETAIL, MAX_MESSAGE};
use crate::exit::Exit;
use crate::sys;

/// Why the control socket can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Not started by the host.
    #[error(
        "no control socket on descriptor {fd}: cloister-vmm is started by cloister, not by hand"
    )]
    NotThere {
        /// Where it should have been.
        fd: RawFd,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A socket of another kind.
    #[error(
        "descriptor {fd} is no seqpacket socket: cloister-vmm is started by cloister, not by hand"
    )]
    WrongKind {
        /// The descriptor.
        fd: RawFd,
    },
    /// The host closed its end.
    #[error("the host closed the control socket")]
    Closed,
    /// A packet that is no message.
    #[error("control message of {bytes} bytes can't be decoded")]
    Garbled {
        /// Its length.
        bytes: usize,
    },
    /// A message with the wrong descriptors.
    #[error("control message {message} needs {want} descriptors and has {got}")]
    Descriptors {
        /// The variant.
        message: &'static str,
        /// What it needs.
        want: usize,
        /// What came.
        got: usize,
    },
    /// Not a message for now.
    #[error("control message {message} is not allowed at this point")]
    Unexpected {
        /// The variant.
        message: &'static str,
    },
    /// The socket failed.
    #[error("control socket")]
    Socket(#[source] io::Error),
}

/// The vmm's end.
#[derive(Debug)]
pub struct ControlSocket {
    // A datagram socket to the standard library; what matters is that packets stay whole.
    socket: UnixDatagram,
}

impl ControlSocket {
    /// Takes over the descriptor that the host left for us.
    ///
    /// # Errors
    /// There is none, or it is something else.
    pub fn inherit(fd: RawFd) -> Result<Self, ControlError> {
        let owned = sys::inherited(fd).map_err(|source| ControlError::NotThere { fd, source })?;
        if !sys::is_seqpacket(&owned).unwrap_or(false) {
            return Err(ControlError::WrongKind { fd });
        }
        Ok(Self { socket: UnixDatagram::from(owned) })
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// The host is gone, or what it sent is no message.
    pub fn receive(&self) -> Result<(Command, Vec<OwnedFd>), ControlError> {
        // One byte more than allowed, so that a longer packet can't pass as a shorter one.
        let mut buffer = [0; MAX_MESSAGE + 1];
        let (bytes, descriptors) = match sys::receive(&self.socket, &mut buffer) {
            Ok((0, _)) => return Err(ControlError::Closed),
            Ok(received) => received,
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => {
                return Err(ControlError::Closed);
            }
            Err(error) => return Err(ControlError::Socket(error)),
        };
        let garbled = ControlError::Garbled { bytes };
        let packet = buffer.get(..bytes).filter(|packet| packet.len() <= MAX_MESSAGE);
        let Some(packet) = packet else { return Err(garbled) };
        match postcard::take_from_bytes::<Command>(packet) {
            Ok((command, [])) => {
                check_descriptors(&command, descriptors.len())?;
                Ok((command, descriptors))
            }
            _ => Err(garbled),
        }
    }

    /// Sends a message; waits while the host has not read the ones before.
    ///
    /// # Errors
    /// The host is gone.
    pub fn send(&self, event: &Event) -> Result<(), ControlError> {
        let bytes = postcard::to_allocvec(event).map_err(|_| ControlError::Garbled { bytes: 0 })?;
        match self.socket.send(&bytes) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ControlError::Closed),
            Err(error) => Err(ControlError::Socket(error)),
        }
    }

    /// Sends the last message, its text cut to [`MAX_DETAIL`].
    pub fn send_exit(&self, exit: &Exit) {
        let mut exit = exit.clone();
        exit.detail.truncate(exit.detail.floor_char_boundary(MAX_DETAIL));
        // If the host is gone, the exit status says the same.
        self.send(&Event::Exited(exit)).ok();
    }
}

impl AsRawFd for ControlSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// The variant's name, for errors.
#[must_use]
pub fn name(command: &Command) -> &'static str {
    match command {
        Command::Start(_) | Command::StartShared(_) | Command::StartSavable(_) => "start",
        Command::Save | Command::SaveWhole => "save",
        Command::Fork(..) | Command::ForkSavable(..) => "fork",
        Command::Rehearse(_) => "rehearse",
        Command::Probe => "probe",
        Command::Prepare => "prepare",
        Command::Pause => "pause",
        Command::Resume => "resume",
        Command::Stop => "stop",
        Command::Stats => "stats",
        Command::Connect { .. } => "connect",
        Command::Accept { .. } => "accept",
        Command::Refuse { .. } => "refuse",
    }
}

fn check_descriptors(command: &Command, got: usize) -> Result<(), ControlError> {
    let want = match command {
        Command::Start(_) => 5,
        Command::StartShared(_) => 7,
        Command::StartSavable(spec) => 5 + 2 * usize::from(spec.shared),
        Command::Fork(spec, _) | Command::ForkSavable(spec, _) | Command::Rehearse(spec) => {
            4 + 2 * usize::from(spec.shared)
        }
        Command::SaveWhole => 2,
        Command::Save
        | Command::Probe
        | Command::Prepare
        | Command::Connect { .. }
        | Command::Accept { .. } => 1,
        _ => 0,
    };
    if got == want {
        Ok(())
    } else {
        Err(ControlError::Descriptors { message: name(command), want, got })
    }
}
