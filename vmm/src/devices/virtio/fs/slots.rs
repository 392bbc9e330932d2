//! The slots of the bounce area: who has each, and copying between them and guest memory.

use std::fs::File;
use std::io;

use vm_memory::{FileOffset, MmapRegion, VolatileMemory as _, VolatileSlice};

use super::super::queue::Chain;
use crate::spec::{SHARE_SLOT_BYTES, SHARE_SLOTS};

/// The queue of forgets and interrupts, and how many slots only it may take: what it brings must not
/// wait for requests that may take long.
const URGENT: usize = 0;
const URGENT_SLOTS: usize = 2;

/// Who has a slot.
#[derive(Debug)]
enum Slot {
    /// Nobody.
    Free,
    /// The file server; its reply goes into this chain of this queue.
    Busy { index: usize, chain: Chain, reply_bytes: u32 },
    /// The file server; nobody waits for its reply.
    Orphan,
}

/// A slot that was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) slot: u32,
    pub(super) reply_bytes: u32,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Slots {
    area: MmapRegion,
    slots: Vec<Slot>,
}

impl Slots {
    pub(super) fn new(area: File) -> io::Result<Self> {
        let count = usize::try_from(SHARE_SLOTS).map_err(io::Error::other)?;
        let bytes = count * SHARE_SLOT_BYTES;
        crate::memory::check_sealed(&area, bytes as u64).map_err(io::Error::other)?;
        let area =
            MmapRegion::from_file(FileOffset::new(area, 0), bytes).map_err(io::Error::other)?;
        Ok(Self { area, slots: (0..count).map(|_| Slot::Free).collect() })
    }

    /// The slots that a queue may take.
    fn range(&self, index: usize) -> std::ops::Range<usize> {
        let first = if index == URGENT { 0 } else { URGENT_SLOTS };
        first..self.slots.len()
    }

    fn free(&self, index: usize) -> Option<usize> {
        self.range(index).find(|slot| matches!(self.slots.get(*slot), Some(Slot::Free)))
    }

    pub(super) fn all_free(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot, Slot::Free))
    }

    pub(super) fn has_free(&self, index: usize) -> bool {
        self.free(index).is_some()
    }

    fn bytes(&self, slot: usize) -> Option<VolatileSlice<'_>> {
        self.area.get_slice(slot * SHARE_SLOT_BYTES, SHARE_SLOT_BYTES).ok()
    }

    /// Takes a slot and copies a request into it, of at most its length.
    pub(super) fn take(
        &mut self,
        index: usize,
        request: &[VolatileSlice<'_>],
        chain: Chain,
    ) -> Option<Taken> {
        let slot = self.free(index)?;
        let mut rest = self.bytes(slot)?;
        for piece in request {
            piece.copy_to_volatile_slice(rest);
            rest = rest.offset(piece.len()).ok()?;
        }
        let room = Chain::bytes(chain.writable()).min(SHARE_SLOT_BYTES);
        let reply_bytes = u32::try_from(room).ok()?;
        *self.slots.get_mut(slot)? = Slot::Busy { index, chain, reply_bytes };
        Some(Taken { slot: u32::try_from(slot).ok()?, reply_bytes })
    }

    /// The file server gives a slot back. Queue and chain that wait for it, if they still do; `None`: it
    /// had no such slot, or its reply is too long.
    pub(super) fn give(&mut self, slot: u32, bytes: u32) -> Option<Option<(usize, Chain)>> {
        let slot = self.slots.get_mut(usize::try_from(slot).ok()?)?;
        match std::mem::replace(slot, Slot::Free) {
            Slot::Busy { index, chain, reply_bytes } if bytes <= reply_bytes => {
                Some(Some((index, chain)))
            }
            Slot::Orphan => Some(None),
            Slot::Free | Slot::Busy { .. } => None,
        }
    }

    /// Copies a reply out of a slot.
    pub(super) fn copy_reply(&self, slot: u32, reply: &[VolatileSlice<'_>]) {
        let Some(mut rest) = usize::try_from(slot).ok().and_then(|slot| self.bytes(slot)) else {
            return;
        };
        for piece in reply {
            rest.copy_to_volatile_slice(*piece);
            let Ok(after) = rest.offset(piece.len()) else { return };
            rest = after;
        }
    }

    /// The guest's memory is not to be touched any more.
    pub(super) fn orphan(&mut self) {
        for slot in &mut self.slots {
            if matches!(slot, Slot::Busy { .. }) {
                *slot = Slot::Orphan;
            }
        }
    }
}
