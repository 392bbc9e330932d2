//! What can be said about the pool on the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::jail::JailArgs;
use crate::pool::{MAX_SIZE, Place, PoolError};

/// From where a machine's vmm comes.
#[derive(Clone, Debug, Args)]
pub struct FromPoolArgs {
    /// The pool's directory; then it must answer [default: /run/cloister/pool for root, else
    /// cloister/pool below $XDG_RUNTIME_DIR, and none is needed].
    #[arg(long, value_name = "DIR", env = "CLOISTER_POOL", hide_env_values = true)]
    #[arg(value_hint = ValueHint::DirPath)]
    pub pool: Option<PathBuf>,

    /// Start a process of its own for the machine, whatever a pool has.
    #[arg(long)]
    pub no_pool: bool,
}

impl FromPoolArgs {
    /// The pool that they describe.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        match &self.pool {
            _ if self.no_pool => None,
            Some(folder) => Some(Place { folder: folder.clone(), named: true }),
            None => Place::usual(),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  cloister pool serve --size 8 &        Keep eight processes ready
  cloister run -- true                  Takes one of them
  cloister pool status                  How many are ready, and how many were taken

Each process of the pool waits in its jail and knows of no machine yet. `run`, `up` and `bench` take
one if it fits: the same programs, control groups and ids. What was taken goes on when the pool ends.
Under systemd a service that keeps a pool needs KillMode=process, or its end is that of the machines.";

/// What was typed after `pool`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PoolArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PoolCommand,
}

/// What `cloister pool` can do.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Keep a pool until a signal ends it.
    Serve(ServeArgs),
    /// Show how the pool stands.
    Status(StatusArgs),
}

/// Where the pool is.
#[derive(Clone, Debug, Args)]
pub struct PlaceArgs {
    /// The pool's directory [default: /run/cloister/pool for root, else cloister/pool below
    /// $XDG_RUNTIME_DIR].
    #[arg(long, value_name = "DIR", env = "CLOISTER_POOL", hide_env_values = true)]
    #[arg(value_hint = ValueHint::DirPath)]
    pub pool: Option<PathBuf>,
}

impl PlaceArgs {
    /// The directory.
    ///
    /// # Errors
    /// There is no usual one.
    pub fn place(&self) -> Result<Place, PoolError> {
        match &self.pool {
            Some(folder) => Ok(Place { folder: folder.clone(), named: true }),
            None => {
                Place::usual().map(|place| Place { named: true, ..place }).ok_or(PoolError::Nowhere)
            }
        }
    }
}

/// What was typed after `pool serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// How many processes wait; none is allowed.
    #[arg(short, long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=i64::from(MAX_SIZE)))]
    pub size: u16,

    /// Where it is.
    #[command(flatten)]
    pub place: PlaceArgs,

    /// Where their jails are.
    #[command(flatten)]
    pub jail: JailArgs,
}

/// What was typed after `pool status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print one JSON object, for programs.
    #[arg(long)]
    pub json: bool,

    /// Wait until every process of it is ready.
    #[arg(long)]
    pub wait: bool,

    /// Where it is.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// What was typed after `blank`.
#[derive(Debug, Args)]
pub struct BlankArgs {
    /// Where its jail is.
    #[command(flatten)]
    pub jail: JailArgs,
}
