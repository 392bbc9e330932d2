//! Kills at any point, and several commands at once.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use cloister::images::store::Store;
use serde_json::Value;

use super::bed::{Bed, Parts, layer, text, tool};

/// The system calls that change a file system, and so the points between which a kill differs.
const POINTS: [&str; 9] = [
    "mkdirat",
    "fsetxattr",
    "write",
    "fsync",
    "syncfs",
    "renameat",
    "renameat2",
    "unlinkat",
    "ftruncate",
];
/// More than any of them is called in this test.
const MOST_CALLS: usize = 200;

fn image() -> Vec<u8> {
    let below = layer(&[("bin/agent", b"#!/bin/sh\n"), ("etc/old", b"1")]);
    let above = layer(&[("etc/.wh.old", b""), ("etc/new", b"2")]);
    Parts::new(vec![below, above]).archive()
}

/// Runs a command and kills it at the `count`th call of `call`; tells whether it came to that.
fn killed_at(bed: &Bed, call: &str, count: usize, words: &[&str]) -> bool {
    let wanted = bed.command(words);
    let inject = format!("inject={call}:signal=KILL:when={count}");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
    command.arg(env!("CARGO_BIN_EXE_cloister")).args(["image"]).args(words);
    command.envs(wanted.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.stdin(Stdio::null()).output().expect("strace");
    // strace ends as what it traces did.
    let killed = output.status.signal() == Some(9) || output.status.code() == Some(137);
    assert!(killed || output.status.success(), "{call} {count}: {}", text(&output.stderr));
    killed
}

#[test]
fn a_kill_at_any_point_of_an_import_leaves_nothing_or_all() {
    tool("true", &[]);
    let bed = Bed::new();
    let source = bed.path("image.tar");
    fs::write(&source, image()).unwrap();
    let words = ["import", source.to_str().unwrap()];
    let mut kills = 0;
    for call in POINTS {
        for count in 1..=MOST_CALLS {
            fs::remove_dir_all(bed.store()).ok();
            if !killed_at(&bed, call, count, &words) {
                break;
            }
            assert!(count < MOST_CALLS, "{call} is called without end");
            kills += 1;
            check_after_kill(&bed, &words, call, count);
        }
    }
    assert!(kills > 40, "only {kills} points");
}

fn check_after_kill(bed: &Bed, words: &[&str], call: &str, count: usize) {
    let unfinished = bed.counts()[2] > 0;
    let (out, told) = bed.good(&["ls", "--json"]);
    let said = told.contains("unfinished");
    assert_eq!(said, unfinished, "{call} {count}: {told}");
    let listing: Value = serde_json::from_str(&out).unwrap();
    let images = listing["images"].as_array().unwrap();
    match images.len() {
        0 => assert_eq!(bed.counts(), [0, 0, 0], "{call} {count}"),
        _ => {
            assert_eq!(images[0]["usable"], true, "{call} {count}");
            assert_eq!(bed.counts(), [4, 1, 0], "{call} {count}");
        }
    }
    let (_, told) = bed.good(words);
    assert!(!told.contains("unfinished"), "{call} {count}: {told}");
    assert_eq!(fs::read(bed.root("made:1").join("etc/new")).unwrap(), b"2");
    assert!(!bed.root("made:1").join("etc/old").exists());
    assert_eq!(bed.counts(), [4, 1, 0], "{call} {count}");
}

#[test]
fn a_kill_at_any_point_of_a_removal_leaves_nothing_or_all() {
    tool("true", &[]);
    let bed = Bed::new();
    let source = bed.path("image.tar");
    fs::write(&source, image()).unwrap();
    let mut kills = 0;
    for call in ["write", "fsync", "renameat", "unlinkat"] {
        for count in 1..=MOST_CALLS {
            bed.good(&["import", source.to_str().unwrap()]);
            if !killed_at(&bed, call, count, &["rm", "made:1"]) {
                break;
            }
            kills += 1;
            let images = bed.list();
            if images.is_empty() {
                assert_eq!(bed.counts(), [0, 0, 0], "{call} {count}");
            } else {
                assert_eq!(images[0]["usable"], true, "{call} {count}");
            }
        }
    }
    assert!(kills > 10, "only {kills} points");
}

#[test]
fn all_who_make_a_store_at_the_same_time_have_it() {
    let place = tempfile::tempdir().unwrap();
    for round in 0..300 {
        let path = place.path().join(format!("{round}/store"));
        std::thread::scope(|scope| {
            // At all moments of the first.
            for number in 0..16 {
                let path = &path;
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_micros(50 * number));
                    Store::open(path).unwrap();
                });
            }
        });
    }
}

#[test]
fn commands_at_the_same_time_do_not_harm_each_other() {
    let bed = Bed::new();
    let mut running = Vec::new();
    for number in 0..8 {
        // Four images that share a layer, each imported twice.
        let shared = layer(&[("shared", &[7; 100_000])]);
        let own = layer(&[("own", format!("{}", number / 2).as_bytes())]);
        let path = bed.path(&format!("{number}.tar"));
        fs::write(&path, Parts::new(vec![shared, own]).archive()).unwrap();
        let name = format!("image:{}", number / 2);
        let words = ["import", "--name", &name, path.to_str().unwrap()];
        let mut command = bed.command(&words);
        running.push(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        if number % 3 == 0 {
            let mut command = bed.command(&["gc"]);
            running.push(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        }
    }
    for child in running {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("unfinished"), "{}", text(&output.stderr));
    }
    let images = bed.list();
    assert_eq!(images.len(), 4);
    for number in 0..4 {
        let root = bed.root(&format!("image:{number}"));
        assert_eq!(fs::read_to_string(root.join("own")).unwrap(), number.to_string());
        assert_eq!(fs::read(root.join("shared")).unwrap(), [7; 100_000]);
    }
    // One shared layer, and a layer, a configuration and a manifest for each.
    assert_eq!(bed.counts(), [13, 4, 0]);
}
