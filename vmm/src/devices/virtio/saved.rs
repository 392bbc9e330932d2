//! A device's transport as plain data: what of it goes into a saved machine, and what is wrong with it there.
//!
//! Nothing in it is believed: a state goes through the checks of a live driver's writes, and its queues through
//! the one validator that makes queues ([`super::queue_config::QueueConfig::validate`]).

use serde::{Deserialize, Serialize};

use super::fault::QueueFault;

/// One device's transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// The device id (VIRTIO 1.2, section 5).
    pub id: u32,
    /// The status register.
    pub status: u32,
    /// What the driver accepted.
    pub driver_features: u64,
    /// Which half of the device's features is read.
    pub device_features_select: u32,
    /// Which half of the driver's features is written.
    pub driver_features_select: u32,
    /// Which queue is configured.
    pub queue_select: u32,
    /// Interrupts that the driver has not acknowledged.
    pub interrupt_status: u32,
    /// Its queues.
    pub queues: Vec<QueueState>,
}

/// One queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// The driver's choice of size.
    pub size: u16,
    /// The driver is done with its configuration.
    pub ready: bool,
    /// Descriptor table.
    pub descriptors: u64,
    /// Driver area (available ring).
    pub driver_area: u64,
    /// Device area (used ring).
    pub device_area: u64,
    /// The next entry of the available ring that the device looks at.
    pub next_available: u16,
    /// The next entry of the used ring that the device writes.
    pub next_used: u16,
}

/// Why a device can't be put into a saved state, or a state can't be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateFault {
    /// It is another device's.
    #[error("state of device {got}, where device {want} is")]
    Device {
        /// Whose it is.
        got: u32,
        /// Which it should be.
        want: u32,
    },
    /// No driver can bring a device to this.
    #[error("status {status:#x} is none that a driver can reach")]
    Status {
        /// The register.
        status: u32,
    },
    /// Features that the device does not have, or not those that it must have.
    #[error("features {features:#x} can't have been agreed on")]
    Features {
        /// What the driver is said to have accepted.
        features: u64,
    },
    /// Another number of queues.
    #[error("{got} queues, where the device has {want}")]
    Queues {
        /// In the state.
        got: usize,
        /// Of the device.
        want: usize,
    },
    /// Unknown interrupts.
    #[error("interrupt status {status:#x} has unknown bits")]
    Interrupts {
        /// The register.
        status: u32,
    },
    /// A queue is not one that could run.
    #[error(transparent)]
    Queue(#[from] QueueFault),
    /// The device holds requests that somebody works on.
    #[error("device {id} has requests under way")]
    Busy {
        /// Which.
        id: u32,
    },
}
