//! What was found: as JSON, as a table with ratios, and as plots.

use std::fmt::Write as _;
use std::path::Path;

use cloister::commands::bench::plot::{Plot, Row};
use cloister::commands::bench::report::{Environment, scaled};
use cloister::commands::bench::statistics::Summary;
use serde::Serialize;

use super::Protocol;
use super::comparison::Measured;
use super::gate::Records;
use super::work::{Size, Work};
use crate::report::{SCHEMA, ms};
use crate::rounds::Share;

/// Nanoseconds of a microsecond.
const US: f64 = 1e3;
/// Bytes of a MiB.
const MIB: f64 = 1_048_576.0;

/// A whole comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    bench: &'static str,
    measures: &'static str,
    environment: Environment,
    size: Size,
    /// What the gate recorded meanwhile.
    records: Records,
    subjects: Vec<Measured>,
    ratios: Vec<Ratio>,
}

/// One of ours against another.
#[derive(Clone, Debug, Serialize)]
struct Ratio {
    protocol: Protocol,
    work: String,
    subject: &'static str,
    peer: &'static str,
    /// Our time by the peer's, of one connection or request, or of a whole transfer: less is faster.
    time: Share,
    /// What a connection or a request takes longer than the peer's, medians, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    added_ns: Option<i64>,
    /// Our processor time by the peer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    processor: Option<Share>,
}

/// One subject's figures of one kind of work, a number a round, in nanoseconds.
#[derive(Debug, Default)]
struct Figures {
    /// How many connections, requests or streams it was in each round.
    count: u64,
    /// Of one connection or request; of a whole transfer.
    times: Vec<u64>,
    p99: Vec<u64>,
    /// Of all; empty if nobody is between client and server.
    processor: Vec<u64>,
}

impl Figures {
    fn of(subject: &Measured, protocol: Protocol, work: Work) -> Self {
        let mut figures = Self::default();
        let found = subject.rounds.iter().flatten();
        for finding in found.filter(|one| one.protocol == protocol && one.work == work) {
            let line = &finding.line;
            figures.count = line.count;
            figures.times.push(if work.is_transfer() { line.total_ns } else { line.median_ns });
            figures.p99.push(line.p99_ns);
            figures.processor.extend(finding.processor_ns);
        }
        figures
    }
}

fn median(figures: &[u64]) -> Option<u64> {
    Some(Summary::of(figures.iter().copied())?.median)
}

impl Ratio {
    fn new((protocol, work): (Protocol, Work), ours: &Measured, peer: &Measured) -> Option<Self> {
        let [mine, theirs] = [ours, peer].map(|one| Figures::of(one, protocol, work));
        let added = || {
            let [mine, theirs] = [&mine, &theirs].map(|one| median(&one.times));
            i64::try_from(mine?).ok()?.checked_sub(i64::try_from(theirs?).ok()?)
        };
        Some(Self {
            protocol,
            work: work.name(),
            subject: ours.name,
            peer: peer.name,
            time: Share::of(&mine.times, &theirs.times)?,
            added_ns: if work.is_transfer() { None } else { added() },
            processor: Share::of(&mine.processor, &theirs.processor),
        })
    }
}

impl Report {
    /// Of measurements.
    #[must_use]
    pub fn new(size: Size, records: Records, subjects: Vec<Measured>) -> Self {
        let mut ratios = Vec::new();
        for case in size.cases() {
            for ours in subjects.iter().filter(|one| one.is_ours) {
                let peers = subjects.iter().filter(|one| !one.is_ours);
                ratios.extend(peers.filter_map(|peer| Ratio::new(case, ours, peer)));
            }
        }
        Self {
            schema: SCHEMA,
            bench: "egress",
            measures: "the gate of egress against a direct connection and plain proxies, natively on this machine",
            environment: Environment::here(),
            size,
            records,
            subjects,
            ratios,
        }
    }

    /// Writes `egress.json`, `egress.txt` and two plots.
    ///
    /// # Errors
    /// They can't be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        let json = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(folder.join("egress.json"), json)?;
        std::fs::write(folder.join("egress.txt"), self.table())?;
        for (name, transfers, unit) in
            [("egress-latency.svg", false, "µs"), ("egress-transfers.svg", true, "ms")]
        {
            std::fs::write(folder.join(name), self.plot(transfers, unit).svg())?;
        }
        Ok(())
    }

    /// The table for a person.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("egress: {}\n", self.measures);
        let Records { written, left_out, .. } = &self.records;
        // Writing to a text can't fail, here and below.
        writeln!(text, "  {written} records of the gate, left out: {left_out}").ok();
        for (protocol, work) in self.size.cases() {
            let head = if work.is_transfer() {
                ["time", "MiB/s", "cpu us/MiB"]
            } else {
                ["median", "p99", "cpu us/each"]
            };
            let name = format!("{}: {}", protocol.words(), work.name());
            let [time, other, processor] = head;
            write!(text, "{name:32} {time:>10} {other:>10} {processor:>12}  time by").ok();
            for peer in self.peers() {
                write!(text, " {:>14}", peer.name).ok();
            }
            text.push('\n');
            for subject in &self.subjects {
                self.line(&mut text, (protocol, work), subject);
            }
        }
        text
    }

    fn peers(&self) -> impl Iterator<Item = &Measured> {
        self.subjects.iter().filter(|one| !one.is_ours)
    }

    fn line(&self, text: &mut String, (protocol, work): (Protocol, Work), subject: &Measured) {
        let figures = Figures::of(subject, protocol, work);
        let Some(time) = median(&figures.times) else { return };
        let (shown, other, units) = if work.is_transfer() {
            let mib = scaled(self.size.bytes, MIB);
            (format!("{:.0} ms", ms(time)), format!("{:.0}", mib / ms(time) * 1e3), mib)
        } else {
            let p99 = median(&figures.p99).unwrap_or_default();
            let us = |ns| format!("{:.0} us", scaled(ns, US));
            (us(time), us(p99), scaled(figures.count, 1.0))
        };
        let used = median(&figures.processor);
        let used = used.map_or("-".to_owned(), |used| format!("{:.1}", scaled(used, US) / units));
        write!(text, "  {:30} {shown:>10} {other:>10} {used:>12}         ", subject.name).ok();
        for ratio in self.ratios.iter().filter(|ratio| {
            (ratio.protocol, ratio.subject) == (protocol, subject.name) && ratio.work == work.name()
        }) {
            let Share { of_medians, .. } = ratio.time;
            write!(text, " {of_medians:>14.2}").ok();
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }

    fn plot(&self, transfers: bool, unit: &'static str) -> Plot {
        let mut rows = Vec::new();
        for (protocol, work) in self.size.cases() {
            for subject in self.subjects.iter().filter(|_| work.is_transfer() == transfers) {
                let Figures { times, .. } = Figures::of(subject, protocol, work);
                let Some(middle) = median(&times) else { continue };
                let shown = |ns| if transfers { ms(ns) } else { scaled(ns, US) };
                let label = format!("{}, {}: {}", protocol.short(), work.name(), subject.name);
                let parts = vec![(String::new(), shown(middle))];
                let dots = times.into_iter().map(shown).collect();
                rows.push(Row { label, parts, dots, limit: None });
            }
        }
        let title = if transfers { "time of a transfer" } else { "one connection, one request" };
        let title = format!("egress: {title}, medians of rounds");
        Plot { title, subtitle: self.environment.processor.clone(), unit, rows }
    }
}

#[cfg(test)]
#[path = "report_test.rs"]
mod tests;
