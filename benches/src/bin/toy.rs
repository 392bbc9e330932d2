//! `bench-toy`: from exec of the monitor to the first byte of a guest without an operating system.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use cloister::launch::jail::LimitsWish;
use cloister_benches::arguments::{CommonArgs, exit_code};
use cloister_benches::comparison::compare;
use cloister_benches::guest;
use cloister_benches::report::{Report, Target, mib, ms};
use cloister_benches::subject::Job;

/// Most virtual milliseconds (millions of instructions) to the first byte.
const MAX_TOTAL_MS: f64 = 9.0;
/// The same in the jail, from exec of the jailer.
const MAX_JAILED_MS: f64 = 15.0;
/// Most memory beside the guest's, in MiB.
const MAX_MEMORY_MIB: f64 = 3.0;
/// Guest memory.
const MEMORY_MIB: u32 = 128;

/// From exec of the monitor to the first byte on its serial port, of a guest without an operating
/// system (1 vCPU, 128 MiB). Exit code 1: a target is missed; 2: it could not be measured.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    common: CommonArgs,
}

fn main() -> ExitCode {
    exit_code("toy", measure(&Arguments::parse().common))
}

fn measure(arguments: &CommonArgs) -> anyhow::Result<Report> {
    std::fs::create_dir_all(&arguments.out)?;
    let kernel = arguments.out.join("toy.elf");
    std::fs::write(&kernel, guest::elf()).context("can't write the toy guest")?;
    let job = Job {
        kernel,
        root: None,
        memory_mib: MEMORY_MIB,
        vcpus: 1,
        base_cmdline: String::new(),
        extra_cmdline: String::new(),
        marker: vec![guest::MARKER],
        limits: LimitsWish::Asked,
    };
    let measured = compare(&arguments.subjects(), &job, arguments.warmup, arguments.count)?;
    std::fs::remove_file(&job.kernel)?;
    let what = "exec of the monitor to the first output of a toy guest";
    let mut report = Report::new("toy", what, arguments.mode, &job, measured)?;
    report.targets = targets(&report);
    arguments.tell(&report)?;
    Ok(report)
}

fn targets(report: &Report) -> Vec<Target> {
    let Some(ours) = report.ours() else { return vec![] };
    let mut targets = Vec::new();
    if report.judges_time() {
        let total = ms(ours.total_ns.median);
        targets.push(Target::at_most(MAX_TOTAL_MS, total, "exec to first output, median", "ms"));
    }
    let jailed = report.subjects.iter().find(|subject| subject.name == "cloister-jailed");
    if let (true, Some(jailed)) = (report.judges_time(), jailed) {
        let total = ms(jailed.total_ns.median);
        let name = "exec of the jailer to first output, median";
        targets.push(Target::at_most(MAX_JAILED_MS, total, name, "ms"));
    }
    let memory = mib(ours.beside_guest_kib.max);
    let name = "vmm memory beside the guest's, largest";
    targets.push(Target::at_most(MAX_MEMORY_MIB, memory, name, "MiB"));
    targets
}
