//! The generation id (Microsoft's "Virtual Machine Generation ID", version 1.0): 128 random bits in guest memory that are
//! others whenever a machine goes on from a saved one. The guest's kernel then makes its random numbers anew, before any
//! program of the guest is asked to.

use kvm_ioctls::VmFd;
use std::io;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::virtio::sys;
use crate::kvm::{self, KvmError};
use crate::x86_64::layout;

/// Bytes of an id.
const ID_BYTES: usize = 16;

/// Gives the machine with this memory an id that no other has.
///
/// # Errors
/// No random bytes, or no such memory.
pub fn renew(memory: &GuestMemoryMmap) -> io::Result<()> {
    let mut id = [0; ID_BYTES];
    sys::fill_random(&mut id)?;
    memory.write_slice(&id, GuestAddress(layout::GENERATION_ID)).map_err(io::Error::other)
}

/// Tells the guest of a new id, by an edge of its interrupt line. Comes when the interrupt controllers are in their saved
/// state, and before the guest runs.
///
/// # Errors
/// The ioctl's.
pub fn announce(vm: &VmFd) -> Result<(), KvmError> {
    kvm::pulse(vm, layout::GENERATION_GSI)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    #[test]
    fn each_machine_has_an_id_of_its_own() {
        let size = 2 << 20;
        let memory = memory::map(&memory::sealed_file(size), size).unwrap();
        let id = || memory.read_obj::<u128>(GuestAddress(layout::GENERATION_ID)).unwrap();
        let mut seen = vec![id()];
        for _ in 0..4 {
            renew(&memory).unwrap();
            assert!(!seen.contains(&id()));
            seen.push(id());
        }
        let behind = GuestAddress(layout::GENERATION_ID + ID_BYTES as u64);
        assert_eq!(memory.read_obj::<u64>(behind).unwrap(), 0);
    }
}
