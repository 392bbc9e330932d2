//! What was typed after `cloister bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use crate::cli::jail::JailArgs;
use crate::quantity::{cpus, memory_mib};

const AFTER_HELP: &str = "\
Examples:
  cloister bench boot -n 100
  cloister bench boot -n 20 --json --svg boot.svg > boot.json
  cloister bench vsock --memory 1G

Every start and every command is an ordinary one, one after the other. Times are of CLOCK_MONOTONIC;
benches/README.md in the sources says what each line is and what it leaves out.";

/// What was typed after `bench`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub bench: Bench,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Start machines, one after the other, stage by stage to the first output of a command.
    Boot(BootArgs),
    /// Run commands in one machine, one after the other, each from its request to its end.
    Exec(RoundArgs),
    /// Talk with one machine: round trips, and streams in both directions.
    Vsock(VsockArgs),
}

/// What was typed after `bench boot`.
#[derive(Debug, Args)]
pub struct BootArgs {
    /// Machines to start and measure.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_COUNT))]
    pub count: u32,
    /// Machines to start before that, unmeasured.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=MAX_COUNT))]
    pub warmup: u32,
    /// The machines, and what to do with the result.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What was typed after `bench exec`.
#[derive(Debug, Args)]
pub struct RoundArgs {
    /// Rounds to measure.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_COUNT))]
    pub count: u32,
    /// Rounds before that, unmeasured.
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=MAX_COUNT))]
    pub warmup: u32,
    /// The machine, and what to do with the result.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What was typed after `bench vsock`.
#[derive(Debug, Args)]
pub struct VsockArgs {
    /// Round trips to measure.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_COUNT))]
    pub count: u32,
    /// Round trips before that, unmeasured.
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=MAX_COUNT))]
    pub warmup: u32,
    /// Streams of each direction to measure.
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_COUNT))]
    pub streams: u32,
    /// Length of each stream, in MiB.
    #[arg(long, value_name = "N", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_COUNT))]
    pub mib: u32,
    /// The machine, and what to do with the result.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Most rounds of anything: a typing error ends at the command line, not next week.
const MAX_COUNT: i64 = 1_000_000;

/// What every bench takes.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// CPUs of a machine.
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = cpus)]
    pub cpus: u8,
    /// Memory of a machine: 512M, 2G; a number alone is MiB.
    #[arg(short, long, value_name = "SIZE", default_value = "128M", value_parser = memory_mib)]
    pub memory: u32,
    /// The guest's kernel, in place of the usual one.
    #[arg(long, value_name = "FILE", env = "CLOISTER_KERNEL", hide_env_values = true)]
    #[arg(value_hint = ValueHint::FilePath)]
    pub kernel: Option<PathBuf>,
    /// The guest's root, in place of the usual one.
    #[arg(long, value_name = "FILE", env = "CLOISTER_ROOTFS", hide_env_values = true)]
    #[arg(value_hint = ValueHint::FilePath)]
    pub rootfs: Option<PathBuf>,
    /// Print one JSON object, for programs, in place of the table.
    #[arg(long)]
    pub json: bool,
    /// Write the JSON and a plot into this folder, as BENCH.json and BENCH.svg.
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub save: Option<PathBuf>,
    /// Write a plot there.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub svg: Option<PathBuf>,
    /// Where the machines' jails are.
    #[command(flatten)]
    pub jail: JailArgs,
}
