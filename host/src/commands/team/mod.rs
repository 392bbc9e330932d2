//! `cloister validate`, `plan`, `explain` and `schema`: team files are read, and nothing is started.

mod listing;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::team::{ExplainArgs, PlanArgs, StoreArgs, ValidateArgs};
use crate::exit_codes;
use crate::images::store::{Store, StoreError};
use crate::report::{describe, tell_line};
use crate::team::load::{Loaded, load_for_me};
use crate::team::mistake::{Mistake, nearest};
use crate::team::plan::{Plan, TeamError};
use crate::team::schema as team_schema;
use crate::text::printable_line;

/// Raised when a key goes or changes its meaning.
const SCHEMA: u32 = 1;

/// Why a command about a team file failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Team(#[from] TeamError),
    #[error("the team has no agent {name:?}")]
    NoAgent { name: String, remedy: String },
    #[error("can't write standard output")]
    Output(#[source] io::Error),
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        Self::Team(TeamError::Store(error))
    }
}

/// Checks a team file.
#[must_use]
pub fn validate(arguments: &ValidateArgs) -> u8 {
    let result = store_path(&arguments.store)
        .map_err(CommandError::from)
        .and_then(|store| Ok(load_for_me(&arguments.file, &store)?));
    if arguments.json {
        return end(result.map_or_else(validated_json, |_| {
            print(&listing::pretty(&Validated { schema: SCHEMA, ok: true, mistakes: &[] }))
        }));
    }
    end(result.and_then(|loaded: Loaded| {
        let count = match loaded.file.agents.len() {
            1 => "1 agent".to_owned(),
            count => format!("{count} agents"),
        };
        let file = printable_line(&arguments.file.to_string_lossy());
        print(&format!("{file}: team {} with {count}, in order\n", loaded.file.name.value))
    }))
}

#[derive(Serialize)]
struct Validated<'a> {
    schema: u32,
    ok: bool,
    mistakes: &'a [Mistake],
}

/// Mistakes are what was asked for; the exit code tells them apart all the same.
fn validated_json(error: CommandError) -> Result<(), CommandError> {
    if let CommandError::Team(TeamError::Mistakes(mistakes)) = &error {
        let mistakes = mistakes.list();
        print(&listing::pretty(&Validated { schema: SCHEMA, ok: false, mistakes }))?;
    }
    Err(error)
}

/// Shows what would be started.
#[must_use]
pub fn plan(arguments: &PlanArgs) -> u8 {
    end(planned(&arguments.file, &arguments.store).and_then(|plan| {
        print(&if arguments.json { listing::plan_json(&plan) } else { listing::plan(&plan) })
    }))
}

/// Shows what each agent may do, and who says so.
#[must_use]
pub fn explain(arguments: &ExplainArgs) -> u8 {
    end(planned(&arguments.file, &arguments.store).and_then(|mut plan| {
        if let Some(name) = &arguments.agent {
            let names = plan.agents.iter().map(|agent| agent.name.value.as_str());
            let near = nearest(name, names.clone());
            let list: Vec<&str> = names.collect();
            let remedy = near.map_or_else(
                || format!("its agents are {}", list.join(", ")),
                |near| format!("did you mean {near}?"),
            );
            plan.agents.retain(|agent| agent.name.value == *name);
            if plan.agents.is_empty() {
                return Err(CommandError::NoAgent { name: name.clone(), remedy });
            }
        }
        print(&if arguments.json { listing::explain_json(&plan) } else { listing::explain(&plan) })
    }))
}

/// Prints the JSON Schema of team files.
#[must_use]
pub fn schema() -> u8 {
    end(print(&team_schema::text()))
}

fn planned(file: &Path, store: &StoreArgs) -> Result<Plan, CommandError> {
    let path = store_path(store)?;
    let loaded = load_for_me(file, &path)?;
    // Nothing is changed: a store that is not there is not made.
    let store = if path.exists() { Some(Store::open(&path)?) } else { None };
    Ok(loaded.resolve(store.as_ref())?.plan)
}

fn store_path(arguments: &StoreArgs) -> Result<PathBuf, StoreError> {
    match &arguments.store {
        Some(path) => Ok(path.clone()),
        None => Store::usual_path(),
    }
}

fn print(text: &str) -> Result<(), CommandError> {
    io::stdout().write_all(text.as_bytes()).map_err(CommandError::Output)
}

fn end(result: Result<(), CommandError>) -> u8 {
    match result {
        Ok(()) => exit_codes::OK,
        Err(CommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            exit_codes::OK
        }
        Err(CommandError::Team(TeamError::Mistakes(mistakes))) => {
            tell_line(format_args!("cloister: {mistakes}"));
            exit_codes::TEAM_FILE_WRONG
        }
        Err(error) => {
            let remedy = match &error {
                CommandError::Team(error) => error.remedy(),
                CommandError::NoAgent { remedy, .. } => Some(remedy.as_str()),
                CommandError::Output(_) => None,
            };
            tell_line(describe(&error, remedy));
            exit_codes::FAILED
        }
    }
}
