//! What is tested on this machine itself, wherever the other whole-system tests run: the lab, if it is
//! needed here, and what `cloister` says where KVM can't run a Linux guest.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloister_tests::Call;
use cloister_tests::census::Census;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// One test at a time: they look at what is left over, and two cores run one lab well.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn doctor() -> Value {
    let outcome = Call::cloister(["doctor", "--json"]).output();
    let report: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let code = if report["ok"] == true { 0 } else { 1 };
    outcome.exits(code);
    report
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).expect(name)
}

fn hardware() -> bool {
    check(&doctor(), "guest")["facts"]["verdict"] == "hardware"
}

fn runs_in_lab() -> bool {
    Call::of_repository("scripts/on-kvm").argument("--where").output().exits(0).text() == "lab\n"
}

/// A lab with its job directories in `folder`.
fn lab(folder: &TempDir) -> Call {
    Call::of_repository("tests/lab/lab")
        .variable("TMPDIR", folder.path())
        .limit(Duration::from_secs(300))
}

/// The job directories of labs that were started with this folder.
fn jobs(folder: &Path) -> Vec<PathBuf> {
    let Some(Ok(jobs)) = fs::read_dir(folder).unwrap().next() else { return Vec::new() };
    let entries = fs::read_dir(jobs.path()).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}

/// Waits until nothing of a job lives: the kernel closes a dead process's files, and with them the
/// job's lock, after it has given back its memory, and an emulated machine has much of that.
fn wait_for_lock(job: &Path) {
    let lock = fs::File::open(job.join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
}

#[test]
fn doctor_tells_what_to_do_about_each_thing_that_is_wrong() {
    let _turn = alone();
    let report = doctor();
    assert_eq!(report["schema"], 1);
    for check in report["checks"].as_array().unwrap() {
        assert!(["ok", "warn", "fail"].contains(&check["status"].as_str().unwrap()), "{check}");
        assert!(!check["found"].as_str().unwrap().is_empty(), "{check}");
        let skipped = check["found"].as_str().unwrap().starts_with("not tried");
        let told = check["remedy"].is_string() || check["status"] == "ok" || skipped;
        assert!(told, "nothing is said about what to do: {check}");
    }
}

#[test]
fn a_kvm_that_cannot_run_linux_ends_a_run_with_125_and_the_way_to_find_out_why() {
    let _turn = alone();
    if hardware() {
        println!("skipped: this KVM can run Linux");
        return;
    }
    let before = Census::take();
    // A host that also lacks what the jail needs is refused for that, before its KVM is tried. Else an
    // interpreting KVM takes its time until it meets an instruction that it lacks.
    let call = Call::run().command(["true"]).limit(Duration::from_secs(300));
    call.output().exits(125).prints("").says("cloister doctor");
    before.assert_nothing_left("a failed start");
}

#[test]
fn a_lab_passes_streams_and_exit_code_as_they_come() {
    let _turn = alone();
    if !runs_in_lab() {
        println!("skipped: no lab is needed here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = "echo ready; echo err >&2; read line; echo got $line; wc -c; exit 7";
    let mut labs: Vec<_> =
        (0..2).map(|_| lab(&folder).command(["sh", "-c", script]).spawn()).collect();
    // Both are in the middle of their command now, and it has not seen its input yet.
    for lab in &mut labs {
        lab.wait_for("ready");
    }
    for mut lab in labs {
        lab.write("word\n");
        lab.feed(vec![0; 3_000_000]);
        let outcome = lab.finish().exits(7).prints("ready\ngot word\n3000000\n");
        assert_eq!(outcome.stderr, "err\n");
    }
    assert!(jobs(folder.path()).is_empty());
}

#[test]
fn a_lab_ends_at_its_time_limit() {
    let _turn = alone();
    if !runs_in_lab() {
        println!("skipped: no lab is needed here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let before = Census::take();
    let call = lab(&folder).option("--timeout", "3").command(["sleep", "1000"]);
    call.output().exits(124).says("time limit");
    before.assert_nothing_left("a lab's time limit");
    assert!(jobs(folder.path()).is_empty());
}

#[test]
fn a_killed_lab_leaves_nothing_that_the_next_does_not_remove() {
    let _turn = alone();
    if !runs_in_lab() {
        println!("skipped: no lab is needed here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let before = Census::take();
    let start = || {
        let mut running = lab(&folder).command(["sh", "-c", "echo ready; sleep 1000"]).spawn();
        running.wait_for("ready");
        running
    };
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let running = start();
        running.signal(signal);
        running.finish().exits(code);
        assert!(jobs(folder.path()).is_empty(), "after {signal:?}");
    }
    let running = start();
    running.signal(Signal::KILL);
    running.finish().dies_of(9);
    before.assert_nothing_left("a killed lab");
    let left = jobs(folder.path());
    assert_eq!(left.len(), 1);
    wait_for_lock(&left[0]);
    let removed = "removed what a killed lab had left";
    lab(&folder).option("--timeout", "60").command(["true"]).output().exits(0).says(removed);
    assert!(jobs(folder.path()).is_empty());
}
