//! `cloister bench files`: a shared directory as a team's agent sees it, through machine, file server and mount.

mod agent;
mod ground;

use std::path::Path;

use cloister_prober::measure::{BLOCK, Times, Work};

use super::arguments::FilesArgs;
use super::report::{Line, Report, Unit};
use super::starts::Way;
use super::{BenchError, rate};
use crate::launch::LaunchSpec;
use crate::machine::Machine;
use crate::report::tell_line;
use crate::signals::Signals;
use ground::Ground;

const METHOD: [&str; 5] = [
    "A machine is booted with two shares, one writable and one read-only, and a container as an agent's is made in it, \
     whose processor time is not limited. In each round its one process writes a file with calls of 1 MiB, reads it with \
     calls of 1 MiB and then pages of 4 KiB, none twice, removes it, makes, looks at and removes empty files in one \
     directory, and reads a file of the read-only share in the same two ways.",
    "Times are of the guest's monotonic clock around each call, and everything that was read is held against what was \
     written, outside of them. A throughput is a whole file's: its bytes by the sum of its calls' times. `create` opens \
     and closes a new file, `stat` looks at it by its name.",
    "Of the writable share the guest keeps nothing, so each call is the host's. Of the read-only one it may keep what it \
     has read; before each pass it is told to forget, so what is measured is the first reading, with the guest's \
     reading ahead.",
    "Left out: the host's disk, as its page cache holds what was just written and nothing is synced; the start of machine \
     and container, opening a file to read or write it, and other work of the machine meanwhile.",
    "An emulated or busy host shows its own speed, not the product's.",
];

/// Measures, unless a signal ends it; nothing is left behind either way.
pub(super) async fn measure(
    arguments: &FilesArgs,
    launch: LaunchSpec,
) -> Result<Report, BenchError> {
    let mut signals = Signals::listen().map_err(BenchError::Runtime)?;
    let place = arguments.place.clone().unwrap_or_else(std::env::temp_dir);
    sweep(&place);
    tokio::select! {
        report = rounds(arguments, &place, launch) => report,
        signal = signals.end() => Err(BenchError::Signal(signal)),
    }
}

/// Removes what killed benches have left, and says so.
fn sweep(place: &Path) {
    for path in ground::sweep(vec![std::env::temp_dir(), place.to_owned()]) {
        tell_line(format_args!(
            "cloister: removed what a killed `cloister bench files` had left: {}",
            path.display()
        ));
    }
}

async fn rounds(
    arguments: &FilesArgs,
    place: &Path,
    launch: LaunchSpec,
) -> Result<Report, BenchError> {
    let work = Work { blocks: arguments.mib, reads: arguments.reads, files: arguments.files };
    if u64::from(work.reads) > work.pages() {
        return Err(BenchError::TooManyReads { reads: work.reads, pages: work.pages() });
    }
    let what = "a shared directory, from a container in a machine";
    let mut report = Report::new("files", what, &launch.vm);
    report.method.extend(METHOD.map(str::to_owned));
    let ground = Ground::new(place, &launch.files.prober(), work)?;
    let launch = LaunchSpec { shares: ground.shares()?, ..launch };
    let machine = Machine::start(launch).await?;
    let agent = agent::make(&machine, report.cpus, report.memory_mib).await?;
    let mut all = Vec::new();
    for round in 0..arguments.warmup.saturating_add(arguments.count) {
        let times = agent.work(&machine, work).await?;
        if round >= arguments.warmup {
            all.push(times);
        }
    }
    report.lines.extend(lines(&all)?);
    report.add_footprints([Way::Boot.footprint(&machine)?]).ok_or(BenchError::Nothing)?;
    machine.stop().await;
    Ok(report)
}

/// Of a round, the times of one kind of call.
type Calls = fn(&Times) -> &[u64];

/// Key, name and times of what a throughput is told of.
const RATES: [(&str, &str, Calls); 3] = [
    ("write", "write", |times| &times.write),
    ("read", "read", |times| &times.writable.read),
    ("read_only_read", "read, read-only share", |times| &times.read_only.read),
];

/// The same of every kind of call.
const CALLS: [(&str, &str, Calls); 8] = [
    ("write_call", "write of 1 MiB", |times| &times.write),
    ("read_call", "read of 1 MiB", |times| &times.writable.read),
    ("read_only_read_call", "read of 1 MiB, read-only share", |times| &times.read_only.read),
    ("random_read", "random read of 4 KiB", |times| &times.writable.random),
    ("read_only_random_read", "random read of 4 KiB, read-only share", |times| {
        &times.read_only.random
    }),
    ("create", "create", |times| &times.create),
    ("stat", "stat", |times| &times.stat),
    ("unlink", "unlink", |times| &times.unlink),
];

/// What was found, in the order of the work.
fn lines(rounds: &[Times]) -> Result<Vec<Line>, BenchError> {
    let rates = RATES.into_iter().map(|(key, name, calls)| {
        let rates = rounds.iter().map(|times| throughput(calls(times)));
        Line::new(key, name, Unit::BytesPerSecond, rates)
    });
    let calls = CALLS.into_iter().map(|(key, name, calls)| {
        let times = rounds.iter().flat_map(calls).copied();
        Line::new(key, name, Unit::Nanoseconds, times)
    });
    let files = Line::new(
        "create_stat_unlink",
        "create, stat and unlink of one file",
        Unit::Nanoseconds,
        rounds.iter().flat_map(whole_files),
    );
    let lines = rates.chain(calls).chain([files]);
    lines.map(|line| line.ok_or(BenchError::Nothing)).collect()
}

/// What the three calls took for each file together.
fn whole_files(times: &Times) -> Vec<u64> {
    let calls = times.create.iter().zip(&times.stat).zip(&times.unlink);
    let sum = |((create, stat), unlink): ((&u64, &u64), &u64)| {
        create.saturating_add(*stat).saturating_add(*unlink)
    };
    calls.map(sum).collect()
}

/// Bytes per second of calls of [`BLOCK`] bytes.
fn throughput(calls: &[u64]) -> u64 {
    let total = calls.iter().fold(0_u64, |sum, time| sum.saturating_add(*time));
    rate(u64::from(BLOCK).saturating_mul(calls.len() as u64), total)
}

#[cfg(test)]
mod tests {
    use cloister_prober::measure::Data;

    use super::*;

    fn times(factor: u64) -> Times {
        let data = |read: &[u64]| Data {
            read: read.iter().map(|time| time * factor).collect(),
            random: vec![factor * 10_000; 3],
        };
        Times {
            writable: data(&[1_000_000, 3_000_000]),
            write: vec![2_000_000 * factor; 2],
            create: vec![factor * 1_000, factor * 3_000],
            stat: vec![factor * 100, factor * 300],
            unlink: vec![factor * 10, factor * 30],
            read_only: data(&[500_000, 500_000]),
        }
    }

    fn line<'a>(lines: &'a [Line], key: &str) -> &'a Line {
        lines.iter().find(|line| line.key == key).unwrap()
    }

    #[test]
    fn throughput_is_of_each_round_and_latency_of_each_call() {
        let lines = lines(&[times(1), times(2)]).unwrap();
        let mib = 1 << 20;
        // 2 MiB in 4 ms, then in 8; the read-only share's in 1 ms, then in 2.
        assert_eq!(line(&lines, "write").samples, [500 * mib, 250 * mib]);
        assert_eq!(line(&lines, "read").samples, [500 * mib, 250 * mib]);
        assert_eq!(line(&lines, "read_only_read").samples, [2000 * mib, 1000 * mib]);
        assert_eq!(line(&lines, "read_call").samples, [1_000_000, 3_000_000, 2_000_000, 6_000_000]);
        assert_eq!(line(&lines, "read_call").summary.p99, 6_000_000);
        assert_eq!(line(&lines, "random_read").summary.count, 6);
        let whole = &line(&lines, "create_stat_unlink").samples;
        assert_eq!(*whole, [1_110, 3_330, 2_220, 6_660]);
    }

    #[test]
    fn the_report_tells_its_method_and_plots_each_call() {
        let vm =
            cloister_vmm::spec::VmSpec { vcpus: 1, memory_mib: 128, extra_cmdline: String::new() };
        let mut report = Report::new("files", "shares", &vm);
        report.method.extend(METHOD.map(str::to_owned));
        report.lines = lines(&[times(1)]).unwrap();
        let table = report.table();
        for part in
            ["MiB/s", "read-only share", "create, stat and unlink", "Left out: the host's disk"]
        {
            assert!(table.contains(part), "{part}: {table}");
        }
        let rows = report.plot().rows;
        let labels: Vec<_> = rows.iter().map(|row| row.label.as_str()).collect();
        let calls = report.lines.iter().filter(|line| line.unit == Unit::Nanoseconds);
        assert_eq!(labels, calls.map(|line| line.name.as_ref()).collect::<Vec<_>>());
        // A label that is shortened says less than it should.
        assert!(labels.iter().all(|label| label.chars().count() <= 40), "{labels:?}");
    }

    #[test]
    fn nothing_measured_is_no_report() {
        assert!(matches!(lines(&[]), Err(BenchError::Nothing)));
        assert!(matches!(lines(&[Times::default()]), Err(BenchError::Nothing)));
    }
}
