//! Tests of a comparison's report.

use std::path::PathBuf;

use cloister::commands::bench::footprint::Footprint;
use serde_json::Value;

use ::cloister::launch::jail::LimitsWish;

use super::*;
use crate::subject::qemu::Memory;
use crate::subject::{Stages, Subject};

fn run(total_ns: u64, stages: Option<Stages>) -> Run {
    let footprint =
        Footprint { beside_guest_kib: 1400, threads: 2, descriptors: 19, ..Footprint::default() };
    Run { total_ns, stages, footprint }
}

fn report() -> Report {
    let stages = Stages {
        process_ns: 100_000,
        command_ns: 200_000,
        kvm_ns: 500_000,
        loaded_ns: 600_000,
        entry_ns: 700_000,
    };
    let job = Job {
        kernel: PathBuf::from("/kernel"),
        root: None,
        memory_mib: 128,
        vcpus: 1,
        base_cmdline: String::new(),
        extra_cmdline: String::new(),
        marker: vec![b'C'],
        limits: LimitsWish::Asked,
    };
    let ours = [2_000_000, 1_000_000, 3_000_000].map(|total| run(total, Some(stages)));
    let theirs = [8_000_000, 8_000_000, 9_000_000].map(|total| run(total, None));
    let measured = vec![
        Measured { subject: Subject::Cloister("/vmm".into()), runs: ours.into() },
        Measured { subject: Subject::Qemu("/qemu".into(), Memory::Own), runs: theirs.into() },
    ];
    let mut report = Report::new("toy", "something", Mode::Deterministic, &job, measured).unwrap();
    report.favordynmods = true;
    report
}

#[test]
fn the_json_keeps_its_schema() {
    let mut report = report();
    report.targets.push(Target::at_most(9.0, 2.0, "time", "ms"));
    let json: Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(json["schema"], SCHEMA);
    assert_eq!((&json["bench"], &json["mode"]), (&"toy".into(), &"deterministic".into()));
    assert_eq!(json["favordynmods"], true);
    let ours = &json["subjects"][0];
    assert_eq!((&ours["name"], &ours["command"]), (&"cloister".into(), &"/vmm".into()));
    assert_eq!(ours["total_ns"]["median"], 2_000_000);
    assert_eq!(ours["beside_guest_kib"]["max"], 1400);
    assert_eq!(ours["stages"][4]["name"], "first entry");
    assert_eq!(ours["stages"][4]["median_ns"], 700_000);
    assert_eq!(ours["runs"].as_array().unwrap().len(), 3);
    assert_eq!(ours["runs"][0]["footprint"]["threads"], 2);
    assert_eq!(ours["runs"][0]["stages"]["kvm_ns"], 500_000);
    assert!(json["subjects"][1].get("stages").is_none());
    let ratio = &json["ratios"][0];
    assert_eq!((&ratio["part"], &ratio["whole"]), (&"cloister".into(), &"qemu-microvm".into()));
    assert_eq!(ratio["of_medians"], 0.25);
    assert_eq!(
        (&json["targets"][0]["met"], &json["targets"][0]["limit"]),
        (&true.into(), &9.0.into())
    );
}

#[test]
fn a_missed_target_fails_the_report_and_is_told() {
    let mut report = report();
    assert!(report.passes());
    report.targets.push(Target::at_most(3.0, 3.0, "kept to the last", "MiB"));
    assert!(report.passes());
    report.targets.push(Target::at_most(3.0, 3.001, "too large", "MiB"));
    assert!(!report.passes());
    let table = report.table();
    assert!(table.contains("target met: kept to the last"), "{table}");
    assert!(table.contains("target MISSED: too large: 3.001 MiB, at most 3"), "{table}");
}

#[test]
fn times_are_judged_only_where_they_are_instructions() {
    let mut report = report();
    assert!(report.judges_time());
    report.mode = Mode::Lab;
    assert!(!report.judges_time());
    report.mode = Mode::Deterministic;
    report.favordynmods = false;
    assert!(!report.judges_time());
    assert_eq!(report.stem(), "compare-toy-without-favordynmods");
}

#[test]
fn bars_are_as_long_as_the_median() {
    for row in report().plot().rows {
        let sum: f64 = row.parts.iter().map(|(_, value)| value).sum();
        let median = if row.label == "cloister" { 2.0 } else { 8.0 };
        assert!((sum - median).abs() < 1e-9, "{row:?}");
    }
}

#[test]
fn the_mount_option_is_found_on_version_2_only() {
    assert!(favordynmods("a /b tmpfs rw 0 0\ncgroup2 /x cgroup2 rw,relatime,favordynmods 0 0\n"));
    assert!(!favordynmods("cgroup2 /x cgroup2 rw,relatime 0 0\n"));
    assert!(!favordynmods("cgroup /x cgroup rw,favordynmods 0 0\n"));
}
