//! The command line of `cloister audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint, value_parser};

use crate::audit::export::collector::{LARGEST_MESSAGE, LEAST_MESSAGE, USUAL_MESSAGE};
use crate::audit::export::place::CollectorPlace;
use crate::audit::export::syslog::Facility;

use super::teams::{StateArgs, Target, is_name};

const EXAMPLES: &str = "\
Examples:
  cloister audit show research                 What happened, for people
  cloister audit follow research/scout         What happens to one agent from now on
  cloister audit verify                        Is every log as it was written?
  cloister audit export research --format ocsf > events.jsonl
  cloister audit export research -f --to journald
                                               To the journal, as it happens
  cloister audit key > host.pem                To verify copies on another machine:
  cloister audit verify --key host.pem --dir copy/research

A team's log lies in audit/TEAM below the state's directory and stays when the
team is removed.

Exit codes: 0 when it was done and, for verify, all is as it was written;
1 when verify found a change; 125 when it could not be done.";

const EXPORT_EXAMPLES: &str = "\
Examples:
  cloister audit export research > events.jsonl
  cloister audit export research -f --to syslog
  cloister audit export research -f --to syslog:tcp:logs.example.org:601 --cursor-file research.cursor
                                   None is left out, whatever is restarted; some may come twice
  cloister audit export research --since 42 --format records

Standard error tells the last record that was handed over, and what was missing.

Exit codes: 0 when all was handed over; 1 when records were missing or another
log had begun; 125 when it could not be done; 128 and the number of the signal
that ended it.";

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
    /// Print a log for programs, one JSON object a line, or hand it to a syslog or a journal.
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
#[command(after_help = EXPORT_EXAMPLES)]
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

    /// Hand them to a collector [default: print them]: syslog, syslog:unix:/PATH,
    /// syslog:udp:HOST:PORT, syslog:tcp:HOST:PORT, journald, journald:unix:/PATH.
    #[arg(long, value_name = "COLLECTOR")]
    pub to: Option<CollectorPlace>,

    /// The facility of syslog.
    #[arg(long, value_enum, default_value_t = Facility::Authpriv, requires = "to")]
    pub facility: Facility,

    /// Longest message that the syslog takes, in bytes; of longer ones it gets number and digest alone.
    #[arg(long, value_name = "BYTES", default_value_t = USUAL_MESSAGE, requires = "to")]
    #[arg(value_parser = value_parser!(u64).range(LEAST_MESSAGE..=LARGEST_MESSAGE))]
    pub max_message: u64,

    /// Begin with record N [default: the first that is there].
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    #[arg(conflicts_with = "cursor_file")]
    pub since: Option<u64>,

    /// Keep in this file up to which record they were handed over, and go on there the next time.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub cursor_file: Option<PathBuf>,
}

/// A form of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Events of the Open Cybersecurity Schema Framework.
    Ocsf,
    /// The records as they are, with digests and signatures.
    Records,
    /// Traces for OpenTelemetry, of a whole log and to standard output alone.
    Otlp,
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
