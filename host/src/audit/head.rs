//! The head of an audit log: how far it had come when it was last made durable, signed.
//!
//! Two slots of [`SLOT`] bytes, written in turns, so that a write that did not end leaves the other. The
//! records are on the disk before the head that counts them.
//!
//! ```text
//! slot:  0 magic, 8   8 log, 16   24 number of records, 8, little-endian   32 digest of the last, 32
//!        64 closed, 1   65 turn, 8, little-endian   73 signature of the 73 bytes before, 64   137 zeros
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::key::{HostKey, PublicKey, SIGNATURE};
use super::record::Place;
use super::{from_hex, hex};

/// The file.
pub const FILE: &str = "head";
/// What becomes the file.
pub const SCRATCH: &str = "head.new";
/// Bytes of a slot: half a sector of a disk, which is written whole or not at all.
pub const SLOT: usize = 256;
const SLOTS: usize = 2;
const MAGIC: &[u8; 8] = b"CLOIHEA1";
const SIGNED: usize = 73;
const PURPOSE: &str = "cloister audit head 1";

/// What a head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last record that it counts.
    pub place: Place,
    /// The log's writer had ended.
    pub closed: bool,
    /// One more with every write: the larger is the newer.
    pub turn: u64,
}

/// What is in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Zeros.
    Empty,
    /// A head of this host.
    Head(Head),
    /// Anything else: a write that did not end, or a change.
    Broken,
}

impl Head {
    fn encode(&self, key: &HostKey) -> Option<[u8; SLOT]> {
        let log: [u8; 16] = from_hex(self.place.log.as_bytes())?;
        let digest: [u8; 32] = from_hex(self.place.digest.as_bytes())?;
        let signed = [
            MAGIC.as_slice(),
            &log,
            &self.place.seq.to_le_bytes(),
            &digest,
            &[u8::from(self.closed)],
            &self.turn.to_le_bytes(),
        ]
        .concat();
        let signature = key.sign(PURPOSE, &signed);
        let mut slot = [0; SLOT];
        slot.iter_mut().zip(signed.iter().chain(&signature)).for_each(|(to, from)| *to = *from);
        Some(slot)
    }
}

impl Slot {
    fn decode(bytes: &[u8; SLOT], key: &PublicKey) -> Self {
        if bytes.iter().all(|byte| *byte == 0) {
            return Self::Empty;
        }
        let (signed, rest) = bytes.split_at(SIGNED);
        let (signature, padding) = rest.split_at(SIGNATURE);
        let part = |from: usize, to: usize| signed.get(from..to).unwrap_or_default();
        let number = |from: usize| part(from, from + 8).try_into().map(u64::from_le_bytes);
        let closed = part(64, 65) == [1];
        let genuine = signed.starts_with(MAGIC)
            && padding.iter().all(|byte| *byte == 0)
            && key.has_signed(PURPOSE, signed, signature);
        let (true, Ok(seq), Ok(turn)) = (genuine, number(24), number(65)) else {
            return Self::Broken;
        };
        let place = Place { log: hex(part(8, 24)), seq, digest: hex(part(32, 64)) };
        Self::Head(Head { place, closed, turn })
    }
}

/// The two slots of a file. `None`: it has not their size.
///
/// # Errors
/// It can't be read.
pub fn read(path: &Path, key: &PublicKey) -> io::Result<Option<[Slot; SLOTS]>> {
    let file = File::open(path)?;
    if file.metadata()?.len() != (SLOT * SLOTS) as u64 {
        return Ok(None);
    }
    let mut slots = [Slot::Empty, Slot::Empty];
    for (number, slot) in slots.iter_mut().enumerate() {
        let mut bytes = [0; SLOT];
        file.read_exact_at(&mut bytes, (number * SLOT) as u64)?;
        *slot = Slot::decode(&bytes, key);
    }
    Ok(Some(slots))
}

/// The newer head, and what the other slot holds.
#[must_use]
pub fn newest(slots: [Slot; SLOTS]) -> Option<(Head, Slot)> {
    match slots {
        [Slot::Head(a), Slot::Head(b)] => {
            let (newer, older) = if a.turn >= b.turn { (a, b) } else { (b, a) };
            Some((newer, Slot::Head(older)))
        }
        [Slot::Head(head), other] | [other, Slot::Head(head)] => Some((head, other)),
        _ => None,
    }
}

/// Writes heads.
#[derive(Debug)]
pub struct HeadFile {
    file: File,
    /// The slot that is to be written next.
    next: usize,
    turn: u64,
}

impl HeadFile {
    /// Makes the file, with its first head in it. It appears as a whole: a log has a head or was not begun.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn create(folder: &Path, place: &Place, key: &HostKey) -> io::Result<Self> {
        let scratch = folder.join(SCRATCH);
        // What a killed process left of it is overwritten.
        let file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&scratch)?;
        file.set_len((SLOT * SLOTS) as u64)?;
        let mut head = Self { file, next: 0, turn: 1 };
        head.write(place, false, key)?;
        fs::rename(&scratch, folder.join(FILE))?;
        File::open(folder)?.sync_all()?;
        Ok(head)
    }

    /// Opens the file, to go on after what is in it.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn open(path: &Path, key: &PublicKey) -> io::Result<Self> {
        let file = File::options().write(true).open(path)?;
        let (next, turn) = match read(path, key)? {
            // The newest one stays, whatever happens to the write.
            Some([Slot::Head(a), Slot::Head(b)]) => {
                (usize::from(a.turn >= b.turn), a.turn.max(b.turn))
            }
            Some([Slot::Head(a), _]) => (1, a.turn),
            Some([_, Slot::Head(b)]) => (0, b.turn),
            _ => (0, 0),
        };
        Ok(Self { file, next, turn: turn.saturating_add(1) })
    }

    /// Writes a head, durably.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write(&mut self, place: &Place, closed: bool, key: &HostKey) -> io::Result<()> {
        let head = Head { place: place.clone(), closed, turn: self.turn };
        let slot = head.encode(key).ok_or(io::ErrorKind::InvalidInput)?;
        self.file.write_all_at(&slot, (self.next * SLOT) as u64)?;
        self.file.sync_data()?;
        self.next = (self.next + 1) % SLOTS;
        self.turn = self.turn.saturating_add(1);
        Ok(())
    }
}
