//! Programs whose trade it is to find faulty file systems, and a database, on a writable directory of the
//! host. `CLOISTER_TESTS=slow` runs each for long.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::team_bed::Bed;

const TEAM: &str = r#"
name = "t"
memory = "512MiB"
[agents.a]
image = "programs"
command = ["sleep", "100000"]
memory = "256MiB"
cpus = 1.0
directory = "/mnt"
mounts = [{ source = "./shared", target = "/mnt", writable = true }]
"#;

/// One side's turns: each checks what the other has left and goes on.
const TURNS: &str = r#"
import sqlite3, sys
db = sqlite3.connect("/mnt/turns.db", isolation_level=None, timeout=30)
for line in sys.stdin:
    wanted = int(line)
    db.execute("BEGIN IMMEDIATE")
    (found,) = db.execute("SELECT n FROM turn").fetchone()
    if found != wanted:
        print(f"wrong: {found}, not {wanted}", flush=True)
        sys.exit(1)
    db.execute("UPDATE turn SET n = n + 1")
    db.execute("INSERT INTO past VALUES (?, 'guest', ?)", (found, "x" * (found % 2000)))
    db.execute("COMMIT")
    print(found + 1, flush=True)
(answer,) = db.execute("PRAGMA integrity_check").fetchone()
print(answer, flush=True)
"#;

fn bed() -> Bed {
    let bed = Bed::with_programs();
    std::fs::create_dir(bed.path("team/shared")).unwrap();
    bed
}

/// A directory in memory where the lab's own files come from this machine over a wire; elsewhere it stays as it is.
struct InMemory(Option<PathBuf>);

impl InMemory {
    fn new(folder: PathBuf) -> Self {
        if std::env::var_os("LAB").is_none() {
            return Self(None);
        }
        let mount = ["-t", "tmpfs", "-o", "size=512m", "memory"];
        assert!(Command::new("mount").args(mount).arg(&folder).status().unwrap().success());
        Self(Some(folder))
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        if let Some(folder) = &self.0 {
            // What is left of a failed test may hold it, and goes with the lab.
            let _status = Command::new("umount").arg("--lazy").arg(folder).status();
        }
    }
}

pub(crate) fn is_slow() -> bool {
    std::env::var_os("CLOISTER_TESTS").is_some_and(|kind| kind == "slow")
}

#[test]
fn a_database_changes_hands_between_host_and_guest() {
    let bed = bed();
    // A turn opens, locks and syncs files some ten times: over a wire that is nearly all of its time.
    let _memory = InMemory::new(bed.path("team/shared"));
    bed.up(TEAM);
    let turns = if is_slow() { 10_000 } else { 60 };
    std::fs::write(bed.path("team/shared/turns.py"), TURNS).unwrap();
    let db = rusqlite::Connection::open(bed.path("team/shared/turns.db")).unwrap();
    db.busy_timeout(Duration::from_secs(30)).unwrap();
    let mode: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete", "a rollback journal");
    db.execute_batch(
        "CREATE TABLE turn (n INTEGER); INSERT INTO turn VALUES (0);
         CREATE TABLE past (n INTEGER, who TEXT, text TEXT);",
    )
    .unwrap();
    let call = bed.call(&["exec", "-i", "t/a"]).limit(Duration::from_secs(7200));
    let mut guest = call.command(["python3", "-u", "/mnt/turns.py"]).spawn();
    let mut to_guest = guest.take_stdin().unwrap();
    let mut from_guest = BufReader::new(guest.take_stdout().unwrap()).lines();
    let mut count: i64 = 0;
    // From its first turn on: a start of Python takes longer than many turns.
    let mut begin = None;
    while count < turns {
        writeln!(to_guest, "{count}").unwrap();
        count += 1;
        let Some(answer) = from_guest.next() else {
            unreachable!("the guest ended in turn {count}: {}", guest.finish().stderr);
        };
        assert_eq!(answer.unwrap(), count.to_string());
        begin.get_or_insert_with(Instant::now);
        let found: i64 = db.query_row("SELECT n FROM turn", [], |row| row.get(0)).unwrap();
        assert_eq!(found, count, "what the guest left");
        db.execute_batch("BEGIN IMMEDIATE; UPDATE turn SET n = n + 1").unwrap();
        let text = "y".repeat(usize::try_from(count % 2000).unwrap());
        db.execute("INSERT INTO past VALUES (?1, 'host', ?2)", (count, text)).unwrap();
        db.execute_batch("COMMIT").unwrap();
        count += 1;
    }
    println!("{turns} turns in {} ms", begin.unwrap().elapsed().as_millis());
    drop(to_guest);
    assert_eq!(from_guest.next().unwrap().unwrap(), "ok", "the guest's integrity check");
    let kept: i64 = db.query_row("SELECT count(*) FROM past", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, turns);
    let answer: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(answer, "ok");
    bed.down();
}

#[test]
fn what_is_written_is_what_is_read() {
    let bed = bed();
    bed.up(TEAM);
    let size = if is_slow() { "256M" } else { "1M" };
    let fio = format!(
        "cd /tmp && fio --directory=/mnt --size={size} --bs=4k --ioengine=psync --thread --disk_util=0 \
         --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_state_save=0 \
         --name=random --rw=randwrite --name=sequence --stonewall --rw=write"
    );
    let (code, said) = bed.exec("t/a", &fio);
    assert_eq!(code, 0, "{said}");
    assert_eq!(said.matches("err= 0").count(), 2, "{said}");
    if is_slow() {
        // Every operation on files that it knows: 45 kinds, ten seconds each and the round that each is in
        // then. A round of some makes two thousand files or writes a gibibyte, which takes the lab many
        // minutes: so these are bounded.
        let stress = "stress-ng --temp-path /mnt --class filesystem --sequential 1 --timeout 10 --verify \
                      --dentries 64 --dir-dirs 256 --hdd-bytes 64m --iomix-bytes 64m --copy-file-bytes 64m \
                      --fallocate-bytes 64m --sync-file-bytes 64m";
        let call = bed.call(&["exec", "t/a"]).limit(Duration::from_secs(7200));
        let outcome = call.command(["sh", "-c", &format!("{{ {stress}; }} 2>&1")]).output();
        let said = outcome.text();
        assert_eq!(outcome.status.code(), Some(0), "{said}");
        assert!(said.contains("successful run completed") && !said.contains("fail:"), "{said}");
    }
    bed.down();
}
