//! What both benches are told on their command line, and how they end.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::report::{Mode, Report};
use crate::subject::Subject;
use crate::subject::qemu::Memory;

/// What both benches take.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Our monitor.
    #[arg(long, value_name = "FILE")]
    pub vmm: PathBuf,
    /// Our jailer; not given: measured without a jail alone.
    #[arg(long, value_name = "FILE")]
    pub jailer: Option<PathBuf>,
    /// QEMU; not given: measured without it.
    #[arg(long, value_name = "FILE")]
    pub qemu: Option<PathBuf>,
    /// Measurements of each.
    #[arg(short = 'n', long, default_value_t = 10)]
    pub count: u32,
    /// Rounds before them that are thrown away.
    #[arg(long, default_value_t = 1)]
    pub warmup: u32,
    /// What a time means here.
    #[arg(long, value_enum)]
    pub mode: Mode,
    /// Where the JSON and the plot go.
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
}

impl CommonArgs {
    /// Ours first, then the others.
    #[must_use]
    pub fn subjects(&self) -> Vec<Subject> {
        let mut subjects = vec![Subject::Cloister(self.vmm.clone())];
        let jailed = |jailer| Subject::Jailed(self.vmm.clone(), jailer);
        subjects.extend(self.jailer.clone().map(jailed));
        for memory in [Memory::Own, Memory::Memfd] {
            subjects.extend(self.qemu.clone().map(|program| Subject::Qemu(program, memory)));
        }
        subjects
    }

    /// Writes the files and prints the table.
    ///
    /// # Errors
    /// They can't be written.
    pub fn tell(&self, report: &Report) -> anyhow::Result<()> {
        report.write(&self.out)?;
        std::io::stdout().write_all(report.table().as_bytes())?;
        Ok(())
    }
}

/// 0: measured, and every target that is judged here is met; 1: one is missed; 2: not measured.
#[must_use]
pub fn exit_code(bench: &str, result: anyhow::Result<Report>) -> ExitCode {
    match result {
        Ok(report) if report.passes() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            // A closed stream is no reason to end differently.
            writeln!(std::io::stderr(), "bench-{bench}: {error:#}").ok();
            ExitCode::from(2)
        }
    }
}
