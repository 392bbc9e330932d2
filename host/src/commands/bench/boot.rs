//! `cloister bench boot` and `cloister bench fork`: starts of machines, one after the other and many at once, in turns
//! with those that they are compared with.

use tokio::task::JoinSet;

use super::BenchError;
use super::arguments::StartsArgs;
use super::peer::Peer;
use super::report::{Line, Ratio, Report, Unit};
use super::starts::{Start, Way};
use crate::launch::LaunchSpec;
use crate::pool::Place;

/// What was measured of one way to start.
struct Measured<'a> {
    way: &'a Way,
    starts: Vec<Start>,
}

/// Measures starts of the first way, and of the others in turns with it.
pub(super) async fn measure(
    arguments: &StartsArgs,
    ways: &[Way],
    peers: &[Peer],
    launch: &LaunchSpec,
) -> Result<Report, BenchError> {
    let mut all: Vec<_> = ways.iter().map(|way| Measured { way, starts: Vec::new() }).collect();
    let mut commands = vec![Vec::new(); peers.len()];
    for round in 0..arguments.warmup.saturating_add(arguments.count) {
        for one in &mut all {
            let start = one.way.clone().start(launch.clone()).await?;
            if round >= arguments.warmup {
                one.starts.push(start);
            }
        }
        for (peer, times) in peers.iter().zip(&mut commands) {
            let time = peer.run().await?;
            if round >= arguments.warmup {
                times.push(time);
            }
        }
    }
    let (first, others) = all.split_first().ok_or(BenchError::Nothing)?;
    let what = "from `cloister` having read its command line to a command's first output";
    let mut report = Report::new(first.way.name(), what, &launch.vm);
    report.method.extend(METHOD.map(str::to_owned));
    if launch.pool.as_ref().is_some_and(Place::may_be_there) {
        report.method.push(POOL.to_owned());
    }
    add_starts(&mut report, first, "")?;
    for other in others {
        add_starts(&mut report, other, &format!("{}_", other.way.name()))?;
        report.ratios.extend(ratios(first, other).into_iter().flatten());
    }
    for concurrency in arguments.concurrency.iter().copied().filter(|number| *number > 1) {
        for one in &all {
            let prefix = if std::ptr::eq(one, first) { "" } else { one.way.name() };
            let totals = together(one.way, launch, concurrency, arguments.count).await?;
            report.lines.push(concurrent(prefix, one.way, concurrency, totals)?);
        }
    }
    for (index, (peer, times)) in peers.iter().zip(commands).enumerate() {
        let (key, name) = (format!("command_{index}"), peer.name().to_owned());
        report.lines.push(Line::new(key, name, Unit::Nanoseconds, times).or_nothing()?);
    }
    if !peers.is_empty() {
        report.method.push(COMMANDS.to_owned());
    }
    Ok(report)
}

const METHOD: [&str; 2] = [
    "Each start is an ordinary one with its jail, on files that this program has used before; the stages follow each \
     other without a gap. Left out: reading this program and its command line, and the machine's end.",
    "Times are of CLOCK_MONOTONIC. What is compared is measured in turns, one round after the other.",
];
const POOL: &str = "There is a pool of processes: they come from it, but for those of boots that a fork is held against. Each \
    start waits until the pool has all of its own again.";
const COMMANDS: &str = "Commands are timed from just before their process is made to the first byte on their standard \
    output, so reading the program is in it; how they are stopped is not.";

/// The lines of one way: its stages, the whole, and what its processes cost.
fn add_starts(
    report: &mut Report,
    measured: &Measured<'_>,
    prefix: &str,
) -> Result<(), BenchError> {
    let Measured { way, starts } = measured;
    let group = way.name();
    let shown = |name: &str| match prefix {
        "" => name.to_owned(),
        _ => format!("{group}: {name}"),
    };
    for (index, (key, name)) in way.stages().iter().enumerate() {
        let times = starts.iter().filter_map(|start| start.stages.get(index).copied());
        let line = Line::stage(format!("{prefix}{key}"), shown(name), times).or_nothing()?;
        report.lines.push(line.of(group));
    }
    let totals = starts.iter().map(Start::total);
    let total = Line::new(format!("{prefix}total"), shown("total"), Unit::Nanoseconds, totals);
    report.lines.push(total.or_nothing()?.of(group));
    if prefix.is_empty() {
        let footprints = starts.iter().map(|start| start.footprint);
        report.add_footprints(footprints).ok_or(BenchError::Nothing)?;
    }
    Ok(())
}

/// How the first compares with another, by medians.
fn ratios(first: &Measured<'_>, other: &Measured<'_>) -> Option<[Ratio; 2]> {
    let median = |starts: &[Start], time: fn(&Start) -> u64| {
        super::statistics::Summary::of(starts.iter().map(time)).map(|summary| summary.median)
    };
    let ratio = |key, end: &str, time| {
        let (part, whole) = (median(&first.starts, time)?, median(&other.starts, time)?);
        let name =
            format!("of a {}'s time {end} is what a {} takes", other.way.name(), first.way.name());
        Some(Ratio { key, name, value: super::statistics::ratio(part, whole) })
    };
    Some([
        ratio("supervisor_ready", "to the supervisor's hello", Start::ready)?,
        ratio("total", "to the first output", Start::total)?,
    ])
}

fn concurrent(
    prefix: &str,
    way: &Way,
    concurrency: u32,
    totals: Vec<u64>,
) -> Result<Line, BenchError> {
    let (key, name) = match prefix {
        "" => (format!("total_at_{concurrency}"), format!("total, {concurrency} at once")),
        _ => (
            format!("{prefix}_total_at_{concurrency}"),
            format!("{prefix}: total, {concurrency} at once"),
        ),
    };
    Ok(Line::new(key, name, Unit::Nanoseconds, totals).or_nothing()?.of(way.name()))
}

/// Starts so many machines at once, again and again until at least `count` were started; the time of each.
async fn together(
    way: &Way,
    launch: &LaunchSpec,
    concurrency: u32,
    count: u32,
) -> Result<Vec<u64>, BenchError> {
    let mut totals = Vec::new();
    for _ in 0..count.div_ceil(concurrency) {
        let mut starting = JoinSet::new();
        for _ in 0..concurrency {
            starting.spawn(way.clone().start(launch.clone()));
        }
        while let Some(start) = starting.join_next().await {
            let start =
                start.map_err(|error| BenchError::Stream(std::io::Error::other(error)))??;
            totals.push(start.total());
        }
    }
    Ok(totals)
}

trait OrNothing {
    fn or_nothing(self) -> Result<Line, BenchError>;
}

impl OrNothing for Option<Line> {
    fn or_nothing(self) -> Result<Line, BenchError> {
        self.ok_or(BenchError::Nothing)
    }
}
