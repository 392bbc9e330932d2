//! `cloister audit verify`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{CommandError, SCHEMA, open, print, print_json, public_key, teams};
use crate::audit::key::PublicKey;
use crate::audit::verify::{self as check, Outcome};
use crate::audit::{self, AuditError};
use crate::cli::audit::VerifyArgs;
use crate::exit_codes;
use crate::images::files::read_bounded;
use crate::text::printable_line;

/// More than any key.
const MAX_KEY: u64 = 64 << 10;

#[derive(Serialize)]
struct Verified {
    schema: u32,
    whole: bool,
    logs: Vec<Log>,
}

#[derive(Serialize)]
struct Log {
    team: String,
    path: PathBuf,
    #[serde(flatten)]
    outcome: Outcome,
}

pub(super) fn verify(arguments: &VerifyArgs) -> Result<u8, CommandError> {
    let named = arguments.key.as_deref().map(read_key).transpose()?;
    let logs = match (&arguments.dir, named) {
        (Some(dir), Some(key)) => vec![one(String::new(), dir.clone(), &key)?],
        (_, named) => of_teams(arguments, named)?,
    };
    let whole = logs.iter().all(|log| log.outcome.is_whole());
    if arguments.json {
        print_json(&Verified { schema: SCHEMA, whole, logs })?;
    } else {
        logs.iter().try_for_each(|log| print(&words(log)))?;
    }
    Ok(if whole { exit_codes::OK } else { exit_codes::LOG_CHANGED })
}

fn read_key(path: &Path) -> Result<PublicKey, CommandError> {
    let wrap = |source| CommandError::Io { what: "read", path: path.to_owned(), source };
    let bytes = std::fs::File::open(path).and_then(|file| read_bounded(file, MAX_KEY));
    let text = String::from_utf8(bytes.map_err(wrap)?).ok();
    let key = text.as_deref().and_then(PublicKey::from_pem);
    key.ok_or_else(|| CommandError::NoKey(path.to_owned()))
}

fn of_teams(arguments: &VerifyArgs, key: Option<PublicKey>) -> Result<Vec<Log>, CommandError> {
    let state = open(&arguments.state)?;
    let key = match key {
        Some(key) => key,
        None => public_key(&state)?,
    };
    let names = if arguments.teams.is_empty() { teams(&state)? } else { arguments.teams.clone() };
    let folder = audit::folder(&state);
    names.into_iter().map(|name| one(name.clone(), folder.join(name), &key)).collect()
}

fn one(team: String, path: PathBuf, key: &PublicKey) -> Result<Log, CommandError> {
    if !path.is_dir() {
        let name = if team.is_empty() { path.display().to_string() } else { team };
        return Err(AuditError::None(name).into());
    }
    let outcome = check::verify(&path, key)?;
    Ok(Log { team, path, outcome })
}

fn words(log: &Log) -> String {
    use std::fmt::Write as _;
    let Log { team, path, outcome } = log;
    let name = if team.is_empty() { path.display().to_string() } else { team.clone() };
    let mut text = String::new();
    let Outcome { records, first, last, digest, .. } = outcome;
    if outcome.is_whole() {
        let state =
            if outcome.closed { "closed" } else { "open: it is written, or its writer was killed" };
        // Writing to a string can't fail.
        writeln!(text, "{name}: whole. {records} records, {first} to {last}; {state}").ok();
        writeln!(text, "  record {last} has the digest {digest}").ok();
        if *first > 1 {
            writeln!(text, "  older records were dropped, as the log was full; it says so itself")
                .ok();
        }
        if outcome.cut_by_crash > 0 {
            let bytes = outcome.cut_by_crash;
            writeln!(
                text,
                "  a crash cut the next record after {bytes} bytes; it was never told as done"
            )
            .ok();
        }
    } else {
        writeln!(text, "{name}: CHANGED. {records} records, up to {last}").ok();
        for finding in &outcome.findings {
            let place = match finding.line {
                0 => String::new(),
                line => format!(", line {line}"),
            };
            let what = printable_line(&finding.what);
            writeln!(text, "  {}{place}: {what}", printable_line(&finding.file)).ok();
        }
    }
    text
}
