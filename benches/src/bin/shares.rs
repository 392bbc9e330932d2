//! `bench-shares`: throughput and latency of a writable share, ours and virtiofsd's under QEMU, in turns.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use cloister_benches::report::Mode;
use cloister_benches::shares::qemu::Virtiofsd;
use cloister_benches::shares::report::{Report, SubjectReport};
use cloister_benches::shares::work::{PROGRAM, Size};
use cloister_benches::shares::{Job, Subject, root};

/// Guest memory: what is written and read fits several times.
const MEMORY_MIB: u32 = 256;
/// What the vmm puts on every guest's command line; others are given it.
const CMDLINE: &str = include_str!("../../../kernel-config/cmdline");

/// The same work on a share of ours and on one of virtiofsd under QEMU. Exit code 1: a target is missed; 2:
/// it could not be measured.
// What a caller adds takes the place of what the script says.
#[derive(Debug, Parser)]
#[command(args_override_self = true)]
struct Arguments {
    /// The folder of our programs, with the work program.
    #[arg(long, value_name = "FOLDER")]
    programs: PathBuf,
    /// The guest's kernel.
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// The guest's root.
    #[arg(long, value_name = "FILE")]
    rootfs: PathBuf,
    /// QEMU; not given: measured without it.
    #[arg(long, value_name = "FILE")]
    qemu: Option<PathBuf>,
    /// The peer's file server.
    #[arg(long, value_name = "FILE", default_value = "/usr/lib/qemu/virtiofsd")]
    virtiofsd: PathBuf,
    /// An empty directory in memory, for everything that is shared.
    #[arg(long, value_name = "FOLDER")]
    place: PathBuf,
    /// Rounds.
    #[arg(short = 'n', long, default_value_t = 5)]
    count: u32,
    /// Rounds before them that are thrown away.
    #[arg(long, default_value_t = 1)]
    warmup: u32,
    /// MiB that are written, then read.
    #[arg(long, default_value_t = 32)]
    mib: usize,
    /// Random reads of 4 KiB.
    #[arg(long, default_value_t = 2000)]
    reads: usize,
    /// Files that are made, looked at and removed.
    #[arg(long, default_value_t = 10_000)]
    files: usize,
    /// Only subjects of these names; ratios are of the first by each other one.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// What a time means here.
    #[arg(long, value_enum)]
    mode: Mode,
    /// Where the JSON and the table go.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(report) if report.passes() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            // A closed stream is no reason to end differently.
            writeln!(std::io::stderr(), "bench-shares: {error:#}").ok();
            ExitCode::from(2)
        }
    }
}

fn measure(arguments: &Arguments) -> anyhow::Result<Report> {
    let root = arguments.place.join("root.cpio");
    let program = arguments.programs.join(PROGRAM);
    root::with_program(&arguments.rootfs, &program, PROGRAM, &root)?;
    let cmdline = CMDLINE.lines().rfind(|line| !line.starts_with('#') && !line.is_empty());
    let job = Job {
        kernel: arguments.kernel.clone(),
        root: root.clone(),
        cmdline: cmdline.context("kernel-config/cmdline is empty")?.to_owned(),
        memory_mib: MEMORY_MIB,
        place: arguments.place.clone(),
        size: Size { blocks: arguments.mib, reads: arguments.reads, files: arguments.files },
    };
    let mut measured: Vec<_> = subjects(arguments)
        .into_iter()
        .filter(|it| {
            arguments.only.is_empty() || arguments.only.iter().any(|name| name == it.name())
        })
        .map(|subject| (SubjectReport { name: subject.name(), rounds: vec![] }, subject))
        .collect();
    for round in 0..arguments.warmup.saturating_add(arguments.count) {
        for (report, subject) in &mut measured {
            writeln!(std::io::stderr(), "bench-shares: round {round}: {}", report.name).ok();
            let lines = subject.run(&job).with_context(|| report.name)?;
            if round >= arguments.warmup {
                report.rounds.push(lines);
            }
        }
    }
    fs::remove_file(root)?;
    let measured = measured.into_iter().map(|(report, _)| report).collect();
    let report = Report::new(arguments.mode, job.size, measured);
    report.write(&arguments.out)?;
    std::io::stdout().write_all(report.table().as_bytes())?;
    Ok(report)
}

/// Ours first, then the one that targets are held against, then others.
fn subjects(arguments: &Arguments) -> Vec<Subject> {
    let mut subjects = vec![Subject::Cloister(arguments.programs.clone())];
    let Some(qemu) = &arguments.qemu else { return subjects };
    // As the guest may keep as little as of our writable shares; and its own default.
    for (name, cache, threads) in
        [("virtiofsd", "none", 0), ("virtiofsd-pool", "none", 64), ("virtiofsd-auto", "auto", 0)]
    {
        let (qemu, server) = (qemu.clone(), arguments.virtiofsd.clone());
        subjects.push(Subject::Virtiofsd(Virtiofsd { name, qemu, server, cache, threads }));
    }
    subjects
}
