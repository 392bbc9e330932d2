//! The jail that a vmm is to be started in: who it is, where its control group lies, what it may use.

use std::path::PathBuf;
use std::str::FromStr;

use cloister_jailer::spec::{Ids, Limits, Role, Spec};
use cloister_vmm::spec::VmSpec;

use super::group::{Group, GroupError, Place};

/// Descriptors that the vmm may have: a guest's 1024 streams, with room for all else.
const MAX_DESCRIPTORS: u32 = 2048;
/// Descriptors that a file server may have, if the host's hard limit allows: one for each file that a
/// guest's kernel knows at once.
const MAX_FILES: u32 = 1 << 20;
/// Memory of the vmm itself beside the guest's, in bytes: program, heap, buffers of 1024 streams, and
/// what KVM allocates for each machine.
const OWN_MEMORY: u64 = 128 << 20;
/// Page tables of host and guest: 16 bytes for each page of 4096, twice, with room.
const TABLES_SHARE: u64 = 32;
/// Threads beside the vCPUs': the event loop and KVM's own, which are counted in the group too.
const OWN_THREADS: u32 = 8;
/// Half of what a group has by itself: a machine's input and output yield to the host's.
const IO_WEIGHT: u32 = 50;

/// User ids (and group ids) that machines get, one each, when `cloister` runs as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
}

impl Default for IdRange {
    /// Between what systemd gives to containers (up to 1,879,048,191) and the end of the positive
    /// numbers: no distribution gives these to anybody.
    fn default() -> Self {
        Self { first: 1_900_000_000, last: 1_900_065_535 }
    }
}

impl std::fmt::Display for IdRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Not a range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write the first and the last user id, like 1900000000-1900065535; the first is at least 1000"
)]
pub struct IdRangeError;

impl FromStr for IdRange {
    type Err = IdRangeError;

    fn from_str(text: &str) -> Result<Self, IdRangeError> {
        let (first, last) = text.split_once('-').ok_or(IdRangeError)?;
        let number = |text: &str| text.parse::<u32>().map_err(|_| IdRangeError);
        let range = Self { first: number(first)?, last: number(last)? };
        // Below are the system's own users; the largest number means "none" to the kernel.
        if range.first < 1000 || range.last < range.first || range.last == u32::MAX {
            return Err(IdRangeError);
        }
        Ok(range)
    }
}

/// Whether the control group gets its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitsWish {
    /// Yes: without them there is no start.
    Asked,
    /// No. For tests and measurements on a machine without controllers; `cloister` never says so.
    NotAsked,
}

/// How machines are jailed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JailSpec {
    /// The directory for control groups; `None`: the usual one.
    pub group: Option<PathBuf>,
    /// Ids for machines, as root.
    pub ids: IdRange,
    /// Whether limits are asked for.
    pub limits: LimitsWish,
}

impl Default for JailSpec {
    fn default() -> Self {
        Self { group: None, ids: IdRange::default(), limits: LimitsWish::Asked }
    }
}

/// A jail that is ready to be filled: its group is made and its ids are taken.
#[derive(Debug)]
pub struct Cell {
    /// The control group; removed when this is dropped.
    pub group: Group,
    /// What the jailer is told.
    pub spec: Spec,
}

impl JailSpec {
    /// Where the groups lie.
    ///
    /// # Errors
    /// There is no place for them.
    pub fn place(&self) -> Result<Place, GroupError> {
        Place::find(self.group.as_deref())
    }

    /// A cell for a process with these limits.
    ///
    /// # Errors
    /// There is no place for its control group, no controllers, or no free id.
    pub fn cell(&self, limits: Limits) -> Result<Cell, GroupError> {
        self.cell_of(Role::Vmm, limits)
    }

    /// A cell for a file server. As root it acts as `owner` (user and group), whose files it serves,
    /// or if there is none as an id of its own.
    ///
    /// # Errors
    /// As [`Self::cell`].
    pub fn file_server_cell(&self, owner: Option<(u32, u32)>) -> Result<Cell, GroupError> {
        let mut cell = self.cell_of(Role::FileServer, limits_of_file_server())?;
        if rustix::process::geteuid().is_root()
            && let Some((uid, gid)) = owner
        {
            // Root without a capability, in a user namespace where nobody else is, and with no path to
            // anything but the shares. A group of root's is not given to somebody else.
            let gid = if gid == 0 { uid } else { gid };
            cell.spec.ids = match uid {
                0 => Ids { uid: 0, gid: 0, own: false },
                _ => Ids { uid, gid, own: true },
            };
        }
        Ok(cell)
    }

    fn cell_of(&self, role: Role, limits: Limits) -> Result<Cell, GroupError> {
        let descriptors = match role {
            Role::Vmm => MAX_DESCRIPTORS,
            Role::FileServer => MAX_FILES,
        };
        let place = self.place()?;
        let limits = (self.limits == LimitsWish::Asked).then_some(limits);
        let (host_pid, uid) = (std::process::id(), rustix::process::geteuid());
        let (group, ids) = if uid.is_root() {
            let IdRange { first, last } = self.ids;
            let count = last - first + 1;
            // Commands that run at the same time begin at different places.
            let start = host_pid % count;
            let ids = (0..count).map(move |step| first + (start + step) % count);
            let (group, id) = place.make(&ids, limits.is_some())?;
            (group, Ids { uid: id, gid: id, own: true })
        } else {
            let gid = rustix::process::getegid();
            let names = host_pid..host_pid.saturating_add(64);
            let (group, _) = place.make(&names, limits.is_some())?;
            (group, Ids { uid: uid.as_raw(), gid: gid.as_raw(), own: false })
        };
        Ok(Cell { group, spec: Spec { host_pid, ids, limits, role, descriptors } })
    }
}

/// What a machine of this shape needs.
#[must_use]
pub fn limits_of(vm: &VmSpec) -> Limits {
    let vcpus = u32::from(vm.vcpus);
    Limits {
        memory_bytes: vm.memory_bytes() + vm.memory_bytes() / TABLES_SHARE + OWN_MEMORY,
        pids: vcpus + OWN_THREADS,
        // The vCPUs, and one processor for the event loop.
        cpu_percent: (vcpus + 1) * 100,
        io_weight: IO_WEIGHT,
    }
}

/// What a file server needs: its threads and buffers are small, but the host's kernel counts a kilobyte for
/// each file that a guest knows, and the pages of files that are read and written.
#[must_use]
pub const fn limits_of_file_server() -> Limits {
    Limits { memory_bytes: 1 << 30, pids: 16, cpu_percent: 200, io_weight: IO_WEIGHT }
}

/// What a vmm needs that waits for a machine; then it gets that machine's.
#[must_use]
pub const fn limits_of_blank() -> Limits {
    limits_of_probe()
}

/// What the probe guest needs.
#[must_use]
pub const fn limits_of_probe() -> Limits {
    Limits { memory_bytes: OWN_MEMORY, pids: OWN_THREADS, cpu_percent: 100, io_weight: IO_WEIGHT }
}

#[cfg(test)]
mod tests {
    use cloister_vmm::spec::{MAX_MEMORY_MIB, MAX_VCPUS};

    use super::*;

    #[test]
    fn ranges_are_read_and_bad_ones_refused() {
        assert_eq!("1000-1000".parse(), Ok(IdRange { first: 1000, last: 1000 }));
        for bad in ["", "1000", "999-2000", "3000-2000", "1000-4294967295", "a-b", "1000-2000-3000"]
        {
            assert_eq!(bad.parse::<IdRange>(), Err(IdRangeError), "{bad}");
        }
    }

    #[test]
    fn the_largest_machine_is_within_the_jailers_bounds() {
        let vm =
            VmSpec { vcpus: MAX_VCPUS, memory_mib: MAX_MEMORY_MIB, extra_cmdline: String::new() };
        for limits in
            [limits_of(&vm), limits_of_blank(), limits_of_probe(), limits_of_file_server()]
        {
            let ids = Ids { uid: 1, gid: 1, own: true };
            let spec = Spec {
                host_pid: 1,
                ids,
                limits: Some(limits),
                role: Role::Vmm,
                descriptors: MAX_FILES,
            };
            assert_eq!(spec.validate(), Ok(()));
        }
    }
}
