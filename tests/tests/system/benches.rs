//! `cloister bench`: that it measures what it says; the figures of a lab are nobody's.

use std::fs;
use std::path::{Path, PathBuf};

use cloister_tests::Call;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// Most private memory of an idle fork: its process's own and the guest pages that it wrote.
const MAX_PRIVATE_KIB: u64 = 8 << 10;
/// Most threads of its process.
const MAX_THREADS: u64 = 12;

/// How long a machine may take to work, in seconds; only a failing test ever waits for it.
const LIMIT_S: i64 = 300;

fn bench(words: &[&str]) -> Call {
    Call::cloister(["bench"].iter().chain(words))
}

fn json(call: Call) -> Value {
    serde_json::from_str(&call.argument("--json").output().exits(0).text()).unwrap()
}

fn line<'a>(report: &'a Value, key: &str) -> &'a Value {
    let lines = report["lines"].as_array().unwrap();
    let found = lines.iter().find(|line| line["key"] == key);
    assert!(found.is_some(), "no {key}: {report}");
    found.unwrap()
}

#[test]
fn forks_are_measured_beside_boots_and_other_programs() {
    let folder = TempDir::new().unwrap();
    let page = folder.path().join("page.html");
    let words = ["fork", "-n", "3", "--concurrency", "1,2", "--peer", "echo 'a peer'"];
    let call = bench(&words).option("--templates", folder.path().join("t"));
    let report = json(call.option("--html", &page));
    let stages = |of: &str| {
        let lines = report["lines"].as_array().unwrap().iter();
        let stages = lines.filter(|line| line["is_stage"] == true && line["of"] == of);
        stages.map(|line| line["samples"][0].as_u64().unwrap()).collect::<Vec<_>>()
    };
    for (of, total) in [("fork", "total"), ("boot", "boot_total")] {
        let (stages, total) = (stages(of), line(&report, total));
        assert_eq!(stages.len(), 8);
        assert_eq!(stages.iter().sum::<u64>(), total["samples"][0].as_u64().unwrap());
        assert_eq!(total["summary"]["count"], 3);
    }
    for key in ["total_at_2", "boot_total_at_2"] {
        assert_eq!(line(&report, key)["summary"]["count"], 4);
    }
    // `cloister run` both ways, and the peer.
    let names =
        ["command_0", "command_1", "command_2"].map(|key| line(&report, key)["name"].clone());
    assert_eq!(names, ["cloister run (by fork)", "cloister run (by boot)", "echo 'a peer'"]);
    for ratio in report["ratios"].as_array().unwrap() {
        assert!(ratio["value"].as_f64().unwrap() < 1.0, "a fork takes longer than a boot: {ratio}");
    }
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("<svg ") && page.contains("fork: stages, medians"), "{page}");
}

#[test]
fn idle_forks_share_what_they_have_not_written() {
    let folder = TempDir::new().unwrap();
    let call = bench(&["density", "-n", "4"]).option("--templates", folder.path().join("t"));
    let report = json(call);
    assert_eq!(line(&report, "machines")["samples"], serde_json::json!([4]));
    let largest = |key| line(&report, key)["summary"]["max"].as_u64().unwrap();
    let (private, threads) = (largest("private"), largest("threads"));
    println!("{private} KiB private, {} KiB shared, {threads} threads", largest("shared"));
    assert!(private > 0 && private <= MAX_PRIVATE_KIB, "{private} KiB");
    assert!(threads > 1 && threads <= MAX_THREADS, "{threads}");
    assert_eq!(line(&report, "answer")["summary"]["count"], 4);
}

#[test]
fn shared_files_are_measured_from_a_container_and_nothing_is_left() {
    let place = TempDir::new().unwrap();
    let folder = TempDir::new().unwrap();
    let page = folder.path().join("page.html");
    let words = ["files", "-n", "2", "--mib", "3", "--reads", "40", "--files", "20"];
    let call = bench(&words).option("--place", place.path()).option("--html", &page);
    let report = json(call.option("--save", folder.path()));
    let count = |key| line(&report, key)["summary"]["count"].as_u64().unwrap();
    for key in ["write", "read", "read_only_read"] {
        assert_eq!((count(key), &line(&report, key)["unit"]), (2, &"bytes_per_second".into()));
    }
    for (key, calls) in [
        ("write_call", 6),
        ("read_call", 6),
        ("read_only_read_call", 6),
        ("random_read", 80),
        ("read_only_random_read", 80),
        ("create", 40),
        ("stat", 40),
        ("unlink", 40),
        ("create_stat_unlink", 40),
    ] {
        assert_eq!(count(key), calls, "{key}");
        assert!(line(&report, key)["summary"]["min"].as_u64().unwrap() > 0, "{key}");
        println!("{key}: {}", line(&report, key)["summary"]);
    }
    let method = report["method"].to_string();
    assert!(method.contains("Left out: the host's disk"), "{method}");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("<svg ") && page.contains("random read of 4 KiB"), "{page}");
    assert!(folder.path().join("files.svg").exists() && folder.path().join("files.json").exists());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

/// Waits for an entry of a directory: of this name, or any.
fn await_entry(folder: &Path, name: Option<&str>) -> PathBuf {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, folder, inotify::WatchFlags::CREATE).unwrap();
    let limit = Timespec { tv_sec: LIMIT_S, tv_nsec: 0 };
    loop {
        let mut entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let wanted = |entry: &fs::DirEntry| name.is_none_or(|name| entry.file_name() == name);
        if let Some(entry) = entries.find(wanted) {
            return entry.path();
        }
        let told = poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&limit)).unwrap();
        assert!(told > 0, "nothing was made in {}", folder.display());
        rustix::io::read(&watch, &mut [0; 4096]).unwrap();
    }
}

#[test]
fn an_interrupted_bench_of_files_leaves_nothing_and_a_killed_one_is_cleaned_up() {
    let place = TempDir::new().unwrap();
    // Far more than is ever done.
    let long = ["files", "-n", "1000000", "--mib", "3", "--reads", "10", "--files", "10"];
    let start = || bench(&long).option("--place", place.path()).spawn();
    for signal in [Signal::INT, Signal::KILL] {
        let running = start();
        let share = await_entry(&await_entry(place.path(), None), Some("writable"));
        // By what its agent does: the machine works.
        await_entry(&share, None);
        running.signal(signal);
        let outcome = running.finish();
        if signal == Signal::INT {
            let _outcome = outcome.exits(130).says_nothing();
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        } else {
            let _outcome = outcome.dies_of(9);
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
        }
    }
    let short = ["files", "-n", "1", "--warmup", "0", "--mib", "1", "--reads", "1", "--files", "1"];
    let next = bench(&short).option("--place", place.path()).output().exits(0);
    let _next = next.says("removed what a killed `cloister bench files` had left");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn what_can_not_be_measured_is_told() {
    let folder = TempDir::new().unwrap();
    let place = folder.path().join("t");
    let peer = bench(&["boot", "-n", "1", "--warmup", "0", "--peer", "false"]);
    peer.output().exits(125).says("can't measure `false`").says("try the command by hand");
    let full = bench(&["density", "-n", "2", "--keep", "1T"]).option("--templates", &place);
    full.output().exits(125).says("not got the memory").says("--keep");
    let twice = bench(&["files", "--mib", "1", "--reads", "257"]).option("--place", folder.path());
    twice.output().exits(125).says("257 random reads of a file that has 256 pages").says("--mib");
}
