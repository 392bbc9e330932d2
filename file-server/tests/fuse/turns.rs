//! Ten thousand turns of host and guest on one file, each in the steps and with the lock bytes of SQLite's
//! rollback journal. `tests/tests/system/programs.rs` has SQLite itself, in a machine.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use cloister_file_server::sys::{Record, set_lock};

use crate::bed::{Bed, Reply, long, words};

const TURNS: u64 = 10_000;
const OWNER: u64 = 7;
/// Where SQLite locks (its file format, "Locking"): one byte for who waits to write, one for who is going
/// to, and those that readers share.
const PENDING: (u64, u64) = (0x4000_0000, 0x4000_0000);
const RESERVED: (u64, u64) = (0x4000_0001, 0x4000_0001);
const SHARED: (u64, u64) = (0x4000_0002, 0x4000_01ff);
const ALL: (u64, u64) = (0, i64::MAX.unsigned_abs());

/// What both sides expect to find: a count, in a file that grows by a byte a turn.
const BEFORE: u64 = 8;

struct Guest {
    bed: Bed,
    folder: u64,
    node: u64,
    handle: u64,
}

impl Guest {
    fn lock(&mut self, kind: i32, (start, end): (u64, u64)) -> Reply {
        let numbers = [self.handle, OWNER, start, end];
        let longs: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let body = [longs, words(&[kind.cast_unsigned(), 77, 0, 0])].concat();
        self.bed.ask(32, self.node, &body)
    }

    fn sync(&mut self, node: u64, handle: u64) {
        self.bed.ask(20, node, &[&handle.to_le_bytes()[..], &[0; 8]].concat()).unwrap();
    }

    fn turn(&mut self, number: u64, host: &File) {
        self.lock(libc::F_RDLCK, SHARED).unwrap();
        assert_eq!(self.bed.lookup(self.folder, "db-journal").unwrap_err(), libc::ENOENT);
        assert_eq!(self.bed.getattr(self.node).unwrap().size, BEFORE + number);
        let found = self.bed.read(self.node, self.handle, 0, 8).unwrap();
        assert_eq!(long(&found, 0), number, "what the host left");
        self.lock(libc::F_WRLCK, RESERVED).unwrap();
        let (journal, open) = self.bed.create(self.folder, "db-journal", 0o644).unwrap();
        self.bed.write(journal.node, open, 0, &found).unwrap();
        self.sync(journal.node, open);
        self.lock(libc::F_WRLCK, PENDING).unwrap();
        self.lock(libc::F_WRLCK, SHARED).unwrap();
        assert!(set_lock(host, record(libc::F_RDLCK, SHARED)).is_err(), "the guest writes");
        self.bed.write(self.node, self.handle, 0, &(number + 1).to_le_bytes()).unwrap();
        self.bed.write(self.node, self.handle, BEFORE + number, b"g").unwrap();
        self.sync(self.node, self.handle);
        self.bed.release(journal.node, open).unwrap();
        self.bed.ask(10, self.folder, b"db-journal\0").unwrap();
        self.bed.forget(journal.node, 1);
        self.lock(libc::F_UNLCK, ALL).unwrap();
    }
}

fn record(kind: i32, (start, end): (u64, u64)) -> Record {
    Record::new(kind.cast_unsigned(), start, end).unwrap()
}

fn host_turn(number: u64, file: &File, journal: &Path, guest: &mut Guest) {
    let lock = |kind, range| set_lock(file, record(kind, range)).unwrap();
    lock(libc::F_RDLCK, SHARED);
    assert!(!journal.exists());
    assert_eq!(file.metadata().unwrap().len(), BEFORE + number);
    let mut found = [0; 8];
    file.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(u64::from_le_bytes(found), number, "what the guest left");
    lock(libc::F_WRLCK, RESERVED);
    fs::write(journal, found).unwrap();
    lock(libc::F_WRLCK, PENDING);
    lock(libc::F_WRLCK, SHARED);
    assert_eq!(guest.lock(libc::F_RDLCK, SHARED), Err(libc::EAGAIN), "the host writes");
    // A journal means that a turn is not over.
    let known = guest.bed.lookup(guest.folder, "db-journal").unwrap();
    assert_eq!(known.attr.size, 8);
    file.write_all_at(&(number + 1).to_le_bytes(), 0).unwrap();
    file.write_all_at(b"h", BEFORE + number).unwrap();
    fs::remove_file(journal).unwrap();
    guest.bed.forget(known.node, 1);
    lock(libc::F_UNLCK, ALL);
}

#[test]
fn host_and_guest_take_turns_on_a_file() {
    // In memory: twenty thousand times everything is to be on the disk.
    let place = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = place.path().join("db");
    fs::write(&path, [0; 8]).unwrap();
    let (mut bed, folder) = Bed::sharing(place.path());
    let node = bed.lookup(folder, "db").unwrap().node;
    let handle = bed.open(node, libc::O_RDWR).unwrap();
    let mut guest = Guest { bed, folder, node, handle };
    let host = File::options().read(true).write(true).open(&path).unwrap();
    let journal = place.path().join("db-journal");
    for number in 0..TURNS {
        if number.is_multiple_of(2) {
            guest.turn(number, &host);
        } else {
            host_turn(number, &host, &journal, &mut guest);
        }
    }
    let left = fs::read(&path).unwrap();
    assert_eq!(long(&left, 0), TURNS);
    let turns = b"gh".iter().cycle().take(left.len() - 8);
    assert!(left[8..].iter().eq(turns));
}
