//! `cloister bench boot`: starts of machines, stage by stage, to the first output of a command.

use std::io::Read as _;

use super::arguments::BootArgs;
use super::footprint::{Footprint, GUEST_MEMORY, GuestMemory};
use super::report::{Line, Report, Unit};
use super::{BenchError, beside, expect_success, start_command};
use crate::launch::LaunchSpec;
use crate::machine::{Machine, StartReport, now_ns};

/// What is run: the least that writes something.
const COMMAND: [&str; 2] = ["echo", "x"];

/// One start.
struct Start {
    /// The time of each of [`STAGES`] by itself, in nanoseconds.
    stages: [u64; STAGES.len()],
    footprint: Footprint,
}

/// Key and name of each stage, in order. Together they are the whole time.
const STAGES: [(&str, &str); 8] = [
    ("check", "files checked and opened"),
    ("process_start", "process start (fork, exec, main)"),
    ("kvm_ready", "KVM ready (VM, memory, vCPUs)"),
    ("kernel_loaded", "kernel and root loaded"),
    ("first_entry", "first entry into the guest"),
    ("kernel", "kernel entry to init"),
    ("supervisor_ready", "supervisor ready"),
    ("first_output", "first output of a command"),
];

pub(super) async fn measure(
    arguments: &BootArgs,
    launch: &LaunchSpec,
) -> Result<Report, BenchError> {
    for _ in 0..arguments.warmup {
        start(launch.clone()).await?;
    }
    let mut starts = Vec::new();
    for _ in 0..arguments.count {
        starts.push(start(launch.clone()).await?);
    }
    let what = "from `cloister` having read its command line to a command's first output";
    let mut report = Report::new("boot", what, &launch.vm);
    for (index, (key, name)) in STAGES.into_iter().enumerate() {
        let times = starts.iter().filter_map(|start| start.stages.get(index).copied());
        report.lines.push(Line::stage(key, name, times).ok_or(BenchError::Nothing)?);
    }
    let totals = starts.iter().map(|start| start.stages.iter().sum());
    let total = Line::new("total", "total", Unit::Nanoseconds, totals);
    report.lines.push(total.ok_or(BenchError::Nothing)?);
    report.add_footprints(starts.iter().map(|start| start.footprint)).ok_or(BenchError::Nothing)?;
    Ok(report)
}

async fn start(launch: LaunchSpec) -> Result<Start, BenchError> {
    let machine = Machine::start(launch).await?;
    let (mut command, _, mut stdout) = start_command(&machine, &COMMAND, false).await?;
    let first_output_ns = beside(move || {
        stdout.read_exact(&mut [0])?;
        Ok(now_ns())
    })
    .await?;
    expect_success(&mut command).await?;
    let footprint = footprint(&machine)?;
    let stages = stages(machine.start_report(), first_output_ns);
    machine.stop().await;
    Ok(Start { stages, footprint })
}

pub(super) fn footprint(machine: &Machine) -> Result<Footprint, BenchError> {
    let pid = machine.vmm_id().unwrap_or_default();
    Footprint::of(pid, GuestMemory::Memfd(GUEST_MEMORY)).map_err(BenchError::Footprint)
}

/// The time of each stage by itself. The stamps of vmm and guest are foreign: one that lies before its
/// predecessor makes that stage empty, and the next one longer.
fn stages(report: &StartReport, first_output_ns: u64) -> [u64; STAGES.len()] {
    let vmm = &report.vmm;
    let ticks = report.supervisor_start_tsc.saturating_sub(vmm.entry_tsc);
    let instants = [
        report.spawn_ns,
        vmm.process_ns,
        vmm.kvm_ns,
        vmm.loaded_ns,
        vmm.entry_ns,
        vmm.entry_ns.saturating_add(nanoseconds(ticks, vmm.tsc_khz)),
        report.ready_ns,
        first_output_ns,
    ];
    let mut last = report.begin_ns;
    instants.map(|instant| {
        let reached = instant.clamp(last, first_output_ns.max(last));
        let time = reached - last;
        last = reached;
        time
    })
}

/// Ticks of a time-stamp counter as nanoseconds.
fn nanoseconds(ticks: u64, khz: u32) -> u64 {
    let exact = u128::from(ticks) * 1_000_000 / u128::from(khz.max(1));
    u64::try_from(exact).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use cloister_vmm::control::StartTimes;

    use super::*;

    fn report() -> StartReport {
        StartReport {
            begin_ns: 1_000,
            spawn_ns: 1_100,
            sent_ns: 1_150,
            vmm: StartTimes {
                process_ns: 1_300,
                command_ns: 1_310,
                kvm_ns: 1_600,
                loaded_ns: 2_000,
                entry_ns: 2_500,
                entry_tsc: 10,
                tsc_khz: 2_000_000,
            },
            connected_ns: 9_000,
            ready_ns: 9_500,
            supervisor_start_tsc: 10_010,
            supervisor_ready_tsc: 12_000,
        }
    }

    #[test]
    fn stages_add_up_to_the_whole() {
        let stages = stages(&report(), 11_000);
        // 10,000 ticks of 2 GHz are 5,000 ns.
        assert_eq!(stages, [100, 200, 300, 400, 500, 5_000, 2_000, 1_500]);
        assert_eq!(stages.iter().sum::<u64>(), 10_000);
    }

    #[test]
    fn stamps_that_lie_do_no_harm() {
        let mut report = report();
        report.vmm.kvm_ns = 5;
        report.supervisor_start_tsc = u64::MAX;
        report.vmm.tsc_khz = 0;
        let stages = stages(&report, 11_000);
        assert_eq!(stages.iter().sum::<u64>(), 10_000);
        assert_eq!(stages[2], 0);
    }
}
