//! What a machine's process costs the host: memory beside the guest's and of it, threads, descriptors.

use std::fs;
use std::io;

use serde::Serialize;

use crate::launch::group::find_own;

/// Name of the memfd that [`crate::launch::memory::guest_memory`] makes.
pub const GUEST_MEMORY: &str = "guest-memory";

/// How a process's guest memory is told from the rest of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestMemory {
    /// It is the memfd of this name.
    Memfd(&'static str),
    /// It is an anonymous mapping that has about this many bytes; no other is as large.
    Anonymous(u64),
    /// It is the one mapping of a file with a path: a template's memory, as programs are executed from memfds.
    Template,
}

/// One process at one moment, from `/proc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// Resident memory of every mapping but the guest's memory, in KiB.
    pub beside_guest_kib: u64,
    /// Of that, what no other process can share: anonymous and written pages.
    pub private_dirty_kib: u64,
    /// Resident guest memory, in KiB.
    pub guest_kib: u64,
    /// Of that, what this guest wrote, so that nobody shares it, in KiB.
    pub guest_private_kib: u64,
    /// Tables of its pages, in KiB.
    pub page_tables_kib: u64,
    /// What the kernel keeps for its control group, in KiB; 0 where that is not counted.
    pub kernel_kib: u64,
    /// Mounts that it sees.
    pub mounts: u64,
    /// Its threads.
    pub threads: u64,
    /// Its open descriptors.
    pub descriptors: u64,
}

impl Footprint {
    /// Of process `pid`, whose guest memory is `memory`.
    ///
    /// # Errors
    /// The process is gone, or belongs to somebody else.
    pub fn of(pid: u32, memory: GuestMemory) -> io::Result<Self> {
        let maps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
        let entries = |folder: &str| -> io::Result<u64> {
            let count = fs::read_dir(format!("/proc/{pid}/{folder}"))?.count();
            Ok(u64::try_from(count).unwrap_or(u64::MAX))
        };
        Ok(Self {
            threads: entries("task")?,
            descriptors: entries("fd")?,
            page_tables_kib: number(&status, "VmPTE:").unwrap_or(0),
            kernel_kib: kernel_bytes(pid).unwrap_or(0) >> 10,
            mounts: u64::try_from(mounts.lines().count()).unwrap_or(u64::MAX),
            ..Self::of_maps(&maps, memory)
        })
    }

    /// Memory that nobody shares: the process's own and the guest pages that were written, in KiB.
    #[must_use]
    pub const fn private_kib(&self) -> u64 {
        self.private_dirty_kib + self.guest_private_kib
    }

    /// Resident memory that others can share, in KiB.
    #[must_use]
    pub const fn shared_kib(&self) -> u64 {
        (self.beside_guest_kib + self.guest_kib).saturating_sub(self.private_kib())
    }

    /// The memory part, out of the text of `/proc/PID/smaps`.
    fn of_maps(maps: &str, memory: GuestMemory) -> Self {
        let mut sum = Self::default();
        let mut is_guest = false;
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            match first.strip_suffix(':') {
                // A mapping's first line: addresses, rights, offset, device, inode, path.
                None => is_guest = memory.is(first, words.nth(4)),
                Some(field) => {
                    let kib = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
                    sum.add(field, kib, is_guest);
                }
            }
        }
        sum
    }

    fn add(&mut self, field: &str, kib: u64, is_guest: bool) {
        match (field, is_guest) {
            ("Rss", true) => self.guest_kib += kib,
            ("Rss", false) => self.beside_guest_kib += kib,
            ("Private_Dirty", true) => self.guest_private_kib += kib,
            ("Private_Dirty", false) => self.private_dirty_kib += kib,
            _ => {}
        }
    }
}

impl GuestMemory {
    /// Whether a mapping with these addresses and this path is it.
    fn is(self, addresses: &str, path: Option<&str>) -> bool {
        match (self, path) {
            (Self::Memfd(name), Some(path)) => path.strip_prefix("/memfd:") == Some(name),
            // Larger when the kernel merged it with a neighbour.
            (Self::Anonymous(bytes), None) => length(addresses).is_some_and(|got| got >= bytes),
            (Self::Template, Some(path)) => path.starts_with('/') && !path.starts_with("/memfd:"),
            _ => false,
        }
    }
}

/// The first word after `key`, at the begin of a line.
fn number(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Kernel memory of the process's control group: the `kernel` line of `memory.stat`.
fn kernel_bytes(pid: u32) -> Option<u64> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let (_, folder) = find_own(&mounts, &groups)?;
    number(&fs::read_to_string(folder.join("memory.stat")).ok()?, "kernel ")
}

/// Of a range such as `7f00-8000`.
fn length(addresses: &str) -> Option<u64> {
    let (start, end) = addresses.split_once('-')?;
    let parse = |text| u64::from_str_radix(text, 16).ok();
    parse(end)?.checked_sub(parse(start)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00400000-00520000 r-xp 00000000 00:1a 42                                 /bin/vmm
Size:               1152 kB
Rss:                 700 kB
Private_Dirty:         0 kB
VmFlags: rd ex mr mw me
7f0000000000-7f0008000000 rw-s 00000000 00:01 7                          /memfd:guest (deleted)
Rss:                2048 kB
Private_Dirty:      2048 kB
7ffff0000000-7ffff0021000 rw-p 00000000 00:00 0                          [stack]
Rss:                  12 kB
Private_Dirty:        12 kB
7ffff0100000-7ffff0101000 rw-p 00000000 00:00 0
Rss:                   4 kB
Private_Dirty:         4 kB
";

    #[test]
    fn guest_memory_is_told_from_the_rest_by_its_name() {
        let found = Footprint::of_maps(MAPS, GuestMemory::Memfd("guest"));
        assert_eq!(found.guest_kib, 2048);
        assert_eq!(found.beside_guest_kib, 716);
        assert_eq!(found.private_dirty_kib, 16);
        assert_eq!(Footprint::of_maps(MAPS, GuestMemory::Memfd("other")).guest_kib, 0);
    }

    #[test]
    fn anonymous_guest_memory_is_told_by_its_size() {
        let maps = MAPS.replace("/memfd:guest (deleted)", "");
        let found = Footprint::of_maps(&maps, GuestMemory::Anonymous(128 << 20));
        assert_eq!((found.guest_kib, found.beside_guest_kib), (2048, 716));
        assert_eq!(Footprint::of_maps(&maps, GuestMemory::Anonymous(129 << 20)).guest_kib, 0);
    }

    #[test]
    fn a_fork_shares_what_it_has_not_written() {
        let maps = MAPS
            .replace("/bin/vmm", "/memfd:program (deleted)")
            .replace("/memfd:guest (deleted)", "/var/cache/a folder/t/memory")
            .replace("Rss:                2048", "Rss:                9000");
        let found = Footprint::of_maps(&maps, GuestMemory::Template);
        assert_eq!((found.guest_kib, found.guest_private_kib), (9000, 2048));
        assert_eq!((found.private_kib(), found.shared_kib()), (2064, 9716 - 2064));
    }

    #[test]
    fn the_product_s_guest_memory_has_the_name_that_is_looked_for() {
        let memory = crate::launch::memory::guest_memory(4096).unwrap();
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory));
        let path = fs::read_link(link).unwrap();
        assert_eq!(path.to_str(), Some(format!("/memfd:{GUEST_MEMORY} (deleted)").as_str()));
    }

    #[test]
    fn a_live_process_has_memory_a_thread_and_descriptors() {
        let found = Footprint::of(std::process::id(), GuestMemory::Memfd("guest")).unwrap();
        assert!(found.beside_guest_kib > 0 && found.threads > 0 && found.descriptors > 0);
        assert!(found.page_tables_kib > 0 && found.mounts > 0);
        assert!(Footprint::of(u32::MAX, GuestMemory::Memfd("guest")).is_err());
    }
}
