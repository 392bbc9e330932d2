//! Starts of machines, stage by stage to the first output of a command: by a boot, and from a template.

use std::io::Read as _;

use super::footprint::{Footprint, GUEST_MEMORY, GuestMemory};
use super::{BenchError, beside, expect_success, start_command};
use crate::commands::template::tell;
use crate::launch::LaunchSpec;
use crate::machine::{Machine, StartReport, now_ns};
use crate::pool;
use crate::template::{self, Wish};

/// What is run: the least that writes something.
pub(super) const COMMAND: [&str; 2] = ["echo", "x"];
/// Stages of a start, of either kind.
pub(super) const STAGES: usize = 8;

/// Key and name of each stage of a boot, in order. Together they are the whole time.
const BOOT: [(&str, &str); STAGES] = [
    ("check", "files checked and opened"),
    ("process_start", "process start (fork, exec, main)"),
    ("kvm_ready", "KVM ready (VM, memory, vCPUs)"),
    ("kernel_loaded", "kernel and root loaded"),
    ("first_entry", "first entry into the guest"),
    ("kernel", "kernel entry to init"),
    ("supervisor_ready", "supervisor ready"),
    ("first_output", "first output of a command"),
];
/// The same of a start from a template.
const FORK: [(&str, &str); STAGES] = [
    ("template", "template found and checked"),
    ("check", "files checked and opened"),
    ("process_start", "process start (fork, exec, main)"),
    ("kvm_ready", "KVM ready (VM, memory, vCPUs)"),
    ("restored", "state restored"),
    ("first_entry", "first entry into the guest"),
    ("supervisor_ready", "supervisor ready"),
    ("first_output", "first output of a command"),
];

/// How a machine comes to run.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// It boots.
    Boot,
    /// The same in a process of its own, whatever a pool has: what others are held against.
    ColdBoot,
    /// From a template, and never otherwise.
    Fork(Wish),
}

/// One start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// The time of each stage by itself, in nanoseconds.
    pub(super) stages: [u64; STAGES],
    pub(super) footprint: Footprint,
}

impl Start {
    /// From the begin to the first output, in nanoseconds.
    pub(super) fn total(&self) -> u64 {
        self.stages.iter().sum()
    }

    /// From the begin to the supervisor's hello, in nanoseconds.
    pub(super) fn ready(&self) -> u64 {
        self.stages.iter().take(STAGES - 1).sum()
    }
}

impl Way {
    /// Its name for programs and for people.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Boot | Self::ColdBoot => "boot",
            Self::Fork(_) => "fork",
        }
    }

    /// Key and name of each stage.
    pub(super) const fn stages(&self) -> &'static [(&'static str, &'static str); STAGES] {
        match self {
            Self::Boot | Self::ColdBoot => &BOOT,
            Self::Fork(_) => &FORK,
        }
    }

    /// Starts a machine.
    pub(super) async fn machine(&self, launch: LaunchSpec) -> Result<Machine, BenchError> {
        let wish = match self {
            Self::Boot => return Ok(Machine::start(launch).await?),
            Self::ColdBoot => {
                return Ok(Machine::start(LaunchSpec { pool: None, ..launch }).await?);
            }
            Self::Fork(wish) => wish,
        };
        let machine = template::start(launch, wish, tell).await?;
        if machine.is_fork() { Ok(machine) } else { Err(BenchError::NotFork) }
    }

    /// What its process costs now.
    pub(super) fn footprint(&self, machine: &Machine) -> Result<Footprint, BenchError> {
        let memory = match self {
            Self::Boot | Self::ColdBoot => GuestMemory::Memfd(GUEST_MEMORY),
            Self::Fork(_) => GuestMemory::Template,
        };
        let pid = machine.vmm_id().unwrap_or_default();
        Footprint::of(pid, memory).map_err(BenchError::Footprint)
    }

    /// Starts a machine, waits for the first output of a command, and ends it.
    pub(super) async fn start(self, launch: LaunchSpec) -> Result<Start, BenchError> {
        if let Some(pool) = launch.pool.as_ref().filter(|pool| pool.may_be_there()) {
            // What is measured is not the making of the next blank. Without a pool the start says so.
            pool::take::await_full(pool).await.ok();
        }
        let begin_ns = now_ns();
        let machine = self.machine(launch).await?;
        let (mut command, _, mut stdout) = start_command(&machine, &COMMAND, false).await?;
        let first_output_ns = beside(move || {
            stdout.read_exact(&mut [0])?;
            Ok(now_ns())
        })
        .await?;
        expect_success(&mut command).await?;
        let footprint = self.footprint(&machine)?;
        let stages = self.times(begin_ns, machine.start_report(), first_output_ns);
        machine.stop().await;
        Ok(Start { stages, footprint })
    }

    /// The time of each stage by itself. The stamps of vmm and guest are foreign: one that lies before its predecessor
    /// makes that stage empty, and the next one longer.
    fn times(&self, begin_ns: u64, report: &StartReport, first_output_ns: u64) -> [u64; STAGES] {
        let vmm = &report.vmm;
        let (mut last, instants) = match self {
            Self::Boot | Self::ColdBoot => {
                let ticks = report.supervisor_start_tsc.saturating_sub(vmm.tsc);
                let init_ns = vmm.tsc_ns.saturating_add(nanoseconds(ticks, vmm.tsc_khz));
                let after = [vmm.run_ns, init_ns, report.ready_ns, first_output_ns];
                let [entry, init, ready, output] = after;
                let before = [report.spawn_ns, vmm.process_ns, vmm.kvm_ns, vmm.loaded_ns];
                let [spawn, process, kvm, loaded] = before;
                (report.begin_ns, [spawn, process, kvm, loaded, entry, init, ready, output])
            }
            Self::Fork(_) => {
                let instants = [
                    report.begin_ns,
                    report.spawn_ns,
                    vmm.process_ns,
                    vmm.kvm_ns,
                    vmm.loaded_ns,
                    vmm.run_ns,
                    report.ready_ns,
                    first_output_ns,
                ];
                (begin_ns, instants)
            }
        };
        instants.map(|instant| {
            let reached = instant.clamp(last, first_output_ns.max(last));
            let time = reached - last;
            last = reached;
            time
        })
    }
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
    use crate::template::Choice;

    fn report() -> StartReport {
        StartReport {
            begin_ns: 1_000,
            is_pooled: false,
            spawn_ns: 1_100,
            sent_ns: 1_150,
            vmm: StartTimes {
                process_ns: 1_300,
                command_ns: 1_310,
                kvm_ns: 1_600,
                loaded_ns: 2_000,
                tsc_ns: 2_500,
                tsc: 10,
                run_ns: 2_500,
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
        let boot = Way::Boot.times(0, &report(), 11_000);
        // 10,000 ticks of 2 GHz are 5,000 ns.
        assert_eq!(boot, [100, 200, 300, 400, 500, 5_000, 2_000, 1_500]);
        let way = Way::Fork(Wish { choice: Choice::Build, place: None });
        let fork = way.times(400, &report(), 11_000);
        assert_eq!(fork, [600, 100, 200, 300, 400, 500, 7_000, 1_500]);
        let start = Start { stages: fork, footprint: Footprint::default() };
        assert_eq!((start.total(), start.ready()), (10_600, 9_100));
    }

    #[test]
    fn stamps_that_lie_do_no_harm() {
        let mut report = report();
        report.vmm.kvm_ns = 5;
        report.supervisor_start_tsc = u64::MAX;
        report.vmm.tsc_khz = 0;
        let stages = Way::Boot.times(0, &report, 11_000);
        assert_eq!(stages.iter().sum::<u64>(), 10_000);
        assert_eq!(stages[2], 0);
    }
}
