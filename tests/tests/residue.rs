//! Nothing is left over: after runs, after refusals, after a killed command line. These count what the
//! whole place holds, so `tests/run` gives them a process of their own and one thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use cloister_tests::census::Census;
use cloister_tests::{Call, image};
use rustix::process::Signal;

/// Runs of each of the two leak tests.
const RUNS: usize = 100;
/// The same in the lab, where each takes seconds; `CLOISTER_TESTS=slow` has all of them there too.
const RUNS_IN_LAB: usize = 12;
/// Of them at the same time.
const AT_ONCE: u32 = 4;

/// One test at a time, however the executable is called.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn many_runs_that_end_leave_nothing() {
    many_runs([("exit 3", 3), ("sleep 1000 & echo x", 0)]);
}

#[test]
fn many_runs_that_are_ended_leave_nothing() {
    many_runs([("kill -9 $$", 137), ("poweroff -f; sleep 1000", 125)]);
}

/// Runs these in turn, several at once: a machine that ends must not take with it, or leave, what is
/// another's.
fn many_runs<const KINDS: usize>(kinds: [(&str, i32); KINDS]) {
    let _turn = alone();
    let before = Census::take();
    let begun = AtomicUsize::new(0);
    let slow = std::env::var_os("CLOISTER_TESTS").is_some_and(|kind| kind == "slow");
    let emulated = std::env::var_os("LAB").is_some() && !slow;
    let runs = if emulated { RUNS_IN_LAB } else { RUNS };
    let next = || Some(begun.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < runs);
    let some_of_them = || {
        while let Some(number) = next() {
            let (script, code) = kinds[number % KINDS];
            // Four emulated machines on one emulated processor: how long they take is not what is tested.
            let call = Call::run().option("--memory", "64M").option("--start-timeout", "10m");
            call.limit(Duration::from_secs(900)).shell(script).output().exits(code);
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(some_of_them);
        }
    });
    assert!(begun.into_inner() >= runs);
    before.assert_nothing_left(&format!("{runs} runs"));
}

#[test]
fn a_killed_command_line_leaves_nothing_at_any_moment() {
    let _turn = alone();
    let before = Census::take();
    // A whole start, to spread the moments over it.
    let whole = Call::run().command(["true"]).output().exits(0).time;
    for signal in [Signal::KILL, Signal::TERM, Signal::INT] {
        for part in 0..10 {
            let moment = whole * part / 9;
            let mut running = Call::run().shell("sleep 1000").spawn();
            running.close_stdin();
            if !running.ends_within(moment) {
                running.signal(signal);
            }
            let outcome = running.finish();
            assert!(outcome.status.code() != Some(0), "it was not ended by {signal:?}");
            if signal == Signal::KILL {
                // Nobody is left to remove the control group: the next command does.
                Call::cloister(["doctor"]).output().exits(0);
            }
            before.assert_nothing_left(&format!("{signal:?} after {moment:?}"));
        }
    }
}

#[test]
fn refusals_and_failed_starts_leave_nothing() {
    let _turn = alone();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let panics = image::root_with_init(folder.path(), "panics", "exit 1");
    let sleeps = image::root_with_init(folder.path(), "sleeps", "while :; do sleep 1000; done");
    let text = image::written(folder.path(), "text", b"this is no kernel\n");
    let before = Census::take();
    let limit = Duration::from_secs(120);
    for call in [
        Call::run().option("--kernel", text),
        Call::run().option("--kernel", image::truncated_kernel(folder.path())),
        Call::run().option("--memory", "1M"),
        Call::run().option("--cpus", "1000"),
        Call::run().option("--rootfs", panics),
        Call::run().option("--rootfs", sleeps).option("--start-timeout", "3s"),
        Call::run().option("--workdir", "/no/such"),
    ] {
        call.limit(limit).command(["true"]).output().exits(125);
    }
    before.assert_nothing_left("refusals");
}
