//! The command line of what reads team files and starts nothing.

use std::path::PathBuf;

use clap::{Args, ValueHint};

const EXIT_CODES: &str = "\
Exit codes: 0 when the team file is in order, 1 when it has mistakes, 125 when it
could not be checked; standard error says why. docs/user-guide.md has every key.";

/// What was typed after `validate`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct ValidateArgs {
    /// The team file.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// Print one JSON object, for programs; see docs/user-guide.md.
    #[arg(long)]
    pub json: bool,

    /// Which image store no team may see.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// What was typed after `plan`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct PlanArgs {
    /// The team file.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// Print one JSON object, for programs; see docs/user-guide.md.
    #[arg(long)]
    pub json: bool,

    /// Where the images are.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// What was typed after `explain`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct ExplainArgs {
    /// The team file.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// One agent, in place of all.
    #[arg(value_name = "AGENT")]
    pub agent: Option<String>,

    /// Print one JSON object, for programs; see docs/user-guide.md.
    #[arg(long)]
    pub json: bool,

    /// Where the images are.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Where the image store is.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// The image store's directory, in place of the usual one.
    #[arg(long, value_name = "DIR", env = "CLOISTER_STORE", hide_env_values = true)]
    #[arg(value_hint = ValueHint::DirPath)]
    pub store: Option<PathBuf>,
}
