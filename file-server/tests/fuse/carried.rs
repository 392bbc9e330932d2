//! A server that goes on where another one stopped: the guest notices nothing, or there is a reason.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use cloister_file_server::control::{Unrestored, Unsaved, Why};
use cloister_file_server::spec::{FILE_NAME, Kind, Owner, ShareSpec};
use cloister_file_server::sys::{Record, set_lock};
use rustix::fs::{FlockOperation, XattrFlags, flock};

use crate::bed::{Bed, ROOT, long, read_body, word, words, writable};
use crate::locks::{GET, SET, body, host};

const ENOUGH: u64 = 4096;

/// The server is gone, and another one takes its place.
fn change(bed: Bed, path: &Path) -> Result<Bed, Unrestored> {
    let state = bed.save().unwrap();
    drop(bed);
    Bed::restored(&state, ENOUGH, &[(writable("work"), path)])
}

fn gone(path: &str) -> Unrestored {
    Unrestored::Gone { share: "work".into(), path: path.into() }
}

fn lost(path: &str, why: Why) -> Unsaved {
    Unsaved::File { share: "work".into(), path: path.into(), why }
}

#[test]
fn known_and_open_files_are_what_they_were() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("a/b/c")).unwrap();
    fs::write(place.path().join("a/b/c/deep"), "0123456789").unwrap();
    symlink("a/b", place.path().join("link")).unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let mut path = vec![work];
    for name in ["a", "b", "c", "deep"] {
        path.push(bed.lookup(*path.last().unwrap(), name).unwrap().node);
    }
    let (folder, deep) = (path[3], path[4]);
    let link = bed.lookup(work, "link").unwrap().node;
    // Told of it twice, and of one that is in a directory that the guest has forgotten.
    bed.lookup(folder, "deep").unwrap();
    fs::create_dir(place.path().join("way")).unwrap();
    fs::write(place.path().join("way/kept"), "kept").unwrap();
    let way = bed.lookup(work, "way").unwrap().node;
    let kept = bed.lookup(way, "kept").unwrap().node;
    bed.forget(way, 1);
    let reading = bed.open(deep, libc::O_RDONLY).unwrap();
    let both = bed.open(deep, libc::O_RDWR | libc::O_APPEND).unwrap();
    let (made, writing) = bed.create(folder, "made", 0o600).unwrap();
    bed.write(made.node, writing, 0, b"before").unwrap();

    let mut bed = change(bed, place.path()).unwrap();
    for (node, kind) in [(work, libc::S_IFDIR), (deep, libc::S_IFREG), (link, libc::S_IFLNK)] {
        assert_eq!(bed.getattr(node).unwrap().mode & libc::S_IFMT, kind);
    }
    assert_eq!(bed.getattr(deep).unwrap().uid, 1000);
    assert_eq!(bed.read(deep, reading, 3, 4).unwrap(), b"3456");
    assert_eq!(bed.write(deep, reading, 0, b"x"), Err(libc::EBADF));
    bed.write(deep, both, 8, b"89ab").unwrap();
    bed.write(made.node, writing, 6, b" after").unwrap();
    assert_eq!(fs::read(place.path().join("a/b/c/made")).unwrap(), b"before after");
    assert_eq!(fs::read(place.path().join("a/b/c/deep")).unwrap(), b"0123456789ab");
    assert_eq!(bed.ask(5, link, &[]).unwrap(), b"a/b");
    // Names lead to the same numbers, and new files get new ones.
    assert_eq!(bed.lookup(path[1], "b").unwrap().node, path[2]);
    assert_eq!(bed.lookup(ROOT, "work").unwrap().node, work);
    let way_again = bed.lookup(work, "way").unwrap().node;
    assert_ne!(way_again, way);
    assert_eq!(bed.lookup(way_again, "kept").unwrap().node, kept);
    let (other, handle) = bed.create(work, "new", 0o600).unwrap();
    assert!(![deep, link, made.node, way, kept].contains(&other.node) && handle > writing);
    // As often as it was told of it.
    bed.forget(deep, 1);
    bed.getattr(deep).unwrap();
    for handle in [reading, both] {
        bed.release(deep, handle).unwrap();
    }
    bed.forget(deep, 1);
    assert_eq!(bed.getattr(deep).unwrap_err(), libc::ESTALE);
    assert!(bed.read(made.node, reading, 0, 1).is_err());
}

#[test]
fn a_listing_goes_on_where_it_was() {
    let place = tempfile::tempdir().unwrap();
    for number in 0..200 {
        fs::write(place.path().join(format!("file-{number}")), "").unwrap();
    }
    let (mut bed, work) = Bed::sharing(place.path());
    let handle = long(&bed.ask(27, work, &[0; 8]).unwrap(), 0);
    let (mut names, mut offset) = (Vec::new(), 0);
    for turn in 0.. {
        let listed = bed.ask(28, work, &read_body(handle, offset, 1024)).unwrap();
        if listed.is_empty() {
            break;
        }
        let mut rest = &listed[..];
        while !rest.is_empty() {
            offset = long(rest, 8);
            let length = word(rest, 16) as usize;
            names.push(rest[24..24 + length].to_vec());
            rest = &rest[(24 + length).next_multiple_of(8)..];
        }
        if turn == 2 {
            bed = change(bed, place.path()).unwrap();
        }
    }
    names.sort();
    let whole = names.len();
    names.dedup();
    // And the directory itself, and the one above it.
    assert_eq!((names.len(), whole), (202, 202));
    bed.ask(29, work, &[&handle.to_le_bytes()[..], &[0; 16]].concat()).unwrap();
}

#[test]
fn saving_changes_nothing_and_can_be_done_again() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("d")).unwrap();
    fs::write(place.path().join("d/f"), "x").unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let folder = bed.lookup(work, "d").unwrap().node;
    let node = bed.lookup(folder, "f").unwrap().node;
    bed.forget(folder, 1);
    let handle = bed.open(node, libc::O_RDONLY).unwrap();
    let state = bed.save().unwrap();
    assert!(bed.save().is_ok());
    assert_eq!(bed.read(node, handle, 0, 9).unwrap(), b"x");
    bed.release(node, handle).unwrap();
    bed.forget(node, 1);
    assert_eq!(bed.getattr(node).unwrap_err(), libc::ESTALE);
    // The first one is good for more than one server, and theirs for the next.
    let shares = [(writable("work"), place.path())];
    for _ in 0..2 {
        let next = Bed::restored(&state, ENOUGH, &shares).unwrap();
        let mut last = change(next, place.path()).unwrap();
        assert_eq!(last.read(node, handle, 0, 9).unwrap(), b"x");
    }
}

#[test]
fn locks_are_held_again() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("db");
    fs::write(&path, [0; 64]).unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let node = bed.lookup(work, "db").unwrap().node;
    let handle = bed.open(node, libc::O_RDWR).unwrap();
    let other = bed.open(node, libc::O_RDONLY).unwrap();
    for (owner, kind, start, end) in
        [(1, libc::F_WRLCK, 0, 29), (1, libc::F_UNLCK, 10, 19), (2, libc::F_RDLCK, 40, 49)]
    {
        bed.ask(SET, node, &body(handle, owner, kind, start, end, 0)).unwrap();
    }
    bed.ask(SET, node, &body(other, 3, libc::F_RDLCK, 0, 0, 1)).unwrap();
    // A process that gave all back, and one whose lock was refused.
    bed.ask(SET, node, &body(handle, 4, libc::F_RDLCK, 55, 56, 0)).unwrap();
    bed.ask(SET, node, &body(handle, 4, libc::F_UNLCK, 0, 63, 0)).unwrap();
    assert!(bed.ask(SET, node, &body(handle, 5, libc::F_WRLCK, 45, 46, 0)).is_err());

    let mut bed = change(bed, place.path()).unwrap();
    let file = host(&path);
    let record = |kind: i32, start| Record::new(kind.cast_unsigned(), start, start).unwrap();
    let free = |kind, start| set_lock(&host(&path), record(kind, start)).is_ok();
    for (start, reader, writer) in
        [(0, false, false), (9, false, false), (10, true, true), (19, true, true)]
    {
        assert_eq!((free(libc::F_RDLCK, start), free(libc::F_WRLCK, start)), (reader, writer));
    }
    assert!(!free(libc::F_RDLCK, 29) && free(libc::F_WRLCK, 30) && free(libc::F_WRLCK, 55));
    assert!(free(libc::F_RDLCK, 45) && !free(libc::F_WRLCK, 45));
    flock(&file, FlockOperation::NonBlockingLockShared).unwrap();
    assert!(flock(&file, FlockOperation::NonBlockingLockExclusive).is_err());
    // They are their owners': one's own is not in the way, and the process's end gives them back.
    bed.ask(SET, node, &body(handle, 1, libc::F_WRLCK, 0, 9, 0)).unwrap();
    let found = bed.ask(GET, node, &body(handle, 2, libc::F_WRLCK, 0, 63, 0)).unwrap();
    assert_eq!((long(&found, 0), long(&found, 8)), (0, 9));
    let flush = [&handle.to_le_bytes()[..], &[0; 8], &1_u64.to_le_bytes()].concat();
    bed.ask(25, node, &flush).unwrap();
    assert!(free(libc::F_WRLCK, 0) && !free(libc::F_WRLCK, 45));
    bed.release(node, other).unwrap();
    drop(file);
    flock(host(&path), FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn a_lock_that_somebody_else_has_now_is_a_reason() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("d")).unwrap();
    let path = place.path().join("d/db");
    fs::write(&path, [0; 64]).unwrap();
    for flags in [0, 1] {
        let (mut bed, work) = Bed::sharing(place.path());
        let folder = bed.lookup(work, "d").unwrap().node;
        let node = bed.lookup(folder, "db").unwrap().node;
        let handle = bed.open(node, libc::O_RDWR).unwrap();
        bed.ask(SET, node, &body(handle, 1, libc::F_RDLCK, 0, 9, flags)).unwrap();
        let state = bed.save().unwrap();
        drop(bed);
        let shares = [(writable("work"), place.path())];
        let file = host(&path);
        if flags == 0 {
            let write = Record::new(libc::F_WRLCK.unsigned_abs(), 9, 20).unwrap();
            set_lock(&file, write).unwrap();
        } else {
            flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        }
        let locked = Unrestored::Locked { share: "work".into(), path: "d/db".into() };
        assert_eq!(Bed::restored(&state, ENOUGH, &shares).err(), Some(locked));
        drop(file);
        Bed::restored(&state, ENOUGH, &shares).unwrap();
    }
}

#[test]
fn a_file_that_is_open_and_has_no_name_is_a_reason() {
    let place = tempfile::tempdir().unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let (entry, handle) = bed.create(work, "f", 0o600).unwrap();
    for (unlinked, name) in [(true, "f (deleted)"), (false, "f")] {
        if unlinked {
            bed.ask(10, work, b"f\0").unwrap();
            assert_eq!(bed.save(), Err(lost(&full(place.path(), name), Why::Unlinked)));
        }
        bed.release(entry.node, handle).ok();
        // Known and not open: the guest asks for its name when it is used.
        let mut next = change(bed, place.path()).unwrap();
        assert_eq!(next.getattr(entry.node).unwrap_err(), libc::ESTALE);
        bed = next;
    }
    // Another file has its name.
    let (entry, handle) = bed.create(work, "g", 0o600).unwrap();
    fs::write(place.path().join("h"), "other").unwrap();
    fs::rename(place.path().join("h"), place.path().join("g")).unwrap();
    assert_eq!(bed.save(), Err(lost(&full(place.path(), "g (deleted)"), Why::Unlinked)));
    assert!(bed.read(entry.node, handle, 0, 1).is_ok());
}

/// What the system calls a file whose directory is not the root of a mount, without the first slash.
fn full(place: &Path, name: &str) -> String {
    place.join(name).to_str().unwrap().trim_start_matches('/').to_owned()
}

#[test]
fn what_is_in_use_and_not_found_is_a_reason() {
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("shared");
    fs::create_dir_all(inner.join("d")).unwrap();
    fs::write(inner.join("f"), "x").unwrap();
    let (mut bed, work) = Bed::sharing(&inner);
    let file = bed.lookup(work, "f").unwrap().node;
    let folder = bed.lookup(work, "d").unwrap().node;
    assert!(bed.save().is_ok());
    // A directory that is only known may be somebody's working directory.
    fs::rename(inner.join("d"), outer.path().join("d")).unwrap();
    assert_eq!(bed.save(), Err(lost(&full(outer.path(), "d"), Why::NotFound)));
    bed.forget(folder, 1);
    fs::rename(inner.join("f"), outer.path().join("f")).unwrap();
    let handle = bed.open(file, libc::O_RDONLY).unwrap();
    assert_eq!(bed.save(), Err(lost(&full(outer.path(), "f"), Why::NotFound)));
    fs::rename(outer.path().join("f"), inner.join("moved")).unwrap();
    let state = bed.save().unwrap();
    drop(bed);
    let mut bed = Bed::restored(&state, ENOUGH, &[(writable("work"), &inner)]).unwrap();
    assert_eq!(bed.read(file, handle, 0, 9).unwrap(), b"x");
    assert_eq!(bed.lookup(work, "moved").unwrap().node, file);
}

#[test]
fn names_that_are_no_text_are_a_reason_if_they_are_in_use() {
    let place = tempfile::tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"n\xff");
    fs::write(place.path().join(name), "x").unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let body = bed.ask(1, work, b"n\xff\0").unwrap();
    let node = long(&body, 0);
    let mut bed = change(bed, place.path()).unwrap();
    assert_eq!(bed.getattr(node).unwrap_err(), libc::ESTALE);
    let node = long(&bed.ask(1, work, b"n\xff\0").unwrap(), 0);
    bed.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(bed.save(), Err(lost(&full(place.path(), "n\u{fffd}"), Why::NotText)));
}

#[test]
fn files_that_the_system_calls_deleted_are_found_all_the_same() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("f (deleted)"), "here").unwrap();
    fs::create_dir(place.path().join("d")).unwrap();
    fs::write(place.path().join("first"), "two names").unwrap();
    fs::hard_link(place.path().join("first"), place.path().join("d/second")).unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let strange = bed.lookup(work, "f (deleted)").unwrap().node;
    let first = bed.lookup(work, "first").unwrap().node;
    let handle = bed.open(first, libc::O_RDONLY).unwrap();
    bed.ask(10, work, b"first\0").unwrap();
    let mut bed = change(bed, place.path()).unwrap();
    assert_eq!(bed.getattr(strange).unwrap().size, 4);
    assert_eq!(bed.read(first, handle, 0, 99).unwrap(), b"two names");
}

#[test]
fn what_changed_meanwhile_is_there_and_what_is_gone_is_told() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    for name in ["same", "replaced", "known", "kind", "dir/in"] {
        fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        fs::write(at(name), "old").unwrap();
    }
    let (mut bed, work) = Bed::sharing(place.path());
    let mut node = |name: &str| bed.lookup(work, name).unwrap().node;
    let (same, replaced) = (node("same"), node("replaced"));
    let (known, kind, folder) = (node("known"), node("kind"), node("dir"));
    let inside = bed.lookup(folder, "in").unwrap().node;
    let handles = [same, replaced].map(|node| bed.open(node, libc::O_RDONLY).unwrap());
    let state = bed.save().unwrap();
    drop(bed);
    fs::write(at("same"), "new").unwrap();
    fs::write(at("other"), "another").unwrap();
    fs::rename(at("other"), at("replaced")).unwrap();
    fs::remove_file(at("known")).unwrap();
    fs::remove_file(at("kind")).unwrap();
    fs::create_dir(at("kind")).unwrap();
    // A link in a directory's place leads nowhere.
    fs::rename(at("dir"), at("elsewhere")).unwrap();
    symlink("elsewhere", at("dir")).unwrap();
    let shares = [(writable("work"), place.path())];
    let mut bed = Bed::restored(&state, ENOUGH, &shares).unwrap();
    assert_eq!(bed.read(same, handles[0], 0, 9).unwrap(), b"new");
    assert_eq!(bed.read(replaced, handles[1], 0, 9).unwrap(), b"another");
    for node in [known, kind, folder, inside] {
        assert_eq!(bed.getattr(node).unwrap_err(), libc::ESTALE);
        bed.forget(node, 1);
    }
    let now = bed.lookup(work, "kind").unwrap();
    assert!(now.node != kind && now.attr.mode & libc::S_IFMT == libc::S_IFDIR);
    drop(bed);
    // Of what is open nothing may be missing.
    fs::remove_file(at("same")).unwrap();
    assert_eq!(Bed::restored(&state, ENOUGH, &shares).err(), Some(gone("same")));
    fs::create_dir(at("same")).unwrap();
    assert_eq!(Bed::restored(&state, ENOUGH, &shares).err(), Some(gone("same")));
    fs::remove_dir(at("same")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("same"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert_eq!(Bed::restored(&state, ENOUGH, &shares).err(), Some(gone("same")));
}

#[test]
fn images_and_single_files_are_shown_as_they_were() {
    let place = tempfile::tempdir().unwrap();
    let (image, single) = (place.path().join("image"), place.path().join("single"));
    fs::create_dir_all(image.join("bin")).unwrap();
    fs::write(image.join("bin/tool"), "#!").unwrap();
    fs::set_permissions(image.join("bin/tool"), fs::Permissions::from_mode(0o600)).unwrap();
    let record = b"7:8:755";
    let set = |path: &Path| {
        let name = "user.containers.override_stat";
        rustix::fs::setxattr(path, name, record, XattrFlags::empty())
    };
    set(&image.join("bin/tool")).unwrap();
    fs::create_dir(&single).unwrap();
    fs::write(single.join(FILE_NAME), "one").unwrap();
    let root = ShareSpec {
        name: "root".into(),
        kind: Kind::Directory,
        writable: false,
        owner: Owner::Image { first_id: 100_000 },
    };
    let file = ShareSpec { kind: Kind::File, ..writable("file") };
    let mut bed = Bed::with_descriptors(ENOUGH);
    let image_root = bed.share(root.clone(), &image);
    let one = bed.share(file.clone(), &single);
    let bin = bed.lookup(image_root, "bin").unwrap().node;
    let tool = bed.lookup(bin, "tool").unwrap().node;
    let handle = bed.open(tool, libc::O_RDONLY).unwrap();
    let writing = bed.open(one, libc::O_RDWR).unwrap();
    let state = bed.save().unwrap();
    drop(bed);
    let shares = [(root.clone(), image.as_path()), (file.clone(), single.as_path())];
    let mut bed = Bed::restored(&state, ENOUGH, &shares).unwrap();
    let attr = bed.getattr(tool).unwrap();
    assert_eq!((attr.uid, attr.gid, attr.mode & 0o7777), (100_007, 100_008, 0o755));
    assert_eq!(bed.getattr(bin).unwrap().uid, 100_000);
    assert_eq!(bed.read(tool, handle, 0, 9).unwrap(), b"#!");
    bed.write(one, writing, 3, b"!").unwrap();
    assert_eq!(fs::read(single.join(FILE_NAME)).unwrap(), b"one!");
    assert_eq!(bed.lookup(ROOT, "file").unwrap().node, one);
    drop(bed);
    // Other shares are none of this state's.
    let read_only = ShareSpec { writable: false, ..file.clone() };
    let foreign = ShareSpec { owner: Owner::Image { first_id: 1 }, ..root.clone() };
    for wrong in [
        vec![(root.clone(), image.as_path())],
        vec![(file.clone(), single.as_path()), (root.clone(), image.as_path())],
        vec![(root, image.as_path()), (read_only, single.as_path())],
        vec![(foreign, image.as_path()), (file, single.as_path())],
    ] {
        assert_eq!(Bed::restored(&state, ENOUGH, &wrong).err(), Some(Unrestored::Shares));
    }
}

#[test]
fn a_state_is_taken_up_once_and_before_anything_else() {
    let place = tempfile::tempdir().unwrap();
    let (bed, _) = Bed::sharing(place.path());
    let state = bed.save().unwrap();
    let shares = [(writable("work"), place.path())];
    assert_eq!(bed.router.restore(&crate::bed::memory(&state)), Err(Unrestored::Late));
    let next = Bed::restored(&state, ENOUGH, &shares).unwrap();
    assert_eq!(next.router.restore(&crate::bed::memory(&state)), Err(Unrestored::Late));
    // While a request is under way nothing is written down.
    let turn = next.router.turn();
    assert_eq!(next.save(), Err(Unsaved::Busy));
    drop(turn);
    assert!(next.save().is_ok());
    // A search that is to end has no result.
    let cancelled = std::sync::Arc::new(true.into());
    let file = crate::bed::memory(&[]);
    assert_eq!(next.router.save(&file, &cancelled), Err(Unsaved::TooSlow));
}

#[test]
fn budgets_are_what_they_were() {
    let place = tempfile::tempdir().unwrap();
    for number in 0..64 {
        fs::write(place.path().join(number.to_string()), "").unwrap();
    }
    // Four of them for open files.
    let mut bed = Bed::with_descriptors(32);
    let work = bed.share(writable("work"), place.path());
    let file = bed.lookup(work, "0").unwrap().node;
    let known: Vec<u64> =
        (1..10).map(|number| bed.lookup(work, &number.to_string()).unwrap().node).collect();
    let handles: Vec<u64> = (0..2).map(|_| bed.open(file, libc::O_RDWR).unwrap()).collect();
    bed.ask(SET, file, &body(handles[0], 1, libc::F_RDLCK, 0, 9, 0)).unwrap();
    let state = bed.save().unwrap();
    drop(bed);
    let shares = [(writable("work"), place.path())];
    let mut bed = Bed::restored(&state, 32, &shares).unwrap();
    let last = bed.open(file, libc::O_RDONLY).unwrap();
    assert_eq!(bed.open(file, libc::O_RDONLY), Err(libc::ENFILE));
    // The locks' file is given back with the process's end, the others one by one.
    for owner in [1, 1] {
        let flush = [&last.to_le_bytes()[..], &[0; 8], &u64::to_le_bytes(owner)].concat();
        bed.ask(25, file, &flush).unwrap();
    }
    let more = bed.open(file, libc::O_RDONLY).unwrap();
    assert_eq!(bed.open(file, libc::O_RDONLY), Err(libc::ENFILE));
    for handle in handles.into_iter().chain([last, more]) {
        bed.release(file, handle).unwrap();
    }
    let handles: Vec<u64> = (0..4).map(|_| bed.open(file, libc::O_RDONLY).unwrap()).collect();
    assert_eq!(bed.open(file, libc::O_RDONLY), Err(libc::ENFILE));
    drop(handles);
    for node in &known {
        bed.forget(*node, u64::MAX);
    }
    let room = (10..64).take_while(|number| bed.lookup(work, &number.to_string()).is_ok()).count();
    assert_eq!(room, 28 - 2);
    // Fewer descriptors than it takes: nothing is taken for lost.
    for too_few in [16, 8] {
        let refused = Bed::restored(&state, too_few, &shares).err();
        assert_eq!(refused, Some(Unrestored::TooMany), "{too_few}");
    }
}

#[test]
fn open_flags_are_kept_and_nothing_is_cut_off_or_made_again() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("f");
    fs::write(&path, "content").unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let node = bed.lookup(work, "f").unwrap().node;
    let handle =
        bed.open(node, libc::O_RDWR | libc::O_TRUNC | libc::O_APPEND | libc::O_SYNC).unwrap();
    let flags = (libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL).cast_unsigned();
    let make = [words(&[flags, 0o600, 0o22, 0]), b"made\0".to_vec()].concat();
    let made = bed.ask(35, work, &make).unwrap();
    fs::write(&path, "content").unwrap();
    let mut bed = change(bed, place.path()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().size(), 7);
    // Not at the end: the guest's kernel says so with each write.
    bed.write(node, handle, 0, b"C").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"Content");
    let (node, handle) = (long(&made, 0), long(&made, 128));
    assert!(bed.read(node, handle, 0, 1).is_err());
    bed.write(node, handle, 0, b"x").unwrap();
}
