//! What a share's guest knows and has open, as a state: the library finds the names, our books say the rest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtiofsd::filesystem::{FileSystem as _, ROOT_ID, SerializableFileSystem as _};

use super::library::{self, LibraryHandle, LibraryNode, Place, Source};
use super::{CarriedShare, Holder, KEPT_FLAGS, Kind, Node, Open, Range};
use crate::control::{Unsaved, Why};
use crate::limits::{MAX_CARRIED_NODES, MAX_CARRIED_OPEN, MAX_TOLD_PATH};
use crate::locks::{Held, nobody, with_file};
use crate::share::Share;

/// What the search for names uses.
#[derive(Clone, Copy, Debug)]
pub struct Means<'a> {
    /// The library writes there, and more than once: what it holds does not matter.
    pub scratch: &'a File,
    /// `/proc/self/fd`.
    pub processes: &'a File,
    /// Set when the search takes too long.
    pub cancel: &'a Arc<AtomicBool>,
}

/// Where known files are: directory and name.
type Places = BTreeMap<u64, (u64, String)>;

/// The state of a share. It is served as before.
///
/// # Errors
/// Something that is open can't be found again by the next server, or there is too much of it.
pub fn save(share: &Share, means: Means<'_>) -> Result<CarriedShare, Unsaved> {
    let told = share.told();
    if told.len() > MAX_CARRIED_NODES {
        return Err(Unsaved::TooMany);
    }
    share.files.prepare_serialization(Arc::clone(means.cancel));
    // It has to come, whatever was found: it ends what the preparation has begun.
    let written = write(share, means.scratch);
    if means.cancel.load(Ordering::Relaxed) {
        return Err(Unsaved::TooSlow);
    }
    let state = library::read(&written?).ok_or(Unsaved::System { errno: libc::EINVAL })?;
    let open: Vec<LibraryHandle> =
        state.handles.into_iter().filter(|handle| told.contains_key(&handle.node)).collect();
    if state.nodes.len() > MAX_CARRIED_NODES || open.len() > MAX_CARRIED_OPEN {
        return Err(Unsaved::TooMany);
    }
    let found = Search { share, means, told, open: &open }.places(state.nodes)?;
    let Found { nodes, root_lookups } = found;
    Ok(CarriedShare {
        spec: share.spec.clone(),
        next_node: state.next_node,
        next_handle: state.next_handle,
        root_lookups,
        nodes: nodes.into(),
        open: opened(share, open).into(),
    })
}

/// What the library writes of itself.
fn write(share: &Share, mut scratch: &File) -> io::Result<Vec<u8>> {
    scratch.set_len(0)?;
    scratch.rewind()?;
    share.files.serialize(scratch.try_clone()?)?;
    scratch.rewind()?;
    let mut bytes = Vec::new();
    scratch.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Open files with their locks.
fn opened(share: &Share, handles: Vec<LibraryHandle>) -> Vec<Open> {
    let whole = share.locks.wholes();
    let held: HashMap<u64, (u64, Held)> = share
        .locks
        .held()
        .into_iter()
        .map(|((_, owner), held)| (held.handle, (owner, held)))
        .collect();
    let range = |record: crate::sys::Record| Range {
        exclusive: record.kind == libc::F_WRLCK.unsigned_abs(),
        start: record.start,
        end: record.end,
    };
    let open = |LibraryHandle { id, node, source: Source::Opened { flags } }| {
        let holder = match held.get(&id) {
            Some((owner, held)) => {
                let ranges = held.ranges.iter().map(range).collect::<Vec<_>>();
                Holder::Locks { owner: *owner, ranges: ranges.into() }
            }
            None => Holder::Guest { lock: whole.get(&id).copied() },
        };
        Open { id, node, flags: flags & KEPT_FLAGS, holder }
    };
    handles.into_iter().map(open).collect()
}

struct Found {
    nodes: Vec<Node>,
    root_lookups: u64,
}

struct Search<'a> {
    share: &'a Share,
    means: Means<'a>,
    told: HashMap<u64, u64>,
    open: &'a [LibraryHandle],
}

impl Search<'_> {
    /// Each known file behind its directory, and nothing that leads to none.
    fn places(&self, nodes: Vec<LibraryNode>) -> Result<Found, Unsaved> {
        let open: HashMap<u64, u64> = self.open.iter().map(|open| (open.node, open.id)).collect();
        let mut places = Places::new();
        for LibraryNode { id, place, .. } in nodes {
            match place {
                Place::In { parent, name } => {
                    places.insert(id, (parent, name));
                }
                Place::Nowhere => self.lost(id, open.get(&id).copied())?,
                Place::Root => {}
            }
        }
        let mut nodes = Vec::with_capacity(places.len());
        for id in in_order(&places) {
            let Some((parent, name)) = places.remove(&id) else { continue };
            let lookups = self.told.get(&id).copied().unwrap_or(0);
            let kind = match lookups {
                // Only directories are on the way to something.
                0 => Kind::Directory,
                _ => {
                    let (attr, _) = self.share.files.getattr(nobody(), id, None)?;
                    Kind::of(attr.mode).ok_or(Unsaved::System { errno: libc::EINVAL })?
                }
            };
            nodes.push(Node { id, lookups, kind, parent, name });
        }
        prune(&mut nodes);
        Ok(Found { nodes, root_lookups: self.told.get(&ROOT_ID).copied().unwrap_or(0) })
    }

    /// A file without a name. If it is not open the guest learns that it does not know it any more, and looks its
    /// name up again; but a directory that is there may be somebody's working directory.
    fn lost(&self, id: u64, open: Option<u64>) -> Result<(), Unsaved> {
        if !self.told.contains_key(&id) {
            return Ok(());
        }
        let attr = self.share.files.getattr(nobody(), id, None).map(|(attr, _)| attr);
        let unlinked = attr.as_ref().is_ok_and(|attr| attr.nlink == 0);
        let directory = attr.is_ok_and(|attr| Kind::of(attr.mode) == Some(Kind::Directory));
        let text = match open {
            Some(handle) => self.text(id, handle),
            None if directory && !unlinked => match self.share.files.opendir(nobody(), id, 0) {
                Ok((Some(handle), _)) => {
                    let text = self.text(id, handle);
                    self.share.files.releasedir(nobody(), id, 0, handle).ok();
                    text
                }
                _ => Vec::new(),
            },
            None => return Ok(()),
        };
        let why = match (unlinked, std::str::from_utf8(&text)) {
            (true, _) => Why::Unlinked,
            (false, Err(_)) => Why::NotText,
            (false, Ok(_)) => Why::NotFound,
        };
        let share = self.share.spec.name.clone();
        Err(Unsaved::File { share, path: told_path(&String::from_utf8_lossy(&text)), why })
    }

    /// What the system calls an open file.
    fn text(&self, id: u64, handle: u64) -> Vec<u8> {
        let read = |file: &File| {
            let number = std::os::fd::AsRawFd::as_raw_fd(&file.as_fd()).to_string();
            let text = rustix::fs::readlinkat(self.means.processes, number, Vec::new())?;
            Ok(text.into_bytes())
        };
        with_file(&self.share.files, id, handle, read).unwrap_or_default()
    }
}

/// As much of a path as a message takes.
pub(super) fn told_path(path: &str) -> String {
    let path = path.trim_start_matches('/');
    let end = path.floor_char_boundary(MAX_TOLD_PATH);
    path.get(..end).unwrap_or_default().to_owned()
}

/// Directories before what is in them; what is in none that is known does not come.
fn in_order(places: &Places) -> Vec<u64> {
    let mut children = HashMap::<u64, Vec<u64>>::new();
    for (id, (parent, _)) in places {
        children.entry(*parent).or_default().push(*id);
    }
    let (mut order, mut next) = (Vec::with_capacity(places.len()), vec![ROOT_ID]);
    while let Some(id) = next.pop() {
        let inner = children.remove(&id).unwrap_or_default();
        order.extend(&inner);
        next.extend(inner);
    }
    order
}

/// Takes directories away that the guest does not know and that lead to nothing that it knows.
fn prune(nodes: &mut Vec<Node>) {
    let mut used = HashSet::new();
    let mut kept = Vec::with_capacity(nodes.len());
    while let Some(node) = nodes.pop() {
        if node.lookups > 0 || used.contains(&node.id) {
            used.insert(node.parent);
            kept.push(node);
        }
    }
    kept.reverse();
    *nodes = kept;
}
