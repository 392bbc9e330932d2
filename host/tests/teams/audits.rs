//! What a team and its operators do is on record, and nothing happens off it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::bed::{Bed, first_line, lines_of, one};
use crate::harness::text;

fn segment(bed: &Bed) -> PathBuf {
    bed.path("state/audit/t/00000000000000000001.jsonl")
}

#[test]
fn who_follows_a_log_that_goes_is_told_and_comes_to_an_end() {
    let bed = Bed::new();
    bed.up(&one("sleep 1000"));
    bed.ok(&["down", "t"]);
    let log = bed.path("state/audit/t");
    let follow = |words: &[&str], go: &dyn Fn()| {
        let mut follower = bed.start(words);
        let lines = lines_of(follower.stdout.take().unwrap());
        // What is there is printed after the watch has begun.
        assert!(lines.recv_timeout(Duration::from_secs(60)).unwrap().contains("log-begun"));
        go();
        let output = follower.wait_with_output().unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{told}");
        assert!(told.contains("the log was moved away or removed"), "{told}");
        assert!(told.contains(&log.display().to_string()), "{told}");
        // Nothing of what had been written is lost.
        assert!(lines.iter().any(|line| line.contains("removed")));
    };
    follow(&["audit", "show", "-f", "t"], &|| {
        fs::rename(&log, bed.path("evidence")).unwrap();
    });
    fs::rename(bed.path("evidence"), &log).unwrap();
    follow(&["audit", "show", "--json", "-f", "t"], &|| fs::remove_dir_all(&log).unwrap());
}

/// The kinds of a team's records, in order.
fn kinds(bed: &Bed) -> Vec<String> {
    let records = bed.ok(&["audit", "export", "--format", "records", "t"]);
    let record = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    records.lines().map(|line| record(line)["kind"].as_str().expect("a kind").to_owned()).collect()
}

#[test]
fn a_life_is_on_record_and_the_record_outlives_it() {
    let bed = Bed::new();
    bed.up(&format!("{}environment = {{ TOKEN = \"of-nobodys-concern\" }}\n", one("sleep 1000")));
    bed.ok(&["exec", "-e", "KEY=also-none", "t/a", "--", "echo", "two", "words"]);
    let mut follower = bed.start(&["audit", "follow", "t/a"]);
    let followed = lines_of(follower.stdout.take().unwrap());
    let line = first_line(&followed, |number| {
        bed.ok(&["exec", "t/a", "--", "echo", &number.to_string()]);
    });
    assert!(line.contains(" a exec echo "), "{line}");
    follower.kill().unwrap();
    follower.wait().unwrap();
    bed.ok(&["stop", "t/a"]);
    bed.ok(&["down", "t"]);
    bed.assert_nothing_left();

    let shown = bed.ok(&["audit", "show", "t"]);
    let uid = rustix::process::geteuid().as_raw();
    assert!(shown.contains(&format!(" a exec echo two words [user {uid}, process ")), "{shown}");
    let kinds = kinds(&bed);
    let mut at = 0;
    let order = ["log-begun", "team-started", "policy", "machine-started", "started", "exec"];
    for wanted in order.into_iter().chain(["order", "machine-ended", "team-ended", "removed"]) {
        let found = kinds[at..].iter().position(|kind| kind == wanted);
        at += found.unwrap_or_else(|| unreachable!("no {wanted} after {at}: {kinds:?}"));
    }
    let log = fs::read_to_string(segment(&bed)).unwrap();
    assert!(log.contains("TOKEN") && log.contains("KEY"), "{log}");
    assert!(!log.contains("nobodys-concern") && !log.contains("also-none"), "{log}");
    assert!(log.contains("\"image\":\"sha256:"), "{log}");

    let verified = bed.ok(&["audit", "verify"]);
    assert!(verified.starts_with("t: whole.") && verified.contains("closed"), "{verified}");
    let listed: serde_json::Value =
        serde_json::from_str(&bed.ok(&["audit", "ls", "--json"])).unwrap();
    assert_eq!(listed["logs"][0]["team"], "t");
    let events = bed.ok(&["audit", "export", "t"]);
    assert_eq!(events.lines().count(), kinds.len());
    for line in events.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(event["class_uid"].is_u64() && event["time"].is_i64(), "{line}");
    }
    assert_eq!(bed.ok(&["audit", "show", "-n", "2", "--json", "t"]).lines().count(), 2);

    // A copy, by the public key alone.
    let copy = bed.path("copy");
    let copied = Command::new("cp").arg("-r").arg(bed.path("state/audit/t")).arg(&copy).status();
    assert!(copied.unwrap().success());
    fs::write(bed.path("host.pem"), bed.ok(&["audit", "key"])).unwrap();
    let (pem, dir) = (bed.path("host.pem"), copy.display().to_string());
    let pem = pem.to_str().unwrap();
    bed.ok(&["audit", "verify", "--key", pem, "--dir", &dir]);
    bed.fails(&["audit", "verify", "--dir", &dir], 125);
    let told = bed.fails(&["audit", "verify", "--key", "team.toml", "--dir", &dir], 125);
    assert!(told.contains("is no public key"), "{told}");
    let told = bed.fails(&["audit", "show", "nobody"], 125);
    assert!(told.contains("no audit log of a team nobody") && told.contains("audit ls"), "{told}");
}

#[test]
fn a_changed_log_is_found_and_no_team_starts_on_it() {
    let bed = Bed::new();
    bed.file(&one("true"));
    bed.ok(&["up", "team.toml"]);
    bed.ok(&["down", "t"]);
    let path = segment(&bed);
    let log = fs::read_to_string(&path).unwrap();
    // A word in the middle, as long as the one before: nothing but signatures shows it.
    fs::write(&path, log.replacen("machine-started", "machine-stopped", 1)).unwrap();
    let output = bed.run(&["audit", "verify", "t"]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("t: CHANGED") && told.contains("00001.jsonl, line "), "{told}");
    // Its end cut off: the next writer sees it, and starts nothing.
    let whole = log.lines().count();
    let cut: Vec<_> = log.lines().take(whole - 1).collect();
    fs::write(&path, cut.join("\n") + "\n").unwrap();
    let told = bed.fails(&["up", "-d", "team.toml"], 125);
    assert!(told.contains("was changed") && told.contains("cloister audit verify"), "{told}");
    let json: serde_json::Value =
        serde_json::from_slice(&bed.run(&["audit", "verify", "--json"]).stdout).unwrap();
    assert_eq!(json["whole"], false);
    // Moved away, a new log begins.
    fs::rename(bed.path("state/audit/t"), bed.path("evidence")).unwrap();
    bed.ok(&["up", "team.toml"]);
    bed.ok(&["audit", "verify", "t"]);
    bed.ok(&["down", "t"]);
}

#[test]
fn nothing_starts_that_can_not_be_recorded() {
    let bed = Bed::new();
    bed.ok(&["ps"]);
    fs::write(bed.path("state/audit"), "in the way").unwrap();
    bed.file(&one("true"));
    let told = bed.fails(&["up", "-d", "team.toml"], 125);
    assert!(told.contains("state/audit") && told.contains("nothing runs unrecorded"), "{told}");
    bed.assert_nothing_left();
    fs::remove_file(bed.path("state/audit")).unwrap();
    bed.ok(&["up", "team.toml"]);
    bed.ok(&["down", "t"]);
}

#[test]
fn a_team_ends_when_it_can_not_be_recorded_any_more() {
    let bed = Bed::new();
    bed.up(&one("sleep 1000"));
    let path = segment(&bed);
    let mark = |how: &str| Command::new("chattr").arg(how).arg(&path).output();
    if !mark("+i").is_ok_and(|output| output.status.success()) {
        println!("skipped: only root on some file systems can make a file unchangeable");
        bed.ok(&["down", "t"]);
        return;
    }
    // Nobody waits for its answer: the team may be gone before it comes.
    bed.run(&["exec", "t/a", "--", "true"]);
    bed.await_that("its end", |bed| bed.ps()["teams"][0]["status"] == "failed");
    let detail = bed.ps()["teams"][0]["detail"].as_str().unwrap().to_owned();
    mark("-i").unwrap();
    assert!(detail.contains("can't write to") && detail.contains("audit/t"), "{detail}");
    // As after a crash: it goes on where it was.
    bed.ok(&["down", "t"]);
    bed.ok(&["audit", "verify", "t"]);
}

#[test]
fn a_killed_warden_leaves_a_log_that_goes_on() {
    let bed = Bed::new();
    for life in 0..3 {
        bed.up(&one("sleep 1000"));
        let warden = rustix::process::Pid::from_raw(bed.warden("t")).unwrap();
        rustix::process::kill_process(warden, rustix::process::Signal::KILL).unwrap();
        bed.await_that("its end", |bed| bed.ps()["teams"][0]["status"] == "crashed");
        let verified = text(&bed.run(&["audit", "verify", "t"]).stdout);
        assert!(verified.contains("whole") && verified.contains("open"), "{life}: {verified}");
        bed.ok(&["down", "t"]);
    }
    assert_eq!(kinds(&bed).iter().filter(|kind| *kind == "removed").count(), 3);
    bed.ok(&["audit", "verify", "t"]);
}
