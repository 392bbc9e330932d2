//! `cloister audit`: reading and checking what wardens have recorded. Only wardens write.

mod export;
mod show;
mod verify;
mod watch;

use std::io::{self, Write as _};
use std::path::PathBuf;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::audit::export::cursor::CursorError;
use crate::audit::key::{HostKey, PublicKey};
use crate::audit::log::segments;
use crate::audit::{self, AuditError};
use crate::cli::audit::{AuditArgs, AuditCommand, KeyArgs, ListArgs};
use crate::cli::teams::StateArgs;
use crate::exit_codes;
use crate::report::{describe, tell_line};
use crate::state::{StateDir, StateError};

/// Raised when a key goes or changes its meaning.
const SCHEMA: u32 = 1;

/// Why a command about audit logs failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("{} is no public key", .0.display())]
    NoKey(PathBuf),
    #[error("this host has no key yet: nothing was recorded")]
    NothingYet,
    #[error("can't {what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Cursor(#[from] CursorError),
    #[error("can't set up {what}")]
    Setup {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("can't hand records over to {place}")]
    Collector {
        place: String,
        #[source]
        source: io::Error,
    },
    #[error("traces are made of a whole log, and printed")]
    Traces,
    #[error("the log was moved away or removed: {}", .0.display())]
    Moved(PathBuf),
    #[error("can't write standard output")]
    Output(#[source] io::Error),
}

impl CommandError {
    const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::State(error) => Some(error.remedy()),
            Self::Audit(error) => Some(error.remedy()),
            Self::NoKey(_) => Some("name a file that `cloister audit key` has written"),
            Self::NothingYet => {
                Some("`cloister up` makes one with the first team; or name --state")
            }
            Self::Cursor(error) => Some(error.remedy()),
            Self::Collector { .. } => Some(
                "see whether a collector listens there; what it has not got is handed over the \
                 next time, with --cursor-file or --since",
            ),
            Self::Traces => {
                Some("leave --to, --since, --cursor-file and --kind out, or take another --format")
            }
            Self::Moved(_) => Some("start it again for the log that is there now"),
            Self::Io { .. } | Self::Output(_) | Self::Setup { .. } => None,
        }
    }
}

/// Does what was typed.
#[must_use]
pub fn audit(arguments: &AuditArgs) -> u8 {
    let done = match &arguments.command {
        AuditCommand::Ls(arguments) => list(arguments),
        AuditCommand::Show(arguments) => show::show(arguments),
        AuditCommand::Follow(arguments) => show::follow(arguments),
        AuditCommand::Export(arguments) => export::export(arguments),
        AuditCommand::Verify(arguments) => verify::verify(arguments),
        AuditCommand::Key(arguments) => key(arguments),
    };
    match done {
        Ok(code) => code,
        // A reader that went away has had what it wanted.
        Err(CommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            exit_codes::OK
        }
        Err(error) => {
            tell_line(describe(&error, error.remedy()));
            exit_codes::FAILED
        }
    }
}

fn open(arguments: &StateArgs) -> Result<StateDir, CommandError> {
    Ok(StateDir::open(arguments.state.as_deref())?)
}

fn print(text: &str) -> Result<(), CommandError> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(CommandError::Output)
}

fn print_json(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string_pretty(value);
    print(&(text.map_err(|error| CommandError::Output(error.into()))? + "\n"))
}

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(head);
    table
}

/// The key that signs here.
fn public_key(state: &StateDir) -> Result<PublicKey, CommandError> {
    let key = HostKey::find(&audit::folder(state))?.ok_or(CommandError::NothingYet)?;
    Ok(key.public())
}

/// Names of the teams that have a log.
fn teams(state: &StateDir) -> Result<Vec<String>, CommandError> {
    let path = audit::folder(state);
    let wrap = |source| CommandError::Io { what: "read", path: path.clone(), source };
    let entries = match std::fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(wrap)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(wrap)?;
        if entry.file_type().map_err(wrap)?.is_dir() {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    names.sort();
    Ok(names)
}

fn key(arguments: &KeyArgs) -> Result<u8, CommandError> {
    print(&public_key(&open(&arguments.state)?)?.pem())?;
    Ok(exit_codes::OK)
}

#[derive(Serialize)]
struct Listing {
    schema: u32,
    logs: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    team: String,
    path: PathBuf,
    segments: usize,
    bytes: u64,
}

fn list(arguments: &ListArgs) -> Result<u8, CommandError> {
    let state = open(&arguments.state)?;
    let mut logs = Vec::new();
    for team in teams(&state)? {
        let path = audit::folder(&state).join(&team);
        let found = segments(&path);
        let found = found.map_err(|source| CommandError::Io {
            what: "read",
            path: path.clone(),
            source,
        })?;
        let bytes = found.iter().map(|(_, bytes)| bytes).sum();
        logs.push(Listed { team, path, segments: found.len(), bytes });
    }
    if arguments.json {
        print_json(&Listing { schema: SCHEMA, logs })?;
        return Ok(exit_codes::OK);
    }
    let mut table = table(&["TEAM", "BYTES", "SEGMENTS", "DIRECTORY"]);
    for Listed { team, path, segments, bytes } in logs {
        let cells = [team, bytes.to_string(), segments.to_string(), path.display().to_string()];
        table.add_row(cells);
    }
    print(&format!("{table}\n"))?;
    Ok(exit_codes::OK)
}
