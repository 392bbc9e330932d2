//! `cloister audit show`, `follow` and `export`: records, as they are or for people or collectors.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use rustix::io::Errno;

use super::{CommandError, open, print};
use crate::audit::log::{segment_name, segments};
use crate::audit::record::{MAX_LINE, Record};
use crate::audit::{self, AuditError, ocsf};
use crate::cli::audit::{ExportArgs, FollowArgs, Format, ShowArgs, WhichArgs};
use crate::exit_codes;
use crate::text::{printable, printable_line};

/// How a record is printed.
#[derive(Clone, Copy)]
enum Form {
    People,
    Records,
    Ocsf,
}

pub(super) fn show(arguments: &ShowArgs) -> Result<u8, CommandError> {
    let form = if arguments.json { Form::Records } else { Form::People };
    run(&arguments.which, form, arguments.tail, arguments.follow)
}

pub(super) fn follow(arguments: &FollowArgs) -> Result<u8, CommandError> {
    let form = if arguments.json { Form::Records } else { Form::People };
    run(&arguments.which, form, Some(0), true)
}

pub(super) fn export(arguments: &ExportArgs) -> Result<u8, CommandError> {
    let form = match arguments.format {
        Format::Ocsf => Form::Ocsf,
        Format::Records => Form::Records,
    };
    run(&arguments.which, form, None, arguments.follow)
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
    let mut reader = Reader { folder, at: None };
    let mut last = VecDeque::new();
    reader.read(|line| match (wanted(which, &line), tail) {
        (Some(record), None) => print(&text(which, form, &line, &record)),
        (Some(record), Some(most)) => {
            last.push_back(text(which, form, &line, &record));
            if last.len() > most {
                last.pop_front();
            }
            Ok(())
        }
        (None, _) => Ok(()),
    })?;
    last.iter().try_for_each(|text| print(text))?;
    if let Some(watch) = watch {
        loop {
            reader.read(|line| match wanted(which, &line) {
                Some(record) => print(&text(which, form, &line, &record)),
                None => Ok(()),
            })?;
            wait(&watch)?;
        }
    }
    Ok(exit_codes::OK)
}

/// The record, if it was asked for.
fn wanted(which: &WhichArgs, line: &[u8]) -> Option<Record> {
    // What is no record is for `verify` to tell.
    let record = Record::read(line).ok()?;
    let agent = which.target.agent.as_ref().is_none_or(|agent| *agent == record.agent);
    let kind = which.kind.is_empty() || which.kind.contains(&record.kind);
    (agent && kind).then_some(record)
}

fn text(which: &WhichArgs, form: Form, line: &[u8], record: &Record) -> String {
    let mut text = match form {
        Form::Records => printable(line),
        Form::Ocsf => ocsf::event(&which.target.team, record).to_string(),
        Form::People => for_people(&which.target.team, record),
    };
    text.push('\n');
    text
}

fn for_people(team: &str, record: &Record) -> String {
    let time = record.time.get(..23).unwrap_or(&record.time);
    let who = if record.agent.is_empty() { team } else { &record.agent };
    let by = record.by.as_ref().map(|by| format!(" [user {}, process {}]", by.uid, by.pid));
    let mut words = record.detail.clone();
    // An agent's command is more than its first word.
    if let Some(arguments) = record.data.get("arguments").and_then(|list| list.as_array()) {
        let arguments: Vec<_> = arguments.iter().filter_map(|word| word.as_str()).collect();
        words = arguments.join(" ");
    }
    let line = format!("{time}Z {who} {} {words}{}", record.kind, by.unwrap_or_default());
    printable_line(line.trim_end())
}

/// Reads a log's lines, and later those that came since.
struct Reader {
    folder: PathBuf,
    /// The segment that was read last, and up to where.
    at: Option<(u64, u64)>,
}

impl Reader {
    fn read(
        &mut self,
        mut take: impl FnMut(Vec<u8>) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        let folder = self.folder.clone();
        let wrap = |source| CommandError::Io { what: "read", path: folder.clone(), source };
        for (number, _) in segments(&self.folder).map_err(wrap)? {
            let begin = match self.at {
                Some((last, _)) if number < last => continue,
                Some((last, begin)) if number == last => begin,
                _ => 0,
            };
            let mut file = match File::open(self.folder.join(segment_name(number))) {
                // Dropped meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.map_err(wrap)?,
            };
            file.seek(SeekFrom::Start(begin)).map_err(wrap)?;
            let mut input = BufReader::new(file);
            let mut end = begin;
            loop {
                let mut line = Vec::new();
                let most = MAX_LINE as u64;
                input.by_ref().take(most).read_until(b'\n', &mut line).map_err(wrap)?;
                // The rest of it may still come.
                if line.pop() != Some(b'\n') {
                    break;
                }
                end = end.saturating_add(line.len() as u64).saturating_add(1);
                take(line)?;
            }
            self.at = Some((number, end));
        }
        Ok(())
    }
}

fn watch(folder: &Path) -> Result<OwnedFd, CommandError> {
    let wrap = |errno: Errno| CommandError::Io {
        what: "watch",
        path: folder.to_owned(),
        source: errno.into(),
    };
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK);
    let watch = watch.map_err(wrap)?;
    let kinds = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
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
