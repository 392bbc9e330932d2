//! `cloister up`: from a team file to a running team, and the start of its warden.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::control::sweep_groups;
use super::logs::{Follower, Printer};
use super::{TeamError, finish, open_and_sweep, runtime};
use crate::cli::teams::{UpArgs, WardenArgs};
use crate::exit_codes;
use crate::launch::jail::LimitsWish;
use crate::report::{describe, tell_line};
use crate::saved::{self, Record, SavedError};
use crate::signals::Signals;
use crate::state::db::Db;
use crate::state::rows::{AgentRow, AgentStatus, TeamRow};
use crate::state::{StateDir, StateError, TeamLock};
use crate::team::volumes;
use crate::text::printable_line;
use crate::warden::api::{Call, Order};
use crate::warden::channel::ChannelError;
use crate::warden::client::Connection;
use crate::warden::{self, Job, Started};

use super::resolve::{self, Prepared};

/// A sign of life, how often it turns.
const TURN: Duration = Duration::from_millis(100);
/// How long the runtime may take to tell of a signal that has come.
const GLANCE: Duration = Duration::from_millis(1);

/// Starts a team.
#[must_use]
pub fn up(arguments: UpArgs) -> u8 {
    finish(run(arguments))
}

fn run(arguments: UpArgs) -> Result<u8, TeamError> {
    // Its plan comes with a descriptor for each thing that it names.
    warden::raise_open_files();
    let state = open_and_sweep(&arguments.state)?;
    let detach = arguments.detach;
    // Everything that can be found wrong is found here, while nothing is changed.
    let prepared = resolve::prepare(resolve::origin(arguments)?)?;
    warn(&prepared);
    let name = prepared.name.clone();
    let mut ground = Ground::new()?;
    let lock = add(&state, &prepared)?;
    let begun = begin(&state, &prepared, (lock, false), &mut ground);
    match begun {
        Ok(None) if detach => Ok(exit_codes::OK),
        Ok(Some(signal)) if detach => {
            let stopped = stop(&state, &name, &ground);
            take_back(&state, &prepared);
            stopped?;
            Err(interrupted(signal))
        }
        Ok(signal) => follow(&state, &name, &prepared.agents, (ground, signal)),
        // The warden goes on with that.
        Err(error @ TeamError::Left { .. }) => Err(error),
        Err(error) => {
            take_back(&state, &prepared);
            Err(error)
        }
    }
}

/// Notes the team, whose lock is held from then on.
fn add(state: &StateDir, prepared: &Prepared) -> Result<TeamLock, TeamError> {
    let name = &prepared.name;
    let mut db = Db::open(state)?;
    let Some(lock) = state.lock(name)? else {
        // It runs, or another command is at it just now.
        return Err(StateError::Exists(name.clone()).into());
    };
    match db.add(name, &prepared.origin, &prepared.agents) {
        Ok(()) => Ok(lock),
        Err(error @ StateError::Exists(_)) => Err(error.into()),
        Err(error) => {
            state.remove_team(name, &lock)?;
            Err(error.into())
        }
    }
}

pub(super) fn interrupted(signal: u8) -> TeamError {
    TeamError::Told(format!("cloister: ended by signal {signal}"))
}

/// Stops a team that runs, and waits until it has ended.
fn stop(state: &StateDir, name: &str, ground: &Ground) -> Result<(), TeamError> {
    ground.runtime.block_on(async {
        let call = Call::Order { agent: None, order: Order::Stop };
        // Its answer is the end, which the lock tells.
        Connection::call(state, name, &call).await?.reply().await.ok();
        Ok::<(), TeamError>(())
    })?;
    state.await_end(name)?;
    Ok(())
}

/// What a command that starts a team stands on, to its end: a signal that comes between two of its stages is heard in the
/// next.
pub(super) struct Ground {
    pub(super) runtime: Runtime,
    pub(super) signals: Signals,
}

impl Ground {
    pub(super) fn new() -> Result<Self, TeamError> {
        let runtime = runtime()?;
        let signals = {
            let _inside = runtime.enter();
            Signals::listen().map_err(setup("the signal handlers"))?
        };
        Ok(Self { runtime, signals })
    }

    /// A signal that came while nobody waited for one.
    pub(super) fn came(&mut self) -> Option<u8> {
        let Self { runtime, signals } = self;
        let came = async { tokio::time::timeout(GLANCE, signals.end()).await };
        runtime.block_on(came).ok()
    }
}

/// Starts a team again that is in the database. Its file is read again, as it is now.
pub(super) fn start_again(state: &StateDir, row: &TeamRow) -> Result<u8, TeamError> {
    let prepared = resolve::prepare(row.origin.clone())?;
    if prepared.name != row.name {
        let (file, now) = (row.origin.file.display(), &prepared.name);
        let words = format!("{file} is the file of team {now} now: start that with `cloister up`");
        return Err(TeamError::Refused(words));
    }
    warn(&prepared);
    let mut ground = Ground::new()?;
    let lock = state.lock(&row.name)?.ok_or_else(|| TeamError::Runs(row.name.clone()))?;
    Db::open(state)?.begin_again(&row.name, &prepared.origin, &prepared.agents)?;
    if let Some(signal) = begin(state, &prepared, (lock, false), &mut ground)? {
        stop(state, &row.name, &ground)?;
        return Err(interrupted(signal));
    }
    Ok(exit_codes::OK)
}

/// Has a team go on from the disk. Its file is read again, and only egress rules may have changed. A signal that comes when
/// it runs leaves it running: nothing of it is on the disk any more.
pub(super) fn go_on(
    state: &StateDir,
    row: &TeamRow,
    ground: &mut Ground,
) -> Result<Option<u8>, TeamError> {
    let prepared = resolve::prepare(row.origin.clone())?;
    warn(&prepared);
    let lock = state.lock(&row.name)?.ok_or_else(|| TeamError::Runs(row.name.clone()))?;
    let folder = state.team(&row.name);
    if !saved::is_there(&folder) {
        // Another command was faster.
        let error = SavedError::Missing(folder);
        return Err(TeamError::Told(describe(&error, Some(error.remedy()))));
    }
    Db::open(state)?.go_on(&row.name, &prepared.origin)?;
    begin(state, &prepared, (lock, true), ground)
}

/// Nobody observes without knowing it.
pub(super) fn warn(prepared: &Prepared) {
    if prepared.mode.observes() {
        tell_line(format_args!(
            "cloister: team {0} OBSERVES: its agents reach every public host by name, whatever their rules allow, and it is \
             only recorded\n`cloister policy learn {0}` writes the rules that it needs; `egress-mode = \"enforce\"` keeps them",
            prepared.name
        ));
    }
}

/// Starts the warden and waits for its word: the team runs, and perhaps a signal came too late to keep it from that.
/// `kept`: it goes on from the disk.
fn begin(
    state: &StateDir,
    prepared: &Prepared,
    (lock, kept): (TeamLock, bool),
    ground: &mut Ground,
) -> Result<Option<u8>, TeamError> {
    let name = &prepared.name;
    let Ground { runtime, signals } = ground;
    runtime.block_on(async {
        let mut starter = warden::start(state, name, lock).map_err(setup("the team's warden"))?;
        let bar = spinner();
        let started = tokio::select! {
            started = async {
                // One that ends early has said why.
                starter.hand_over(&prepared.plan, &prepared.descriptors, kept).await.ok();
                starter.wait(|what| bar.set_message(what.to_owned())).await
            } => started,
            signal = signals.end() => {
                let given_up = tokio::select! {
                    given_up = starter.give_up() => given_up,
                    // Whoever asks again does not wait for a guest that does not answer.
                    signal = signals.end() => {
                        let team = name.clone();
                        return Err(match kept {
                            true => TeamError::Starting { team, signal },
                            false => TeamError::Left { team, signal },
                        });
                    }
                };
                if let Ok(Started::Running) = given_up {
                    return Ok(Some(signal));
                }
                state.await_end(name)?;
                return Err(interrupted(signal));
            }
        };
        bar.finish_and_clear();
        match started {
            Ok(Started::Running) => Ok(None),
            Ok(Started::Failed(words)) => Err(TeamError::Told(words)),
            Err(ChannelError::Gone) => {
                let log = state.team(name).join("warden.log");
                let words = std::fs::read_to_string(log).unwrap_or_default();
                let words = printable_line(&words);
                Err(TeamError::Refused(format!("the team's warden ended without a word: {words}")))
            }
            Err(error) => Err(error.into()),
        }
    })
}

fn spinner() -> ProgressBar {
    // Draws nothing where standard error is not a terminal.
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("cloister: {msg} {spinner} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TURN);
    bar
}

fn setup(what: &'static str) -> impl Fn(io::Error) -> TeamError {
    move |source| TeamError::Setup { what, source }
}

/// Removes what a start that failed has left.
fn take_back(state: &StateDir, prepared: &Prepared) {
    let name = &prepared.name;
    let removed = state.await_end(name).and_then(|()| {
        // Whoever was faster removes it, or has started another one of this name.
        let Some(lock) = state.lock(name)? else { return Ok(()) };
        state.remove_team(name, &lock)?;
        // A warden that was killed could not.
        sweep_groups(&prepared.origin);
        if let Some(place) = prepared.origin.volumes.clone().or_else(volumes::usual_place) {
            // A name that is none has no volumes.
            volumes::remove_empty(&place, name).ok();
        }
        Db::open(state)?.remove(name)
    });
    if let Err(error) = removed {
        tell_line(describe(&error, Some(error.remedy())));
    }
}

/// Shows what the agents write until the team has ended; a signal that came already stops it.
fn follow(
    state: &StateDir,
    name: &str,
    agents: &[AgentRow],
    (ground, mut early): (Ground, Option<u8>),
) -> Result<u8, TeamError> {
    let names: Vec<String> = agents.iter().map(|agent| agent.name.clone()).collect();
    let follower = Follower::new(state, name, &names)?;
    let (tell, ended) = oneshot::channel();
    // It waits for files and for a lock, which the runtime can't.
    std::thread::Builder::new()
        .name("logs".into())
        .spawn(move || tell.send(follower.run(&mut Printer::new(true, false))).ok())
        .map_err(setup("a thread"))?;
    let Ground { runtime, mut signals } = ground;
    runtime.block_on(async {
        let mut ended = ended;
        let mut asked = false;
        loop {
            tokio::select! {
                done = &mut ended => {
                    done.map_err(|_| ChannelError::Gone)??;
                    break;
                }
                signal = async {
                    match early.take() {
                        Some(signal) => signal,
                        None => signals.end().await,
                    }
                } => {
                    if asked {
                        // The warden goes on with its end.
                        return Ok(exit_codes::of_signal(signal));
                    }
                    asked = true;
                    tell_line("cloister: stopping the team; once more to leave it alone");
                    let call = Call::Order { agent: None, order: Order::Stop };
                    // Its answer is the end, which the lock tells.
                    let connection = Connection::call(state, name, &call).await;
                    tokio::spawn(async move {
                        if let Ok(mut connection) = connection {
                            connection.reply().await.ok();
                        }
                    });
                }
            }
        }
        summary(state, name)
    })
}

/// Tells how the agents ended.
fn summary(state: &StateDir, name: &str) -> Result<u8, TeamError> {
    let db = Db::open(state)?;
    let team = db.team(name)?;
    let mut code = exit_codes::OK;
    if !team.detail.is_empty() {
        tell_line(format_args!("cloister: {name}: {}", printable_line(&team.detail)));
        code = exit_codes::AGENT_FAILED;
    }
    for agent in db.agents(name)? {
        if agent.status != AgentStatus::Succeeded {
            code = exit_codes::AGENT_FAILED;
            let detail = printable_line(&agent.detail);
            let status = agent.status.word();
            tell_line(format_args!("cloister: {name}/{}: {status} {detail}", agent.name));
        }
    }
    Ok(code)
}

/// A team's own process.
#[must_use]
pub fn warden(arguments: WardenArgs, limits: LimitsWish) -> u8 {
    let state = match StateDir::open(Some(&arguments.state)) {
        Ok(state) => state,
        Err(error) => {
            tell_line(describe(&error, Some(error.remedy())));
            return exit_codes::FAILED;
        }
    };
    let resolve = |row: &TeamRow, plan: &[u8], descriptors: Vec<OwnedFd>, kept: Option<&Record>| {
        resolve::recipe(row, plan, descriptors, limits, kept)
    };
    warden::run(&Job { state, name: arguments.team.team, resolve: &resolve })
}
