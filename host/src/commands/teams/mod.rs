//! The commands of teams. They look into the state's directory and talk to wardens; no process of a
//! team is theirs.

pub mod attach;
pub mod control;
pub mod cp;
pub mod exec;
pub mod inspect;
pub mod keep;
pub mod logs;
pub mod metrics;
pub mod policy;
pub mod ps;
pub mod stats;
pub mod up;

mod apply;

mod learn;

mod questions;

mod resolve;

use std::io::{self, Write as _};

use crate::audit::AuditError;
use crate::cli::teams::StateArgs;
use crate::exit_codes;
use crate::report::{describe, tell_line};
use crate::saved;
use crate::state::db::Db;
use crate::state::rows::{TeamRow, TeamStatus};
use crate::state::{StateDir, StateError};
use crate::transfer::TransferError;
use crate::warden::channel::ChannelError;

/// Why a command about teams failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TeamError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("team {0} does not run")]
    NotRunning(String),
    #[error("team {0} is paused")]
    Paused(String),
    #[error("team {0} is suspended")]
    Suspended(String),
    #[error("team {0} runs")]
    Runs(String),
    #[error("team {team} has no agent {agent:?}")]
    NoAgent { team: String, agent: String },
    #[error("{0}")]
    Refused(String),
    #[error("write a team's name without an agent")]
    WholeTeam,
    #[error("one side must be a path of this host, the other TEAM/AGENT:PATH")]
    CopySides,
    #[error("ended by signal {signal}, while the start of team {team} was taken back")]
    Left { team: String, signal: u8 },
    #[error("ended by signal {signal}, while team {team} was starting")]
    Starting { team: String, signal: u8 },
    #[error("ended by signal {signal}, while team {team} was being kept")]
    Keeping { team: String, signal: u8 },
    #[error("can't set up {what}")]
    Setup {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("can't read {}", path.display())]
    Read {
        path: std::path::PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't write standard output")]
    Output(#[source] io::Error),
    /// Already in words, with what to do.
    #[error("{0}")]
    Told(String),
}

impl TeamError {
    fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::State(error) => Some(error.remedy()),
            Self::Transfer(error) => error.remedy(),
            Self::Audit(error) => Some(error.remedy()),
            Self::NotRunning(_) => Some("`cloister start` starts it again"),
            Self::Paused(_) => Some("`cloister resume` lets it go on"),
            Self::Suspended(_) => {
                Some("`cloister resume` lets it go on, `cloister down` removes it")
            }
            Self::Left { .. } => Some(
                "its warden goes on with that: `cloister ps -a` tells, and `cloister rm` removes the rest",
            ),
            Self::Starting { .. } | Self::Keeping { .. } => {
                Some("its warden goes on with that: `cloister ps -a` tells")
            }
            Self::Runs(_) => Some("`cloister down` stops and removes it"),
            Self::NoAgent { .. } => Some("`cloister ps` lists its agents"),
            Self::Channel(ChannelError::Connect(_) | ChannelError::Gone) => {
                Some("`cloister ps -a` tells how the team stands")
            }
            Self::Channel(_) => Some("restart the team with this version of cloister"),
            _ => None,
        }
    }
}

/// The exit code of what a command did, having told what went wrong.
fn finish(result: Result<u8, TeamError>) -> u8 {
    match result {
        Ok(code) => code,
        // A reader that went away has had what it wanted.
        Err(TeamError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            exit_codes::OK
        }
        Err(TeamError::Told(words)) => {
            tell_line(words);
            exit_codes::FAILED
        }
        Err(error) => {
            tell_line(describe(&error, error.remedy()));
            exit_codes::FAILED
        }
    }
}

fn print(text: &str) -> Result<(), TeamError> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(TeamError::Output)
}

fn open(arguments: &StateArgs) -> Result<StateDir, TeamError> {
    Ok(StateDir::open(arguments.state.as_deref())?)
}

/// The same, for commands that list, begin or remove teams: what a killed command left is removed first.
fn open_and_sweep(arguments: &StateArgs) -> Result<StateDir, TeamError> {
    let state = open(arguments)?;
    for removed in state.sweep()? {
        let place = removed.display();
        tell_line(format_args!("cloister: removed what a killed command had left: {place}"));
    }
    Ok(state)
}

/// A runtime for one thread.
fn runtime() -> Result<tokio::runtime::Runtime, TeamError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| TeamError::Setup { what: "the runtime", source })
}

/// How a team stands: what its warden said, unless it is gone without a word. What is kept of it then is what it can go
/// on from: a team that runs has nothing there.
fn true_status(state: &StateDir, row: &TeamRow) -> Result<TeamStatus, StateError> {
    if row.status.is_alive() && !state.is_locked(&row.name)? {
        let kept = saved::is_there(&state.team(&row.name));
        return Ok(if kept { TeamStatus::Suspended } else { TeamStatus::Crashed });
    }
    Ok(row.status)
}

/// A team that is there; an agent of it, if one is named.
fn check(state: &StateDir, team: &str, agent: Option<&str>) -> Result<TeamRow, TeamError> {
    let db = Db::open(state)?;
    let row = db.team(team)?;
    if let Some(agent) = agent
        && !db.agents(team)?.iter().any(|row| row.name == agent)
    {
        return Err(TeamError::NoAgent { team: team.to_owned(), agent: agent.to_owned() });
    }
    Ok(row)
}

/// The same, of a team that runs or is paused.
fn check_alive(state: &StateDir, team: &str, agent: Option<&str>) -> Result<TeamRow, TeamError> {
    let row = check(state, team, agent)?;
    match true_status(state, &row)? {
        TeamStatus::Running | TeamStatus::Paused => Ok(row),
        TeamStatus::Suspended => Err(TeamError::Suspended(team.to_owned())),
        _ => Err(TeamError::NotRunning(team.to_owned())),
    }
}

/// A team that runs; an agent of it, if one is named.
fn check_running(state: &StateDir, team: &str, agent: Option<&str>) -> Result<TeamRow, TeamError> {
    let row = check(state, team, agent)?;
    match true_status(state, &row)? {
        TeamStatus::Running => Ok(row),
        TeamStatus::Paused => Err(TeamError::Paused(team.to_owned())),
        TeamStatus::Suspended => Err(TeamError::Suspended(team.to_owned())),
        _ => Err(TeamError::NotRunning(team.to_owned())),
    }
}
