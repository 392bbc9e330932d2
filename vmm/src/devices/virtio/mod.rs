//! Virtio devices behind virtio-mmio registers (VIRTIO 1.2, modern only).
//!
//! [`transport`] owns what every device has in common: status, features, queue registers,
//! interrupts. A [`device::Device`] says its facts, gets validated queues when the driver is ready
//! and gives them back when it is not. Everything that is read from the guest is copied once,
//! checked, then used; what a driver may not do is ignored and counted, or breaks the one device
//! until the driver resets it.

pub mod transport;

pub mod after;

pub mod registers;

pub mod offset;

pub mod device;

pub mod queue_config;

pub mod queue;

pub mod saved;

pub mod fault;

pub mod balloon;

pub mod rng;

pub mod rate;

pub mod fs;

pub mod vsock;

pub mod sys;

pub use after::{After, Interrupt};
pub use balloon::Balloon;
pub use device::Device;
pub use fault::Fault;
pub use fs::Fs;
pub use rng::Rng;
pub use transport::Transport;
pub use vsock::Vsock;

/// A device's register page as the bus sees it: any offset, any width, from any vCPU thread.
pub trait MmioDevice {
    /// A read; fills all of `data`.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// A write. What it leads to is for when the device's lock has been let go.
    fn write(&mut self, offset: u64, data: &[u8]) -> After;
    /// [`After::run`] said that messages could not be sent.
    fn lost(&mut self);
}
