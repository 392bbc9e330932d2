//! `cloister logs`: what agents wrote, from the files that their warden keeps; also when it is gone.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use rustix::io::Errno;

use super::attach::Shown;
use super::{TeamError, check, finish, open, print};
use crate::cli::teams::LogsArgs;
use crate::exit_codes;
use crate::report::{describe, tell_line};
use crate::state::StateDir;
use crate::state::db::Db;
use crate::text::{printable, printable_line};
use crate::warden::api::Reply;
use crate::warden::events::{self, Event};
use crate::warden::log::{MAX_LINE, ROTATED, Record, parse};

/// Longest line of a log file: a record with its time and tags.
const MAX_RECORD: u64 = MAX_LINE as u64 + 128;

/// Prints logs or events.
#[must_use]
pub fn logs(arguments: &LogsArgs) -> u8 {
    finish(run(arguments))
}

fn run(arguments: &LogsArgs) -> Result<u8, TeamError> {
    let state = open(&arguments.state)?;
    let target = &arguments.target;
    check(&state, &target.team, target.agent.as_deref())?;
    let folder = state.logs(&target.team);
    if arguments.events {
        return print_events(&folder, arguments);
    }
    let names: Vec<String> = match &target.agent {
        Some(agent) => vec![agent.clone()],
        None => Db::open(&state)?.agents(&target.team)?.into_iter().map(|row| row.name).collect(),
    };
    let mut printer = Printer::new(target.agent.is_none(), arguments.timestamps);
    // Before the first look, so that nothing falls in between.
    let watch = if arguments.follow { Some(Watch::new(&state, &target.team)?) } else { None };
    let tails = print_past(&folder, &names, arguments.tail, &mut printer)?;
    match watch {
        Some(watch) => Follower { watch, tails }.run(&mut printer)?,
        None => printer.finish()?,
    }
    Ok(exit_codes::OK)
}

/// Prints logs as they grow.
pub(super) struct Follower {
    watch: Watch,
    tails: Vec<Tail>,
}

impl Follower {
    /// Of these agents, from the beginning of their present logs.
    pub(super) fn new(state: &StateDir, team: &str, names: &[String]) -> Result<Self, TeamError> {
        let folder = state.logs(team);
        let tail = |name: &String| {
            let path = folder.join(format!("{name}.log"));
            Tail { name: name.clone(), path, file: None, at: 0 }
        };
        Ok(Self { watch: Watch::new(state, team)?, tails: names.iter().map(tail).collect() })
    }

    /// Until the team's warden has ended.
    pub(super) fn run(mut self, printer: &mut Printer) -> Result<(), TeamError> {
        let mut ended = false;
        loop {
            for tail in &mut self.tails {
                tail.print_new(printer)?;
            }
            if ended {
                return printer.finish();
            }
            // What it wrote before its end is looked at once more.
            ended = self.watch.wait()?;
        }
    }
}

/// One line of a log with its agent.
struct Line {
    agent: usize,
    bytes: Vec<u8>,
}

/// Puts lines of logs on standard output and standard error.
pub(super) struct Printer {
    shown: Shown,
    timestamps: bool,
}

impl Printer {
    /// With each line behind its agent's name if `named`.
    pub(super) fn new(named: bool, timestamps: bool) -> Self {
        Self { shown: Shown::new(named), timestamps }
    }

    /// Prints what has not ended in a line end.
    fn finish(&mut self) -> Result<(), TeamError> {
        self.shown.reply(Ok(Reply::Ended)).map(|_last| ())
    }

    fn print(&mut self, agent: &str, line: &[u8]) -> Result<(), TeamError> {
        // What is no record is a torn one.
        let Some(Record { time, source, whole, text }) = parse(line) else { return Ok(()) };
        let mut bytes = Vec::with_capacity(text.len() + 40);
        if self.timestamps {
            bytes.extend_from_slice(time);
            bytes.push(b' ');
        }
        bytes.extend_from_slice(text);
        if whole {
            bytes.push(b'\n');
        }
        self.shown.reply(Ok(Reply::Output { agent: agent.to_owned(), source, bytes }))?;
        Ok(())
    }
}

/// Prints what is there, of several agents in the order of time; where to go on.
fn print_past(
    folder: &Path,
    names: &[String],
    tail: Option<usize>,
    printer: &mut Printer,
) -> Result<Vec<Tail>, TeamError> {
    let mut tails = Vec::new();
    let mut sources: Vec<Source> = Vec::new();
    for (agent, name) in names.iter().enumerate() {
        let path = folder.join(format!("{name}.log"));
        // The one before it may be moved away meanwhile; the file that is read stays the same.
        let mut rotated = path.clone().into_os_string();
        rotated.push(ROTATED);
        let before = open_log(Path::new(&rotated))?;
        let now = open_log(&path)?;
        let at = match &now {
            Some(now) => now.metadata().map_err(read_error(&path))?.len(),
            None => 0,
        };
        let followed = now.as_ref().map(File::try_clone).transpose().map_err(read_error(&path))?;
        tails.push(Tail { name: name.clone(), path, file: followed, at });
        // Up to where the tail goes on.
        let files = before.map(|file| file.take(u64::MAX)).into_iter();
        let files = files.chain(now.map(|file| file.take(at)));
        let all = files.flat_map(records).map(move |bytes| Line { agent, bytes });
        let all: Box<dyn Iterator<Item = Line>> = match tail {
            None => Box::new(all),
            Some(most) => {
                let mut last = VecDeque::new();
                for line in all {
                    if last.len() == most {
                        last.pop_front();
                    }
                    if most > 0 {
                        last.push_back(line);
                    }
                }
                Box::new(last.into_iter())
            }
        };
        sources.push(Source::new(all));
    }
    loop {
        let first = sources.iter_mut().filter(|source| source.next.is_some());
        // The oldest, as lines begin with their time; of two at the same time the one listed first.
        let first = first.min_by(|a, b| a.time().cmp(b.time()));
        let Some(line) = first.and_then(Source::take) else { return Ok(tails) };
        if let Some(name) = names.get(line.agent) {
            printer.print(name, &line.bytes)?;
        }
    }
}

/// The lines of one agent, with the next one at hand.
struct Source {
    next: Option<Line>,
    rest: Box<dyn Iterator<Item = Line>>,
}

impl Source {
    fn new(mut rest: Box<dyn Iterator<Item = Line>>) -> Self {
        Self { next: rest.next(), rest }
    }

    fn take(&mut self) -> Option<Line> {
        std::mem::replace(&mut self.next, self.rest.next())
    }

    fn time(&self) -> &[u8] {
        let line = self.next.as_ref().map_or(&[][..], |line| &line.bytes);
        line.split(|byte| *byte == b' ').next().unwrap_or_default()
    }
}

/// The lines of a log, each within the bound.
fn records(file: impl io::Read) -> impl Iterator<Item = Vec<u8>> {
    let mut reader = BufReader::new(file);
    std::iter::from_fn(move || {
        let mut line = Vec::new();
        let count = reader.by_ref().take(MAX_RECORD).read_until(b'\n', &mut line).ok()?;
        if count == 0 {
            return None;
        }
        if line.ends_with(b"\n") {
            line.pop();
        }
        Some(line)
    })
}

/// Where a followed log was read to.
struct Tail {
    name: String,
    path: PathBuf,
    file: Option<File>,
    at: u64,
}

impl Tail {
    /// Prints the whole lines behind the place that was read to.
    fn print_rest(&mut self, printer: &mut Printer) -> Result<(), TeamError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.seek(SeekFrom::Start(self.at)).map_err(read_error(&self.path))?;
        let mut reader = BufReader::new(&*file);
        loop {
            let mut line = Vec::new();
            let count = (&mut reader)
                .take(MAX_RECORD)
                .read_until(b'\n', &mut line)
                .map_err(read_error(&self.path))?;
            // The rest of it comes later.
            if line.pop() != Some(b'\n') {
                return Ok(());
            }
            self.at = self.at.saturating_add(count as u64);
            printer.print(&self.name, &line)?;
        }
    }

    /// Prints what has come since the last time.
    fn print_new(&mut self, printer: &mut Printer) -> Result<(), TeamError> {
        loop {
            self.print_rest(printer)?;
            // Rotated, or made only now?
            let Some(now) = open_log(&self.path)? else { return Ok(()) };
            let id = |file: &File| file.metadata().map(|data| (data.dev(), data.ino()));
            let new = id(&now).map_err(read_error(&self.path))?;
            match &self.file {
                Some(file) if id(file).map_err(read_error(&self.path))? == new => return Ok(()),
                _ => (self.file, self.at) = (Some(now), 0),
            }
        }
    }
}

fn open_log(path: &Path) -> Result<Option<File>, TeamError> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some).map_err(read_error(path)),
    }
}

fn read_error(path: &Path) -> impl Fn(io::Error) -> TeamError {
    move |source| TeamError::Read { path: path.to_owned(), source }
}

/// Tells when a team's logs have changed, and when its warden has ended.
struct Watch {
    changes: OwnedFd,
    /// Hung up when the warden has ended.
    ended: OwnedFd,
}

impl Watch {
    fn new(state: &StateDir, team: &str) -> Result<Self, TeamError> {
        let wrap = |what| move |source: Errno| TeamError::Setup { what, source: source.into() };
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let changes = inotify::init(flags).map_err(wrap("a watch on the logs"))?;
        let kinds = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&changes, state.logs(team), kinds)
            .map_err(wrap("a watch on the logs"))?;
        let (ended, held) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(wrap("a pipe"))?;
        let (state, team) = (state.clone(), team.to_owned());
        // Waiting for a lock blocks, so a thread of its own does it; it ends with the process.
        thread::Builder::new()
            .name("warden's end".into())
            .spawn(move || {
                if let Err(error) = state.await_end(&team) {
                    tell_line(describe(&error, Some(error.remedy())));
                }
                drop(held);
            })
            .map_err(|source| TeamError::Setup { what: "a thread", source })?;
        Ok(Self { changes, ended })
    }

    /// Waits for either; whether the warden has ended.
    fn wait(&self) -> Result<bool, TeamError> {
        let mut sources = [
            PollFd::from_borrowed_fd(self.changes.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.ended.as_fd(), PollFlags::IN),
        ];
        match poll(&mut sources, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                return Err(TeamError::Setup { what: "a wait for the logs", source: error.into() });
            }
        }
        let ended = sources.last().is_some_and(|source| !source.revents().is_empty());
        // What changed does not matter: all logs are looked at.
        let mut told = [0; 4096];
        while rustix::io::read(&self.changes, &mut told).is_ok_and(|count| count > 0) {}
        Ok(ended)
    }
}

fn print_events(folder: &Path, arguments: &LogsArgs) -> Result<u8, TeamError> {
    let path = folder.join(events::FILE);
    let mut rotated = path.clone().into_os_string();
    rotated.push(ROTATED);
    for file in [open_log(Path::new(&rotated))?, open_log(&path)?].into_iter().flatten() {
        for line in records(file) {
            let Ok(event) = serde_json::from_slice::<Event>(&line) else { continue };
            if arguments.target.agent.as_ref().is_some_and(|agent| *agent != event.agent) {
                continue;
            }
            if arguments.json {
                print(&(printable(&line) + "\n"))?;
                continue;
            }
            let time = chrono::DateTime::from_timestamp_millis(event.time_ms)
                .map(|time| time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
                .unwrap_or_default();
            let Event { agent, kind, detail, .. } = event;
            let who = if agent.is_empty() { &arguments.target.team } else { &agent };
            print(&format!("{time} {who} {kind} {}\n", printable_line(&detail)))?;
        }
    }
    Ok(exit_codes::OK)
}
