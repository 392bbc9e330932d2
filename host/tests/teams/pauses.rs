//! Teams that are paused in place: how they stand, what is refused meanwhile, and that they go on and end.

use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use crate::bed::{Bed, lines_of, one};
use crate::harness::text;

const SLEEPER: &str = "echo begun; sleep 1000";

fn status(bed: &Bed) -> String {
    bed.ps()["teams"][0]["status"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_paused_team_says_so_and_goes_on() {
    let bed = Bed::new();
    bed.up(&one(SLEEPER));
    bed.ok(&["pause", "t"]);
    assert_eq!(status(&bed), "paused");
    for words in [
        &["exec", "t/a", "--", "true"][..],
        &["stats", "--no-stream", "t"],
        &["cp", "t/a:/tmp/x", "x"],
        &["stop", "t/a"],
        &["restart", "t/a"],
    ] {
        let told = bed.fails(words, 125);
        assert!(
            told.contains("is paused") && told.contains("cloister resume"),
            "{words:?}: {told}"
        );
    }
    assert!(bed.fails(&["pause", "t/a"], 125).contains("without an agent"));
    assert!(bed.fails(&["rm", "t"], 125).contains("runs"));
    assert!(bed.ok(&["logs", "t"]).contains("begun"));
    // What is so already is no mistake.
    bed.ok(&["pause", "t"]);
    bed.ok(&["resume", "t"]);
    assert_eq!(status(&bed), "running");
    bed.ok(&["resume", "t"]);
    assert_eq!(bed.ok(&["exec", "t/a", "--", "echo", "yes"]), "yes\n");
    let events = bed.ok(&["logs", "--events", "t"]);
    assert_eq!((events.matches(" paused").count(), events.matches(" resumed").count()), (1, 1));
    let audit = bed.ok(&["audit", "show", "t"]);
    for word in ["pause", "resume", "paused", "resumed"] {
        assert!(audit.contains(word), "{word}: {audit}");
    }
    bed.ok(&["down", "t"]);
    bed.assert_nothing_left();
}

#[test]
fn a_paused_team_ends_in_every_way() {
    let bed = Bed::new();
    for words in [&["down", "t"][..], &["stop", "t"]] {
        bed.up(&one(SLEEPER));
        bed.ok(&["pause", "t"]);
        bed.ok(words);
        if words[0] == "stop" {
            assert_eq!(status(&bed), "ended");
            bed.ok(&["rm", "t"]);
        }
        bed.assert_nothing_left();
    }
    // Its warden is killed, and everything with it.
    bed.up(&one(SLEEPER));
    bed.ok(&["pause", "t"]);
    let warden = Pid::from_raw(bed.warden("t")).unwrap();
    kill_process(warden, Signal::KILL).unwrap();
    bed.await_that("it has crashed", |bed| status(bed) == "crashed");
    assert!(bed.fails(&["resume", "t"], 125).contains("does not run"));
    bed.ok(&["rm", "t"]);
    bed.assert_nothing_left();
}

fn interrupt(child: &Child) {
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(id, Signal::INT).expect("a process that runs");
}

#[test]
fn an_interrupt_ends_a_paused_team() {
    let bed = Bed::new();
    bed.file(&one(SLEEPER));
    let mut up = bed.start(&["up", "team.toml"]);
    // It shows what the agent says, so the start is over.
    let lines = lines_of(up.stdout.take().unwrap());
    assert_eq!(lines.recv().unwrap(), "a | begun");
    bed.ok(&["pause", "t"]);
    interrupt(&up);
    let output = up.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(status(&bed), "ended");
    bed.ok(&["down", "t"]);
    bed.assert_nothing_left();
}

#[test]
fn a_hundred_pauses_lose_nothing() {
    let bed = Bed::new();
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; sleep 1000";
    bed.up(&one(script));
    for _ in 0..100 {
        bed.ok(&["pause", "t"]);
        bed.ok(&["resume", "t"]);
    }
    bed.await_that("all is written", |bed| bed.ok(&["logs", "t"]).contains("line 19999\n"));
    let lines = bed.ok(&["logs", "t"]);
    let numbers = lines.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok());
    assert!(numbers.eq(0..20_000));
    let events = bed.ok(&["logs", "--events", "t"]);
    assert_eq!(events.matches(" resumed").count(), 100);
    bed.ok(&["down", "t"]);
    bed.assert_nothing_left();
}
