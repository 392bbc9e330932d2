//! `cloister bench density`: how much idle machines cost, all running at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::arguments::DensityArgs;
use super::footprint::Footprint;
use super::report::{Line, Ratio, Report, Unit};
use super::starts::Way;
use super::{BenchError, expect_success, start_command};
use crate::launch::LaunchSpec;
use crate::launch::memory::{HostMemory, MemoryError};
use crate::machine::{Machine, now_ns};

const METHOD: [&str; 3] = [
    "Machines are started one after the other and do nothing: their supervisors wait. When all run, each process is \
     looked at once (/proc/PID/smaps, status, mountinfo; memory.stat of its control group); then each machine runs \
     `true`, to show that it answers.",
    "Private memory is what a machine's process wrote, guest pages among it. Shared memory is resident and can be \
     used by other machines too: programs, and of forks what their template's page cache holds.",
    "Left out: this program itself, which is one process for all of them here, and the host's page cache. The cost \
     for the host is the fall of MemAvailable from before the first start, all machines together, for each of them.",
];

/// Starts idle machines until there are enough of them or the host's memory is used up, and weighs them.
pub(super) async fn measure(
    arguments: &DensityArgs,
    way: &Way,
    launch: &LaunchSpec,
) -> Result<Report, BenchError> {
    raise_descriptor_limit();
    // Once before, so that what all share is there: the pages of programs, images and of the template.
    way.machine(launch.clone()).await?.stop().await;
    let keep = u64::from(arguments.keep) << 20;
    let before = available()?;
    let (mut machines, mut starts) = (Vec::new(), Vec::new());
    for _ in 0..arguments.count {
        if available()? < keep.saturating_add(launch.vm.memory_bytes()) {
            break;
        }
        let begin = now_ns();
        machines.push(way.machine(launch.clone()).await?);
        starts.push(now_ns().saturating_sub(begin));
    }
    let after = available()?;
    let found: Result<Vec<_>, _> = machines.iter().map(|machine| way.footprint(machine)).collect();
    let found = found?;
    let mut answers = Vec::new();
    for machine in &machines {
        answers.push(answer(machine).await?);
    }
    let running = u64::try_from(machines.len()).unwrap_or(u64::MAX);
    for machine in machines {
        machine.stop().await;
    }
    let mut report = Report::new("density", "idle machines, all running at once", &launch.vm);
    report.method.extend(METHOD.map(str::to_owned));
    if running < u64::from(arguments.count) {
        let asked = arguments.count;
        let text = format!(
            "Ended at {running} of {asked} machines, as with one more less than {} MiB could be left.",
            arguments.keep
        );
        report.method.push(text);
    }
    add_lines(&mut report, &found, [starts, answers])?;
    let cost = before.saturating_sub(after).checked_div(running).unwrap_or(0) >> 10;
    let cost = Line::new("host_memory", "cost for the host, each", Unit::Kib, [cost]);
    let count = Line::new("machines", "machines at once", Unit::Count, [running]);
    report.lines.extend(cost.into_iter().chain(count));
    let private = report.lines.iter().find(|line| line.key == "private");
    report.ratios.extend(private.map(|line| Ratio {
        key: "private",
        name: "of a machine's memory size is private memory".to_owned(),
        value: super::statistics::ratio(line.summary.median, launch.vm.memory_bytes() >> 10),
    }));
    Ok(report)
}

fn add_lines(
    report: &mut Report,
    found: &[Footprint],
    [starts, answers]: [Vec<u64>; 2],
) -> Result<(), BenchError> {
    let of = |key: &'static str, name: &'static str, unit, part: fn(&Footprint) -> u64| {
        Line::new(key, name, unit, found.iter().map(part)).ok_or(BenchError::NoRoom)
    };
    let time = |key: &'static str, name: &'static str, times: Vec<u64>| {
        Line::new(key, name, Unit::Nanoseconds, times).ok_or(BenchError::NoRoom)
    };
    report.lines.extend([
        of("private", "private memory", Unit::Kib, Footprint::private_kib)?,
        of("guest_private", "of that written by the guest", Unit::Kib, |f| f.guest_private_kib)?,
        of("shared", "shared memory", Unit::Kib, Footprint::shared_kib)?,
        of("page_tables", "page tables", Unit::Kib, |f| f.page_tables_kib)?,
        of("kernel", "kernel memory of its control group", Unit::Kib, |f| f.kernel_kib)?,
        of("threads", "threads", Unit::Count, |f| f.threads)?,
        of("descriptors", "descriptors", Unit::Count, |f| f.descriptors)?,
        of("mounts", "mounts", Unit::Count, |f| f.mounts)?,
        time("start", "start to the supervisor's hello", starts)?,
        time("answer", "a command in one of them", answers)?,
    ]);
    Ok(())
}

/// Runs a command that does nothing; how long that took.
async fn answer(machine: &Machine) -> Result<u64, BenchError> {
    let begin = now_ns();
    let (mut command, _, _) = start_command(machine, &["true"], false).await?;
    expect_success(&mut command).await?;
    Ok(now_ns().saturating_sub(begin))
}

fn available() -> Result<u64, BenchError> {
    HostMemory::read()
        .map(|memory| memory.available)
        .map_err(|error: MemoryError| BenchError::Footprint(std::io::Error::other(error)))
}

/// Each machine takes a dozen descriptors here, and the usual limit is 1024.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).ok();
}
