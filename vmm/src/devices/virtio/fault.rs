//! Whose fault it is that a device can't go on.

use std::io;

/// Why a device stopped working. The error says who is at fault.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The guest's driver broke the rules; only a reset by the driver helps.
    #[error("guest driver at fault")]
    Guest(#[from] QueueFault),
    /// A system call on the host failed.
    #[error("host at fault")]
    Host(#[from] io::Error),
}

/// What a driver did wrong with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueFault {
    /// Not made ready before DRIVER_OK.
    #[error("a queue was not made ready")]
    NotReady,
    /// Zero, not a power of two, or above the maximum.
    #[error("queue size {size} is not a power of two from 1 to {max}")]
    Size {
        /// What the driver chose.
        size: u16,
        /// What the device offers.
        max: u16,
    },
    /// An area of the queue is misaligned, at address 0 or not in RAM.
    #[error("queue area at {address:#x} is misaligned or not in RAM")]
    Area {
        /// Where the driver put it.
        address: u64,
    },
    /// Two areas of the queue overlap.
    #[error("the queue's areas overlap")]
    AreasOverlap,
    /// The available index ran ahead of the queue by more than its size.
    #[error("the available index jumped")]
    AvailableIndex,
    /// A head or next index is not in the descriptor table.
    #[error("descriptor index {index} is out of the table")]
    DescriptorIndex {
        /// The index.
        index: u16,
    },
    /// The chain has more descriptors than the queue: it loops.
    #[error("the descriptor chain loops")]
    Loop,
    /// A descriptor of no bytes.
    #[error("a descriptor has length 0")]
    ZeroLength,
    /// A descriptor is not wholly in RAM.
    #[error("descriptor of {length} bytes at {address:#x} is not in RAM")]
    NotInMemory {
        /// Where the descriptor points.
        address: u64,
        /// Its length.
        length: u32,
    },
    /// The chain is longer than one of the device may be ([`super::Device::MAX_CHAIN_BYTES`]).
    #[error("the descriptor chain is longer than one of this device may be")]
    ChainBytes,
    /// Indirect descriptors were not negotiated.
    #[error("indirect descriptor without the feature")]
    Indirect,
    /// A device-readable descriptor after a device-writable one, or a kind that the queue never has.
    #[error("a descriptor has the wrong direction")]
    Direction,
    /// The chain can't hold what the queue's protocol puts there.
    #[error("the buffer is too small")]
    TooSmall,
}
