//! Devices that the guest sees, one file each.

pub mod serial;

pub mod generation;

pub mod power;

pub mod virtio;
