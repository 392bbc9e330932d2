//! What was found: as JSON, and as a table with ratios.

use std::fmt::Write as _;
use std::path::Path;

use cloister::commands::bench::report::{Environment, scaled};
use cloister::commands::bench::statistics::Summary;
use serde::Serialize;

use super::work::{BLOCK, Size};
use crate::report::{Mode, SCHEMA};
use crate::rounds::{Line, Share};

/// The kinds of work that move data, by time; the others are of names and attributes.
const DATA: [&str; 3] = ["write", "read", "random-read"];
/// Names and attributes together.
const METADATA: &str = "create+stat+unlink";
const PARTS: [&str; 3] = ["create", "stat", "unlink"];
/// Least throughput of data, by that of the peer.
const MIN_DATA: f64 = 1.0;
/// Most latency of metadata, by that of the peer.
const MAX_METADATA: f64 = 1.3;

/// A whole comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    bench: &'static str,
    measures: &'static str,
    mode: Mode,
    environment: Environment,
    size: Size,
    subjects: Vec<SubjectReport>,
    ratios: Vec<Ratio>,
    targets: Vec<Target>,
}

/// Every measurement of one subject.
#[derive(Clone, Debug, Serialize)]
pub struct SubjectReport {
    /// Its name.
    pub name: &'static str,
    /// In order, one a round.
    pub rounds: Vec<Vec<Line>>,
}

/// The first subject against another.
#[derive(Clone, Debug, Serialize)]
struct Ratio {
    work: String,
    peer: &'static str,
    /// The peer's time by ours, medians of the rounds: more is faster.
    throughput: f64,
    /// Of each round: the least and the largest.
    least: f64,
    largest: f64,
    /// Our time of one turn by the peer's: less is faster.
    latency: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Target {
    name: String,
    limit: f64,
    value: f64,
    met: bool,
}

/// All of one kind of work in one round, in nanoseconds, and how many turns.
fn time(round: &[Line], work: &str) -> Option<(u64, u64)> {
    if work == METADATA {
        let parts = PARTS.iter().map(|part| time(round, part));
        let parts: Vec<_> = parts.collect::<Option<_>>()?;
        return Some((parts.iter().map(|part| part.0).sum(), parts.first()?.1));
    }
    round.iter().find(|line| line.name == work).map(|line| (line.total_ns, line.count))
}

fn times(subject: &SubjectReport, work: &str) -> Vec<u64> {
    subject.rounds.iter().filter_map(|round| Some(time(round, work)?.0)).collect()
}

fn works() -> impl Iterator<Item = &'static str> {
    DATA.into_iter().chain(PARTS).chain([METADATA])
}

impl Ratio {
    fn new(work: &str, ours: &SubjectReport, other: &SubjectReport) -> Option<Self> {
        let (mine, theirs) = (times(ours, work), times(other, work));
        let Share { of_medians: throughput, least, largest } = Share::of(&theirs, &mine)?;
        let latency = Share::of(&mine, &theirs)?.of_medians;
        Some(Self { work: work.to_owned(), peer: other.name, throughput, least, largest, latency })
    }
}

impl Report {
    /// Of measurements; the first subject is ours, and the second the one that targets are held against.
    #[must_use]
    pub fn new(mode: Mode, size: Size, subjects: Vec<SubjectReport>) -> Self {
        let mut report = Self {
            schema: SCHEMA,
            bench: "shares",
            measures: "work on a writable share, by the guest's clock",
            mode,
            environment: Environment::here(),
            size,
            subjects,
            ratios: vec![],
            targets: vec![],
        };
        let Some((ours, others)) = report.subjects.split_first() else { return report };
        let ratios = others.iter().flat_map(|other| {
            works().filter_map(|work| Ratio::new(work, ours, other)).collect::<Vec<_>>()
        });
        report.ratios = ratios.collect();
        // Times of an emulated machine with several threads tell nothing.
        if mode != Mode::Lab
            && let Some(peer) = others.first()
        {
            report.targets = targets(&report.ratios, peer.name);
        }
        report
    }

    /// Whether every target is met.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.targets.iter().all(|target| target.met)
    }

    /// Writes `shares.json` and `shares.txt`.
    ///
    /// # Errors
    /// They can't be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        let json = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(folder.join("shares.json"), json)?;
        std::fs::write(folder.join("shares.txt"), self.table())?;
        Ok(())
    }

    /// The table for a person.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("shares: {}\n", self.measures);
        // Writing to a string can't fail, here and below.
        let head = ["median", "least", "largest", "one turn", "throughput"];
        let [a, b, c, d, e] = head;
        writeln!(text, "  {:16} {:20} {a:>11} {b:>11} {c:>11} {d:>11} {e:>11}", "", "").ok();
        for work in works() {
            for subject in &self.subjects {
                writeln!(text, "  {work:20} {:16} {}", subject.name, subject.line(work)).ok();
            }
        }
        for Ratio { work, peer, throughput, least, largest, latency } in &self.ratios {
            writeln!(
                text,
                "  by {peer}: {work:20} throughput {throughput:.3} ({least:.3} to {largest:.3}), latency {latency:.3}"
            )
            .ok();
        }
        for Target { name, limit, value, met } in &self.targets {
            let verdict = if *met { "met" } else { "MISSED" };
            writeln!(text, "  target {verdict}: {name} {limit}: {value:.3}").ok();
        }
        text
    }
}

fn targets(ratios: &[Ratio], peer: &str) -> Vec<Target> {
    let ratios = ratios.iter().filter(|ratio| ratio.peer == peer);
    let target = |ratio: &Ratio| {
        let Ratio { work, throughput, latency, .. } = ratio;
        if DATA.contains(&work.as_str()) {
            let met = *throughput >= MIN_DATA;
            let name = format!("{work}: throughput by {peer}'s at least");
            Some(Target { name, limit: MIN_DATA, value: *throughput, met })
        } else if work == METADATA {
            let met = *latency <= MAX_METADATA;
            let name = format!("{work}: latency by {peer}'s at most");
            Some(Target { name, limit: MAX_METADATA, value: *latency, met })
        } else {
            None
        }
    };
    ratios.filter_map(target).collect()
}

impl SubjectReport {
    fn line(&self, work: &str) -> String {
        let Some(all) = Summary::of(times(self, work)) else { return String::new() };
        let turns = self.rounds.first().and_then(|round| time(round, work)).map_or(1, |it| it.1);
        let ms = |ns| scaled(ns, 1e6);
        let mut text = format!(
            "{:8.1} ms {:8.1} ms {:8.1} ms {:8.1} us",
            ms(all.median),
            ms(all.min),
            ms(all.max),
            scaled(all.median / turns.max(1), 1e3)
        );
        let bytes = match work {
            "write" | "read" => turns * BLOCK as u64,
            "random-read" => turns * 4096,
            _ => return text,
        };
        write!(text, " {:5.0} MiB/s", scaled(bytes, 1048.576) / ms(all.median)).ok();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(name: &'static str, factor: u64) -> SubjectReport {
        let line = |work: &&str| Line {
            name: (*work).to_owned(),
            count: 10,
            total_ns: 1000 * factor,
            median_ns: 100,
            p99_ns: 100,
        };
        let round: Vec<_> = DATA.iter().chain(&PARTS).map(line).collect();
        SubjectReport { name, rounds: vec![round.clone(), round] }
    }

    #[test]
    fn slower_is_a_missed_target_and_faster_a_met_one() {
        let size = Size { blocks: 10, reads: 10, files: 10 };
        let report = |ours, theirs| {
            let subjects = vec![subject("ours", ours), subject("peer", theirs)];
            Report::new(Mode::Direct, size, subjects)
        };
        assert!(report(10, 10).passes());
        assert!(!report(11, 10).passes());
        // Data is what is missed, not metadata.
        let missed: Vec<_> = report(11, 10).targets.into_iter().filter(|it| !it.met).collect();
        assert_eq!(missed.len(), 3);
        assert_eq!(report(14, 10).targets.iter().filter(|it| it.met).count(), 0);
        let report = report(5, 10);
        assert_eq!(report.ratios.len(), 7);
        assert!(report.table().contains("throughput 2.000 (2.000 to 2.000), latency 0.500"));
    }

    #[test]
    fn in_the_emulated_machine_nothing_is_judged_by_time() {
        let size = Size { blocks: 1, reads: 1, files: 1 };
        let report = Report::new(Mode::Lab, size, vec![subject("a", 9), subject("b", 1)]);
        assert!(report.passes() && report.targets.is_empty());
    }
}
