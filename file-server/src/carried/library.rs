//! The library's own format of its state, of the one version that this program is built with: read from what the
//! library wrote, and written of what was checked.
//!
//! The library reads a state without looking at it much (a name may be a path out of the share, a count may wrap), so
//! what it gets is made here of a checked state and nothing else.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use virtiofsd::filesystem::ROOT_ID;

use super::{CarriedShare, Node};

/// The library's references to the root, whoever knows it.
const ROOT_REFERENCES: u64 = 2;

#[derive(Debug, Serialize, Deserialize)]
enum Versions {
    V1(State),
    V2(State, BTreeMap<u64, String>),
}

/// Everything that the library keeps.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// Known files.
    pub nodes: Vec<LibraryNode>,
    /// The next one's number.
    pub next_node: u64,
    /// Open files.
    pub handles: Vec<LibraryHandle>,
    /// The next one's number.
    pub next_handle: u64,
    options: [bool; 4],
}

/// A known file.
#[derive(Debug, Serialize, Deserialize)]
pub struct LibraryNode {
    /// Its number.
    pub id: u64,
    references: u64,
    /// Where it is.
    pub place: Place,
    file_handle: Option<()>,
}

/// Where a file is.
#[derive(Debug, Serialize, Deserialize)]
pub enum Place {
    /// The share's root.
    Root,
    /// In a directory, with a name.
    In {
        /// The directory's number.
        parent: u64,
        /// The name.
        name: String,
    },
    /// Nowhere that the library could find.
    Nowhere,
}

/// An open file.
#[derive(Debug, Serialize, Deserialize)]
pub struct LibraryHandle {
    /// Its number.
    pub id: u64,
    /// The file's.
    pub node: u64,
    /// How it was opened.
    pub source: Source,
}

/// How a file was opened.
#[derive(Debug, Serialize, Deserialize)]
pub enum Source {
    /// With these flags.
    Opened {
        /// The system's.
        flags: i32,
    },
}

/// Reads what the library wrote; `None`: it is not of the version that this is for.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<State> {
    match postcard::take_from_bytes(bytes) {
        Ok((Versions::V2(state, _), [])) => Some(state),
        _ => None,
    }
}

/// The library's state for a share's.
#[must_use]
pub fn write(share: &CarriedShare) -> Option<Vec<u8>> {
    let mut children = HashMap::<u64, u64>::new();
    for node in &*share.nodes {
        *children.entry(node.parent).or_default() += 1;
    }
    // The library takes a reference of the directory for each file in it away when it has found that.
    let references = |id, own: u64| own.saturating_add(children.get(&id).copied().unwrap_or(0));
    let root = LibraryNode {
        id: ROOT_ID,
        references: references(ROOT_ID, ROOT_REFERENCES),
        place: Place::Root,
        file_handle: None,
    };
    let node = |node: &Node| LibraryNode {
        id: node.id,
        references: references(node.id, node.lookups),
        place: Place::In { parent: node.parent, name: node.name.clone() },
        file_handle: None,
    };
    let opened = |open: &super::Open| LibraryHandle {
        id: open.id,
        node: open.node,
        source: Source::Opened { flags: open.flags },
    };
    // The library takes the first, and puts the last in its place each time. So a directory's turn comes before that
    // of what is in it if all but the first are in reverse; else each directory would cost another round over all.
    let nodes = std::iter::once(root).chain(share.nodes.iter().rev().map(node)).collect();
    let state = State {
        nodes,
        next_node: share.next_node,
        handles: share.open.iter().map(opened).collect(),
        next_handle: share.next_handle,
        options: [false; 4],
    };
    postcard::to_allocvec(&Versions::V2(state, BTreeMap::new())).ok()
}
