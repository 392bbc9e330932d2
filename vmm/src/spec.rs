//! What a virtual machine is to be: plain data, checked once before anything is built.

use serde::{Deserialize, Serialize};

pub use crate::extents::{EXTENT_HEAD_BYTES, ExtentError, Extents, MAX_EXTENT_BYTES, extent_head};
pub use crate::working_set::WorkingSet;

/// Most vCPUs of one machine: what the APIC id space and the boot tables here are laid out for.
pub const MAX_VCPUS: u8 = 32;
/// Least guest memory: below it the guest kernel and the unpacked root no longer fit.
pub const MIN_MEMORY_MIB: u32 = 48;
/// Most guest memory (4 TiB): stops a typing error from becoming a petabyte mapping.
pub const MAX_MEMORY_MIB: u32 = 4 << 20;
/// Bytes of a host's fingerprint of itself, see [`SavedSpec`].
pub const FINGERPRINT_BYTES: usize = 32;
/// Longest extra command line, in bytes: the kernel's own limit (2048) less what the vmm adds.
pub const MAX_EXTRA_CMDLINE: usize = 1024;

/// Slots of the bounce area between the device of shared directories and the file server. The file
/// server has the same number and its reason (`limits` there); a test of the host compares them.
pub const SHARE_SLOTS: u32 = 18;
/// Bytes of one slot: the longest request or reply, 1 MiB of data and what goes with it.
pub const SHARE_SLOT_BYTES: usize = (1 << 20) + (4 << 10);

/// A virtual machine's shape. Comes from the host in [`crate::control::Command::Start`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// Number of vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Guest memory in MiB, [`MIN_MEMORY_MIB`] to [`MAX_MEMORY_MIB`]; the memory descriptor has
    /// exactly this size.
    pub memory_mib: u32,
    /// Appended to the vmm's own kernel command line; printable ASCII, at most
    /// [`MAX_EXTRA_CMDLINE`] bytes.
    pub extra_cmdline: String,
}

/// A machine that is to be saved, or to go on from a saved one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSpec {
    /// Its shape.
    pub vm: VmSpec,
    /// What the host says of itself: its kernel, its processor, these programs. A machine goes on only
    /// where the same was said as when it was saved.
    pub fingerprint: [u8; FINGERPRINT_BYTES],
    /// Whether it has the device of shared directories. That of a template's machine has no file server behind it: the
    /// guest may find it and not use it.
    pub shared: bool,
}

/// Why a [`VmSpec`] is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The vCPU count is out of range.
    #[error("{got} vCPUs: must be 1 to {MAX_VCPUS}")]
    Vcpus {
        /// What was asked for.
        got: u8,
    },
    /// The memory size is out of range.
    #[error("{got} MiB of memory: must be {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB")]
    Memory {
        /// What was asked for, in MiB.
        got: u32,
    },
    /// Pages are listed that there are not, or more than there may be.
    #[error("list of a saved machine's pages: names some that there are not, or too many")]
    WorkingSet,
    /// The extra command line is too long or holds something that is not printable ASCII.
    #[error("extra kernel command line: must be at most {MAX_EXTRA_CMDLINE} printable characters")]
    Cmdline,
}

impl VmSpec {
    /// Checks every bound; all code after it relies on them.
    ///
    /// # Errors
    /// The first bound that does not hold.
    pub fn validate(&self) -> Result<(), SpecError> {
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(SpecError::Vcpus { got: self.vcpus });
        }
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&self.memory_mib) {
            return Err(SpecError::Memory { got: self.memory_mib });
        }
        let printable = self.extra_cmdline.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if self.extra_cmdline.len() > MAX_EXTRA_CMDLINE || !printable {
            return Err(SpecError::Cmdline);
        }
        Ok(())
    }

    /// Guest memory in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.memory_mib) << 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> VmSpec {
        VmSpec { vcpus: 1, memory_mib: 128, extra_cmdline: String::new() }
    }

    #[test]
    fn bounds_are_inclusive() {
        for vcpus in [1, MAX_VCPUS] {
            assert_eq!(VmSpec { vcpus, ..spec() }.validate(), Ok(()));
        }
        for vcpus in [0, MAX_VCPUS + 1, 255] {
            assert_eq!(VmSpec { vcpus, ..spec() }.validate(), Err(SpecError::Vcpus { got: vcpus }));
        }
        for memory_mib in [MIN_MEMORY_MIB, MAX_MEMORY_MIB] {
            assert_eq!(VmSpec { memory_mib, ..spec() }.validate(), Ok(()));
        }
        for memory_mib in [0, 1, MIN_MEMORY_MIB - 1, MAX_MEMORY_MIB + 1] {
            assert!(VmSpec { memory_mib, ..spec() }.validate().is_err());
        }
    }

    #[test]
    fn command_line_is_printable_and_short() {
        for bad in ["a\nb", "a\0b", "ä"] {
            let spec = VmSpec { extra_cmdline: bad.into(), ..spec() };
            assert_eq!(spec.validate(), Err(SpecError::Cmdline));
        }
        let long = VmSpec { extra_cmdline: "x".repeat(MAX_EXTRA_CMDLINE + 1), ..spec() };
        assert_eq!(long.validate(), Err(SpecError::Cmdline));
    }
}
