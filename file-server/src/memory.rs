//! The memory that a worker's requests lie in, as the library wants it: a small guest memory with one
//! queue, of which nobody but the worker can change the descriptors.
//!
//! A request is copied out of its slot once, before anything looks at it, but for a write's data, which
//! only ever goes into a file. A reply is written straight into the slot.

use std::fs::File;
use std::io;
use std::sync::Arc;

use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT as _};
use virtiofsd::descriptor_utils::{Reader, Writer};
use vm_memory::bitmap::BS;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion as _, GuestRegionMmap,
    MemoryRegionAddress, MmapRegion, VolatileMemory as _, VolatileSlice,
};

use crate::control::Job;
use crate::limits::{MAX_PRIVATE_REQUEST, SLOT_BYTES, SLOTS};

type Region = GuestRegionMmap<BitmapMmapRegion>;
type Memory = GuestMemoryMmap<BitmapMmapRegion>;
type Slice<'a> = VolatileSlice<'a, BS<'a, BitmapMmapRegion>>;

/// The worker's own memory: descriptors, rings, the request's copy.
const DESCRIPTORS: GuestAddress = GuestAddress(0x1000);
const AVAILABLE: GuestAddress = GuestAddress(0x2000);
const USED: GuestAddress = GuestAddress(0x3000);
const REQUEST: u64 = 0x4000;
const OWN_BYTES: usize = 0x4000 + MAX_PRIVATE_REQUEST.next_multiple_of(4096);
/// The slots, far above.
const SHARED: u64 = 1 << 30;
/// A chain has at most three descriptors.
const QUEUE_SIZE: u16 = 4;

/// The slots, shared with the vmm.
#[derive(Clone, Debug)]
pub struct Bounce(Arc<Region>);

fn region(start: u64, mapping: MmapRegion<BitmapMmapRegion>) -> io::Result<Arc<Region>> {
    let region = GuestRegionMmap::new(mapping, GuestAddress(start));
    region.map(Arc::new).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

impl Bounce {
    fn slice(&self, place: u64, bytes: usize) -> io::Result<Slice<'_>> {
        self.0.get_slice(MemoryRegionAddress(place), bytes).map_err(io::Error::other)
    }

    /// Maps the slots.
    ///
    /// # Errors
    /// The file has another size or could change it, or the system refuses.
    pub fn new(file: File) -> io::Result<Self> {
        let bytes = SLOT_BYTES * usize::try_from(SLOTS).map_err(io::Error::other)?;
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        let fixed = rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW;
        if !seals.contains(fixed) || usize::try_from(file.metadata()?.len()).ok() != Some(bytes) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mapping =
            MmapRegion::from_file(FileOffset::new(file, 0), bytes).map_err(io::Error::other)?;
        Ok(Self(region(SHARED, mapping)?))
    }
}

/// A job whose numbers have been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    slot: u64,
    request: usize,
    reply: usize,
}

impl Checked {
    /// `None`: the slot or a length is out of bounds.
    #[must_use]
    pub fn new(job: Job) -> Option<Self> {
        let (request, reply) =
            (usize::try_from(job.request_bytes).ok()?, usize::try_from(job.reply_bytes).ok()?);
        let fits = job.slot < SLOTS && request <= SLOT_BYTES && reply <= SLOT_BYTES;
        let slot = SHARED + u64::from(job.slot) * u64::try_from(SLOT_BYTES).ok()?;
        fits.then_some(Self { slot, request, reply })
    }

    /// The same with room for a reply of at most this length.
    #[must_use]
    pub fn with_reply(self, bytes: usize) -> Self {
        Self { reply: self.reply.min(bytes), ..self }
    }

    /// Bytes of the request.
    #[must_use]
    pub const fn request_bytes(&self) -> usize {
        self.request
    }

    /// Most bytes of a reply.
    #[must_use]
    pub const fn reply_bytes(&self) -> usize {
        self.reply
    }
}

/// One worker's.
#[derive(Debug)]
pub struct WorkerMemory {
    /// The library's view: both of the following.
    memory: Memory,
    own: Arc<Region>,
    bounce: Bounce,
    queue: Queue,
    made: u16,
}

impl WorkerMemory {
    /// Beside the shared slots.
    ///
    /// # Errors
    /// The system refuses memory.
    pub fn new(bounce: &Bounce) -> io::Result<Self> {
        let own = region(0, MmapRegion::new(OWN_BYTES).map_err(io::Error::other)?)?;
        let memory = Memory::from_arc_regions(vec![Arc::clone(&own), Arc::clone(&bounce.0)])
            .map_err(io::Error::other)?;
        let mut queue = Queue::new(QUEUE_SIZE).map_err(io::Error::other)?;
        queue.try_set_desc_table_address(DESCRIPTORS).map_err(io::Error::other)?;
        queue.try_set_avail_ring_address(AVAILABLE).map_err(io::Error::other)?;
        queue.try_set_used_ring_address(USED).map_err(io::Error::other)?;
        queue.set_ready(true);
        Ok(Self { memory, own, bounce: bounce.clone(), queue, made: 0 })
    }

    /// Copies the first bytes of a job's request, up to the length of `copy`.
    ///
    /// # Errors
    /// Never with a checked job.
    pub fn copy(&self, job: Checked, copy: &mut [u8]) -> io::Result<()> {
        let slot = self.bounce.slice(job.slot - SHARED, copy.len())?;
        slot.copy_to(copy);
        Ok(())
    }

    /// Writes a whole reply.
    ///
    /// # Errors
    /// Never with a checked job and a reply of at most its bytes.
    pub fn reply(&self, job: Checked, reply: &[u8]) -> io::Result<()> {
        self.bounce.slice(job.slot - SHARED, reply.len())?.copy_from(reply);
        Ok(())
    }

    /// The request as the library reads it: `head`, and what follows it in the slot.
    ///
    /// # Errors
    /// Never with a checked job.
    pub fn chain(&mut self, job: Checked, head: &[u8]) -> io::Result<(Reader<'_>, Writer<'_>)> {
        let own =
            self.own.get_slice(MemoryRegionAddress(0), OWN_BYTES).map_err(io::Error::other)?;
        let at = |address: u64| usize::try_from(address).map_err(io::Error::other);
        own.offset(at(REQUEST)?).map_err(io::Error::other)?.copy_from(head);
        let rest = job.request.saturating_sub(head.len());
        let data = job.slot + u64::try_from(head.len()).unwrap_or(0);
        let write = VRING_DESC_F_WRITE;
        let pieces = [(REQUEST, head.len(), 0), (data, rest, 0), (job.slot, job.reply, write)];
        let pieces: Vec<_> = pieces.into_iter().filter(|(_, length, _)| *length > 0).collect();
        for (index, (address, length, flags)) in (0_u16..).zip(&pieces) {
            let last = usize::from(index) + 1 == pieces.len();
            let flags = if last { *flags } else { flags | VRING_DESC_F_NEXT };
            let length = u32::try_from(*length).map_err(io::Error::other)?;
            let flags = u16::try_from(flags).map_err(io::Error::other)?;
            let descriptor = Descriptor::new(*address, length, flags, index + 1);
            let place = at(DESCRIPTORS.0 + u64::from(index) * 16)?;
            own.get_ref(place).map_err(io::Error::other)?.store(descriptor);
        }
        // The ring: flags, index, then heads; the only head is descriptor 0.
        let head_place = at(AVAILABLE.0 + 4 + 2 * u64::from(self.made % QUEUE_SIZE))?;
        own.get_ref(head_place).map_err(io::Error::other)?.store(0_u16);
        self.made = self.made.wrapping_add(1);
        let index_place = at(AVAILABLE.0 + 2)?;
        own.get_ref(index_place).map_err(io::Error::other)?.store(self.made);
        let chain = self.queue.pop_descriptor_chain(&self.memory);
        let chain = chain.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        let reader = Reader::new(&self.memory, chain.clone()).map_err(io::Error::other)?;
        Ok((reader, Writer::new(&self.memory, chain).map_err(io::Error::other)?))
    }
}
