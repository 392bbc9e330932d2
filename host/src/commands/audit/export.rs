//! `cloister audit export`: records for programs, on standard output or by a collector's protocol, each at least once.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::show::chosen;
use super::watch::{or_moved, take, watch};
use super::{CommandError, open};
use crate::audit::export::collector::{Collector, Sent};
use crate::audit::export::cursor::Cursor;
use crate::audit::export::message::{Form, Message};
use crate::audit::export::otlp::Traces;
use crate::audit::export::source::{Gap, Item, Passed, Source};
use crate::audit::record::Place;
use crate::audit::{self, AuditError};
use crate::cli::audit::{ExportArgs, Format};
use crate::exit_codes;
use crate::launch;
use crate::report::{chain, tell_line};
use crate::signals::Signals;

/// How long after it was sent something is made certain, and its place kept: so many go at once, and a collector by TCP
/// gets one connection a second at most.
const SETTLE_AFTER: Duration = Duration::from_secs(1);
/// Most messages that wait for that: so many come twice after a crash.
const MAX_UNSETTLED: u32 = 4096;
/// How long a collector that is gone is left alone, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often it is tried in all if nobody asked to go on with what comes.
const MAX_TRIES: u32 = 6;
/// How long an interrupt waits for the collector to have what was sent.
const LAST_LIMIT: Duration = Duration::from_secs(5);

/// Why it does not go on.
enum Stop {
    /// Here something is wrong.
    Own(CommandError),
    /// The collector is gone.
    Collector(io::Error),
}

impl<E: Into<CommandError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Own(error.into())
    }
}

pub(super) fn export(arguments: &ExportArgs) -> Result<u8, CommandError> {
    let setup = |source| CommandError::Setup { what: "the runtime", source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(setup)?;
    let done = runtime.block_on(run(arguments));
    // A reader of standard output that does not read is not waited for.
    runtime.shutdown_background();
    done
}

async fn run(arguments: &ExportArgs) -> Result<u8, CommandError> {
    let mut signals = Signals::listen()
        .map_err(|source| CommandError::Setup { what: "the signal handlers", source })?;
    let mut export = Export::open(arguments)?;
    let ended = tokio::select! {
        done = export.work() => done.map(|()| None),
        signal = signals.end() => Ok(Some(signal)),
    };
    let ended = match ended {
        Ok(Some(signal)) => export.last_words().await.map(|()| Some(signal)),
        ended => ended,
    };
    export.tell_place();
    Ok(match ended? {
        _ if export.missing => exit_codes::RECORDS_MISSING,
        Some(signal) => exit_codes::of_signal(signal),
        None => exit_codes::OK,
    })
}

struct Export<'a> {
    arguments: &'a ExportArgs,
    folder: PathBuf,
    source: Source,
    collector: Collector,
    cursor: Option<Cursor>,
    traces: Option<Traces>,
    watch: Option<AsyncFd<OwnedFd>>,
    /// What the collector has for certain, and what it was sent.
    settled: Option<Place>,
    sent: Option<Place>,
    /// It was asked, and has not answered: it is not asked twice about the same.
    settling: bool,
    /// How many messages it may have or not, and since when.
    unsettled: u32,
    since: Option<Instant>,
    /// Something was missing.
    missing: bool,
    /// What was wrong with the collector last.
    trouble: Option<String>,
}

impl<'a> Export<'a> {
    fn open(arguments: &'a ExportArgs) -> Result<Self, CommandError> {
        let target = &arguments.which.target;
        let team = &target.team;
        let traces = match arguments.format {
            Format::Otlp if !is_whole(arguments) => return Err(CommandError::Traces),
            Format::Otlp => Some(Traces::new(team, target.agent.as_deref())),
            Format::Ocsf | Format::Records => None,
        };
        let folder = audit::folder(&open(&arguments.which.state)?).join(team);
        if !folder.is_dir() {
            return Err(AuditError::None(team.clone()).into());
        }
        let register = |watch| {
            launch::place::watch(watch)
                .map_err(|source| CommandError::Setup { what: "the watch of the log", source })
        };
        // Before the first look, so that nothing falls in between.
        let watch = arguments.follow.then(|| watch(&folder).and_then(register)).transpose()?;
        let cursor = arguments.cursor_file.as_ref().map(|path| Cursor::new(path, team));
        let kept = cursor.as_ref().map(Cursor::load).transpose()?.flatten();
        let source = match (&kept, arguments.since) {
            (Some(place), _) => Source::after(&folder, place.clone())?,
            (None, Some(number)) => Source::since(&folder, number)?,
            (None, None) => Source::whole(&folder),
        };
        let most = usize::try_from(arguments.max_message).unwrap_or(usize::MAX);
        let collector = Collector::new(arguments.to.as_ref(), arguments.facility, most);
        // Another log than the cursor's has none of its records handed over.
        let settled = source.place().cloned();
        Ok(Self {
            arguments,
            folder,
            source,
            collector,
            cursor,
            traces,
            watch,
            sent: settled.clone(),
            settled,
            settling: false,
            unsettled: 0,
            since: None,
            missing: false,
            trouble: None,
        })
    }

    fn team(&self) -> &'a str {
        &self.arguments.which.target.team
    }

    fn form(&self) -> Form {
        match self.arguments.format {
            Format::Ocsf => Form::Ocsf,
            // A gap in what traces are made of.
            Format::Records | Format::Otlp => Form::Record,
        }
    }

    /// Hands over what there is, and, if asked to follow, what comes, over all failures of the collector.
    async fn work(&mut self) -> Result<(), CommandError> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        loop {
            let before = self.settled.clone();
            let error = match self.hand_over().await {
                Ok(()) => return Ok(()),
                Err(Stop::Own(error)) => return Err(error),
                Err(Stop::Collector(error)) => error,
            };
            if self.settled != before {
                (pause, tries) = (FIRST_PAUSE, 0);
            }
            tries += 1;
            let Some(place) = &self.arguments.to else { return Err(CommandError::Output(error)) };
            if tries >= MAX_TRIES && !self.arguments.follow {
                let place = place.to_string();
                return Err(CommandError::Collector { place, source: error });
            }
            let words = chain(&error);
            if self.trouble.as_ref() != Some(&words) {
                tell_line(format_args!("cloister: no way to {place}: {words}; it is tried again"));
                self.trouble = Some(words);
            }
            // Before the pause, so that an interrupt in it finds nothing that was sent.
            self.go_back()?;
            sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    /// Forgets what the collector may have or not.
    fn go_back(&mut self) -> Result<(), CommandError> {
        self.collector.disconnect();
        (self.unsettled, self.since, self.settling) = (0, None, false);
        self.sent = self.settled.clone();
        Ok(self.source.back_to(self.settled.clone())?)
    }

    async fn hand_over(&mut self) -> Result<(), Stop> {
        loop {
            while let Some(item) =
                self.source.item().map_err(|error| or_moved(error, &self.folder))?
            {
                self.pass(&item).await?;
                self.sent = self.source.place().cloned();
                let due = self.since.is_some_and(|since| since.elapsed() >= SETTLE_AFTER);
                if due || self.unsettled >= MAX_UNSETTLED {
                    self.settle().await?;
                }
            }
            self.collector.flush().await.map_err(Stop::Collector)?;
            let Some(watch) = &self.watch else { return self.settle().await };
            let due = self.since.map(|since| since + SETTLE_AFTER);
            tokio::select! {
                changed = changed(watch, &self.folder) => changed?,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.settle().await?;
                }
            }
        }
    }

    async fn pass(&mut self, item: &Item) -> Result<(), Stop> {
        // Those that nobody asked for are passed without a wait; signals have to be seen all the same.
        tokio::task::consume_budget().await;
        let message = match item {
            Item::Record(passed) if self.traces.is_some() => return self.trace(passed).await,
            Item::Gap(gap) if self.traces.is_some() => {
                self.tell_gap(gap);
                None
            }
            Item::Record(passed) if !chosen(&self.arguments.which, &passed.record) => None,
            Item::Record(passed) => Some(Message::of_record(self.team(), passed, self.form())),
            Item::Gap(gap) => {
                self.tell_gap(gap);
                let now = Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true);
                Some(Message::of_gap(self.team(), gap, now, self.form()))
            }
        };
        if let Some(message) = message {
            let sent = self.collector.send(&message).await.map_err(Stop::Collector)?;
            if sent == Sent::Cut {
                let (number, bytes) = (message.record, message.json.len());
                tell_line(format_args!(
                    "cloister: record {number} is too long for the collector ({bytes} bytes): its number and digest went alone"
                ));
            }
        }
        self.unsettled = self.unsettled.saturating_add(1);
        self.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// What a record ends, of what others began.
    async fn trace(&mut self, passed: &Passed) -> Result<(), Stop> {
        let lines = self.traces.as_mut().map(|traces| traces.take(passed)).unwrap_or_default();
        let message = Message::of_record(self.team(), passed, self.form());
        for json in lines {
            let message = Message { json, ..message.clone() };
            self.collector.send(&message).await.map_err(Stop::Collector)?;
        }
        Ok(())
    }

    fn tell_gap(&mut self, gap: &Gap) {
        self.missing = true;
        tell_line(format_args!("cloister: of team {}: {}", self.team(), gap.words));
    }

    /// Makes certain that the collector has everything up to here, and keeps that.
    async fn settle(&mut self) -> Result<(), Stop> {
        self.settling = true;
        self.collector.settle().await.map_err(Stop::Collector)?;
        (self.unsettled, self.since, self.settling) = (0, None, false);
        if self.trouble.take().is_some() {
            tell_line(format_args!("cloister: the collector is back"));
        }
        if self.settled == self.sent {
            return Ok(());
        }
        self.settled = self.sent.clone();
        if let (Some(cursor), Some(place)) = (&self.cursor, &self.settled)
            && !place.log.is_empty()
        {
            cursor.save(place)?;
        }
        Ok(())
    }

    /// An interrupt: what was sent is made certain, if that can be had soon.
    async fn last_words(&mut self) -> Result<(), CommandError> {
        if self.settling {
            return Ok(());
        }
        match timeout(LAST_LIMIT, self.settle()).await {
            Ok(Err(Stop::Own(error))) => Err(error),
            // What is not certain is sent again the next time.
            Ok(Ok(()) | Err(Stop::Collector(_))) | Err(_) => Ok(()),
        }
    }

    fn tell_place(&self) {
        let arguments = self.arguments;
        let plain = arguments.to.is_none() && !arguments.follow && self.cursor.is_none();
        if plain && arguments.since.is_none() {
            return;
        }
        let team = self.team();
        match &self.settled {
            Some(Place { seq, digest, .. }) if !digest.is_empty() => tell_line(format_args!(
                "cloister: handed over up to record {seq} of {team}, digest {digest}; go on with --since {}",
                seq.saturating_add(1)
            )),
            _ => tell_line(format_args!("cloister: no record of {team} was handed over")),
        }
    }
}

/// Whether all of the log is asked for, printed: a span's two ends may be anywhere in it.
fn is_whole(arguments: &ExportArgs) -> bool {
    let begins = arguments.since.is_none() && arguments.cursor_file.is_none();
    begins && arguments.to.is_none() && arguments.which.kind.is_empty()
}

/// Waits until something was written.
async fn changed(watch: &AsyncFd<OwnedFd>, folder: &Path) -> Result<(), CommandError> {
    let wrap = |source| CommandError::Io { what: "watch", path: folder.to_owned(), source };
    let mut ready = watch.readable().await.map_err(wrap)?;
    take(watch.get_ref(), folder)?;
    ready.clear_ready();
    Ok(())
}
