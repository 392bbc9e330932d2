//! The format by itself: what was written is read, and everything else is an error.

use super::*;
use crate::spec::{Kind as ShareKind, Owner};

fn node(id: u64, parent: u64, name: &str, kind: Kind) -> Node {
    Node { id, lookups: 1, kind, parent, name: name.into() }
}

fn open(id: u64, node: u64, flags: i32) -> Open {
    Open { id, node, flags, holder: Holder::Guest { lock: None } }
}

fn locks(id: u64, node: u64, owner: u64, ranges: Vec<Range>) -> Open {
    let holder = Holder::Locks { owner, ranges: ranges.into() };
    Open { holder, ..open(id, node, libc::O_RDWR) }
}

fn share() -> CarriedShare {
    let owner = Owner::All { uid: 1, gid: 2 };
    let kind = ShareKind::Directory;
    let range = Range { exclusive: true, start: 3, end: i64::MAX.unsigned_abs() };
    CarriedShare {
        spec: ShareSpec { name: "a".into(), kind, writable: true, owner },
        next_node: 9,
        next_handle: 7,
        root_lookups: 1,
        nodes: vec![
            node(5, ROOT_ID, "sub", Kind::Directory),
            node(2, 5, "file", Kind::Regular),
            node(8, 5, "link", Kind::Link),
        ]
        .into(),
        open: vec![
            open(0, ROOT_ID, libc::O_DIRECTORY),
            open(3, 2, libc::O_WRONLY | libc::O_SYNC),
            locks(6, 2, 77, vec![range]),
        ]
        .into(),
    }
}

fn state(share: CarriedShare) -> Carried {
    Carried { shares: vec![share].into() }
}

#[test]
fn a_state_is_read_as_it_was_written() {
    let state = state(share());
    assert_eq!(Carried::parse(&state.encode().unwrap()), Ok(state.clone()));
    let none = Carried { shares: Vec::new().into() };
    assert_eq!(Carried::parse(&none.encode().unwrap()), Ok(none));
    let share = &state.shares[0];
    assert_eq!((share.path(2), share.path(ROOT_ID)), ("sub/file".into(), String::new()));
}

/// Changes one thing, which the parser tells.
fn refused(change: impl FnOnce(&mut CarriedShare), what: &'static str) {
    let mut share = share();
    change(&mut share);
    let read = Carried::parse(&state(share).encode().unwrap());
    assert_eq!(read, Err(Damaged(what)));
}

fn with_node(share: &mut CarriedShare, node: Node) {
    let mut nodes = share.nodes.to_vec();
    nodes.push(node);
    share.nodes = nodes.into();
}

fn with_open(share: &mut CarriedShare, open: Open) {
    let mut all = share.open.to_vec();
    all.push(open);
    share.open = all.into();
}

#[test]
fn files_that_lead_elsewhere_or_in_circles_are_refused() {
    let long = "n".repeat(MAX_NAME + 1);
    for name in ["", ".", "..", "/", "a/b", "../x", "/etc/passwd", "a\0", &long] {
        refused(|share| with_node(share, node(3, 5, name, Kind::Regular)), "a file's name is none");
    }
    // Unknown, itself, a file, a link, what comes later.
    for parent in [99, 0, 3, 2, 8, 4] {
        let add = |share: &mut CarriedShare| {
            with_node(share, node(3, parent, "x", Kind::Directory));
            with_node(share, node(4, 3, "y", Kind::Directory));
        };
        refused(add, "a file is in no directory");
    }
    for id in [5, 2, ROOT_ID] {
        refused(
            |share| with_node(share, node(id, 5, "x", Kind::Regular)),
            "two files have one number",
        );
    }
    let bounds = "a number of a file is out of bounds";
    for id in [9, INNER, u64::MAX] {
        refused(|share| with_node(share, node(id, 5, "x", Kind::Regular)), bounds);
    }
    let lookups = |lookups| Node { lookups, ..node(3, 5, "x", Kind::Directory) };
    refused(|share| with_node(share, lookups(u64::MAX)), bounds);
    refused(|share| with_node(share, lookups(0)), "a file is known to nobody");
    refused(|share| share.root_lookups = u64::MAX, "a file is known to nobody");
    refused(|share| share.next_node = INNER + 1, "its numbers are at their end");
    refused(|share| share.next_handle = u64::MAX, "its numbers are at their end");
    refused(|share| share.spec.name = "../a".into(), "a share is out of bounds");
}

#[test]
fn files_that_nobody_can_have_open_are_refused() {
    let (unknown, number, way) = (
        "a file is open that is not known",
        "an open file's number is wrong",
        "a file is open in a way that there is not",
    );
    for (id, file, flags, what) in [
        (4, 3, 0, unknown),
        (0, 2, 0, number),
        (7, 2, 0, number),
        (u64::MAX, 2, 0, number),
        (4, 8, 0, way),
        (4, 2, libc::O_DIRECTORY, way),
        (4, 2, libc::O_ACCMODE, way),
        (4, 2, libc::O_TRUNC, way),
        (4, 2, libc::O_CREAT | libc::O_RDWR, way),
        (4, 2, libc::O_PATH, way),
        (4, 2, libc::O_APPEND, way),
        (4, 2, libc::O_TMPFILE | libc::O_RDWR, way),
        (4, 2, i32::MIN, way),
        (4, 5, 0, way),
        (4, 5, libc::O_DIRECTORY | libc::O_RDWR, way),
    ] {
        refused(|share| with_open(share, open(id, file, flags)), what);
    }
    let read_only = |share: &mut CarriedShare| share.spec.writable = false;
    refused(read_only, way);
    let forgotten = |share: &mut CarriedShare| {
        share.root_lookups = 0;
    };
    refused(forgotten, unknown);
}

#[test]
fn locks_that_are_none_are_refused() {
    let none = "a lock is none";
    let range = Range { exclusive: false, start: 1, end: 1 };
    let end = i64::MAX.unsigned_abs() + 1;
    for wrong in [Range { end: 0, ..range }, Range { end, ..range }] {
        refused(|share| with_open(share, locks(4, 2, 1, vec![range, wrong])), none);
    }
    refused(|share| with_open(share, locks(4, 2, 77, vec![range])), none);
    let many = vec![range; MAX_LOCKED_RANGES];
    refused(|share| with_open(share, locks(4, 2, 1, many.clone())), "it has too many locks");
    let more = vec![range; MAX_LOCKED_RANGES + 1];
    refused(|share| with_open(share, locks(4, 2, 1, more)), "it can't be read");
}

#[test]
fn any_change_of_the_bytes_is_an_error_or_a_state() {
    let bytes = state(share()).encode().unwrap();
    for length in 0..bytes.len() {
        assert!(Carried::parse(&bytes[..length]).is_err(), "{length}");
    }
    assert!(Carried::parse(&[&bytes[..], &[0]].concat()).is_err());
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << bit;
            let read = Carried::parse(&changed);
            assert!(place >= HEADER || read.is_err());
            // What the library gets of it can be made.
            for share in read.iter().flat_map(|state| &*state.shares) {
                assert!(library::read(&library::write(share).unwrap()).is_some());
            }
        }
    }
    // Lists that claim to be endless.
    let endless = [[0xff; 9].as_slice(), &[1]].concat();
    let length = u32::try_from(endless.len()).unwrap().to_le_bytes();
    let head = [&MAGIC[..], &VERSION.to_le_bytes(), &length].concat();
    assert_eq!(Carried::parse(&[head, endless].concat()), Err(Damaged("it can't be read")));
    let long = vec![0; MAX_STATE_BYTES + 1];
    assert_eq!(Carried::parse(&long), Err(Damaged("it is too long")));
}

#[test]
fn many_files_in_one_line_of_directories_take_one_round() {
    let chain = (2..20_000).map(|id| node(id, id - 1, "d", Kind::Directory));
    let share = CarriedShare {
        nodes: chain.collect::<Vec<_>>().into(),
        open: Vec::new().into(),
        next_node: 20_000,
        ..share()
    };
    let state = library::read(&library::write(&share).unwrap()).unwrap();
    // As the library goes: what is found is taken out, and the last one takes its place.
    let (mut nodes, mut found) = (state.nodes, HashSet::new());
    while !nodes.is_empty() {
        let node = nodes.swap_remove(0);
        let ready = match node.place {
            library::Place::Root => true,
            library::Place::In { parent, .. } => found.contains(&parent),
            library::Place::Nowhere => false,
        };
        assert!(ready, "{}", node.id);
        found.insert(node.id);
    }
}
