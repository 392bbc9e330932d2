//! `cloister bench exec`: commands in a running machine, one after the other.

use super::arguments::RoundArgs;
use super::report::{Line, Report, Unit};
use super::starts::Way;
use super::{BenchError, beside, drain, expect_success, start_command};
use crate::launch::LaunchSpec;
use crate::machine::{Machine, now_ns};

/// What is run: the least that there is.
const COMMAND: [&str; 1] = ["true"];

pub(super) async fn measure(
    arguments: &RoundArgs,
    launch: LaunchSpec,
) -> Result<Report, BenchError> {
    let what = "`true` in a running machine";
    let mut report = Report::new("exec", what, &launch.vm);
    let machine = Machine::start(launch).await?;
    let mut rounds = Vec::new();
    for round in 0..arguments.warmup.saturating_add(arguments.count) {
        let times = run(&machine).await?;
        if round >= arguments.warmup {
            rounds.push(times);
        }
    }
    let started = rounds.iter().map(|times| times.started_ns);
    let ended = rounds.iter().map(|times| times.ended_ns);
    for line in [
        Line::new("started", "request to started", Unit::Nanoseconds, started),
        Line::new("ended", "request to end, output closed", Unit::Nanoseconds, ended),
    ] {
        report.lines.push(line.ok_or(BenchError::Nothing)?);
    }
    report.add_footprints([Way::Boot.footprint(&machine)?]).ok_or(BenchError::Nothing)?;
    machine.stop().await;
    Ok(report)
}

struct Times {
    started_ns: u64,
    ended_ns: u64,
}

async fn run(machine: &Machine) -> Result<Times, BenchError> {
    let begin = now_ns();
    let (mut command, _, stdout) = start_command(machine, &COMMAND, false).await?;
    let started = now_ns();
    expect_success(&mut command).await?;
    beside(move || drain(stdout)).await?;
    Ok(Times {
        started_ns: started.saturating_sub(begin),
        ended_ns: now_ns().saturating_sub(begin),
    })
}
