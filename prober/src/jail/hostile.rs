//! What a program that was taken over can do to its host: hostile bytes on the control socket, and an end by the
//! real program's own handler.

use std::process::ExitCode;

use cloister_vmm::control::{CONTROL_FD, Event, MAX_MESSAGE};

use super::Place;
use crate::calls::{self, call};
use crate::wire::{Act, Said, Stage};

/// Sends it. The host must take it for what it is, and end this process.
pub(super) fn send(place: &impl Place, act: Act) {
    let message = postcard::to_allocvec(&Event::Paused).unwrap_or_default();
    let bytes = match act {
        Act::SendTooLong => vec![0; MAX_MESSAGE + 1],
        Act::SendNoise => vec![0xff; 64],
        Act::SendTail => [message.as_slice(), b"tail"].concat(),
        Act::SendDescriptor => {
            calls::send_with_descriptor(CONTROL_FD, &message, 0).ok();
            return;
        }
        Act::SendEnd => {
            call!(libc::SYS_shutdown, CONTROL_FD, libc::SHUT_RDWR).ok();
            return;
        }
        Act::Attack | Act::Stay | Act::Die => return place.say(&Said::Done),
    };
    call!(libc::SYS_write, CONTROL_FD, bytes.as_ptr(), bytes.len()).ok();
}

/// Makes a call that the filter refuses, as a bug in the real program would, with that program's handler.
pub(super) fn die(place: &impl Place, stage: Stage) -> ExitCode {
    let confined = match stage {
        Stage::Serving => cloister_file_server::sys::install_trap_handler(),
        _ => cloister_vmm::sys::install_trap_handler(),
    };
    if confined.and_then(|()| place.confine(stage)).is_ok() {
        call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0).ok();
    }
    ExitCode::SUCCESS
}
