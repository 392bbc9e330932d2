//! What a bench found: as a table for a person, as JSON for a program, as a plot.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs;

use cloister_vmm::spec::VmSpec;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::footprint::Footprint;
use super::plot::{Plot, Row};
use super::statistics::Summary;

/// Version of the JSON: changes when a field changes its meaning or goes away.
pub const SCHEMA: &str = "cloister-bench-1";

/// Most dots of one bar.
const MOST_DOTS: usize = 300;

/// One bench's result.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Which bench.
    pub bench: &'static str,
    /// What it measures.
    pub measures: &'static str,
    /// Where.
    pub environment: Environment,
    /// The machines' vCPUs.
    pub cpus: u8,
    /// The machines' memory.
    pub memory_mib: u32,
    /// What was found.
    pub lines: Vec<Line>,
    /// How parts of it compare.
    pub ratios: Vec<Ratio>,
    /// How it was measured and what is left out, in sentences.
    pub method: Vec<String>,
}

/// A comparison of two medians.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    /// Its name for programs.
    pub key: &'static str,
    /// Its name for people, to follow the number.
    pub name: String,
    /// The number.
    pub value: f64,
}

/// Where something was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    /// The host's kernel.
    pub kernel: String,
    /// The host's processor.
    pub processor: String,
    /// How many of them this program may use.
    pub processors: usize,
    /// This program's version.
    pub version: String,
}

/// One thing that was measured, many times.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Its name for programs.
    pub key: Cow<'static, str>,
    /// Its name for people.
    pub name: Cow<'static, str>,
    /// What has these stages, where there is more than one thing that has.
    pub of: &'static str,
    /// Unit of every number.
    pub unit: Unit,
    /// Whether it is a part of the total.
    pub is_stage: bool,
    /// In a few numbers.
    pub summary: Summary,
    /// Every measurement, in order.
    pub samples: Vec<u64>,
}

/// What a line counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Time.
    Nanoseconds,
    /// Throughput.
    BytesPerSecond,
    /// Memory.
    Kib,
    /// Things.
    Count,
}

impl Environment {
    /// Of this machine.
    #[must_use]
    pub fn here() -> Self {
        let uname = rustix::system::uname();
        let (release, version) = (uname.release(), uname.version());
        Self {
            kernel: format!("{} {}", release.to_string_lossy(), version.to_string_lossy()),
            processor: processor(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            processors: std::thread::available_parallelism().map_or(1, Into::into),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

fn processor(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    line.map_or("unknown", |line| line.trim_start_matches([' ', '\t', ':'])).to_owned()
}

impl Unit {
    /// A number for a person, in a column of its unit.
    #[must_use]
    pub fn show(self, value: u64) -> String {
        match self {
            Self::Nanoseconds => format!("{:.3}", scaled(value, 1e6)),
            Self::BytesPerSecond => format!("{:.1}", scaled(value, f64::from(1 << 20))),
            Self::Kib | Self::Count => value.to_string(),
        }
    }

    /// The unit of such a number.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ms",
            Self::BytesPerSecond => "MiB/s",
            Self::Kib => "KiB",
            Self::Count => "",
        }
    }
}

/// `value` in units of `unit`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
pub fn scaled(value: u64, unit: f64) -> f64 {
    value as f64 / unit
}

impl Line {
    /// `None` if there are no samples.
    #[must_use]
    pub fn new(
        key: impl Into<Cow<'static, str>>,
        name: impl Into<Cow<'static, str>>,
        unit: Unit,
        samples: impl IntoIterator<Item = u64>,
    ) -> Option<Self> {
        let samples: Vec<_> = samples.into_iter().collect();
        let summary = Summary::of(samples.iter().copied())?;
        let (key, name) = (key.into(), name.into());
        Some(Self { key, name, of: "", unit, is_stage: false, summary, samples })
    }

    /// Its name without that of what it is a stage of.
    fn stage_name(&self) -> String {
        let name = self.name.strip_prefix(self.of).and_then(|rest| rest.strip_prefix(": "));
        name.unwrap_or(&self.name).to_owned()
    }

    /// The same as something of `thing`.
    #[must_use]
    pub fn of(self, thing: &'static str) -> Self {
        Self { of: thing, ..self }
    }

    /// A part of the total.
    #[must_use]
    pub fn stage(
        key: impl Into<Cow<'static, str>>,
        name: impl Into<Cow<'static, str>>,
        samples: impl IntoIterator<Item = u64>,
    ) -> Option<Self> {
        Some(Self { is_stage: true, ..Self::new(key, name, Unit::Nanoseconds, samples)? })
    }
}

impl Report {
    /// Without lines.
    #[must_use]
    pub fn new(bench: &'static str, measures: &'static str, vm: &VmSpec) -> Self {
        Self {
            schema: SCHEMA,
            bench,
            measures,
            environment: Environment::here(),
            cpus: vm.vcpus,
            memory_mib: vm.memory_mib,
            lines: Vec::new(),
            ratios: Vec::new(),
            method: Vec::new(),
        }
    }

    /// Adds what the vmm cost beside the guest's memory; `None` if that was never looked at.
    pub fn add_footprints(&mut self, found: impl IntoIterator<Item = Footprint>) -> Option<()> {
        let found: Vec<_> = found.into_iter().collect();
        let line = |key: &'static str, name: &'static str, unit, part: fn(&Footprint) -> u64| {
            Line::new(key, name, unit, found.iter().map(part))
        };
        let kib = Unit::Kib;
        self.lines.extend([
            line("vmm_memory", "vmm memory beside the guest's", kib, |f| f.beside_guest_kib)?,
            line("vmm_private", "of that written by the vmm", kib, |f| f.private_dirty_kib)?,
            line("guest_memory", "guest memory in use", kib, |f| f.guest_kib)?,
            line("vmm_threads", "threads of the vmm", Unit::Count, |f| f.threads)?,
            line("vmm_descriptors", "descriptors of the vmm", Unit::Count, |f| f.descriptors)?,
        ]);
        Some(())
    }

    /// For programs; see `benches/README.md`.
    #[must_use]
    pub fn json(&self) -> String {
        // Plain numbers and strings always can be encoded.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["", "", "median", "p90", "p99", "min", "max", "n"]);
        for line in &self.lines {
            let Summary { count, min, median, p90, p99, max } = line.summary;
            let numbers = [median, p90, p99, min, max].map(|value| line.unit.show(value));
            let mut cells = vec![line.name.clone().into_owned(), line.unit.word().to_owned()];
            cells.extend(numbers);
            cells.push(count.to_string());
            table.add_row(cells);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = String::new();
        // Writing to a string can't fail.
        writeln!(text, "{}: {}", self.bench, self.measures).ok();
        writeln!(text, "{}", self.subtitle()).ok();
        writeln!(text, "{table}").ok();
        for Ratio { name, value, .. } in &self.ratios {
            writeln!(text, "{value:.3} {name}").ok();
        }
        for sentence in &self.method {
            writeln!(text, "{sentence}").ok();
        }
        text
    }

    fn subtitle(&self) -> String {
        let Self { cpus, memory_mib, environment, .. } = self;
        format!("{cpus} vCPU, {memory_mib} MiB; host: {}", environment.processor)
    }

    /// The bars: the whole with its stages, then every line of the unit that matters most, the first's.
    #[must_use]
    pub fn plot(&self) -> Plot {
        let unit = Unit::Nanoseconds;
        let mut rows = Vec::new();
        let mut things: Vec<_> =
            self.lines.iter().filter(|line| line.is_stage).map(|line| line.of).collect();
        things.dedup();
        for thing in things {
            let stages = self.lines.iter().filter(|line| line.is_stage && line.of == thing);
            let parts = stages.map(|line| (line.stage_name(), ms(line.summary.median)));
            let label = format!("{thing}: stages, medians");
            let label = label.trim_start_matches([':', ' ']).to_owned();
            rows.push(Row { label, parts: parts.collect(), ..Row::default() });
        }
        for line in self.lines.iter().filter(|line| line.unit == unit) {
            // A stage has the colour that it has in the row of all.
            let part = if line.is_stage { line.stage_name() } else { String::new() };
            rows.push(Row {
                label: line.name.clone().into_owned(),
                parts: vec![(part, ms(line.summary.median))],
                dots: dots(&line.samples),
                limit: None,
            });
        }
        Plot {
            title: format!("{}: {}", self.bench, self.measures),
            subtitle: self.subtitle(),
            unit: unit.word(),
            rows,
        }
    }
}

/// All of them, or as many as can be told from each other: evenly by rank, the smallest and the largest among them.
fn dots(samples: &[u64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    let count = sorted.len().min(MOST_DOTS);
    let ranks = (0..count).map(|dot| dot * last / count.saturating_sub(1).max(1));
    ranks.filter_map(|rank| sorted.get(rank)).map(|sample| ms(*sample)).collect()
}

fn ms(nanoseconds: u64) -> f64 {
    scaled(nanoseconds, 1e6)
}

#[cfg(test)]
#[path = "report_test.rs"]
mod tests;
