//! What was typed after `cloister bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use crate::cli::guest::GuestArgs;
use crate::cli::jail::JailArgs;
use crate::cli::pool::FromPoolArgs;
use crate::cli::template::{OriginArgs, PlaceArgs};
use crate::quantity::{cpus, memory_mib};

const AFTER_HELP: &str = "\
Examples:
  cloister bench boot -n 100
  cloister bench boot -n 20 --json --svg boot.svg > boot.json
  cloister bench fork -n 100 --concurrency 1,10 --html fork.html
  cloister bench fork --peer 'docker run --rm alpine echo x'
  cloister bench density -n 200
  cloister bench vsock --memory 1G
  cloister bench files --place /srv --html files.html

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
    /// The same from the machine's template, which is built first if it is not there, in turns with boots.
    Fork(ForkArgs),
    /// Start machines that do nothing, all at once, and tell what each costs.
    Density(DensityArgs),
    /// Run commands in one machine, one after the other, each from its request to its end.
    Exec(RoundArgs),
    /// Use shared directories from a container in one machine: throughput and the time of each call.
    Files(FilesArgs),
    /// Talk with one machine: round trips, and streams in both directions.
    Vsock(VsockArgs),
}

/// What was typed after `bench boot`.
#[derive(Debug, Args)]
pub struct BootArgs {
    /// How many.
    #[command(flatten)]
    pub starts: StartsArgs,
    /// The machines, and what to do with the result.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What was typed after `bench fork`.
#[derive(Debug, Args)]
pub struct ForkArgs {
    /// How many.
    #[command(flatten)]
    pub starts: StartsArgs,
    /// Where templates are.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The machines, and what to do with the result.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// How many starts, and what is done beside.
#[derive(Debug, Args)]
pub struct StartsArgs {
    /// Machines to start and measure.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_COUNT))]
    pub count: u32,
    /// Machines to start before that, unmeasured.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=MAX_COUNT))]
    pub warmup: u32,
    /// Then start so many at once, for each number at least as many in all as one after the other.
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_AT_ONCE))]
    pub concurrency: Vec<u32>,
    /// A command line to compare with, timed in turns to its first output; `cloister run` is timed like it then. Can be
    /// repeated.
    #[arg(long, value_name = "COMMAND", value_hint = ValueHint::CommandString)]
    pub peer: Vec<String>,
}

/// What was typed after `bench density`.
#[derive(Debug, Args)]
pub struct DensityArgs {
    /// Machines to start.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_MACHINES))]
    pub count: u32,
    /// End before the host has less memory than this left: 2G, 512M.
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = memory_mib)]
    pub keep: u32,
    /// How they start; without a word from their template, which is built first if it is not there.
    #[command(flatten)]
    pub origin: OriginArgs,
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

/// What was typed after `bench files`.
#[derive(Debug, Args)]
pub struct FilesArgs {
    /// Rounds to measure.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_COUNT))]
    pub count: u32,
    /// Rounds before that, unmeasured.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=MAX_COUNT))]
    pub warmup: u32,
    /// Length of the files that are written and read, in MiB: calls of 1 MiB each.
    #[arg(long, value_name = "N", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_FILE_MIB))]
    pub mib: u32,
    /// Random reads of 4 KiB of each file, in each round.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_CALLS))]
    pub reads: u32,
    /// Files to make, look at and remove in each round.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_CALLS))]
    pub files: u32,
    /// Where the shared directories are made for the time of the bench, in place of the usual directory for temporary
    /// files.
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub place: Option<PathBuf>,
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
/// Longest file, in MiB: 64 GiB.
const MAX_FILE_MIB: i64 = 1 << 16;
/// Most calls of one kind in a round: their times are kept in the guest's memory, and come here as one text.
const MAX_CALLS: i64 = 100_000;
/// Most starts at once.
const MAX_AT_ONCE: i64 = 1000;
/// Most machines of one density measurement: each has descriptors in this program, of which Linux allows 2^20.
const MAX_MACHINES: i64 = 20_000;

/// What every bench takes.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// CPUs of a machine.
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = cpus)]
    pub cpus: u8,
    /// Memory of a machine: 512M, 2G; a number alone is MiB.
    #[arg(short, long, value_name = "SIZE", default_value = "128M", value_parser = memory_mib)]
    pub memory: u32,
    /// The guest's kernel and root.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Print one JSON object, for programs, in place of the table.
    #[arg(long)]
    pub json: bool,
    /// Write the JSON and a plot into this folder, as BENCH.json and BENCH.svg.
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub save: Option<PathBuf>,
    /// Write one page with plot, figures and method there.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub html: Option<PathBuf>,
    /// Write a plot there.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub svg: Option<PathBuf>,
    /// Where the machines' jails are.
    #[command(flatten)]
    pub jail: JailArgs,
    /// From where the machines' processes come.
    #[command(flatten)]
    pub pool: FromPoolArgs,
}
