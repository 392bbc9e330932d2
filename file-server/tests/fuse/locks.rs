//! Locks of the guest against locks of the host, and of each other.

use std::fs::{self, File};
use std::path::Path;

use cloister_file_server::sys::{Record, set_lock, test_lock};

use crate::bed::{Bed, Reply, long, word, words};

pub(crate) const GET: u32 = 31;
pub(crate) const SET: u32 = 32;

pub(crate) fn body(
    handle: u64,
    owner: u64,
    kind: i32,
    start: u64,
    end: u64,
    flags: u32,
) -> Vec<u8> {
    let numbers = [handle, owner, start, end];
    let longs: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    [longs, words(&[kind.cast_unsigned(), 77, flags, 0])].concat()
}

fn set(bed: &mut Bed, node: u64, handle: u64, owner: u64, kind: i32) -> Reply {
    bed.ask(SET, node, &body(handle, owner, kind, 10, 19, 0))
}

pub(crate) fn host(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn record(kind: i32) -> Record {
    Record::new(kind.cast_unsigned(), 10, 19).unwrap()
}

#[test]
fn record_locks_of_guest_and_host_exclude_each_other() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("db");
    fs::write(&path, [0; 64]).unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let node = bed.lookup(work, "db").unwrap().node;
    let handle = bed.open(node, libc::O_RDWR).unwrap();
    let file = host(&path);

    set(&mut bed, node, handle, 1, libc::F_WRLCK).unwrap();
    assert!(set_lock(&file, record(libc::F_RDLCK)).is_err());
    // The same process of the guest by another open file, as a database has several connections.
    let second = bed.open(node, libc::O_RDWR).unwrap();
    set(&mut bed, node, second, 1, libc::F_RDLCK).unwrap();
    set_lock(&file, record(libc::F_RDLCK)).unwrap();
    // Another process of the guest, and the host, are in each other's way.
    assert_eq!(set(&mut bed, node, second, 2, libc::F_WRLCK), Err(libc::EAGAIN));
    assert_eq!(bed.ask(33, node, &body(second, 2, libc::F_WRLCK, 10, 19, 0)), Err(libc::EAGAIN));
    let found = bed.ask(GET, node, &body(second, 2, libc::F_WRLCK, 0, 100, 0)).unwrap();
    assert_eq!((long(&found, 0), long(&found, 8), word(&found, 16)), (10, 19, 0));
    // Closing one of its open files gives all of the process's locks back, as in a kernel.
    let flush = [&second.to_le_bytes()[..], &[0; 8], &1_u64.to_le_bytes()].concat();
    bed.ask(25, node, &flush).unwrap();
    drop(file);
    let file = host(&path);
    assert_eq!(test_lock(&file, record(libc::F_WRLCK)).unwrap(), None);
    set_lock(&file, record(libc::F_WRLCK)).unwrap();
    assert_eq!(set(&mut bed, node, handle, 1, libc::F_RDLCK), Err(libc::EAGAIN));
    drop(file);
    set(&mut bed, node, handle, 1, libc::F_RDLCK).unwrap();
    set(&mut bed, node, handle, 1, libc::F_UNLCK).unwrap();
    set_lock(&host(&path), record(libc::F_WRLCK)).unwrap();
}

#[test]
fn whole_file_locks_belong_to_the_open_file() {
    use rustix::fs::{FlockOperation, flock};
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("lock");
    fs::write(&path, "").unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let node = bed.lookup(work, "lock").unwrap().node;
    let handle = bed.open(node, libc::O_RDONLY).unwrap();
    // FUSE_LK_FLOCK.
    bed.ask(SET, node, &body(handle, 5, libc::F_WRLCK, 0, 0, 1)).unwrap();
    let file = host(&path);
    assert!(flock(&file, FlockOperation::NonBlockingLockShared).is_err());
    bed.release(node, handle).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    let handle = bed.open(node, libc::O_RDONLY).unwrap();
    let shared = body(handle, 5, libc::F_RDLCK, 0, 0, 1);
    assert_eq!(bed.ask(SET, node, &shared), Err(libc::EAGAIN));
}

#[test]
fn hostile_locks_are_errors() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("f"), "").unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let node = bed.lookup(work, "f").unwrap().node;
    let handle = bed.open(node, libc::O_RDWR).unwrap();
    for (wrong, kind, start, end, flags) in [
        (handle, 9, 0, 1, 0),
        (handle, libc::F_RDLCK, 2, 1, 0),
        (handle, libc::F_RDLCK, 0, u64::MAX, 0),
        (handle, 9, 0, 1, 1),
        (handle + 1, libc::F_RDLCK, 0, 1, 0),
        (0, libc::F_RDLCK, 0, 1, 1),
    ] {
        assert!(bed.ask(SET, node, &body(wrong, 1, kind, start, end, flags)).is_err());
    }
    assert!(bed.ask(SET, work + 99, &body(handle, 1, libc::F_RDLCK, 0, 1, 0)).is_err());
}

#[test]
fn ranges_are_bounded_and_giving_all_back_makes_room() {
    use cloister_file_server::limits::MAX_LOCKED_RANGES;
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("f"), "").unwrap();
    let (mut bed, work) = Bed::sharing(place.path());
    let node = bed.lookup(work, "f").unwrap().node;
    let handle = bed.open(node, libc::O_RDWR).unwrap();
    let mut lock = |kind, start, end| bed.ask(SET, node, &body(handle, 1, kind, start, end, 0));
    let all = i64::MAX.unsigned_abs();
    lock(libc::F_WRLCK, 0, all).unwrap();
    // Each hole makes two ranges of one.
    let refused = (1..).find(|hole| lock(libc::F_UNLCK, hole * 2, hole * 2).is_err());
    assert_eq!(refused, Some(u64::try_from(MAX_LOCKED_RANGES).unwrap()));
    assert_eq!(lock(libc::F_UNLCK, all, all), Ok(Vec::new()));
    lock(libc::F_UNLCK, 0, all).unwrap();
    lock(libc::F_RDLCK, 0, 0).unwrap();
}
