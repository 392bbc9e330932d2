//! What one file server leaves to the next, so that a guest goes on whose kernel knows files and has them open:
//! format and checks. Any bytes are a state that fits together, or an error.
//!
//! ```text
//! magic, version, length of the rest, then as postcard: of each share, in the order of their numbers,
//! what it is, the files that the guest knows by directory and name, its open files, its locks
//! ```
//!
//! Files are found again by their names: the library's way, in its own format, which `library.rs` makes anew of what
//! was checked here. So no byte of a state reaches the library unchecked.

pub mod library;

pub mod save;

pub mod restore;

mod bounded;

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use virtiofsd::filesystem::ROOT_ID;

pub use bounded::Bounded;

use crate::limits::{
    MAX_CARRIED_NODES, MAX_CARRIED_OPEN, MAX_LOCKED_RANGES, MAX_NAME, MAX_STATE_BYTES,
};
use crate::locks::Whole;
use crate::router::INNER;
use crate::spec::{MAX_SHARES, ShareSpec};
use crate::sys::Record;

const MAGIC: [u8; 8] = *b"clfstate";
const VERSION: u32 = 1;
/// Bytes before the shares: magic, version, length.
const HEADER: usize = 16;
/// A file's flags, of all that a guest can open it with, which are kept when it is opened again.
pub const KEPT_FLAGS: i32 = libc::O_ACCMODE | libc::O_SYNC | libc::O_DSYNC | libc::O_DIRECTORY;
/// Most times that a guest was told of a file: far below where counting would end.
const MAX_LOOKUPS: u64 = 1 << 60;

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// By their numbers, from 1 on.
    pub shares: Bounded<CarriedShare, MAX_SHARES>,
}

/// Of one share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedShare {
    /// What it is.
    pub spec: ShareSpec,
    /// The number of the next file that becomes known. Numbers are never used again: the guest may hold one of a file
    /// that is gone.
    pub next_node: u64,
    /// The number of the next open file.
    pub next_handle: u64,
    /// How often the guest was told of the share's root.
    pub root_lookups: u64,
    /// Known files, each behind the directory that it is in.
    pub nodes: Bounded<Node, MAX_CARRIED_NODES>,
    /// Open files.
    pub open: Bounded<Open, MAX_CARRIED_OPEN>,
}

/// A file that the guest knows, or a directory on the way to one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its number.
    pub id: u64,
    /// How often the guest was told of it; 0: never.
    pub lookups: u64,
    /// What it is. If something else has its name now, it is gone.
    pub kind: Kind,
    /// The directory that it is in.
    pub parent: u64,
    /// Its name there.
    pub name: String,
}

/// What a guest can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
}

impl Kind {
    /// Of a mode; `None`: nothing that a guest can know.
    #[must_use]
    pub const fn of(mode: u32) -> Option<Self> {
        match mode & libc::S_IFMT {
            libc::S_IFREG => Some(Self::Regular),
            libc::S_IFDIR => Some(Self::Directory),
            libc::S_IFLNK => Some(Self::Link),
            _ => None,
        }
    }
}

/// An open file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Its number.
    pub id: u64,
    /// The file.
    pub node: u64,
    /// How it is opened: of [`KEPT_FLAGS`].
    pub flags: i32,
    /// Who has it open.
    pub holder: Holder,
}

/// Who has a file open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holder {
    /// The guest.
    Guest {
        /// Its lock of the whole file.
        lock: Option<Whole>,
    },
    /// The server, for the record locks of a process of the guest.
    Locks {
        /// The process.
        owner: u64,
        /// What is locked.
        ranges: Bounded<Range, MAX_LOCKED_RANGES>,
    },
}

/// A locked range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Against readers as well.
    pub exclusive: bool,
    /// The first byte.
    pub start: u64,
    /// The last byte.
    pub end: u64,
}

impl Range {
    /// As the system has it; `None`: it is no range of a file.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        let kind = if self.exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
        Record::new(kind.unsigned_abs(), self.start, self.end)
    }
}

/// Bytes that are no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(&'static str);

impl Carried {
    /// As bytes; `None`: it is longer than a state may be.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let body = postcard::to_allocvec(self).ok()?;
        let length = u32::try_from(body.len()).ok()?;
        let head = [&MAGIC[..], &VERSION.to_le_bytes(), &length.to_le_bytes()].concat();
        let bytes = [head, body].concat();
        (bytes.len() <= MAX_STATE_BYTES).then_some(bytes)
    }

    /// Reads and checks a state.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, Damaged> {
        if bytes.len() > MAX_STATE_BYTES {
            return Err(Damaged("it is too long"));
        }
        let (head, body) = bytes.split_at_checked(HEADER).ok_or(Damaged("it is too short"))?;
        let own = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
        let Some(length) = head.strip_prefix(&own[..]) else {
            return Err(Damaged("it is of another version of cloister-file-server, or of nothing"));
        };
        let length = <[u8; 4]>::try_from(length).map_or(0, u32::from_le_bytes);
        if usize::try_from(length) != Ok(body.len()) {
            return Err(Damaged("it is not of its length"));
        }
        match postcard::take_from_bytes::<Self>(body) {
            Ok((carried, [])) => carried.check().map(|()| carried),
            _ => Err(Damaged("it can't be read")),
        }
    }

    fn check(&self) -> Result<(), Damaged> {
        self.shares.iter().try_for_each(CarriedShare::check)?;
        let total = |of: fn(&CarriedShare) -> usize| self.shares.iter().map(of).sum::<usize>();
        if total(|share| share.nodes.len()) > MAX_CARRIED_NODES
            || total(|share| share.open.len()) > MAX_CARRIED_OPEN
        {
            return Err(Damaged("it has too many files"));
        }
        Ok(())
    }
}

impl CarriedShare {
    fn check(&self) -> Result<(), Damaged> {
        if self.next_node > INNER || self.next_handle > INNER {
            return Err(Damaged("its numbers are at their end"));
        }
        self.spec.validate().map_err(|_| Damaged("a share is out of bounds"))?;
        let nodes = self.check_nodes()?;
        self.check_open(&nodes)
    }

    /// Each file's directory is known before it, so nothing goes in circles.
    fn check_nodes(&self) -> Result<HashMap<u64, (Kind, u64)>, Damaged> {
        let mut nodes = HashMap::from([(ROOT_ID, (Kind::Directory, self.root_lookups))]);
        let mut used = HashSet::new();
        for Node { id, lookups, kind, parent, name } in &*self.nodes {
            if *id >= self.next_node || *lookups > MAX_LOOKUPS {
                return Err(Damaged("a number of a file is out of bounds"));
            }
            if !matches!(nodes.get(parent), Some((Kind::Directory, _))) {
                return Err(Damaged("a file is in no directory"));
            }
            if !is_component(name) {
                return Err(Damaged("a file's name is none"));
            }
            if nodes.insert(*id, (*kind, *lookups)).is_some() {
                return Err(Damaged("two files have one number"));
            }
            used.insert(*parent);
        }
        // The library would keep it for ever.
        let idle = |node: &&Node| node.lookups == 0 && !used.contains(&node.id);
        if self.root_lookups > MAX_LOOKUPS || self.nodes.iter().find(idle).is_some() {
            return Err(Damaged("a file is known to nobody"));
        }
        Ok(nodes)
    }

    fn check_open(&self, nodes: &HashMap<u64, (Kind, u64)>) -> Result<(), Damaged> {
        let (mut handles, mut owners, mut ranges) = (HashSet::new(), HashSet::new(), 0);
        for open in &*self.open {
            let Some((kind, 1..)) = nodes.get(&open.node) else {
                return Err(Damaged("a file is open that is not known"));
            };
            if open.id >= self.next_handle || !handles.insert(open.id) {
                return Err(Damaged("an open file's number is wrong"));
            }
            let reads = open.flags & libc::O_ACCMODE == libc::O_RDONLY;
            let directory = open.flags & libc::O_DIRECTORY != 0;
            let fits = match kind {
                Kind::Regular => !directory && (reads || self.spec.writable),
                Kind::Directory => directory && reads,
                Kind::Link => false,
            };
            // Both bits of the mode are for nothing that a guest can ask for.
            let mode = open.flags & libc::O_ACCMODE != libc::O_ACCMODE;
            if !fits || !mode || open.flags & !KEPT_FLAGS != 0 {
                return Err(Damaged("a file is open in a way that there is not"));
            }
            if let Holder::Locks { owner, ranges: locked } = &open.holder {
                ranges += locked.len();
                let first = owners.insert((open.node, *owner));
                if !first || locked.iter().any(|range| range.record().is_none()) {
                    return Err(Damaged("a lock is none"));
                }
            }
        }
        if ranges > MAX_LOCKED_RANGES {
            return Err(Damaged("it has too many locks"));
        }
        Ok(())
    }

    /// A file's path in the share, as far as it is a path: for people.
    #[must_use]
    pub fn path(&self, node: u64) -> String {
        let mut names = Vec::new();
        let mut wanted = node;
        // Directories come before what is in them, so one way back finds them all.
        for Node { id, parent, name, .. } in self.nodes.iter().rev() {
            if *id == wanted {
                names.push(name.as_str());
                wanted = *parent;
            }
        }
        names.reverse();
        names.join("/")
    }
}

/// One component of a path, and none that leads elsewhere.
fn is_component(name: &str) -> bool {
    let plain = !name.contains(['/', '\0']) && !matches!(name, "" | "." | "..");
    plain && name.len() <= MAX_NAME
}

#[cfg(test)]
#[path = "../carried_test.rs"]
mod tests;
