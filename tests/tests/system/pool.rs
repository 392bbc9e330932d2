//! Machines in processes of a pool: nothing of their jails, limits or ends is another.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cloister_tests::{Call, Running};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::team_bed::Bed;

/// How long a pool may take to stand as it should.
const LIMIT: Duration = Duration::from_secs(120);

const TEAM: &str = "name = \"t\"\nmemory = \"256MiB\"\n[agents.a]\nmemory = \"64MiB\"\nimage = \"tools\"\ncommand = [\"sleep\", \"1000\"]\n";

struct Pool {
    folder: TempDir,
    process: Running,
}

impl Pool {
    fn new(size: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let serve = Call::cloister(["pool", "serve"]).option("--size", size);
        let mut process = serve.option("--pool", folder.path().join("pool")).spawn();
        process.wait_for_words("a pool of");
        Self { folder, process }
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("pool")
    }

    fn status(&self) -> String {
        let status = Call::cloister(["pool", "status", "--json", "--pool"]);
        status.argument(self.place()).output().exits(0).text()
    }

    fn await_status(&self, what: &str) {
        let end = Instant::now() + LIMIT;
        while !self.status().contains(what) {
            assert!(Instant::now() < end, "not {what}: {}", self.status());
        }
    }

    /// Ends it; it sees off what nobody has taken.
    fn end(self) {
        self.process.signal(Signal::TERM);
        self.process.finish().exits(0);
    }
}

#[test]
fn machines_and_teams_in_processes_of_a_pool_are_confined_no_less() {
    let pool = Pool::new("1");
    let place = pool.place();
    for (taken, memory) in [(1, "128M"), (2, "192M")] {
        pool.await_status("\"ready\":1");
        let run = Call::run().option("--pool", &place).option("--memory", memory);
        run.shell("echo x").output().exits(0).prints("x\n").says_nothing();
        pool.await_status(&format!("\"taken\":{taken}"));
    }
    pool.await_status("\"ready\":1");
    let bed = Bed::new();
    let file = bed.path("team/team.toml");
    std::fs::write(&file, TEAM).unwrap();
    let _up = bed.call(&["up", "-d", "--pool"]).argument(&place).argument(&file).output().exits(0);
    pool.await_status("\"taken\":3");
    // What the kernel says of it is what is promised of every machine, its limits among it.
    let inspected = bed.call(&["inspect", "--security", "t"]).output().exits(0);
    assert!(inspected.text().contains("vmm"), "{}", inspected.text());
    pool.end();
    let (code, said) = bed.exec("t/a", "echo goes on");
    assert_eq!((code, said.as_str()), (0, "goes on\n"));
    bed.down();
}
