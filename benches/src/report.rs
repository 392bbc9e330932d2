//! What a comparison found: as JSON for programs, as a table and a plot for people, with targets.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;
use cloister::commands::bench::plot::{Plot, Row};
use cloister::commands::bench::report::{Environment, scaled};
use cloister::commands::bench::statistics::{Summary, ratio};
use serde::Serialize;

use crate::comparison::Measured;
use crate::subject::{Job, Run};

/// Version of the JSON: changes when a field changes its meaning or goes away.
pub const SCHEMA: &str = "cloister-bench-1";

/// A whole comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Which bench.
    pub bench: String,
    /// What was measured, in a sentence.
    pub measures: &'static str,
    /// What a time means.
    pub mode: Mode,
    /// Where.
    pub environment: Environment,
    /// Whether cgroup2 is mounted with `favordynmods`. If not, on kernels before 6.14, every machine
    /// monitor waits 2 to 3 timer ticks in `KVM_CREATE_VM`: see `README.md`.
    pub favordynmods: bool,
    /// Each subject, in the order in which they took turns.
    pub subjects: Vec<SubjectReport>,
    /// Medians of the first subject as a share of each other one's.
    pub ratios: Vec<Ratio>,
    /// What is to be kept, and whether it is.
    pub targets: Vec<Target>,
}

/// What a time means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The lab with one nanosecond an instruction.
    Deterministic,
    /// The lab: times tell nothing but that it works.
    Lab,
    /// This machine's own KVM.
    Direct,
}

/// One subject.
#[derive(Clone, Debug, Serialize)]
pub struct SubjectReport {
    /// Its name.
    pub name: &'static str,
    /// Its command line.
    pub command: String,
    /// The first line of what it says about its version.
    pub version: String,
    /// Exec to marker, in nanoseconds.
    pub total_ns: Summary,
    /// Memory beside the guest's, in KiB.
    pub beside_guest_kib: Summary,
    /// Medians of the stages that it reports itself, in nanoseconds since exec.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageMedian>,
    /// Every measurement.
    pub runs: Vec<Run>,
}

/// A stage of a start.
#[derive(Clone, Debug, Serialize)]
pub struct StageMedian {
    /// Its name.
    pub name: &'static str,
    /// Median of the time since exec, in nanoseconds.
    pub median_ns: u64,
}

/// One subject against another.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    /// The one.
    pub part: &'static str,
    /// The other.
    pub whole: &'static str,
    /// Median of the one's times by the other's.
    pub of_medians: f64,
}

/// Something that is to be kept.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    /// What.
    pub name: &'static str,
    /// At most this.
    pub limit: f64,
    /// What was found.
    pub value: f64,
    /// Unit of both.
    pub unit: &'static str,
    /// Whether it is kept.
    pub met: bool,
}

impl Target {
    /// `value` is to be at most `limit`.
    #[must_use]
    pub fn at_most(limit: f64, value: f64, name: &'static str, unit: &'static str) -> Self {
        Self { name, limit, value, unit, met: value <= limit }
    }
}

impl Report {
    /// From what was measured; the targets are added by whoever knows them.
    ///
    /// # Errors
    /// There are no measurements.
    pub fn new(
        bench: impl Into<String>,
        measures: &'static str,
        mode: Mode,
        job: &Job,
        measured: Vec<Measured>,
    ) -> anyhow::Result<Self> {
        let subjects = measured
            .into_iter()
            .map(|entry| SubjectReport::new(job, entry))
            .collect::<Option<Vec<_>>>()
            .context("nothing was measured")?;
        let (first, others) = subjects.split_first().context("nothing was measured")?;
        let ratios = others
            .iter()
            .map(|other| Ratio {
                part: first.name,
                whole: other.name,
                of_medians: ratio(first.total_ns.median, other.total_ns.median),
            })
            .collect();
        Ok(Self {
            schema: SCHEMA,
            bench: bench.into(),
            measures,
            mode,
            environment: Environment::here(),
            favordynmods: favordynmods(&fs::read_to_string("/proc/mounts").unwrap_or_default()),
            subjects,
            ratios,
            targets: vec![],
        })
    }

    /// The subject whose product this is.
    #[must_use]
    pub fn ours(&self) -> Option<&SubjectReport> {
        self.subjects.first()
    }

    /// Whether every target is met.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.targets.iter().all(|target| target.met)
    }

    /// Whether times are held against targets: only where they are instructions, and where the host is
    /// set up as it should be. Elsewhere they are told.
    #[must_use]
    pub fn judges_time(&self) -> bool {
        self.mode == Mode::Deterministic && self.favordynmods
    }

    /// The name of its files.
    fn stem(&self) -> String {
        let condition = if self.favordynmods { "" } else { "-without-favordynmods" };
        format!("compare-{}{condition}", self.bench)
    }

    /// Writes its JSON and its plot into `folder`.
    ///
    /// # Errors
    /// They can't be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder)?;
        let json = serde_json::to_string_pretty(self)? + "\n";
        fs::write(folder.join(format!("{}.json", self.stem())), json)?;
        fs::write(folder.join(format!("{}.svg", self.stem())), self.plot().svg())?;
        Ok(())
    }

    fn plot(&self) -> Plot {
        let rows = self.subjects.iter().map(|subject| Row {
            label: subject.name.to_owned(),
            parts: subject.parts(),
            dots: subject.runs.iter().map(|run| ms(run.total_ns)).collect(),
            limit: None,
        });
        Plot {
            title: format!("{}: {}", self.bench, self.measures),
            subtitle: self.circumstances(),
            unit: "ms",
            rows: rows.collect(),
        }
    }

    fn circumstances(&self) -> String {
        let word = if self.favordynmods { "" } else { "out" };
        let processor = &self.environment.processor;
        format!("{}; cgroup2 with{word} favordynmods; {processor}", self.mode.words())
    }

    /// The table for a person.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{}: {}\n", self.bench, self.measures);
        // Writing to a string can't fail, here and below.
        writeln!(text, "  {}", self.circumstances()).ok();
        writeln!(
            text,
            "  {:18} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9}  {:>10} {:>7} {:>4}",
            "", "runs", "median", "p90", "p99", "min", "max", "memory", "threads", "fds"
        )
        .ok();
        for subject in &self.subjects {
            writeln!(text, "{}", subject.line()).ok();
            for stage in &subject.stages {
                writeln!(text, "    {:20} {:9.3} ms", stage.name, ms(stage.median_ns)).ok();
            }
        }
        for ratio in &self.ratios {
            let Ratio { part, whole, of_medians } = ratio;
            writeln!(text, "  {part} / {whole}, medians: {of_medians:.3}").ok();
        }
        for target in &self.targets {
            let Target { name, limit, value, unit, met } = target;
            let verdict = if *met { "met" } else { "MISSED" };
            writeln!(text, "  target {verdict}: {name}: {value:.3} {unit}, at most {limit}").ok();
        }
        text
    }
}

impl Mode {
    const fn words(self) -> &'static str {
        match self {
            Self::Deterministic => "lab, deterministic: 1 ms is a million instructions",
            Self::Lab => "lab (emulated): times mean nothing to a user",
            Self::Direct => "directly on this machine",
        }
    }
}

impl SubjectReport {
    fn new(job: &Job, entry: Measured) -> Option<Self> {
        let Measured { subject, runs } = entry;
        Some(Self {
            name: subject.name(),
            command: subject.command(job),
            version: subject.version(),
            total_ns: Summary::of(runs.iter().map(|run| run.total_ns))?,
            beside_guest_kib: Summary::of(runs.iter().map(|run| run.footprint.beside_guest_kib))?,
            stages: stage_medians(&runs),
            runs,
        })
    }

    /// The bar: each stage's own time, and what comes after the last.
    fn parts(&self) -> Vec<(String, f64)> {
        let end = StageMedian { name: "guest to marker", median_ns: self.total_ns.median };
        let mut from = 0;
        let mut parts = Vec::new();
        for stage in self.stages.iter().chain([&end]) {
            let name = if self.stages.is_empty() { "all" } else { stage.name };
            parts.push((name.to_owned(), ms(stage.median_ns.saturating_sub(from))));
            from = stage.median_ns;
        }
        parts
    }

    fn line(&self) -> String {
        let Summary { count, min, median, p90, p99, max } = self.total_ns;
        let footprint = self.runs.last().map(|run| run.footprint).unwrap_or_default();
        format!(
            "  {:18} {count:5} {:9.3} {:9.3} {:9.3} {:9.3} {:9.3}  {:6} KiB {:7} {:4}",
            self.name,
            ms(median),
            ms(p90),
            ms(p99),
            ms(min),
            ms(max),
            self.beside_guest_kib.median,
            footprint.threads,
            footprint.descriptors,
        )
    }
}

fn favordynmods(mounts: &str) -> bool {
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    mounts.any(|mount| match mount.as_slice() {
        [_, _, "cgroup2", options, ..] => options.split(',').any(|word| word == "favordynmods"),
        _ => false,
    })
}

fn stage_medians(runs: &[Run]) -> Vec<StageMedian> {
    let rows: Vec<_> =
        runs.iter().filter_map(|run| run.stages).map(|stages| stages.rows()).collect();
    let names = rows.first().map(|row| row.map(|(name, _)| name)).unwrap_or_default();
    let median = |index: usize| {
        let times = rows.iter().filter_map(|row| row.get(index)).map(|(_, time)| *time);
        Summary::of(times).map(|summary| summary.median)
    };
    let stages = names.into_iter().enumerate();
    stages
        .filter_map(|(index, name)| Some(StageMedian { name, median_ns: median(index)? }))
        .collect()
}

/// Nanoseconds as milliseconds.
#[must_use]
pub fn ms(nanoseconds: u64) -> f64 {
    scaled(nanoseconds, 1e6)
}

/// KiB as MiB.
#[must_use]
pub fn mib(kib: u64) -> f64 {
    scaled(kib, 1024.0)
}

#[cfg(test)]
#[path = "report_test.rs"]
mod tests;
