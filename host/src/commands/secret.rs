//! `cloister secret`: what is kept for requests of agents. No command shows a value.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;

use comfy_table::{Table, presets};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::cli::secret::{ListArgs, RemoveArgs, SecretArgs, SecretCommand, SetArgs};
use crate::cli::teams::StateArgs;
use crate::exit_codes;
use crate::report::{describe, tell_line};
use crate::secrets::value::Secret;
use crate::secrets::{Kept, MAX_VALUE, SecretError, Store};
use crate::state::{StateDir, StateError};
use crate::terminal::RawMode;

/// Raised when a key goes or changes its meaning.
const SCHEMA: u32 = 1;

/// Why a command about secrets failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("can't read standard input")]
    Input(#[source] io::Error),
    #[error("can't write standard output")]
    Output(#[source] io::Error),
    #[error("can't find {}", path.display())]
    Path {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl CommandError {
    const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::State(error) => Some(error.remedy()),
            Self::Secret(error) => Some(error.remedy()),
            _ => None,
        }
    }
}

/// Does what was typed.
#[must_use]
pub fn secret(arguments: SecretArgs) -> u8 {
    let done = match arguments.command {
        SecretCommand::Set(arguments) => set(arguments),
        SecretCommand::Ls(arguments) => list(&arguments),
        SecretCommand::Rm(arguments) => remove(&arguments),
    };
    match done {
        Ok(()) => exit_codes::OK,
        Err(error) => {
            tell_line(describe(&error, error.remedy()));
            exit_codes::FAILED
        }
    }
}

fn store(arguments: &StateArgs) -> Result<Store, CommandError> {
    Ok(Store::of(&StateDir::open(arguments.state.as_deref())?))
}

fn set(arguments: SetArgs) -> Result<(), CommandError> {
    let SetArgs { name, file, program, state } = arguments;
    let store = store(&state)?;
    let kept = match file {
        Some(path) => {
            let absolute = std::path::absolute(&path);
            let path = absolute.map_err(|source| CommandError::Path { path, source })?;
            // Told now, and not by the first request that needs it.
            Secret::of_file(&name, &path)?;
            Kept::File(path)
        }
        None if !program.is_empty() => Kept::Command(program),
        None => {
            let secret = Secret::of_text(&name, typed(&name)?)?;
            Kept::Value(secret.bytes().to_vec())
        }
    };
    Ok(store.set(&name, &kept)?)
}

/// What standard input says; of a terminal one line, which is not shown.
fn typed(name: &str) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    // Room for all of it from the beginning: growing would leave copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_VALUE + 64));
    let mut input = io::stdin().lock();
    if !input.is_terminal() {
        let most = MAX_VALUE as u64 + 3;
        input.take(most).read_to_end(&mut text).map_err(CommandError::Input)?;
        return Ok(text);
    }
    let hidden = RawMode::hidden().map_err(CommandError::Input)?;
    let mut terminal = io::stderr();
    // Nothing depends on the words being seen.
    write!(terminal, "{name}: ").ok();
    let mut byte = Zeroizing::new([0]);
    while text.len() < MAX_VALUE + 3 && input.read(&mut *byte).map_err(CommandError::Input)? > 0 {
        text.push(byte[0]);
        if byte[0] == b'\n' {
            break;
        }
    }
    drop(hidden);
    writeln!(terminal).ok();
    Ok(text)
}

#[derive(Serialize)]
struct Listing {
    schema: u32,
    secrets: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    name: String,
    kept: String,
}

fn list(arguments: &ListArgs) -> Result<(), CommandError> {
    let store = store(&arguments.state)?;
    let mut secrets = Vec::new();
    for name in store.names()? {
        let kept = match store.find(&name) {
            Ok(kept) => kept.shown(),
            Err(SecretError::Sealed(_)) => "can't be opened".to_owned(),
            Err(error) => return Err(error.into()),
        };
        secrets.push(Listed { name, kept });
    }
    let text = if arguments.json {
        serde_json::to_string_pretty(&Listing { schema: SCHEMA, secrets })
            .map_err(|error| CommandError::Output(error.into()))?
    } else {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["NAME", "KEPT AS"]);
        for Listed { name, kept } in secrets {
            table.add_row([name, kept]);
        }
        table.to_string()
    };
    writeln!(io::stdout().lock(), "{text}").map_err(CommandError::Output)
}

fn remove(arguments: &RemoveArgs) -> Result<(), CommandError> {
    let store = store(&arguments.state)?;
    for name in &arguments.names {
        store.remove(name)?;
    }
    Ok(())
}
