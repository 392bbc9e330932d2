//! `cloister audit show` and `follow`: records, as they are or for people.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use super::watch::{or_moved, wait, watch};
use super::{CommandError, open, print};
use crate::audit::export::message::{self, for_people};
use crate::audit::reader::{Line, Reader};
use crate::audit::record::Record;
use crate::audit::{self, AuditError};
use crate::cli::audit::{FollowArgs, ShowArgs, WhichArgs};
use crate::exit_codes;
use crate::text::printable_line;

/// How a record is printed.
#[derive(Clone, Copy)]
enum Form {
    People,
    Records,
}

pub(super) fn show(arguments: &ShowArgs) -> Result<u8, CommandError> {
    let form = if arguments.json { Form::Records } else { Form::People };
    run(&arguments.which, form, arguments.tail, arguments.follow)
}

pub(super) fn follow(arguments: &FollowArgs) -> Result<u8, CommandError> {
    let form = if arguments.json { Form::Records } else { Form::People };
    run(&arguments.which, form, Some(0), true)
}

fn run(
    which: &WhichArgs,
    form: Form,
    tail: Option<usize>,
    follow: bool,
) -> Result<u8, CommandError> {
    let folder = audit::folder(&open(&which.state)?).join(&which.target.team);
    if !folder.is_dir() {
        return Err(AuditError::None(which.target.team.clone()).into());
    }
    // Before the first look, so that nothing falls in between.
    let watch = follow.then(|| watch(&folder)).transpose()?;
    let mut reader = Reader::new(&folder);
    let mut last = VecDeque::new();
    while let Some(line) = reader.line().map_err(|error| or_moved(error, &folder))? {
        let Some(text) = text_of(which, form, &line) else { continue };
        let Some(most) = tail else {
            print(&text)?;
            continue;
        };
        last.push_back(text);
        if last.len() > most {
            last.pop_front();
        }
    }
    last.iter().try_for_each(|text| print(text))?;
    match watch {
        Some(watch) => follow_on(which, form, &mut reader, &watch),
        None => Ok(exit_codes::OK),
    }
}

/// Prints what comes, until the log is not there any more.
fn follow_on(
    which: &WhichArgs,
    form: Form,
    reader: &mut Reader,
    watch: &OwnedFd,
) -> Result<u8, CommandError> {
    let folder = reader.folder().to_owned();
    loop {
        let waited = wait(watch, &folder);
        loop {
            let line = match (reader.line(), &waited) {
                (Ok(Some(line)), _) => line,
                // Of a log that is gone there is what can still be read.
                (Ok(None), _) | (Err(_), Err(_)) => break,
                (Err(error), Ok(())) => return Err(or_moved(error, &folder)),
            };
            if let Some(text) = text_of(which, form, &line) {
                print(&text)?;
            }
        }
        waited?;
    }
}

/// What is printed of a line; nothing of a record that was not asked for, and of what is no record: that is for `verify`
/// to tell.
fn text_of(which: &WhichArgs, form: Form, line: &Line) -> Option<String> {
    let record = line.record.as_ref().filter(|record| chosen(which, record))?;
    Some(text(which, form, &line.bytes, record))
}

/// Whether a record was asked for.
pub(super) fn chosen(which: &WhichArgs, record: &Record) -> bool {
    let agent = which.target.agent.as_ref().is_none_or(|agent| *agent == record.agent);
    let kind = which.kind.is_empty() || which.kind.contains(&record.kind);
    agent && kind
}

fn text(which: &WhichArgs, form: Form, line: &[u8], record: &Record) -> String {
    let mut text = match form {
        Form::Records => message::json(&which.target.team, line, record, message::Form::Record),
        Form::People => line_of(&which.target.team, record),
    };
    text.push('\n');
    text
}

fn line_of(team: &str, record: &Record) -> String {
    let time = record.time.get(..23).unwrap_or(&record.time);
    let who = if record.agent.is_empty() { team } else { &record.agent };
    printable_line(&format!("{time}Z {who} {}", for_people(record)))
}
