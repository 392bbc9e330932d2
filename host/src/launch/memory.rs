//! Guest memory: whether the host has it, and the memfd that is handed to the vmm.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;

/// Why the host can't give a machine its memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host's own figures can't be read.
    #[error("can't read how much memory this host has (/proc/meminfo)")]
    Unknown(#[source] io::Error),
    /// More than the host has at all.
    #[error("{asked_mib} MiB of memory: this host has only {host_mib} MiB")]
    BeyondHost {
        /// What was asked for.
        asked_mib: u64,
        /// What there is.
        host_mib: u64,
    },
    /// More than this process's control group may use.
    #[error("{asked_mib} MiB of memory: this control group may use only {limit_mib} MiB")]
    BeyondGroup {
        /// What was asked for.
        asked_mib: u64,
        /// The lowest `memory.max` on the way up.
        limit_mib: u64,
    },
    /// More than is available now.
    #[error("{asked_mib} MiB of memory: this host has only {available_mib} MiB available now")]
    NotAvailable {
        /// What was asked for.
        asked_mib: u64,
        /// `MemAvailable` and free swap.
        available_mib: u64,
    },
    /// The memfd can't be made.
    #[error("can't make the guest's memory ({step})")]
    Create {
        /// Which call.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl MemoryError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Unknown(_) | Self::Create { .. } => None,
            Self::BeyondHost { .. } | Self::BeyondGroup { .. } => {
                Some("give the machine less, with --memory")
            }
            Self::NotAvailable { .. } => {
                Some("give the machine less, with --memory, or end something else")
            }
        }
    }
}

/// How much memory there is, in bytes.
///
/// A machine takes memory only as its guest touches it, so many machines whose sizes add up to more
/// than this can run. But one machine that could use up all there is by itself is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    /// `MemTotal`.
    pub total: u64,
    /// What could be had without ending anything: `MemAvailable` and free swap.
    pub available: u64,
    /// The lowest `memory.max` of this process's control group and those above it.
    pub group_limit: Option<u64>,
}

impl HostMemory {
    /// Asks the kernel.
    ///
    /// # Errors
    /// `/proc/meminfo` can't be read.
    pub fn read() -> Result<Self, MemoryError> {
        let meminfo = fs::read_to_string("/proc/meminfo").map_err(MemoryError::Unknown)?;
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut memory = Self::parse(&meminfo)
            .ok_or_else(|| MemoryError::Unknown(io::ErrorKind::InvalidData.into()))?;
        memory.group_limit = group_limit(Path::new("/sys/fs/cgroup"), &groups);
        Ok(memory)
    }

    fn parse(meminfo: &str) -> Option<Self> {
        let bytes = |key: &str| {
            let rest = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
            let kib: u64 = rest.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse().ok()?;
            kib.checked_mul(1024)
        };
        let available = bytes("MemAvailable")?.checked_add(bytes("SwapFree").unwrap_or(0))?;
        Some(Self { total: bytes("MemTotal")?, available, group_limit: None })
    }

    /// Checks that one machine of `bytes` fits.
    ///
    /// # Errors
    /// It does not.
    pub fn check(self, bytes: u64) -> Result<(), MemoryError> {
        let asked_mib = bytes >> 20;
        if bytes > self.total {
            return Err(MemoryError::BeyondHost { asked_mib, host_mib: self.total >> 20 });
        }
        if let Some(limit) = self.group_limit.filter(|limit| bytes > *limit) {
            return Err(MemoryError::BeyondGroup { asked_mib, limit_mib: limit >> 20 });
        }
        if bytes > self.available {
            let available_mib = self.available >> 20;
            return Err(MemoryError::NotAvailable { asked_mib, available_mib });
        }
        Ok(())
    }
}

/// The lowest `memory.max` from the group in `own` (the text of `/proc/self/cgroup`) upwards.
fn group_limit(mount: &Path, own: &str) -> Option<u64> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    mount
        .join(path)
        .ancestors()
        .take_while(|folder| folder.starts_with(mount))
        .filter_map(|folder| fs::read_to_string(folder.join("memory.max")).ok())
        .filter_map(|limit| limit.trim().parse().ok())
        .min()
}

/// A memfd of exactly `bytes`, which nobody can resize or make executable.
///
/// # Errors
/// The system refuses.
pub fn guest_memory(bytes: u64) -> Result<OwnedFd, MemoryError> {
    let wrap = |step| move |errno: Errno| MemoryError::Create { step, source: errno.into() };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // NOEXEC_SEAL: Linux 6.3 and later.
    let memory = match memfd_create("guest-memory", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create("guest-memory", flags),
        other => other,
    }
    .map_err(wrap("memfd_create"))?;
    ftruncate(&memory, bytes).map_err(wrap("ftruncate"))?;
    // The vmm maps all of it once; a shorter file would be a SIGBUS there.
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(wrap("sealing"))?;
    Ok(memory)
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod tests;
