//! Messages between the host and the file server, one per packet on a seqpacket Unix socket, and those
//! between the vmm and the file server on a second one.
//!
//! Each message of the host is its postcard encoding, at most [`MAX_MESSAGE`] bytes, with the
//! descriptors that its variant names (`SCM_RIGHTS`) and no others. The first is [`Command::Start`].
//!
//! The vmm's are of fixed length: [`Job`] and [`Done`]. What they are about lies in the slot of the
//! bounce area that they name; the numbers themselves go through the kernel, so neither side can change
//! them once they are sent.

use std::io;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_CARRIED_NODES, MAX_CARRIED_OPEN, SEARCH_SECONDS};
use crate::spec::ShareSpec;

pub use crate::limits::MAX_STATE_BYTES;

/// The descriptor on which the server finds its end of the control socket.
pub const CONTROL_FD: i32 = 3;
/// The descriptor of `/proc/self/fd`, which the jail leaves. Through it a file that is known by a
/// descriptor without rights is opened for reading or writing.
pub const PROC_FD: i32 = 8;
/// Largest message, in bytes: a share with the longest name fits ten times.
pub const MAX_MESSAGE: usize = 2 << 10;
/// Most descriptors of one message: what [`Command::Start`] carries.
pub const MAX_DESCRIPTORS: usize = 2;

/// Host to file server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Serve the machine. Descriptors: the bounce area (a memory file of `SLOTS * SLOT_BYTES`, sealed
    /// against resizing); the socket to the vmm.
    Start,
    /// Serve one more share. Descriptor: its mount. Answer: [`Event::Added`] or [`Event::Refused`].
    Add(ShareSpec),
    /// Write down what the guest knows and has open, for another server to take up. The machine is paused and no
    /// request is under way. Descriptor: an empty memory file, to be written. Answer: [`Event::Saved`] or
    /// [`Event::NotSaved`]; the server serves on as before, either way.
    Save,
    /// Take up what another server wrote down. All shares are added, in the order in which that one had them, and
    /// nothing was requested yet. Descriptor: a memory file with the state, which is written over. Answer:
    /// [`Event::Restored`] or [`Event::NotRestored`], after which the server is of no use.
    Restore,
}

/// File server to host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// It is confined and serves.
    Ready,
    /// The share is served.
    Added,
    /// It is not; nothing has changed.
    Refused(Refusal),
    /// The state is in the file.
    Saved {
        /// Its length.
        bytes: u64,
    },
    /// It is not.
    NotSaved(Unsaved),
    /// The guest's files are known and open as they were.
    Restored,
    /// They are not.
    NotRestored(Unrestored),
}

/// Why what a guest knows and has open is not written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Unsaved {
    /// A request is under way, or came meanwhile.
    #[error("a request of the machine is under way")]
    Busy,
    /// The guest knows or has open more than a state may hold.
    #[error(
        "its machine knows more than {MAX_CARRIED_NODES} files, or has more than {MAX_CARRIED_OPEN} open"
    )]
    TooMany,
    /// Names were looked for too long.
    #[error("the names of its files were not found within {SEARCH_SECONDS} s")]
    TooSlow,
    /// A file that is in use could not be found again.
    #[error("in the share {share:?}, {path:?} {why}")]
    File {
        /// The share.
        share: String,
        /// What the system called the file, or the beginning of it.
        path: String,
        /// What is with it.
        why: Why,
    },
    /// The system refuses.
    #[error("it can't be written down (error {errno} of the system)")]
    System {
        /// The system's error.
        errno: i32,
    },
}

impl From<io::Error> for Unsaved {
    fn from(error: io::Error) -> Self {
        Self::System { errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
}

/// What is with a file that could not be found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Why {
    /// It has no name any more.
    #[error("is open and was removed")]
    Unlinked,
    /// Its path can't be carried.
    #[error("is in use, and its path is not UTF-8")]
    NotText,
    /// It has a name, and not in the share.
    #[error("is in use, and is not in the share under its name any more")]
    NotFound,
}

/// Why what another server wrote down is not taken up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Unrestored {
    /// Requests were served already, or a state was taken up.
    #[error("the file server has served already")]
    Late,
    /// It is no state.
    #[error("the state of the shares is damaged: {what}")]
    Damaged {
        /// What is wrong with it.
        what: String,
    },
    /// It is of other shares.
    #[error(
        "the state is not of these shares: name, kind, owner, order or the right to write differ"
    )]
    Shares,
    /// More than this server may have open.
    #[error("it has more files than can be open here: raise the limit (ulimit -n)")]
    TooMany,
    /// A file that is open is not there any more, or is something else.
    #[error("in the share {share:?}, {path:?} is open and can't be opened again")]
    Gone {
        /// The share.
        share: String,
        /// Its path in it, or the beginning.
        path: String,
    },
    /// A lock is not to be had any more.
    #[error("in the share {share:?}, {path:?} is locked by somebody else now")]
    Locked {
        /// The share.
        share: String,
        /// Its path in it, or the beginning.
        path: String,
    },
    /// The system refuses.
    #[error("the state of the shares can't be taken up (error {errno} of the system)")]
    System {
        /// The system's error.
        errno: i32,
    },
}

impl From<io::Error> for Unrestored {
    fn from(error: io::Error) -> Self {
        Self::System { errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
}

/// Why a share is not served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Its spec is out of bounds.
    #[error("its description is out of bounds")]
    Spec,
    /// There is one of this name.
    #[error("there is a share of this name already")]
    Name,
    /// There are too many.
    #[error("there are too many shares")]
    TooMany,
    /// It can't be opened or is not a directory.
    #[error("it can't be opened (error {errno} of the system)")]
    Open {
        /// The system's error.
        errno: i32,
    },
}

/// A request for the server: vmm to file server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// The slot that holds it, and that takes the reply.
    pub slot: u32,
    /// Its length.
    pub request_bytes: u32,
    /// How long a reply may be.
    pub reply_bytes: u32,
}

/// The end of a job: file server to vmm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The job's slot.
    pub slot: u32,
    /// The reply's length; 0: the request has none.
    pub reply_bytes: u32,
}

impl Job {
    /// Bytes of a message.
    pub const LEN: usize = 12;

    /// As it goes over the socket.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let words = [self.slot, self.request_bytes, self.reply_bytes];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// `None`: not of this length.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [slot, request_bytes, reply_bytes] = words(bytes)?;
        Some(Self { slot, request_bytes, reply_bytes })
    }
}

impl Done {
    /// Bytes of a message.
    pub const LEN: usize = 8;

    /// As it goes over the socket.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (place, word) in bytes.chunks_exact_mut(4).zip([self.slot, self.reply_bytes]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// `None`: not of this length.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [slot, reply_bytes] = words(bytes)?;
        Some(Self { slot, reply_bytes })
    }
}

/// Exactly this many numbers.
fn words<const N: usize>(bytes: &[u8]) -> Option<[u32; N]> {
    if bytes.len() != N * 4 {
        return None;
    }
    let mut words = [0; N];
    for (word, place) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes(place.try_into().ok()?);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let job = Job { slot: 1, request_bytes: 0x1234_5678, reply_bytes: u32::MAX };
        assert_eq!(Job::decode(&job.encode()), Some(job));
        let done = Done { slot: 17, reply_bytes: 16 };
        assert_eq!(Done::decode(&done.encode()), Some(done));
        for length in [0, 4, 7, 9, 11, 13, 16] {
            assert_eq!(Job::decode(&vec![0; length]), None);
            assert_eq!(Done::decode(&vec![0; length]), None);
        }
    }
}
