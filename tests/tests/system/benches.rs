//! `cloister bench`: that it measures what it says; the figures of a lab are nobody's.

use std::fs;

use cloister_tests::Call;
use serde_json::Value;
use tempfile::TempDir;

/// Most private memory of an idle fork: its process's own and the guest pages that it wrote.
const MAX_PRIVATE_KIB: u64 = 8 << 10;
/// Most threads of its process.
const MAX_THREADS: u64 = 12;

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
fn what_can_not_be_measured_is_told() {
    let folder = TempDir::new().unwrap();
    let place = folder.path().join("t");
    let peer = bench(&["boot", "-n", "1", "--warmup", "0", "--peer", "false"]);
    peer.output().exits(125).says("can't measure `false`").says("try the command by hand");
    let full = bench(&["density", "-n", "2", "--keep", "1T"]).option("--templates", &place);
    full.output().exits(125).says("not got the memory").says("--keep");
}
