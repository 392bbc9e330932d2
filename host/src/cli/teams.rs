//! The command line of teams: starting them, looking at them, working in them, ending them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueHint};

use super::Variable;
use super::guest::GuestArgs;
use super::jail::JailArgs;
use super::parsers::{AbsoluteParser, VariableParser};
use super::pool::FromPoolArgs;
use super::template::OriginArgs;
use crate::quantity::time_limit;

/// Where the state of teams is.
#[derive(Clone, Debug, Args)]
pub struct StateArgs {
    /// The directory for teams' state and logs [default: /var/lib/cloister/state for root, else
    /// cloister below $XDG_STATE_HOME (~/.local/state)].
    #[arg(long, value_name = "DIR", env = "CLOISTER_STATE", hide_env_values = true)]
    #[arg(value_hint = ValueHint::DirPath)]
    pub state: Option<PathBuf>,
}

/// A team, or one agent of it: `TEAM` or `TEAM/AGENT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The team's name.
    pub team: String,
    /// The agent's; `None`: the whole team.
    pub agent: Option<String>,
}

/// One agent: `TEAM/AGENT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentTarget {
    /// The team's name.
    pub team: String,
    /// The agent's name.
    pub agent: String,
}

/// A path of the host, or of an agent: `PATH` or `TEAM/AGENT:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyPlace {
    /// On the host.
    Host(PathBuf),
    /// In an agent's container.
    Agent(AgentTarget, String),
}

/// Not the name of a team or an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Something that no team is called.
    #[error("write TEAM or TEAM/AGENT: lower-case letters, digits and dashes")]
    Name,
    /// A team where one agent is needed.
    #[error("write TEAM/AGENT: lower-case letters, digits and dashes")]
    NoAgent,
    /// A path of an agent that is not absolute.
    #[error("write an absolute path behind TEAM/AGENT:, like research/scout:/tmp/result")]
    Relative,
}

/// Whether a team or an agent can be called so: also what keeps a name from being a path.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    let bytes = name.as_bytes();
    bytes.len() <= 63
        && bytes.iter().copied().all(plain)
        && edge(bytes.first())
        && edge(bytes.last())
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (team, agent) = match text.split_once('/') {
            Some((team, agent)) => (team, Some(agent)),
            None => (text, None),
        };
        if !is_name(team) || !agent.is_none_or(is_name) {
            return Err(TargetError::Name);
        }
        Ok(Self { team: team.to_owned(), agent: agent.map(str::to_owned) })
    }
}

impl FromStr for AgentTarget {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        match text.parse::<Target>() {
            Ok(Target { team, agent: Some(agent) }) => Ok(Self { team, agent }),
            _ => Err(TargetError::NoAgent),
        }
    }
}

impl FromStr for CopyPlace {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        // A path of the host with a colon in it can be written with ./ before it.
        let target = text.split_once(':').filter(|(target, _)| !target.starts_with(['.', '/']));
        let Some((target, path)) = target else { return Ok(Self::Host(text.into())) };
        let target = target.parse()?;
        if !path.starts_with('/') {
            return Err(TargetError::Relative);
        }
        Ok(Self::Agent(target, path.to_owned()))
    }
}

const UP_EXAMPLES: &str = "\
Examples:
  cloister up team.toml                 Start a team and show what its agents write
  cloister up -d team.toml              Start it and come back
  cloister logs -f research/scout       What one agent writes
  cloister down research                End it and remove it

Without -d, Ctrl-C stops the team. A team ends when all its agents have ended;
`cloister down` then removes its logs and its state.

Exit codes: 0 when all agents succeeded (with -d: when the team runs), 1 when
one did not, 125 when the team could not be started.";

/// What was typed after `up`.
#[derive(Debug, Args)]
#[command(after_help = UP_EXAMPLES)]
pub struct UpArgs {
    /// The team file; see `cloister schema` and docs/user-guide.md.
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// Come back when the team runs.
    #[arg(short, long)]
    pub detach: bool,

    /// How long the machine may take to start.
    #[arg(long, value_name = "T", default_value = "60s", value_parser = time_limit)]
    pub start_timeout: Duration,

    /// The guest's kernel and root.
    #[command(flatten)]
    pub guest: GuestArgs,

    /// The image store's directory, in place of the usual one.
    #[arg(long, value_name = "DIR", env = "CLOISTER_STORE", hide_env_values = true)]
    #[arg(value_hint = ValueHint::DirPath)]
    pub store: Option<PathBuf>,

    /// The directory for volumes [default: volumes in /var/lib/cloister for root, else in cloister
    /// below $XDG_DATA_HOME (~/.local/share)].
    #[arg(long, value_name = "DIR", env = "CLOISTER_VOLUMES", hide_env_values = true)]
    #[arg(value_hint = ValueHint::DirPath)]
    pub volumes: Option<PathBuf>,

    /// From where its machine goes on.
    #[command(flatten)]
    pub origin: OriginArgs,

    /// Where its jail is.
    #[command(flatten)]
    pub jail: JailArgs,

    /// From where its machine's process comes.
    #[command(flatten)]
    pub pool: FromPoolArgs,

    /// Where its state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// What was typed after `ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Only this team.
    pub team: Option<Target>,

    /// Teams that have ended, too.
    #[arg(short, long)]
    pub all: bool,

    /// Print one JSON object, for programs; see docs/user-guide.md.
    #[arg(long)]
    pub json: bool,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// What was typed after `exec`.
#[derive(Debug, Args)]
#[command(override_usage = "cloister exec [OPTIONS] TEAM/AGENT -- COMMAND [ARGUMENT]...")]
pub struct ExecArgs {
    /// Give the command a terminal.
    #[arg(short, long)]
    pub tty: bool,

    /// Pass standard input to the command even when it is a terminal.
    #[arg(short, long)]
    pub interactive: bool,

    /// Set an environment variable, beside the agent's own; can be given many times.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = VariableParser)]
    pub env: Vec<Variable>,

    /// The command's working directory [default: the agent's].
    #[arg(short, long, value_name = "DIR", value_parser = AbsoluteParser)]
    pub workdir: Option<OsString>,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,

    /// The agent.
    #[arg(value_name = "TEAM/AGENT")]
    pub target: AgentTarget,

    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    #[arg(value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

/// What was typed after `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Whose.
    #[arg(value_name = "TEAM[/AGENT]")]
    pub target: Target,

    /// Go on with what is written from now on, until the team ends.
    #[arg(short, long)]
    pub follow: bool,

    /// Begin with the last N lines of each agent.
    #[arg(short = 'n', long, value_name = "N")]
    pub tail: Option<usize>,

    /// Show when each line was written.
    #[arg(short, long)]
    pub timestamps: bool,

    /// What happened to the agents (starts, ends, limits, denials), in place of what they wrote.
    #[arg(long, conflicts_with_all = ["follow", "tail", "timestamps"])]
    pub events: bool,

    /// With --events: one JSON object a line.
    #[arg(long, requires = "events")]
    pub json: bool,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// What was typed after `attach`, and after others that take one target.
#[derive(Debug, Args)]
pub struct TargetArgs {
    /// A team, or one agent of it.
    #[arg(value_name = "TEAM[/AGENT]")]
    pub target: Target,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// What was typed after `down` and `rm`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The teams.
    #[arg(required = true, value_name = "TEAM")]
    pub teams: Vec<Target>,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// What was typed after `stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// The team.
    #[arg(value_name = "TEAM")]
    pub target: Target,

    /// Print once and end.
    #[arg(long)]
    pub no_stream: bool,

    /// Print one JSON object a line, for programs.
    #[arg(long)]
    pub json: bool,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// What was typed after `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The team.
    #[arg(value_name = "TEAM")]
    pub target: Target,

    /// Hold the processes against what the jail promises; the exit code is 1 if something is not kept.
    #[arg(long)]
    pub security: bool,

    /// Print one JSON object, for programs; see docs/teams.md.
    #[arg(long)]
    pub json: bool,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

const CP_EXAMPLES: &str = "\
Examples:
  cloister cp research/scout:/tmp/result ./result
  cloister cp ./input.csv research/scout:/tmp/

A directory is copied with what is in it. Owners, set-id bits and links that
lead out of what is copied are not taken over.";

/// What was typed after `cp`.
#[derive(Debug, Args)]
#[command(after_help = CP_EXAMPLES)]
pub struct CpArgs {
    /// What: a path of this host, or TEAM/AGENT:PATH.
    #[arg(value_name = "FROM", value_hint = ValueHint::AnyPath)]
    pub from: CopyPlace,

    /// Where to: a path of this host, or TEAM/AGENT:DIRECTORY.
    #[arg(value_name = "TO", value_hint = ValueHint::AnyPath)]
    pub to: CopyPlace,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// What the warden's process is started with.
#[derive(Debug, Args)]
pub struct WardenArgs {
    /// The state's directory.
    #[arg(long)]
    pub state: PathBuf,

    /// The team's name.
    pub team: Target,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_names_and_nothing_else() {
        let target = |team: &str, agent: Option<&str>| {
            Ok(Target { team: team.into(), agent: agent.map(str::to_owned) })
        };
        assert_eq!("research".parse(), target("research", None));
        assert_eq!("a-1/b".parse(), target("a-1", Some("b")));
        for bad in ["", "A", "-a", "a-", "a/", "/a", "a/b/c", "..", "a/..", "a b", "ä", "a_b"] {
            assert_eq!(bad.parse::<Target>(), Err(TargetError::Name), "{bad:?}");
        }
        assert_eq!("a".parse::<AgentTarget>(), Err(TargetError::NoAgent));
    }

    #[test]
    fn copies_are_between_paths_and_agents() {
        let agent = AgentTarget { team: "a".into(), agent: "b".into() };
        assert_eq!("a/b:/x:y".parse(), Ok(CopyPlace::Agent(agent, "/x:y".into())));
        assert_eq!("./a:b".parse(), Ok(CopyPlace::Host("./a:b".into())));
        assert_eq!("/tmp/x".parse(), Ok(CopyPlace::Host("/tmp/x".into())));
        assert_eq!("a/b:x".parse::<CopyPlace>(), Err(TargetError::Relative));
        assert_eq!("a:/x".parse::<CopyPlace>(), Err(TargetError::NoAgent));
    }
}
