//! Tests of the report: what programs and people rely on.

use serde_json::Value;

use super::*;

fn report() -> Report {
    let vm = VmSpec { vcpus: 2, memory_mib: 256, extra_cmdline: String::new() };
    let mut report = Report::new("boot", "something", &vm);
    let total = [3_000_000, 1_000_000, 2_000_000];
    report.lines.push(Line::stage("kernel", "kernel entry", [500_000, 400_000]).unwrap());
    report.lines.push(Line::new("total", "total", Unit::Nanoseconds, total).unwrap());
    let rates = Line::new("to_guest", "stream", Unit::BytesPerSecond, [5 << 20]);
    report.lines.push(rates.unwrap());
    let footprint = Footprint { beside_guest_kib: 1500, threads: 2, ..Footprint::default() };
    report.add_footprints([footprint]).unwrap();
    report
}

#[test]
fn the_json_keeps_its_schema() {
    let json: Value = serde_json::from_str(&report().json()).unwrap();
    assert_eq!(json["schema"], SCHEMA);
    assert_eq!(json["bench"], "boot");
    assert_eq!((json["cpus"].as_u64(), json["memory_mib"].as_u64()), (Some(2), Some(256)));
    for field in ["kernel", "processor", "processors", "version"] {
        assert!(!json["environment"][field].is_null(), "{field}");
    }
    let line = &json["lines"][1];
    assert_eq!(line["key"], "total");
    assert_eq!(line["unit"], "nanoseconds");
    assert_eq!(line["samples"], serde_json::json!([3_000_000, 1_000_000, 2_000_000]));
    let summary = serde_json::json!({
        "count": 3, "min": 1_000_000, "median": 2_000_000,
        "p90": 3_000_000, "p99": 3_000_000, "max": 3_000_000
    });
    assert_eq!(line["summary"], summary);
    assert_eq!(json["lines"][2]["unit"], "bytes_per_second");
    let keys: Vec<_> = json["lines"].as_array().unwrap().iter().map(|l| &l["key"]).collect();
    assert!(keys.iter().any(|key| **key == "vmm_memory"), "{keys:?}");
}

#[test]
fn the_table_has_a_line_for_each_and_people_s_units() {
    let table = report().table();
    assert!(table.contains("2 vCPU, 256 MiB"), "{table}");
    let total = table.lines().find(|line| line.trim_start().starts_with("total")).unwrap();
    let words: Vec<_> = total.split_whitespace().collect();
    assert_eq!(words, ["total", "ms", "2.000", "3.000", "3.000", "1.000", "3.000", "3"]);
    assert!(table.contains("MiB/s") && table.contains("1500"), "{table}");
}

#[test]
fn the_plot_shows_times_only() {
    let plot = report().plot();
    let labels: Vec<_> = plot.rows.iter().map(|row| row.label.as_str()).collect();
    assert_eq!(labels, ["stages, medians", "kernel entry", "total"]);
}

#[test]
fn of_very_many_measurements_the_plot_shows_some_and_the_extremes() {
    let few: Vec<u64> = vec![3_000_000, 1_000_000, 2_000_000];
    assert_eq!(dots(&few), [1.0, 2.0, 3.0]);
    assert_eq!((dots(&[7_000_000]), dots(&[])), (vec![7.0], vec![]));
    let many: Vec<u64> = (1..=10_000).rev().map(|number| number * 1_000_000).collect();
    let dots = dots(&many);
    assert_eq!((dots.len(), dots.first(), dots.last()), (MOST_DOTS, Some(&1.0), Some(&10_000.0)));
}

#[test]
fn what_is_compared_has_its_stages_in_a_row_of_its_own() {
    let mut report = report();
    report.lines[0] = report.lines[0].clone().of("fork");
    let peer = Line::stage("boot_kernel", "boot: kernel entry", [900_000]).unwrap();
    report.lines.push(peer.of("boot"));
    let rows = report.plot().rows;
    let labels: Vec<_> = rows.iter().map(|row| row.label.as_str()).collect();
    assert_eq!(labels[..2], ["fork: stages, medians", "boot: stages, medians"]);
    // One colour for the same stage of both.
    assert_eq!(rows[0].parts[0].0, rows[1].parts[0].0);
}

#[test]
fn ratios_and_the_method_are_told_everywhere() {
    let mut report = report();
    let name = "of a boot's time <to> ready".to_owned();
    report.ratios.push(Ratio { key: "total", name, value: 0.125 });
    report.method.push("By hand & eye.".to_owned());
    assert!(report.table().contains("0.125 of a boot's time <to> ready\nBy hand & eye.\n"));
    let json: Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(json["ratios"][0]["value"], 0.125);
    let page = crate::commands::bench::page::page(&report);
    for part in ["0.125", "time &lt;to&gt; ready", "By hand &amp; eye.", "<svg ", "2.000", "MiB/s"]
    {
        assert!(page.contains(part), "{part}");
    }
    for foreign in ["<script", "http://", "https://", "src="] {
        let page = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(foreign), "{foreign}");
    }
}

#[test]
fn without_samples_there_is_no_line() {
    assert!(Line::new("a", "a", Unit::Count, []).is_none());
    assert!(report().add_footprints([]).is_none());
}

#[test]
fn the_processor_s_name_is_found() {
    assert_eq!(processor("vendor_id : x\nmodel name\t: Some CPU 9\n"), "Some CPU 9");
    assert_eq!(processor(""), "unknown");
}
