//! Interrupt lines.

use std::sync::Arc;

use kvm_ioctls::VmFd;

use super::KvmError;
use crate::devices::virtio::Interrupt;
use crate::x86_64::layout;

/// A device's interrupt line, edge-triggered.
///
/// Not an event descriptor of KVM (`KVM_IRQFD`): for a line, unlike a message-signalled interrupt, that wakes a thread of the
/// kernel, and only that one the vCPU.
#[derive(Debug)]
pub struct Line {
    vm: Arc<VmFd>,
    gsi: u32,
}

impl Line {
    /// That of a virtio-mmio device.
    #[must_use]
    pub fn of_device(vm: &Arc<VmFd>, index: u32) -> Self {
        Self { vm: Arc::clone(vm), gsi: layout::VIRTIO_FIRST_GSI + index }
    }

    /// An edge of it.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn pulse(&self) -> Result<(), KvmError> {
        pulse(&self.vm, self.gsi)
    }
}

impl Interrupt for Line {
    fn signal(&self) {
        // Fails only of a VM that has no interrupt controller, and this one had it before it had a device.
        drop(self.pulse());
    }
}

/// An edge of an interrupt line.
///
/// # Errors
/// The ioctl's.
pub fn pulse(vm: &VmFd, gsi: u32) -> Result<(), KvmError> {
    let line = |high| vm.set_irq_line(gsi, high);
    line(true).and_then(|()| line(false)).map_err(KvmError::ioctl("KVM_IRQ_LINE"))
}
