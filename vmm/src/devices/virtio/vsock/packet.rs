//! The header of a vsock packet (VIRTIO 1.2, section 5.10.6): copied out of guest memory once.

use crate::control::{GUEST_CID, HOST_CID};

/// Bytes of a header, as the wire counts.
pub const HEADER_LENGTH: u32 = 44;
/// Bytes of a header.
pub const HEADER_SIZE: usize = HEADER_LENGTH as usize;
/// Most data that is read from a stream at once: what Linux puts in a packet at most, too.
pub const MAX_DATA: usize = 64 << 10;
/// The one socket type here: a stream of bytes in order.
pub const TYPE_STREAM: u16 = 1;
/// Shutdown flag: the sender will not receive any more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// Shutdown flag: the sender will not send any more.
pub const SHUTDOWN_SEND: u32 = 2;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Wants to connect.
    Request,
    /// Lets it.
    Response,
    /// Ends a connection, or says that there is none.
    Reset,
    /// Ends one or both directions.
    Shutdown,
    /// Data.
    Data,
    /// Tells the credit.
    CreditUpdate,
    /// Asks for it.
    CreditRequest,
}

impl Operation {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::Data => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }

    /// The operation with this number.
    #[must_use]
    pub const fn from_code(code: u16) -> Option<Self> {
        Some(match code {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// The two ports of a connection; the context ids are always the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// On the host's side.
    pub host_port: u32,
    /// On the guest's side.
    pub guest_port: u32,
}

/// A header's fields, unchecked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The sender's context id.
    pub source_cid: u64,
    /// The receiver's context id.
    pub destination_cid: u64,
    /// The sender's port.
    pub source_port: u32,
    /// The receiver's port.
    pub destination_port: u32,
    /// Bytes of data after the header.
    pub length: u32,
    /// Socket type.
    pub socket_type: u16,
    /// Operation.
    pub operation: u16,
    /// Flags of the operation.
    pub flags: u32,
    /// The sender's buffer for this connection.
    pub buffer: u32,
    /// How much the sender's side has taken out of that buffer since the start, modulo 2^32.
    pub forwarded: u32,
}

impl Header {
    /// The fields of a header as it lies in memory.
    #[must_use]
    pub fn parse(bytes: &[u8; HEADER_SIZE]) -> Self {
        Self {
            source_cid: u64::from_le_bytes(field(bytes, 0)),
            destination_cid: u64::from_le_bytes(field(bytes, 8)),
            source_port: u32::from_le_bytes(field(bytes, 16)),
            destination_port: u32::from_le_bytes(field(bytes, 20)),
            length: u32::from_le_bytes(field(bytes, 24)),
            socket_type: u16::from_le_bytes(field(bytes, 28)),
            operation: u16::from_le_bytes(field(bytes, 30)),
            flags: u32::from_le_bytes(field(bytes, 32)),
            buffer: u32::from_le_bytes(field(bytes, 36)),
            forwarded: u32::from_le_bytes(field(bytes, 40)),
        }
    }

    /// The header as it lies in memory.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        set_field(&mut bytes, 0, self.source_cid.to_le_bytes());
        set_field(&mut bytes, 8, self.destination_cid.to_le_bytes());
        set_field(&mut bytes, 16, self.source_port.to_le_bytes());
        set_field(&mut bytes, 20, self.destination_port.to_le_bytes());
        set_field(&mut bytes, 24, self.length.to_le_bytes());
        set_field(&mut bytes, 28, self.socket_type.to_le_bytes());
        set_field(&mut bytes, 30, self.operation.to_le_bytes());
        set_field(&mut bytes, 32, self.flags.to_le_bytes());
        set_field(&mut bytes, 36, self.buffer.to_le_bytes());
        set_field(&mut bytes, 40, self.forwarded.to_le_bytes());
        bytes
    }

    /// A packet without data to the guest on this connection.
    #[must_use]
    pub fn to_guest(key: Key, operation: Operation) -> Self {
        Self {
            source_cid: HOST_CID,
            destination_cid: GUEST_CID,
            source_port: key.host_port,
            destination_port: key.guest_port,
            socket_type: TYPE_STREAM,
            operation: operation.code(),
            ..Self::default()
        }
    }

    /// The answer to a packet that belongs to no connection, with its addresses turned round.
    #[must_use]
    pub fn reset_for(&self) -> Self {
        Self {
            source_cid: self.destination_cid,
            destination_cid: self.source_cid,
            source_port: self.destination_port,
            destination_port: self.source_port,
            socket_type: self.socket_type,
            operation: Operation::Reset.code(),
            ..Self::default()
        }
    }

    /// The connection to which a packet from the guest belongs.
    #[must_use]
    pub fn key_from_guest(&self) -> Key {
        Key { host_port: self.destination_port, guest_port: self.source_port }
    }
}

/// `start + N` is at most [`HEADER_SIZE`] in every call above.
fn field<const N: usize>(bytes: &[u8; HEADER_SIZE], start: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes.get(start + index).copied().unwrap_or(0))
}

fn set_field<const N: usize>(bytes: &mut [u8; HEADER_SIZE], start: usize, value: [u8; N]) {
    for (target, byte) in bytes.iter_mut().skip(start).zip(value) {
        *target = byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_header_survives() {
        let bytes: [u8; HEADER_SIZE] = std::array::from_fn(|index| u8::try_from(index).unwrap());
        let header = Header::parse(&bytes);
        assert_eq!(header.to_bytes(), bytes);
        assert_eq!(header.source_cid, 0x0706_0504_0302_0100);
        assert_eq!(header.socket_type, 0x1d1c);
        assert_eq!(header.operation, 0x1f1e);
        assert_eq!(header.forwarded, 0x2b2a_2928);
    }

    #[test]
    fn operations_have_the_numbers_of_the_specification() {
        let known = (0..=u16::MAX).filter_map(|code| Some((code, Operation::from_code(code)?)));
        let known: Vec<_> = known.collect();
        assert_eq!(known.len(), 7);
        assert!(known.iter().all(|(code, operation)| operation.code() == *code));
    }
}
