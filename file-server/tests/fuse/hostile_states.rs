//! States that no server wrote: an error, and nothing outside of the share is opened or changed.

use std::fs;
use std::path::Path;

use cloister_file_server::carried::{Carried, CarriedShare, Holder, Kind, Node, Open};
use cloister_file_server::control::Unrestored;
use cloister_file_server::spec::ShareSpec;

use crate::bed::{Bed, writable};

const ENOUGH: u64 = 4096;

fn share(nodes: Vec<Node>, open: Vec<Open>) -> CarriedShare {
    CarriedShare {
        spec: writable("work"),
        next_node: 1000,
        next_handle: 1000,
        root_lookups: 1,
        nodes: nodes.into(),
        open: open.into(),
    }
}

fn node(id: u64, parent: u64, name: &str, kind: Kind) -> Node {
    Node { id, lookups: 1, kind, parent, name: name.into() }
}

fn open(id: u64, node: u64, flags: i32) -> Open {
    Open { id, node, flags, holder: Holder::Guest { lock: None } }
}

fn restored(path: &Path, share: CarriedShare) -> Result<Bed, Unrestored> {
    let state = Carried { shares: vec![share].into() }.encode().unwrap();
    let shares: [(ShareSpec, &Path); 1] = [(writable("work"), path)];
    Bed::restored(&state, ENOUGH, &shares)
}

#[test]
fn bytes_that_are_no_state_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let shares = [(writable("work"), place.path())];
    for state in [&b""[..], b"clfstate", &[0xff; 4096]] {
        let refused = Bed::restored(state, ENOUGH, &shares).err();
        assert!(matches!(refused, Some(Unrestored::Damaged { .. })), "{refused:?}");
    }
}

#[test]
fn nothing_outside_is_found_by_any_name() {
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("shared");
    fs::create_dir(&inner).unwrap();
    fs::write(outer.path().join("secret"), "x").unwrap();
    std::os::unix::fs::symlink("..", inner.join("up")).unwrap();
    std::os::unix::fs::symlink("../secret", inner.join("way-out")).unwrap();
    for name in ["..", "../secret", "/etc/passwd", "/", ".", ""] {
        let refused = restored(&inner, share(vec![node(2, 1, name, Kind::Directory)], vec![]));
        assert!(matches!(refused.err(), Some(Unrestored::Damaged { .. })), "{name}");
    }
    // A link that is said to be a directory or a file is neither, and nothing is in it.
    let nodes = vec![
        node(2, 1, "up", Kind::Directory),
        node(3, 2, "secret", Kind::Regular),
        node(4, 1, "way-out", Kind::Regular),
    ];
    let mut bed = restored(&inner, share(nodes.clone(), vec![])).unwrap();
    for node in [2, 3, 4] {
        assert_eq!(bed.getattr(1 << 48 | node).unwrap_err(), libc::ESTALE);
    }
    for file in [3, 4] {
        let refused = restored(&inner, share(nodes.clone(), vec![open(0, file, libc::O_RDWR)]));
        assert!(matches!(refused.err(), Some(Unrestored::Gone { .. })));
    }
    assert_eq!(fs::read(outer.path().join("secret")).unwrap(), b"x");
}

#[test]
fn flags_that_change_files_are_refused_before_anything_is_opened() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("f");
    fs::write(&path, "content").unwrap();
    for flags in [libc::O_TRUNC | libc::O_RDWR, libc::O_CREAT | libc::O_RDWR, -1, i32::MIN] {
        let state = share(vec![node(2, 1, "f", Kind::Regular)], vec![open(0, 2, flags)]);
        let refused = restored(place.path(), state).err();
        assert!(matches!(refused, Some(Unrestored::Damaged { .. })), "{flags:#x}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"content");
}

#[test]
fn one_file_by_many_numbers_and_many_by_one_name_do_no_harm() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("f"), "x").unwrap();
    let nodes = (2..200).map(|id| node(id, 1, "f", Kind::Regular)).collect();
    let handles = (0..100).map(|id| open(id, 2 + id, libc::O_RDONLY)).collect();
    let mut bed = restored(place.path(), share(nodes, handles)).unwrap();
    for id in 2..200 {
        assert_eq!(bed.getattr(1 << 48 | id).unwrap().size, 1);
        bed.forget(1 << 48 | id, 1);
        assert_eq!(bed.getattr(1 << 48 | id).unwrap_err(), libc::ESTALE);
    }
    let work = bed.lookup(1, "work").unwrap().node;
    assert_eq!(bed.lookup(work, "f").unwrap().attr.size, 1);
}

#[test]
fn after_a_refusal_nothing_is_known_or_open() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("f"), "x").unwrap();
    let nodes = vec![node(2, 1, "f", Kind::Regular), node(3, 1, "gone", Kind::Regular)];
    let handles = vec![open(0, 2, libc::O_RDONLY), open(1, 3, libc::O_RDONLY)];
    let state = Carried { shares: vec![share(nodes, handles)].into() }.encode().unwrap();
    let mut bed = Bed::with_descriptors(32);
    bed.share(writable("work"), place.path());
    assert_eq!(bed.router.restore(&crate::bed::memory(&state)), Err(Unrestored::Late));
    let gone = Unrestored::Gone { share: "work".into(), path: "gone".into() };
    let shares = [(writable("work"), place.path())];
    assert_eq!(Bed::restored(&state, ENOUGH, &shares).err(), Some(gone));
}
