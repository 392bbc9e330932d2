//! What all shares of a server may use together.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::HANDLE_SHARE;
use crate::router::error;

/// Counts known and open files of all shares.
#[derive(Debug)]
pub struct Budget {
    nodes: AtomicU64,
    handles: AtomicU64,
    max_nodes: u64,
    max_handles: u64,
}

impl Budget {
    /// Of this many descriptors.
    #[must_use]
    pub fn new(descriptors: u64) -> Self {
        let max_handles = descriptors / HANDLE_SHARE;
        Self {
            nodes: AtomicU64::new(0),
            handles: AtomicU64::new(0),
            max_nodes: descriptors - max_handles,
            max_handles,
        }
    }

    /// Whether there is room for so many, were there none yet.
    #[must_use]
    pub const fn holds(&self, nodes: u64, handles: u64) -> bool {
        nodes <= self.max_nodes && handles <= self.max_handles
    }

    /// Room for one more open file or lock.
    ///
    /// # Errors
    /// `ENFILE`.
    pub fn take_handle(&self) -> io::Result<()> {
        take(&self.handles, self.max_handles).map(drop).ok_or_else(|| error(libc::ENFILE))
    }

    /// Room for one more known file.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn take_node(&self) -> io::Result<()> {
        take(&self.nodes, self.max_nodes).map(drop).ok_or_else(|| error(libc::ENOMEM))
    }

    /// Gives open files or locks back.
    pub fn give_handles(&self, count: u64) {
        self.handles.fetch_sub(count, Ordering::Relaxed);
    }

    /// Gives known files back.
    pub fn give_nodes(&self, count: u64) {
        self.nodes.fetch_sub(count, Ordering::Relaxed);
    }
}

fn take(count: &AtomicU64, most: u64) -> Option<u64> {
    let more = |now: u64| (now < most).then_some(now + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()
}
