//! The warden: a team's process on the host. It starts the team's machine, watches its agents,
//! writes their logs, and answers the commands of its user over a socket. It outlives the command
//! that started it, and ends with its team.

pub mod api;

pub mod channel;

pub mod client;

pub mod events;

pub mod log;

pub mod recipe;

mod agent;

mod carry;

mod keep;

mod lives;

mod running;

mod audit;

mod begin;

mod certificates;

mod egress;

mod machine;

mod output;

mod pause;

mod policy;

mod serve;

mod start;

mod team;

mod visit;

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixStream;
use tokio::task::LocalSet;

use api::Progress;
use audit::Audit;
use begin::Running;
use channel::{Channel, ChannelError};
use events::Event;
use recipe::Recipe;
use team::Team;

use crate::audit::AuditError;
use crate::audit::record::Entry;
use crate::exit_codes;
use crate::machine::MachineEnd;
use crate::report::{chain, describe, tell_line};
use crate::saved::{self, Record};
use crate::signals::Signals;
use crate::state::db::Db;
use crate::state::rows::{TeamRow, TeamStatus};
use crate::state::{CONTROL, StateDir, StateError, TeamLock};

pub(crate) use start::PART;
pub use start::{Started, Starter, start};

/// Why a warden could not start its team.
#[derive(Debug, thiserror::Error)]
pub enum WardenError {
    /// The state can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The runtime, the socket or a signal handler can't be made.
    #[error("can't set up {what}")]
    Setup {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The command that started it has gone.
    #[error("the command that started it has gone")]
    StarterGone(#[source] ChannelError),
    /// Nothing can be recorded, so nothing starts.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// It was asked to end before it had begun.
    #[error("a signal ended it")]
    Signal(u8),
    /// The team can't be started; already in words, with what to do.
    #[error("{0}")]
    Team(String),
}

/// From a team's row, and the plan with its descriptors that was handed over, to something that can
/// run; or why not, in words. Of a team that was kept also what it was: its containers are of that.
pub type Resolve<'a> =
    dyn Fn(&TeamRow, &[u8], Vec<OwnedFd>, Option<&Record>) -> Result<Recipe, String> + 'a;

/// What a warden needs: the row says what to run, `resolve` makes it ready.
pub struct Job<'a> {
    /// The state's directory.
    pub state: StateDir,
    /// The team's name.
    pub name: String,
    /// Makes it ready.
    pub resolve: &'a Resolve<'a>,
}

impl std::fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Runs a team to its end. Standard input is the connection to the command that starts it.
#[must_use]
pub fn run(job: &Job<'_>) -> u8 {
    // A Ctrl-C at the starter's terminal is not for this process. It leads no group yet: it was just
    // started by another process.
    if let Err(error) = rustix::process::setsid() {
        tell_line(format_args!("cloister: can't leave the terminal: {error}"));
        return exit_codes::FAILED;
    }
    raise_open_files();
    leave_no_core();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell_line(format_args!("cloister: can't set up the runtime: {error}"));
            return exit_codes::FAILED;
        }
    };
    let code = LocalSet::new().block_on(&runtime, async {
        let mut starter = match connect_starter() {
            Ok(starter) => starter,
            Err(error) => {
                tell_line(format_args!("cloister: not started by `cloister up`: {error}"));
                return exit_codes::FAILED;
            }
        };
        match begin_and_serve(job, &mut starter).await {
            Ok(code) => code,
            Err(error) => {
                let words = match &error {
                    WardenError::Team(words) => words.clone(),
                    WardenError::State(error) => describe(error, Some(error.remedy())),
                    WardenError::Audit(error) => describe(error, Some(error.remedy())),
                    error => describe(error, None),
                };
                tell_line(&words);
                // It may have gone, and the team's row says the same.
                starter.send(&Progress::Failed { words }, &[]).await.ok();
                exit_codes::FAILED
            }
        }
    });
    // What may still sit in a read of a stream is not waited for.
    runtime.shutdown_background();
    code
}

/// As many open files as the system allows: a team has two for each image and one for each share, output
/// and stream. Without them only a large team fails, by an error of its own.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).ok();
}

/// Secrets of rules are in this process's memory while they are used: it leaves none of it behind. A core file of one
/// byte is none, and a program that takes cores is not started at this very limit (core(5)).
fn leave_no_core() {
    let limit = getrlimit(Resource::Core);
    let current = Some(limit.maximum.map_or(1, |maximum| maximum.min(1)));
    setrlimit(Resource::Core, Rlimit { current, ..limit }).ok();
}

fn connect_starter() -> std::io::Result<Channel> {
    let stream = std::io::stdin().as_fd().try_clone_to_owned()?;
    let stream = std::os::unix::net::UnixStream::from(stream);
    stream.set_nonblocking(true)?;
    Ok(Channel::new(UnixStream::from_std(stream)?))
}

/// The recipe: lock, resolve, start, serve, end.
async fn begin_and_serve(job: &Job<'_>, starter: &mut Channel) -> Result<u8, WardenError> {
    let lock = begin::take_lock(starter).await.map_err(WardenError::StarterGone)?;
    let db = Db::open(&job.state)?;
    let row = db.team(&job.name)?;
    let mut signals = Signals::listen()
        .map_err(|source| WardenError::Setup { what: "the signal handlers", source })?;
    let audit = match crate::audit::open(&job.state, &job.name) {
        Ok(log) => Audit::new(log),
        Err(error) => {
            db.set_team(&job.name, TeamStatus::Failed, &chain(&error))?;
            return Err(error.into());
        }
    };
    let ours = (db, std::rc::Rc::clone(&audit));
    let started = begin::start_team(job, &row, ours, starter, &mut signals).await;
    let running = match started {
        Ok(running) => running,
        Err(error) => {
            let words = match &error {
                WardenError::Team(words) => words.clone(),
                error => chain(error),
            };
            audit.end(Entry::new("team-failed", words.clone()));
            // Where something is kept, its machine did not go on from that.
            let kept = saved::is_there(&job.state.team(&job.name));
            let status = if kept { TeamStatus::Suspended } else { TeamStatus::Failed };
            Db::open(&job.state)?.set_team(&job.name, status, &words)?;
            return Err(error);
        }
    };
    Ok(serve_to_the_end(job, running, starter, &mut signals, &lock).await)
}

async fn serve_to_the_end(
    job: &Job<'_>,
    running: Running,
    starter: &mut Channel,
    signals: &mut Signals,
    _lock: &TeamLock,
) -> u8 {
    let Running { team, listener, mut agents, _held, is_kept } = running;
    let serving = tokio::task::spawn_local(serve::serve(std::rc::Rc::clone(&team), listener));
    note(job, TeamStatus::Running, "");
    let is_wanted = is_kept
        || tokio::select! {
            () = team.first_agents_begun() => true,
            // It was interrupted or killed.
            _ = starter.receive::<Progress>() => false,
            _signal = signals.end() => false,
        };
    // From here on it does not matter whether the starter lives; what went on from the disk would be lost without.
    let is_wanted = is_wanted && (starter.send(&Progress::Ready, &[]).await.is_ok() || is_kept);
    let end = if is_wanted {
        watch(&team, signals).await
    } else {
        take_back(&team).await;
        End::Asked
    };
    // What is left to do at the end needs a machine that goes on. Whoever just puts the team on the disk is waited for.
    let end = if matches!(end, End::Kept) || !pause::end(&team).await { End::Kept } else { end };
    let goes_to_disk = matches!(end, End::Kept);
    if !goes_to_disk {
        team.stop_all().await;
    }
    agents.abort_all();
    while agents.join_next().await.is_some() {}
    let (status, detail) = match end {
        End::Machine(end) => (TeamStatus::Failed, chain(&*end)),
        End::Unrecorded(why) => (TeamStatus::Failed, why),
        End::Asked => (TeamStatus::Ended, String::new()),
        End::Kept => (TeamStatus::Suspended, String::new()),
    };
    team.note(&Event::now("machine-ended", detail.clone()));
    // Now nothing of it is left but its row and its logs.
    if goes_to_disk {
        // It is paused, and what it would do at its end is done when it goes on.
        team.machine.kill().await;
    } else {
        end_machine(&team).await;
    }
    let words = if detail.is_empty() { status.word() } else { &detail };
    team.audit.end(Entry::new("team-ended", words));
    note(job, status, &detail);
    // Who follows learns of the end when it is true.
    team.ending.send_replace(true);
    tokio::task::yield_now().await;
    serving.abort();
    serving.await.ok();
    std::fs::remove_file(job.state.team(&job.name).join(CONTROL)).ok();
    exit_codes::OK
}

/// Why a team ends.
enum End {
    /// Its machine did, by itself.
    Machine(Arc<MachineEnd>),
    /// What it does can't be recorded any more; why.
    Unrecorded(String),
    /// All its agents have ended, or somebody asked.
    Asked,
    /// It is on the disk.
    Kept,
}

/// Waits until the team is to end.
async fn watch(team: &Team, signals: &mut Signals) -> End {
    let mut ending = team.ending.subscribe();
    let mut kept = team.kept.subscribe();
    tokio::select! {
        biased;
        _ = kept.wait_for(|kept| *kept) => End::Kept,
        end = team.machine.ended() => End::Machine(end),
        why = team.audit.broken() => End::Unrecorded(why),
        () = team.all_final() => End::Asked,
        _ = ending.wait_for(|ending| *ending) => End::Asked,
        _signal = signals.end() => End::Asked,
    }
}

/// Ends the machine of a team that nobody wants any more, before it was ready. Nothing in it is worth a clean end, and a
/// guest that does not answer would be waited for: what its agents' tasks wait for ends with it.
async fn take_back(team: &Team) {
    team.ending.send_replace(true);
    team.machine.kill().await;
}

async fn end_machine(team: &Team) {
    // Its clean end first; a guest that does not power itself off is stopped.
    if team.machine.power_off().await.is_ok() {
        let ended = tokio::time::timeout(crate::machine::STOP_LIMIT, team.machine.ended()).await;
        if ended.is_ok() {
            return;
        }
    }
    team.machine.kill().await;
}

fn note(job: &Job<'_>, status: TeamStatus, detail: &str) {
    let noted = Db::open(&job.state).and_then(|db| db.set_team(&job.name, status, detail));
    if let Err(error) = noted {
        tell_line(describe(&error, Some(error.remedy())));
    }
}
