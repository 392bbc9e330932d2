//! The command line of `cloister audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::teams::{StateArgs, Target, is_name};

const EXAMPLES: &str = "\
Examples:
  cloister audit show research                 What happened, for people
  cloister audit follow research/scout         What happens to one agent from now on
  cloister audit verify                        Is every log as it was written?
  cloister audit export research --format ocsf > events.jsonl
  cloister audit export research -f | logger -t cloister
                                               To syslog, as it happens (systemd-cat: the journal)
  cloister audit key > host.pem                To verify copies on another machine:
  cloister audit verify --key host.pem --dir copy/research

A team's log lies in audit/TEAM below the state's directory and stays when the
team is removed.

Exit codes: 0 when it was done and, for verify, all is as it was written;
1 when verify found a change; 125 when it could not be done.";

/// What was typed after `audit`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct AuditArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: AuditCommand,
}

/// What `cloister audit` can do.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List the logs.
    Ls(ListArgs),
    /// Print what a team's log tells.
    Show(ShowArgs),
    /// Print what a team's log tells from now on, until Ctrl-C.
    Follow(FollowArgs),
    /// Find every change, removal, reorder or cut, and tell where.
    Verify(VerifyArgs),
    /// Print a log for programs, one JSON object a line.
    Export(ExportArgs),
    /// Print the public half of the host's key, as PEM.
    Key(KeyArgs),
}

/// What was typed after `audit ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// What was typed after `audit show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Which log and whose records.
    #[command(flatten)]
    pub which: WhichArgs,

    /// Only the last N records.
    #[arg(short = 'n', long, value_name = "N")]
    pub tail: Option<usize>,

    /// Go on with what comes, until Ctrl-C.
    #[arg(short, long)]
    pub follow: bool,

    /// Print the records as they are, one JSON object a line.
    #[arg(long)]
    pub json: bool,
}

/// What was typed after `audit follow`.
#[derive(Debug, Args)]
pub struct FollowArgs {
    /// Which log and whose records.
    #[command(flatten)]
    pub which: WhichArgs,

    /// Print the records as they are, one JSON object a line.
    #[arg(long)]
    pub json: bool,
}

/// A log, and a choice of its records.
#[derive(Debug, Args)]
pub struct WhichArgs {
    /// A team, or one agent of it; the team need not be there any more.
    #[arg(value_name = "TEAM[/AGENT]")]
    pub target: Target,

    /// Only records of this kind; can be given many times.
    #[arg(long, value_name = "KIND")]
    pub kind: Vec<String>,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// What was typed after `audit verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Whose logs [default: all].
    #[arg(value_name = "TEAM", value_parser = team_name)]
    pub teams: Vec<String>,

    /// A log's directory, such as a copy, in place of those of this host.
    #[arg(long, value_name = "DIR", requires = "key", conflicts_with = "teams")]
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,

    /// The public key that must have signed, as `cloister audit key` prints it [default: this host's].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key: Option<PathBuf>,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// What was typed after `audit export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Which log and whose records.
    #[command(flatten)]
    pub which: WhichArgs,

    /// As what.
    #[arg(long, value_enum, default_value_t = Format::Ocsf)]
    pub format: Format,

    /// Go on with what comes, until Ctrl-C.
    #[arg(short, long)]
    pub follow: bool,
}

/// A form of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Events of the Open Cybersecurity Schema Framework.
    Ocsf,
    /// The records as they are, with digests and signatures.
    Records,
}

/// What was typed after `audit key`.
#[derive(Debug, Args)]
pub struct KeyArgs {
    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

fn team_name(text: &str) -> Result<String, String> {
    if is_name(text) {
        return Ok(text.to_owned());
    }
    Err("write a team's name: lower-case letters, digits and dashes".to_owned())
}
