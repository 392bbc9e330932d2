//! `bench-boot`: from exec of the monitor to the supervisor being ready, with the product's own kernel
//! and root.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use cloister::launch::jail::LimitsWish;
use cloister_benches::arguments::{CommonArgs, exit_code};
use cloister_benches::comparison::compare;
use cloister_benches::report::{Report, Target, mib};
use cloister_benches::subject::Job;

/// Most of QEMU's time, ours by its.
const MAX_RATIO: f64 = 0.5;
/// Most memory beside the guest's, in MiB.
const MAX_MEMORY_MIB: f64 = 3.0;
/// Guest memory.
const MEMORY_MIB: u32 = 128;
/// What the vmm puts on every guest's command line; others are given it.
const CMDLINE: &str = include_str!("../../../kernel-config/cmdline");
/// Makes the supervisor print [`MARKER`], and stay up without a host to talk to.
const ANNOUNCE: &str = "cloister.announce";
/// What the supervisor prints to the console when it is ready.
const MARKER: &[u8] = b"cloister: supervisor ready";

/// From exec of the monitor to "supervisor ready" on its serial port, with the same kernel and root
/// (1 vCPU, 128 MiB). Exit code 1: a target is missed; 2: it could not be measured.
#[derive(Debug, Parser)]
struct Arguments {
    /// The guest's kernel.
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// The guest's root.
    #[arg(long, value_name = "FILE")]
    rootfs: PathBuf,
    #[command(flatten)]
    common: CommonArgs,
}

fn main() -> ExitCode {
    exit_code("boot", measure(Arguments::parse()))
}

fn measure(arguments: Arguments) -> anyhow::Result<Report> {
    let Arguments { kernel, rootfs, common } = arguments;
    let job = Job {
        kernel,
        root: Some(rootfs),
        memory_mib: MEMORY_MIB,
        vcpus: 1,
        base_cmdline: base_cmdline().context("kernel-config/cmdline is empty")?.to_owned(),
        extra_cmdline: ANNOUNCE.to_owned(),
        marker: MARKER.to_owned(),
        limits: LimitsWish::Asked,
    };
    let measured = compare(&common.subjects(), &job, common.warmup, common.count)?;
    let what = "exec of the monitor to supervisor ready, same kernel and root";
    let mut report = Report::new("boot", what, common.mode, &job, measured)?;
    report.targets = targets(&report);
    common.tell(&report)?;
    Ok(report)
}

/// The command line in the file, without its comments.
fn base_cmdline() -> Option<&'static str> {
    CMDLINE.lines().rfind(|line| !line.starts_with('#') && !line.is_empty())
}

fn targets(report: &Report) -> Vec<Target> {
    let Some(ours) = report.ours() else { return vec![] };
    let mut targets = Vec::new();
    if report.judges_time() {
        // Against QEMU as its users get it; what its memory made as ours does to it is told.
        if let Some(ratio) = report.ratios.first() {
            let name = "share of QEMU's time, medians";
            targets.push(Target::at_most(MAX_RATIO, ratio.of_medians, name, "of it"));
        }
    }
    let memory = mib(ours.beside_guest_kib.max);
    let name = "vmm memory beside the guest's, largest";
    targets.push(Target::at_most(MAX_MEMORY_MIB, memory, name, "MiB"));
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_one_line_without_comments() {
        let line = base_cmdline().unwrap();
        assert!(!line.contains('#') && line.contains("earlyprintk"), "{line}");
    }
}
