//! `cloister audit show` and `follow`: records, as they are or for people.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use rustix::io::Errno;

use super::{CommandError, open, print};
use crate::audit::export::message::{self, for_people};
use crate::audit::reader::Reader;
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
    while let Some(line) = reader.line()? {
        // What is no record is for `verify` to tell.
        let Some(record) = line.record.filter(|record| chosen(which, record)) else { continue };
        let text = text(which, form, &line.bytes, &record);
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
    if let Some(watch) = watch {
        loop {
            while let Some(line) = reader.line()? {
                if let Some(record) = line.record.filter(|record| chosen(which, record)) {
                    print(&text(which, form, &line.bytes, &record))?;
                }
            }
            wait(&watch)?;
        }
    }
    Ok(exit_codes::OK)
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

/// Tells what is written to a log.
pub(super) fn watch(folder: &Path) -> Result<OwnedFd, CommandError> {
    let wrap = |errno: Errno| CommandError::Io {
        what: "watch",
        path: folder.to_owned(),
        source: errno.into(),
    };
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK);
    let watch = watch.map_err(wrap)?;
    let kinds = inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVE_SELF
        | inotify::WatchFlags::DELETE_SELF;
    inotify::add_watch(&watch, folder, kinds).map_err(wrap)?;
    Ok(watch)
}

/// Waits until something was written.
fn wait(watch: &OwnedFd) -> Result<(), CommandError> {
    let failed = |errno: Errno| CommandError::Output(errno.into());
    let mut sources = [PollFd::new(watch, PollFlags::IN)];
    match poll(&mut sources, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(failed(error)),
    }
    let mut told = [0; 4096];
    while rustix::io::read(watch, &mut told).is_ok_and(|count| count > 0) {}
    Ok(())
}
