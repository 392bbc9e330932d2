//! SQLite with a rollback journal, in turns: on the host's files, and on the same files as they are served. And both at
//! once, without an agreement but SQLite's own locks.

use std::path::Path;
use std::thread;
use std::time::Duration;

use rusqlite::Connection;

use crate::bridge::{Mounted, alone};

const TURNS: i64 = 10_000;
/// Of each side, when both write as they come.
const WRITES: i64 = 500;
/// How long one waits for the other's lock.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(path: &Path) -> Connection {
    let db = Connection::open(path).unwrap();
    db.busy_timeout(PATIENCE).unwrap();
    let mode: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete", "a rollback journal");
    db
}

fn assert_whole(db: &Connection, rows: i64) {
    let kept: i64 = db.query_row("SELECT count(*) FROM past", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, rows);
    let answer: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(answer, "ok");
}

#[test]
fn ten_thousand_turns_on_one_database() {
    alone(|| {
        // In memory: every turn is to be on the disk.
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let host = open(&place.path().join("turns.db"));
        host.execute_batch(
            "CREATE TABLE turn (n INTEGER); INSERT INTO turn VALUES (0);
             CREATE TABLE past (n INTEGER, who TEXT, text TEXT);",
        )
        .unwrap();
        let mounted = Mounted::sharing(place.path());
        let guest = open(&mounted.path.join("turns.db"));
        for number in 0..TURNS {
            let (db, who) = if number % 2 == 0 { (&guest, "guest") } else { (&host, "host") };
            db.execute_batch("BEGIN IMMEDIATE").unwrap();
            let found: i64 = db.query_row("SELECT n FROM turn", [], |row| row.get(0)).unwrap();
            assert_eq!(found, number, "what {who} finds");
            db.execute_batch("UPDATE turn SET n = n + 1").unwrap();
            let text = "x".repeat(usize::try_from(number % 2000).unwrap());
            db.execute("INSERT INTO past VALUES (?1, ?2, ?3)", (number, who, text)).unwrap();
            db.execute_batch("COMMIT").unwrap();
        }
        assert_whole(&guest, TURNS);
        assert_whole(&host, TURNS);
        guest.close().unwrap();
    });
}

#[test]
fn both_sides_write_as_they_come() {
    alone(|| {
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = place.path().join("both.db");
        let host = open(&path);
        host.execute_batch("CREATE TABLE past (n INTEGER, who TEXT)").unwrap();
        let mounted = Mounted::sharing(place.path());
        let guest = open(&mounted.path.join("both.db"));
        let write = |db: &Connection, who: &str| {
            for number in 0..WRITES {
                db.execute("INSERT INTO past VALUES (?1, ?2)", (number, who)).unwrap();
            }
        };
        let other = thread::spawn(move || {
            write(&host, "host");
            host
        });
        write(&guest, "guest");
        let host = other.join().unwrap();
        assert_whole(&guest, 2 * WRITES);
        assert_whole(&host, 2 * WRITES);
        guest.close().unwrap();
    });
}
