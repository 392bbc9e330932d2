//! A saved machine: everything but its memory, which is a file of its own.
//!
//! ```text
//!  0  magic "CLOISNAP"
//!  8  version of the format
//! 12  processor architecture (the ELF machine number)
//! 16  fingerprint of the host that may use it: 32 bytes that only the host understands
//! 48  bytes of guest memory
//! 56  length of the body
//! 60  checksum (CRC-32) of everything but these four bytes
//! 64  the body: [`Body`] in postcard
//! ```
//! Reading is total: any bytes end in a [`Snapshot`] or a [`SnapshotError`], with no more memory than the bytes
//! themselves take. The checksum finds damage. Against whoever may write the file it is of no use; so nothing in
//! it is believed either, and what the state means is for KVM and the devices to check.

pub mod take;

mod whole;

use kvm_bindings::kvm_cpuid_entry2;
use serde::{Deserialize, Serialize};

use crate::devices::virtio::saved::DeviceState;
use crate::kvm::saved::{VcpuState, VmState};
use crate::spec::{FINGERPRINT_BYTES, MAX_VCPUS, VmSpec};
use crate::x86_64::msrs::MAX_MSRS;

/// First bytes of every saved machine.
pub const MAGIC: [u8; 8] = *b"CLOISNAP";
/// Changes with every change of [`Body`] and of what its parts mean.
pub const VERSION: u32 = 2;
/// `EM_X86_64`.
const ARCHITECTURE: u32 = 62;
/// Bytes before the body.
pub const HEADER_BYTES: usize = 64;
/// Where the checksum is.
const CHECKSUM: std::ops::Range<usize> = 60..64;
/// Longest saved machine: each vCPU takes 10 KiB, and twice that is far from what 32 of them need.
pub const MAX_BYTES: usize = 1 << 20;
/// Most devices: their register pages lie in one gap.
const MAX_DEVICES: usize = 8;
/// Most queues of a device.
const MAX_QUEUES: usize = 16;
/// Most entries of a CPUID table: KVM's own limit.
const MAX_CPUID: usize = 256;

/// What follows the header.
#[derive(Debug, Serialize, Deserialize)]
pub struct Body {
    /// The rate of the time-stamp counters, in kHz.
    pub tsc_khz: u32,
    /// What the boot vCPU says of itself. The others differ only in their place among them.
    pub cpuid: Vec<kvm_cpuid_entry2>,
    /// The vCPUs, the boot vCPU first.
    pub vcpus: Vec<VcpuState>,
    /// What they share.
    pub vm: VmState,
    /// The devices, in the order of their registers.
    pub devices: Vec<DeviceState>,
}

/// A saved machine.
#[derive(Debug)]
pub struct Snapshot {
    /// What the host said of itself when it was made.
    pub fingerprint: [u8; FINGERPRINT_BYTES],
    /// Guest memory, in bytes.
    pub memory_bytes: u64,
    /// The rest.
    pub body: Body,
}

/// Why bytes are no saved machine, or not one for here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Too long, or too short for a header.
    #[error("saved machine: {bytes} bytes long, which none is")]
    Length {
        /// How long.
        bytes: usize,
    },
    /// It is something else.
    #[error("saved machine: does not begin as one")]
    Magic,
    /// Of another version of this program.
    #[error("saved machine: in format {got}, and this program has {VERSION}")]
    Version {
        /// Its format.
        got: u32,
    },
    /// Of another processor.
    #[error("saved machine: of another processor architecture ({got})")]
    Architecture {
        /// The ELF machine number.
        got: u32,
    },
    /// Its end is missing, or something follows it.
    #[error("saved machine: {got} bytes after its header, which says {want}")]
    Truncated {
        /// What is there.
        got: usize,
        /// What the header says.
        want: u32,
    },
    /// It was damaged.
    #[error("saved machine: damaged (its checksum is {got:#010x}, and it says {want:#010x})")]
    Checksum {
        /// Of what is there.
        got: u32,
        /// In the header.
        want: u32,
    },
    /// The body is not one.
    #[error("saved machine: its body can't be read")]
    Body,
    /// A part has more than there can be.
    #[error("saved machine: {got} {what}, at most {most} are possible")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        got: usize,
        /// How many there may be.
        most: usize,
    },
    /// Of a host that is another, or has changed.
    #[error("saved machine: made on another host, or before this one changed")]
    Fingerprint,
    /// Of another processor than this host's, or of a KVM that offers other features.
    #[error(
        "saved machine: its processor differs from this host's in CPUID leaf {leaf:#x}.{index:#x}"
    )]
    Cpuid {
        /// The leaf.
        leaf: u32,
        /// The subleaf.
        index: u32,
    },
    /// Not of the shape that is asked for.
    #[error("saved machine: has {got} {what}, where {want} are asked for")]
    Shape {
        /// Of what.
        what: &'static str,
        /// How many it has.
        got: u64,
        /// How many it should have.
        want: u64,
    },
}

impl Snapshot {
    /// As bytes; at most [`MAX_BYTES`].
    ///
    /// # Errors
    /// It is out of bounds.
    pub fn encode(&self) -> Result<Vec<u8>, SnapshotError> {
        self.body.check()?;
        let body = postcard::to_allocvec(&self.body).map_err(|_| SnapshotError::Body)?;
        with_header(&self.fingerprint, self.memory_bytes, &body)
    }

    /// Reads one.
    ///
    /// # Errors
    /// They are not exactly a saved machine of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let length = SnapshotError::Length { bytes: bytes.len() };
        if bytes.len() > MAX_BYTES {
            return Err(length);
        }
        let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or(length.clone())?;
        if !header.starts_with(&MAGIC) {
            return Err(SnapshotError::Magic);
        }
        let word = |at: usize| {
            let word = header.get(at..).and_then(<[u8]>::first_chunk);
            word.copied().map(u32::from_le_bytes).ok_or(length.clone())
        };
        // Before the checksum: what a later version holds is not damaged.
        let (got, architecture) = (word(8)?, word(12)?);
        if got != VERSION {
            return Err(SnapshotError::Version { got });
        }
        if architecture != ARCHITECTURE {
            return Err(SnapshotError::Architecture { got: architecture });
        }
        let want = word(56)?;
        if usize::try_from(want) != Ok(body.len()) {
            return Err(SnapshotError::Truncated { got: body.len(), want });
        }
        let (got, want) = (checksum(bytes), word(CHECKSUM.start)?);
        if got != want {
            return Err(SnapshotError::Checksum { got, want });
        }
        let fingerprint = header.get(16..).and_then(<[u8]>::first_chunk);
        let memory = header.get(48..).and_then(<[u8]>::first_chunk);
        let (Some(fingerprint), Some(memory)) = (fingerprint, memory) else { return Err(length) };
        let Ok((body, [])) = postcard::take_from_bytes::<Body>(body) else {
            return Err(SnapshotError::Body);
        };
        body.check()?;
        Ok(Self { fingerprint: *fingerprint, memory_bytes: u64::from_le_bytes(*memory), body })
    }

    /// Whether it can go on here, as a machine of this shape.
    ///
    /// # Errors
    /// It can't.
    pub fn check_fits(
        &self,
        spec: &VmSpec,
        fingerprint: &[u8; FINGERPRINT_BYTES],
        cpuid: &[kvm_cpuid_entry2],
        devices: usize,
    ) -> Result<(), SnapshotError> {
        if self.fingerprint != *fingerprint {
            return Err(SnapshotError::Fingerprint);
        }
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        for (what, got, want) in [
            ("bytes of memory", self.memory_bytes, spec.memory_bytes()),
            ("vCPUs", count(self.body.vcpus.len()), u64::from(spec.vcpus)),
            ("devices", count(self.body.devices.len()), count(devices)),
        ] {
            if got != want {
                return Err(SnapshotError::Shape { what, got, want });
            }
        }
        let mut pairs = self.body.cpuid.iter().zip(cpuid);
        let differs = pairs.find(|(saved, here)| saved != here).map(|(saved, _)| saved);
        let longer = self.body.cpuid.get(cpuid.len()).or(cpuid.get(self.body.cpuid.len()));
        match differs.or(longer) {
            Some(entry) => Err(SnapshotError::Cpuid { leaf: entry.function, index: entry.index }),
            None => Ok(()),
        }
    }
}

impl Body {
    /// Checks every bound that the types don't.
    fn check(&self) -> Result<(), SnapshotError> {
        let registers = self.vcpus.iter().map(|vcpu| vcpu.msrs.len()).max().unwrap_or(0);
        let queues = self.devices.iter().map(|device| device.queues.len()).max().unwrap_or(0);
        for (what, got, most) in [
            ("vCPUs", self.vcpus.len(), usize::from(MAX_VCPUS)),
            ("registers of a vCPU", registers, MAX_MSRS),
            ("devices", self.devices.len(), MAX_DEVICES),
            ("queues of a device", queues, MAX_QUEUES),
            ("CPUID entries", self.cpuid.len(), MAX_CPUID),
        ] {
            if got > most {
                return Err(SnapshotError::TooMany { what, got, most });
            }
        }
        Ok(())
    }
}

/// Puts the header before a body, whatever that holds; at most [`MAX_BYTES`].
///
/// # Errors
/// It is too long.
pub fn with_header(
    fingerprint: &[u8; FINGERPRINT_BYTES],
    memory_bytes: u64,
    body: &[u8],
) -> Result<Vec<u8>, SnapshotError> {
    let total = HEADER_BYTES.saturating_add(body.len());
    let too_long = SnapshotError::Length { bytes: total };
    let length = u32::try_from(body.len()).map_err(|_| too_long.clone())?;
    if total > MAX_BYTES {
        return Err(too_long);
    }
    let mut bytes = Vec::with_capacity(total);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(ARCHITECTURE.to_le_bytes());
    bytes.extend(fingerprint);
    bytes.extend(memory_bytes.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    // The checksum leaves itself out.
    bytes.extend([0; 4]);
    bytes.extend(body);
    let checksum = checksum(&bytes);
    if let Some(place) = bytes.get_mut(CHECKSUM) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
    Ok(bytes)
}

/// Of everything but the checksum itself.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes.get(..CHECKSUM.start).unwrap_or_default());
    hasher.update(bytes.get(CHECKSUM.end..).unwrap_or_default());
    hasher.finalize()
}

#[cfg(test)]
#[path = "snapshot_test.rs"]
mod tests;
