//! Takes up a state: the library finds and opens the files, then everything is looked at before it is believed.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};

use virtiofsd::filesystem::{FileSystem as _, ROOT_ID};

use super::library;
use super::save::told_path;
use super::{CarriedShare, Holder, Kind, Node, Open};
use crate::control::Unrestored;
use crate::locks::{nobody, with_file};
use crate::share::Share;

/// A share that knows nothing yet takes up a state. On an error it is to be reset.
///
/// # Errors
/// A file that is open is gone or can't be opened as it was, or a lock can't be had.
pub fn restore(share: &Share, state: &CarriedShare, scratch: &File) -> Result<(), Unrestored> {
    let bytes = library::write(state).ok_or(Unrestored::System { errno: libc::EINVAL })?;
    write(scratch, &bytes).and_then(|left| share.take_up(left))?;
    if state.root_lookups > 0 {
        share.take_up_node(ROOT_ID, state.root_lookups, libc::S_IFDIR)?;
    }
    for node in state.nodes.iter().filter(|node| node.lookups > 0) {
        take_up_node(share, node)?;
    }
    for open in &*state.open {
        take_up_open(share, state, open)?;
    }
    Ok(())
}

fn write(mut scratch: &File, bytes: &[u8]) -> io::Result<File> {
    scratch.set_len(0)?;
    scratch.rewind()?;
    scratch.write_all(bytes)?;
    scratch.rewind()?;
    scratch.try_clone()
}

/// What is gone, or is something else now, is nothing that the guest knows (`ESTALE`): its kernel looks the name up
/// again.
fn take_up_node(share: &Share, node: &Node) -> io::Result<()> {
    let found = share.files.getattr(nobody(), node.id, None);
    match found.map(|(attr, _)| attr.mode) {
        Ok(mode) if Kind::of(mode) == Some(node.kind) => {
            share.take_up_node(node.id, node.lookups, mode)
        }
        _ => {
            share.files.forget(nobody(), node.id, node.lookups);
            Ok(())
        }
    }
}

fn take_up_open(share: &Share, state: &CarriedShare, open: &Open) -> Result<(), Unrestored> {
    let (name, path) = (share.spec.name.clone(), told_path(&state.path(open.node)));
    let usable = with_file(&share.files, open.node, open.id, |_| Ok(()));
    if usable.is_err() || share.known(open.node).is_err() {
        return Err(Unrestored::Gone { share: name, path });
    }
    let taken = match &open.holder {
        Holder::Guest { lock } => share.take_up_handle().and_then(|()| match lock {
            Some(lock) => share.locks.whole(&share.files, open.node, open.id, Some(*lock)),
            None => Ok(()),
        }),
        Holder::Locks { owner, ranges } => share.take_up_locks(|locks| {
            let records = ranges.iter().filter_map(super::Range::record);
            locks.take_up(&share.files, (open.node, *owner), open.id, records)
        }),
    };
    taken.map_err(|error| match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EBADF) => Unrestored::Locked { share: name, path },
        _ => error.into(),
    })
}
