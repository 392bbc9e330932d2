//! `cloister secret`: what is kept for requests of agents. No command shows a value.

mod input;

use std::io::{self, Write as _};
use std::path::PathBuf;

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::cli::secret::{ListArgs, OAuthArgs, RemoveArgs, SecretArgs, SecretCommand, SetArgs};
use crate::cli::teams::StateArgs;
use crate::exit_codes;
use crate::report::{describe, tell_line};
use crate::secrets::grant::{Endpoint, Grant};
use crate::secrets::value::Secret;
use crate::secrets::{Kept, SecretError, Store};
use crate::state::{StateDir, StateError};

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
    #[error("standard input has more lines than are read: {most}")]
    Lines { most: usize },
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
            Self::Lines { .. } => Some(
                "write the refresh token, then the client's secret, each on one line; `cloister secret set --help` tells what is read",
            ),
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
    let SetArgs { name, file, program, oauth, state } = arguments;
    let store = store(&state)?;
    let kept = match (file, &oauth.oauth) {
        (Some(path), _) => {
            let absolute = std::path::absolute(&path);
            let path = absolute.map_err(|source| CommandError::Path { path, source })?;
            // Told now, and not by the first request that needs it.
            Secret::of_file(&name, &path)?;
            Kept::File(path)
        }
        (None, Some(endpoint)) => Kept::OAuth(grant(&name, endpoint, &oauth)?),
        (None, None) if !program.is_empty() => Kept::Command(program),
        (None, None) => {
            let secret = Secret::of_text(&name, input::value(&name)?)?;
            Kept::Value(secret.bytes().to_vec())
        }
    };
    Ok(store.set(&name, &kept)?)
}

/// A grant: the refresh token is the first line of standard input, the client's secret the next.
fn grant(name: &str, endpoint: &str, typed: &OAuthArgs) -> Result<Grant, CommandError> {
    let mut grant = Grant {
        mark: Grant::new_mark()?,
        endpoint: endpoint.to_owned(),
        client: typed.client.clone().unwrap_or_default(),
        scope: typed.scope.clone().unwrap_or_default(),
        client_secret: None,
        in_body: typed.client_secret_in_body,
        refresh_token: None,
    };
    // What is wrong with the rest is told before anything secret is typed.
    Endpoint::parse(endpoint).map_err(|(why, remedy)| SecretError::Unfit {
        name: name.to_owned(),
        why,
        remedy,
    })?;
    let mut asked = Vec::new();
    if !typed.client_credentials {
        asked.push("refresh token");
    }
    match &typed.client_secret_file {
        Some(path) => {
            grant.client_secret = Some(Secret::of_file(name, path)?.bytes().to_vec());
        }
        None if typed.client_credentials => asked.push("secret of the client"),
        None => asked.push("secret of the client (empty: none)"),
    }
    let lines = if asked.is_empty() { Vec::new() } else { input::lines(name, &asked)? };
    let mut lines = lines.iter().map(|line| line.to_vec());
    if !typed.client_credentials {
        let refresh = lines.next().filter(|line| !line.is_empty());
        grant.refresh_token = Some(refresh.ok_or_else(|| SecretError::Unfit {
            name: name.to_owned(),
            why: "standard input has no refresh token on its first line",
            remedy: "write it there, or use --client-credentials if the client needs none",
        })?);
    }
    if let Some(secret) = lines.next().filter(|line| !line.is_empty()) {
        grant.client_secret = Some(secret);
    }
    Ok(grant)
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
