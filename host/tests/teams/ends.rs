//! Ends that nobody planned: kills, signals, machines that fail.

use std::io::{BufRead as _, BufReader};
use std::time::Instant;

use cloister::machine::ANSWER_LIMIT;
use rustix::process::{Pid, Signal, kill_process};

use crate::bed::{Bed, one};
use crate::harness::text;

fn signal(process: i32, signal: Signal) {
    kill_process(Pid::from_raw(process).expect("a process"), signal).expect("it runs");
}

#[test]
fn a_killed_warden_is_seen_and_cleaned_up() {
    let bed = Bed::new();
    bed.up(&one("sleep 1000"));
    signal(bed.warden("t"), Signal::KILL);
    bed.await_that("the crash is seen", |bed| bed.ps()["teams"][0]["status"] == "crashed");
    assert_eq!(bed.agent("a")["status"], "gone");
    assert!(bed.ok(&["ps"]).contains("cloister rm"));
    bed.fails(&["exec", "t/a", "--", "true"], 125);
    // It can be started again, or removed.
    bed.ok(&["start", "t"]);
    assert_eq!(bed.agent("a")["status"], "running");
    signal(bed.warden("t"), Signal::KILL);
    bed.await_that("the crash is seen", |bed| bed.ps()["teams"][0]["status"] == "crashed");
    bed.ok(&["rm", "t"]);
    bed.assert_nothing_left();
}

#[test]
fn who_looks_at_a_team_does_not_disturb_its_start() {
    let bed = Bed::new();
    bed.file(&one("sleep 1000"));
    for _ in 0..10 {
        let mut up = bed.start(&["up", "-d", "team.toml"]);
        let mut seen = Vec::new();
        while up.try_wait().unwrap().is_none() {
            seen.extend(bed.ps()["teams"][0]["status"].as_str().map(str::to_owned));
        }
        let up = up.wait_with_output().unwrap();
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        // There from the first word of it, and never without somebody who sees to it.
        seen.dedup();
        assert!(seen.len() <= 2 && seen.iter().all(|one| one == "starting" || one == "running"));
        bed.ok(&["down", "t"]);
    }
    bed.assert_nothing_left();
}

#[test]
fn a_running_team_is_not_removed_by_rm() {
    let bed = Bed::new();
    bed.up(&one("sleep 1000"));
    let told = bed.fails(&["rm", "t"], 125);
    assert!(told.contains("cloister down"), "{told}");
    let told = bed.fails(&["up", "-d", "team.toml"], 125);
    assert!(told.contains("there is a team \"t\" already"), "{told}");
    assert_eq!(bed.agent("a")["status"], "running");
    bed.ok(&["down", "t"]);
    bed.assert_nothing_left();
}

#[test]
fn an_interrupt_in_the_foreground_stops_the_team() {
    let bed = Bed::new();
    bed.file(&one("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 1; done"));
    let mut up = bed.start(&["up", "team.toml"]);
    let mut lines = BufReader::new(up.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "a | ready");
    signal(i32::try_from(up.id()).unwrap(), Signal::INT);
    assert_eq!(lines.next().unwrap().unwrap(), "a | bye");
    assert_eq!(up.wait().unwrap().code(), Some(1));
    assert_eq!(bed.agent("a")["status"], "stopped");
    assert_eq!(bed.ps()["teams"][0]["status"], "ended");
}

#[test]
fn an_interrupt_or_a_kill_during_the_start_takes_it_back() {
    // Before or after the warden has the team's lock, and when it has it for sure.
    for (end, is_handed) in [(Signal::INT, false), (Signal::KILL, false), (Signal::KILL, true)] {
        // Its guest never says that it is ready.
        let bed = Bed::with("mute");
        bed.file(&one("true"));
        let mut up = bed.start(&["up", "-d", "team.toml"]);
        bed.await_start(&mut up, "starting");
        if is_handed {
            bed.await_that("a warden", |bed| bed.warden_with_lock("t").is_some());
        }
        signal(i32::try_from(up.id()).unwrap(), end);
        let code = up.wait().unwrap().code();
        if end == Signal::INT {
            assert_eq!(code, Some(125));
        } else {
            // The warden notices by itself; one without the lock may not say so. `rm` removes the rest.
            bed.await_that("the warden ends", |bed| {
                let status = &bed.ps()["teams"][0]["status"];
                status == "failed" || (!is_handed && status == "crashed")
            });
            bed.ok(&["rm", "t"]);
        }
        bed.assert_nothing_left();
    }
}

#[test]
fn an_interrupt_or_a_kill_takes_back_what_has_a_machine_and_no_agent() {
    for (end, again) in [(Signal::INT, false), (Signal::INT, true), (Signal::KILL, false)] {
        // Its guest does not say whether the agent's command runs.
        let bed = Bed::with("deaf-to-exec");
        bed.file(&one("true"));
        let mut up = bed.start(&["up", "team.toml"]);
        bed.await_start(&mut up, "running");
        let process = i32::try_from(up.id()).unwrap();
        let begin = Instant::now();
        signal(process, end);
        if again {
            // Until it has heard the first: two that wait at once are one.
            while up.try_wait().unwrap().is_none() {
                signal(process, end);
            }
        }
        let code = up.wait().unwrap().code();
        if end == Signal::INT {
            assert_eq!(code, Some(125));
        }
        if again || end == Signal::KILL {
            bed.await_that("the warden ends", |bed| bed.ps()["teams"][0]["status"] == "ended");
            bed.ok(&["rm", "t"]);
        }
        // Nobody waits for the guest's answer.
        assert!(begin.elapsed() < ANSWER_LIMIT / 2, "{:?}", begin.elapsed());
        bed.assert_nothing_left();
    }
}

#[test]
fn a_machine_that_does_not_start_leaves_nothing() {
    let bed = Bed::with("exit 5");
    bed.file(&one("true"));
    let told = bed.fails(&["up", "-d", "team.toml"], 125);
    assert!(told.contains("the machine ended before it was ready"), "{told}");
    bed.assert_nothing_left();
}

#[test]
fn a_panic_of_the_guests_kernel_is_told_with_its_words() {
    let bed = Bed::with("panic");
    bed.file(&one("true"));
    let told = bed.fails(&["up", "-d", "team.toml"], 125);
    let line = "  guest| Kernel panic - not syncing: \\x1b[31mred";
    assert!(told.contains("panicked") && told.contains(line), "{told}");
    bed.assert_nothing_left();
}

#[test]
fn a_machine_that_dies_is_the_teams_failure() {
    let bed = Bed::with("panics-on-exec");
    bed.file(&one("true"));
    let output = bed.run(&["up", "team.toml"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let team = bed.ps()["teams"][0].clone();
    assert_eq!(team["status"], "failed", "{team}");
    assert!(team["detail"].as_str().unwrap().contains("panicked"), "{team}");
}
