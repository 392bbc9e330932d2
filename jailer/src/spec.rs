//! What a jail is to be: a fixed layout of numbers, without a path and without text.
//!
//! The host writes it into a memory file; the jailer reads it once, and refuses whatever
//! [`Spec::validate`] does. No value in it can switch a step off, but [`Spec::limits`] can say that
//! there are none: for tests and measurements of this workspace, which say so in their own code.

use std::ffi::CStr;

use crate::step::Step;
use crate::weak;

/// The program's control socket; the one of these that it keeps, under this number.
pub const CONTROL_FD: i32 = 3;
/// The encoded [`Spec`], in a memory file.
pub const SPEC_FD: i32 = 4;
/// Where [`crate::step::Report`]s go: the write end of a pipe. Its end of file says that the program
/// has been executed, or that the jailer and the jailed process are gone.
pub const REPORT_FD: i32 = 5;
/// The program: a memory file, sealed against every change.
pub const PROGRAM_FD: i32 = 6;
/// The directory of the process's control group (version 2), empty.
pub const GROUP_FD: i32 = 7;

/// Where a file server finds the directory `/proc/self/fd`, which the jailed process opens for it.
pub const PROCESSES_FD: i32 = 8;

/// Length of the encoding, in bytes.
pub const ENCODED_LEN: usize = 48;
/// First four bytes: "CLJ" and the version of the layout.
const MAGIC: u32 = u32::from_le_bytes(*b"CLJ1");

const FLAG_PRIVILEGED: u32 = 1;
const FLAG_LIMITS: u32 = 2;
const FLAG_FILES: u32 = 4;

/// Most processes and threads of a group: 32 vCPUs need fewer than a tenth.
pub const MAX_PIDS: u32 = 4096;
/// Most descriptors: what a guest's kernel can know of files at once, and what a kernel allows.
pub const MAX_DESCRIPTORS: u32 = 1 << 20;
/// Most processor time, in percent of one processor: 1024 processors.
pub const MAX_CPU_PERCENT: u32 = 100 * 1024;
/// Most memory of a group in bytes: twice the largest machine.
pub const MAX_MEMORY: u64 = 8 << 40;
/// Least memory of a group in bytes: the program itself has to fit.
pub const MIN_MEMORY: u64 = 4 << 20;
/// Largest weight of input and output (cgroup v2, `io.weight`).
pub const MAX_IO_WEIGHT: u32 = 10_000;

/// A jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The process that starts the jailer, in its own process namespace. When the thread of it that
    /// started the jailer ends, the kernel kills the jailed process.
    pub host_pid: u32,
    /// Who the process is, seen from outside.
    pub ids: Ids,
    /// What it may use.
    pub limits: Option<Limits>,
    /// What it is.
    pub role: Role,
    /// Descriptors that it may have open (`RLIMIT_NOFILE`), if the caller may have as many.
    pub descriptors: u32,
}

/// Which program is jailed. What they may do differs in the steps that say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The vmm: opens nothing.
    Vmm,
    /// The file server: opens files beneath descriptors that it is handed, and writes them.
    FileServer,
}

/// User and group of the jailed process, as the host sees them. Inside both are 0, and mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Whether they are ids of the jail's own, which takes a privileged caller. If not, they are the
    /// caller's.
    pub own: bool,
}

/// Limits of the control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes (`memory.max`). Swap is none at all.
    pub memory_bytes: u64,
    /// Processes and threads (`pids.max`).
    pub pids: u32,
    /// Processor time in percent of one processor (`cpu.max`).
    pub cpu_percent: u32,
    /// Weight of input and output against other groups (`io.weight`), where the kernel has it.
    pub io_weight: u32,
}

impl Limits {
    /// The files of a control group that hold them (`cgroup-v2.rst` of the kernel), what is written there, and whether a
    /// kernel may lack the file: one without swap has no limit on it, and only some weigh input and output.
    #[must_use]
    pub fn files(&self) -> [(&'static CStr, String, bool); 6] {
        let cpu = format!("{} 100000", u64::from(self.cpu_percent) * 1000);
        [
            (c"memory.max", self.memory_bytes.to_string(), false),
            (c"memory.swap.max", "0".to_owned(), true),
            (c"memory.oom.group", "1".to_owned(), false),
            (c"pids.max", self.pids.to_string(), false),
            (c"cpu.max", cpu, false),
            (c"io.weight", format!("default {}", self.io_weight), true),
        ]
    }
}

/// Why a spec is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecError {
    /// It is no spec, or one of another version.
    Layout,
    /// A number is out of its bounds.
    Bounds {
        /// Which.
        field: &'static str,
    },
}

impl std::fmt::Display for SpecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Layout => f.write_str("not a jail's spec, or of another version"),
            Self::Bounds { field } => write!(f, "the jail's {field} is out of bounds"),
        }
    }
}

impl std::error::Error for SpecError {}

impl Spec {
    /// Checks every number.
    ///
    /// # Errors
    /// The first that is out of bounds.
    pub fn validate(&self) -> Result<(), SpecError> {
        let check = |holds: bool, field| match holds {
            true => Ok(()),
            false => Err(SpecError::Bounds { field }),
        };
        check(self.host_pid >= 1, "host process")?;
        // -1 stands for "no change" in the kernel's calls.
        check(self.ids.uid != u32::MAX && self.ids.gid != u32::MAX, "user or group")?;
        // An own id that is root's would be none.
        check(!self.ids.own || (self.ids.uid != 0 && self.ids.gid != 0), "user or group")?;
        check((16..=MAX_DESCRIPTORS).contains(&self.descriptors), "number of descriptors")?;
        let Some(limits) = self.limits else { return Ok(()) };
        check((MIN_MEMORY..=MAX_MEMORY).contains(&limits.memory_bytes), "memory")?;
        check((2..=MAX_PIDS).contains(&limits.pids), "number of threads")?;
        check((1..=MAX_CPU_PERCENT).contains(&limits.cpu_percent), "processor time")?;
        check((1..=MAX_IO_WEIGHT).contains(&limits.io_weight), "weight of input and output")
    }

    /// As the jailer reads it.
    #[must_use]
    pub fn encode(&self) -> [u8; ENCODED_LEN] {
        let none = Limits { memory_bytes: 0, pids: 0, cpu_percent: 0, io_weight: 0 };
        let limits = self.limits.unwrap_or(none);
        let mut flags = 0;
        if self.ids.own {
            flags |= FLAG_PRIVILEGED;
        }
        if self.limits.is_some() {
            flags |= FLAG_LIMITS;
        }
        if self.role == Role::FileServer {
            flags |= FLAG_FILES;
        }
        let [low, high] = halves(limits.memory_bytes);
        let words = [
            MAGIC,
            self.host_pid,
            self.ids.uid,
            self.ids.gid,
            flags,
            self.descriptors,
            limits.pids,
            limits.cpu_percent,
            limits.io_weight,
            0,
            low,
            high,
        ];
        let mut bytes = [0; ENCODED_LEN];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads and checks an encoding. Total: every sequence of bytes has an answer.
    ///
    /// # Errors
    /// It is not one that [`Self::encode`] makes of a valid spec.
    pub fn decode(bytes: &[u8]) -> Result<Self, SpecError> {
        let bytes: &[u8; ENCODED_LEN] = bytes.try_into().map_err(|_| SpecError::Layout)?;
        let mut words = [0; ENCODED_LEN / 4];
        for (word, place) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes(place.try_into().map_err(|_| SpecError::Layout)?);
        }
        let [magic, host_pid, uid, gid, flags, descriptors, pids, cpu, io, zero, low, high] = words;
        if magic != MAGIC || zero != 0 || flags & !(FLAG_PRIVILEGED | FLAG_LIMITS | FLAG_FILES) != 0
        {
            return Err(SpecError::Layout);
        }
        let memory_bytes = u64::from(high) << 32 | u64::from(low);
        let limits = Limits { memory_bytes, pids, cpu_percent: cpu, io_weight: io };
        let own = flags & FLAG_PRIVILEGED != 0;
        let asked = flags & FLAG_LIMITS != 0;
        if !asked && (pids, cpu, io, memory_bytes) != (0, 0, 0, 0) {
            return Err(SpecError::Layout);
        }
        let spec = Self {
            host_pid,
            ids: Ids { uid, gid, own },
            limits: asked.then_some(limits),
            role: if flags & FLAG_FILES == 0 { Role::Vmm } else { Role::FileServer },
            descriptors,
        };
        if !weak::leaves_out(Step::Spec) {
            spec.validate()?;
        }
        Ok(spec)
    }
}

const fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec {
            host_pid: 77,
            ids: Ids { uid: 1_900_000_001, gid: 1_900_000_002, own: true },
            limits: Some(Limits {
                memory_bytes: 5 << 32 | 3,
                pids: 9,
                cpu_percent: 250,
                io_weight: 50,
            }),
            role: Role::Vmm,
            descriptors: 2048,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let without = Spec { limits: None, ids: Ids { uid: 0, gid: 0, own: false }, ..spec() };
        let files = Spec { role: Role::FileServer, ..spec() };
        for spec in [spec(), without, files] {
            assert_eq!(Spec::decode(&spec.encode()), Ok(spec));
        }
    }

    #[test]
    fn every_other_sequence_of_bytes_is_refused_or_a_valid_spec() {
        let good = spec().encode();
        for length in 0..ENCODED_LEN {
            assert_eq!(Spec::decode(&good[..length]), Err(SpecError::Layout));
        }
        assert!(Spec::decode(&[&good[..], &[0]].concat()).is_err());
        for at in 0..ENCODED_LEN {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = good;
                bytes[at] = value;
                if let Ok(read) = Spec::decode(&bytes) {
                    assert_eq!(read.encode(), bytes, "byte {at}");
                    assert_eq!(read.validate(), Ok(()));
                }
            }
        }
    }

    #[test]
    fn bounds_hold() {
        let refused = |spec: Spec| assert!(Spec::decode(&spec.encode()).is_err(), "{spec:?}");
        refused(Spec { host_pid: 0, ..spec() });
        refused(Spec { descriptors: 0, ..spec() });
        refused(Spec { descriptors: u32::MAX, ..spec() });
        for ids in [(0, 5), (5, 0), (u32::MAX, 5), (5, u32::MAX)] {
            refused(Spec { ids: Ids { uid: ids.0, gid: ids.1, own: true }, ..spec() });
        }
        let limits = spec().limits.unwrap();
        for limits in [
            Limits { memory_bytes: 0, ..limits },
            Limits { memory_bytes: u64::MAX, ..limits },
            Limits { pids: 1, ..limits },
            Limits { cpu_percent: 0, ..limits },
            Limits { io_weight: 10_001, ..limits },
        ] {
            refused(Spec { limits: Some(limits), ..spec() });
        }
    }
}
