//! `bench-fork`: from exec of the jailer to the first instruction of a fork, for machines of several sizes.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use cloister::commands::bench::statistics::Summary;
use cloister::launch::jail::LimitsWish;
use cloister_benches::arguments::{CommonArgs, exit_code};
use cloister_benches::comparison::compare;
use cloister_benches::guest;
use cloister_benches::report::{Report, Target, ms};
use cloister_benches::subject::{Job, Stages, Subject};

/// Most from the start of the vmm in its jail to a fork's first instruction, as the median, in milliseconds. What the jail takes
/// before that stands in the table, and has a target of its own (`benches/jail`).
const MAX_FORK_MS: f64 = 3.0;

/// Most from the command that a vmm of a pool is told to a fork's first byte.
const MAX_POOLED_MS: f64 = 1.0;

/// From exec of `cloister-jailer` to the first byte of a toy guest that goes on from a saved one (1 vCPU), in turns with
/// boots of the same guest, for each size of memory. Exit code 1: a target is missed; 2: it could not be measured.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    common: CommonArgs,
    /// Sizes of guest memory, in MiB.
    #[arg(long, value_delimiter = ',', default_value = "128,1024,4096,8192")]
    sizes: Vec<u32>,
    /// Without the limits of control groups: for machines whose groups have no controllers.
    #[arg(long)]
    without_limits: bool,
}

fn main() -> ExitCode {
    let Arguments { common, sizes, without_limits } = Arguments::parse();
    let limits = if without_limits { LimitsWish::NotAsked } else { LimitsWish::Asked };
    let mut worst = ExitCode::SUCCESS;
    for size in sizes {
        let code = exit_code("fork", measure(&common, size, limits));
        if code != ExitCode::SUCCESS {
            worst = code;
        }
    }
    worst
}

fn measure(arguments: &CommonArgs, memory_mib: u32, limits: LimitsWish) -> anyhow::Result<Report> {
    std::fs::create_dir_all(&arguments.out)?;
    let kernel = arguments.out.join("toy.elf");
    std::fs::write(&kernel, guest::elf_that_repeats()).context("can't write the toy guest")?;
    let job = Job {
        kernel,
        root: None,
        memory_mib,
        vcpus: 1,
        base_cmdline: String::new(),
        extra_cmdline: String::new(),
        marker: vec![guest::MARKER],
        limits,
    };
    let vmm = || arguments.vmm.clone();
    let mut subjects = Vec::new();
    if let Some(jailer) = &arguments.jailer {
        subjects.push(Subject::BlankFork(vmm(), jailer.clone()));
        subjects.push(Subject::JailedFork(vmm(), jailer.clone()));
        subjects.push(Subject::Jailed(vmm(), jailer.clone()));
    }
    subjects.extend([Subject::Fork(vmm()), Subject::Cloister(vmm())]);
    let measured = compare(&subjects, &job, arguments.warmup, arguments.count)?;
    std::fs::remove_file(&job.kernel)?;
    let what = match limits {
        LimitsWish::Asked => "start of the process to the first output of a toy guest",
        LimitsWish::NotAsked => {
            "start of the process to the first output of a toy guest; control groups without limits"
        }
    };
    let name = format!("fork-{memory_mib}");
    let mut report = Report::new(name, what, arguments.mode, &job, measured)?;
    report.targets = targets(&report);
    arguments.tell(&report)?;
    Ok(report)
}

fn targets(report: &Report) -> Vec<Target> {
    let subject = |name| report.subjects.iter().find(|subject| subject.name == name);
    let pooled = subject("fork-pooled").map(|pooled| {
        let words = "command to a waiting vmm to a fork's first output, median";
        Target::at_most(MAX_POOLED_MS, ms(pooled.total_ns.median), words, "ms")
    });
    let jailed = subject("fork-jailed").and_then(|jailed| {
        let runs = jailed.runs.iter().filter_map(|run| run.stages);
        let from_start = |stages: Stages| stages.entry_ns.saturating_sub(stages.process_ns);
        let start = Summary::of(runs.map(from_start))?;
        let words = "start of the vmm in its jail to a fork's first instruction, median";
        Some(Target::at_most(MAX_FORK_MS, ms(start.median), words, "ms"))
    });
    pooled.into_iter().chain(jailed).collect()
}
