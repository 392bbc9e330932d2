//! Tests of the report on egress.

use serde_json::Value;

use super::*;
use crate::egress::comparison::Finding;
use crate::rounds::Line;

const SIZE: Size = Size { connections: 10, requests: 10, bytes: 4 << 20, streams: 32 };

/// A subject whose every turn takes this time, in two rounds.
fn subject(name: &'static str, is_ours: bool, ns: u64, processor_ns: Option<u64>) -> Measured {
    let finding = |(protocol, work): (Protocol, Work)| {
        let line = Line::new(&work.name(), 10 * ns, vec![ns; 10]).unwrap();
        Finding { protocol, work, line, processor_ns }
    };
    let round: Vec<_> = SIZE.cases().map(finding).collect();
    Measured { name, is_ours, rounds: vec![round.clone(), round] }
}

fn report() -> Report {
    let subjects = vec![
        subject("direct", false, 1_000, None),
        subject("gate", true, 3_000, Some(5_000)),
        subject("proxy", false, 2_000, Some(10_000)),
    ];
    Report::new(SIZE, Records { written: 7, ..Records::default() }, subjects)
}

fn found<'a>(report: &'a Report, work: &str, peer: &str) -> &'a Ratio {
    let mut all = report.ratios.iter();
    all.find(|one| one.work == work && one.peer == peer && one.protocol == Protocol::Tls).unwrap()
}

#[test]
fn ours_is_held_against_each_other_one() {
    let report = report();
    assert_eq!(report.ratios.len(), 3 * 6 * 2);
    let direct = found(&report, "connect", "direct");
    let share = |value| Share { of_medians: value, least: value, largest: value };
    assert_eq!((direct.subject, direct.time, direct.added_ns), ("gate", share(3.0), Some(2_000)));
    assert_eq!(direct.processor, None);
    let proxy = found(&report, "download-32", "proxy");
    assert_eq!((proxy.time, proxy.added_ns), (share(1.5), None));
    assert_eq!(proxy.processor, Some(share(0.5)));
}

#[test]
fn who_is_faster_takes_less_than_nothing_longer() {
    let subjects =
        vec![subject("gate", true, 1_000, Some(1)), subject("proxy", false, 4_000, Some(1))];
    let report = Report::new(SIZE, Records::default(), subjects);
    assert_eq!(found(&report, "request", "proxy").added_ns, Some(-3_000));
}

#[test]
fn the_json_has_every_measurement_and_the_table_the_medians() {
    let report = report();
    let json: Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!((&json["schema"], &json["bench"]), (&SCHEMA.into(), &"egress".into()));
    assert_eq!(json["records"]["written"], 7);
    let first = &json["subjects"][1]["rounds"][1][0];
    assert_eq!((&first["protocol"], &first["name"]), (&"tcp".into(), &"connect".into()));
    assert_eq!((&first["median_ns"], &first["processor_ns"]), (&3_000.into(), &5_000.into()));
    assert!(json["subjects"][0]["rounds"][0][0].get("processor_ns").is_none());
    let table = report.table();
    let line = |name: &str| {
        let begin = format!("  {name} ");
        let mut lines = table.lines().filter(|line| line.starts_with(&begin));
        lines.next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    // Five microseconds for ten connections.
    assert_eq!(line("gate"), "gate 3 us 3 us 0.5 3.00 1.50");
    assert_eq!(line("direct"), "direct 1 us 1 us -");
    // 4 MiB in ten times 2 us.
    assert!(table.contains("0 ms     200000          2.5"), "{table}");
}

#[test]
fn plots_have_a_row_for_each_case_and_subject() {
    let report = report();
    assert_eq!(report.plot(false, "µs").rows.len(), 3 * 2 * 3);
    assert_eq!(report.plot(true, "ms").rows.len(), 3 * 4 * 3);
}
