//! The command line of what explains rules, and learns them.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::team::StoreArgs;
use super::teams::{StateArgs, Target};

const EXAMPLES: &str = "\
Examples:
  cloister policy check team.toml scout https://api.example.com/v1
  cloister policy check research scout 203.0.113.7:5432
  cloister policy check team.toml scout https://api.example.com/v1/models --method POST

Nothing is connected and no name is looked up. A team is judged by its file as it is now.
Exit codes: 0 it may be reached, 1 it may not, 125 it could not be told.";

/// What was typed after `policy`.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// What about it.
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// What can be asked of rules.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Tell whether an agent may reach a host, and which rule says so.
    Check(CheckArgs),
    /// Put the egress rules of a team file in place of a running team's.
    Apply(ApplyArgs),
    /// Write the rules that a team's last run would have needed, of what was observed.
    Learn(LearnArgs),
    /// Show the connections that wait for your word, by rules that ask.
    Questions(QuestionsArgs),
    /// Allow or deny a connection that waits.
    Answer(AnswerArgs),
}

const QUESTIONS_EXAMPLES: &str = "\
Examples:
  cloister policy questions research
  cloister policy answer research 3 allow
  cloister policy answer research 4 deny --always
  cloister audit follow research --kind egress-asked     Be told when something is asked

A rule with action = \"ask\" lets a connection wait for an answer, 120 seconds at most; none is a no.
Exit codes: 0 when it was done, 125 when not.";

/// What was typed after `policy questions`.
#[derive(Debug, Args)]
#[command(after_help = QUESTIONS_EXAMPLES)]
pub struct QuestionsArgs {
    /// The team, or one agent of it.
    #[arg(value_name = "TEAM[/AGENT]")]
    pub target: Target,

    /// Print one JSON object, for programs; see docs/user-guide.md.
    #[arg(long)]
    pub json: bool,

    /// Where the state of teams is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// What was typed after `policy answer`.
#[derive(Debug, Args)]
#[command(after_help = QUESTIONS_EXAMPLES)]
pub struct AnswerArgs {
    /// The team.
    #[arg(value_name = "TEAM")]
    pub target: Target,

    /// The question's number, of `cloister policy questions`.
    #[arg(value_name = "NUMBER")]
    pub number: u64,

    /// The answer.
    #[arg(value_name = "ANSWER", value_enum)]
    pub word: Word,

    /// Answer later connections of the agent to the same host and port alike, until the team ends or its rules change.
    #[arg(long)]
    pub always: bool,

    /// Where the state of teams is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Word {
    /// It may be made.
    Allow,
    /// It may not.
    Deny,
}

const APPLY_EXAMPLES: &str = "\
Examples:
  cloister policy apply research team.toml

The rules hold as a whole or, with any error, not at all. Connections that they do not allow are closed. The
rest of the file must be what the team was started with. When the team is started again, its own file is read.";

/// What was typed after `policy apply`.
#[derive(Debug, Args)]
#[command(after_help = APPLY_EXAMPLES)]
pub struct ApplyArgs {
    /// The team; it runs.
    #[arg(value_name = "TEAM")]
    pub target: Target,

    /// A team file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Where the state of teams is.
    #[command(flatten)]
    pub state: StateArgs,
}

const LEARN_EXAMPLES: &str = "\
Examples:
  cloister policy learn research >> team.toml
  cloister policy learn research --json

The team's file says `egress-mode = \"observe\"` for that run. What its rules allow already is left out: the
rules that are written are added to the file's. The team may be running, ended or removed: its audit log is
read, and only if it is as it was written.";

/// What was typed after `policy learn`.
#[derive(Debug, Args)]
#[command(after_help = LEARN_EXAMPLES)]
pub struct LearnArgs {
    /// A team, or one agent of it.
    #[arg(value_name = "TEAM[/AGENT]")]
    pub target: Target,

    /// Print one JSON object, for programs; see docs/user-guide.md.
    #[arg(long)]
    pub json: bool,

    /// Where the state of teams is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// What was typed after `policy check`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// A team file, or the name of a team.
    #[arg(value_name = "FILE|TEAM")]
    pub team: String,

    /// The agent.
    #[arg(value_name = "AGENT")]
    pub agent: String,

    /// A host with a port, or a URL; without a port 443 is meant.
    #[arg(value_name = "HOST[:PORT]|URL")]
    pub target: String,

    /// The method of the request; of a URL GET is meant.
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,

    /// Print one JSON object, for programs; see docs/user-guide.md.
    #[arg(long)]
    pub json: bool,

    /// Where the state of teams is.
    #[command(flatten)]
    pub state: StateArgs,

    /// Which image store no team may see.
    #[command(flatten)]
    pub store: StoreArgs,
}
