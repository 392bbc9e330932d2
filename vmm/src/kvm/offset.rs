//! The distance of a vCPU's time-stamp counter from the host's (`KVM_VCPU_TSC_OFFSET`, Linux 5.16).
//!
//! Writing the counter itself is not enough: KVM takes a value that is within a second of what it expects for
//! an attempt to bring vCPUs together, and keeps its own instead.
#![expect(unsafe_code, reason = "kvm-ioctls has no attributes of vCPUs on x86")]

use std::os::fd::AsRawFd;

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_device_attr};
use kvm_ioctls::{Error as Errno, VcpuFd};

use super::KvmError;

/// `KVM_SET_DEVICE_ATTR`, `KVM_GET_DEVICE_ATTR` and `KVM_HAS_DEVICE_ATTR` of the KVM API.
const KVM_SET_DEVICE_ATTR: libc::Ioctl = 0x4018_aee1;
const KVM_GET_DEVICE_ATTR: libc::Ioctl = 0x4018_aee2;
const KVM_HAS_DEVICE_ATTR: libc::Ioctl = 0x4018_aee3;

/// One of the three about the distance, which lies at `place`.
fn attribute(vcpu: &VcpuFd, request: libc::Ioctl, place: &mut u64) -> Result<(), Errno> {
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: (&raw mut *place).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: the attribute is a whole structure that names `place`, an exclusive borrow of the eight bytes
    // that KVM reads or writes for this attribute.
    let result = unsafe { libc::ioctl(vcpu.as_raw_fd(), request, &raw const attribute) };
    if result == 0 { Ok(()) } else { Err(Errno::last()) }
}

/// Checks that this KVM has the attribute.
///
/// # Errors
/// It has not.
pub(super) fn check(vcpu: &VcpuFd) -> Result<(), KvmError> {
    attribute(vcpu, KVM_HAS_DEVICE_ATTR, &mut 0)
        .map_err(|_| KvmError::Missing { name: "KVM_VCPU_TSC_OFFSET (Linux 5.16)" })
}

/// Reads the distance.
///
/// # Errors
/// The ioctl's.
pub(super) fn read(vcpu: &VcpuFd) -> Result<u64, KvmError> {
    let mut value = 0;
    attribute(vcpu, KVM_GET_DEVICE_ATTR, &mut value)
        .map_err(KvmError::ioctl("KVM_GET_DEVICE_ATTR"))?;
    Ok(value)
}

/// Sets the distance.
///
/// # Errors
/// The ioctl's.
pub(super) fn write(vcpu: &VcpuFd, value: u64) -> Result<(), KvmError> {
    let mut value = value;
    attribute(vcpu, KVM_SET_DEVICE_ATTR, &mut value).map_err(KvmError::ioctl("KVM_SET_DEVICE_ATTR"))
}
