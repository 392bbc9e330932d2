//! `cloister suspend`, `checkpoint` and `fork`, and `resume` of what they leave on the disk.

use std::os::fd::AsFd as _;

use super::control::sweep_groups;
use super::up::{Ground, go_on, interrupted};
use super::{
    TeamError, check, check_alive, finish, open, open_and_sweep, print, runtime, true_status,
};
use crate::cli::keep::{CheckpointArgs, ForkArgs, KeepArgs, SuspendArgs};
use crate::cli::teams::is_name;
use crate::exit_codes;
use crate::report::{describe, tell_line};
use crate::saved::{self, Work};
use crate::state::db::Db;
use crate::state::rows::{Origin, TeamRow, TeamStatus};
use crate::state::{StateDir, StateError, TeamLock};
use crate::team::plan::Plan;
use crate::team::volumes;
use crate::warden::api::{Call, Reply};
use crate::warden::channel::ChannelError;
use crate::warden::client::Connection;

/// Puts a team on the disk.
#[must_use]
pub fn suspend(arguments: &SuspendArgs) -> u8 {
    finish(put_on_disk(arguments).map(|()| exit_codes::OK))
}

fn put_on_disk(arguments: &SuspendArgs) -> Result<(), TeamError> {
    if arguments.target.agent.is_some() {
        return Err(TeamError::WholeTeam);
    }
    let state = open(&arguments.state)?;
    let team = &arguments.target.team;
    let row = check(&state, team, None)?;
    if true_status(&state, &row)? == TeamStatus::Suspended {
        return Ok(());
    }
    let asked = check_alive(&state, team, None).and_then(|_| {
        runtime()?.block_on(async {
            let call = Call::Suspend { end_commands: arguments.end_commands };
            let mut connection = Connection::call(&state, team, &call).await?;
            match connection.reply().await {
                Ok(Reply::Refused { words }) => Err(TeamError::Refused(words)),
                // Its end is the answer, however that comes.
                _ => Ok(()),
            }
        })
    });
    match asked {
        // Somebody else may have begun it, and the team just ends by that.
        Err(TeamError::Channel(_) | TeamError::Suspended(_))
            if saved::is_there(&state.team(team)) => {}
        asked => asked?,
    }
    state.await_end(team)?;
    match check(&state, team, None)?.status {
        TeamStatus::Suspended => Ok(()),
        _ => Err(ChannelError::Gone.into()),
    }
}

/// Keeps a team as the beginning of others.
#[must_use]
pub fn checkpoint(arguments: &CheckpointArgs) -> u8 {
    let kept = Ground::new().and_then(|mut ground| keep(&arguments.keep, &mut ground));
    finish(kept.and_then(|(_, names)| tell(&names)))
}

/// Has others go on from where a team is.
#[must_use]
pub fn fork(arguments: &ForkArgs) -> u8 {
    let made = Ground::new().and_then(|mut ground| {
        let (state, names) = keep(&arguments.keep, &mut ground)?;
        Ok((state, names, ground))
    });
    let (state, names, mut ground) = match made {
        Ok(made) => made,
        Err(error) => return finish(Err(error)),
    };
    // Reading a team file opens everything that it names.
    crate::warden::raise_open_files();
    let mut code = exit_codes::OK;
    for name in &names {
        let mut begin = || {
            let row = check(&state, name, None)?;
            let signal = go_on(&state, &row, &mut ground)?;
            tell(std::slice::from_ref(name))?;
            Ok(signal.or_else(|| ground.came()))
        };
        // Whatever becomes of the others.
        match begin() {
            Ok(None) => {}
            Ok(Some(signal)) => return finish(Err(interrupted(signal))),
            Err(error @ TeamError::Starting { .. }) => return finish(Err(error)),
            Err(error) => code = code.max(finish(Err(error))),
        }
    }
    code
}

fn tell(names: &[String]) -> Result<u8, TeamError> {
    names.iter().try_for_each(|name| print(&format!("{name}\n")))?;
    Ok(exit_codes::OK)
}

/// A team that is being made, whose lock is held.
struct New {
    name: String,
    origin: Origin,
    lock: TeamLock,
}

/// Makes suspended teams of another; their names. A signal that comes before they are made has everything taken back.
fn keep(arguments: &KeepArgs, ground: &mut Ground) -> Result<(StateDir, Vec<String>), TeamError> {
    if arguments.target.agent.is_some() || arguments.new.agent.is_some() {
        return Err(TeamError::WholeTeam);
    }
    let state = open_and_sweep(&arguments.state)?;
    let source = check(&state, &arguments.target.team, None)?;
    let is_kept = true_status(&state, &source)? == TeamStatus::Suspended;
    if !is_kept {
        check_alive(&state, &source.name, None)?;
    }
    let names = names(arguments)?;
    let db = Db::open(&state)?;
    for name in &names {
        match db.team(name) {
            Err(StateError::NoTeam(_)) => refuse_remains(&source.origin, name)?,
            Ok(_) => return Err(StateError::Exists(name.clone()).into()),
            Err(error) => return Err(error.into()),
        }
    }
    // A lock for each.
    crate::warden::raise_open_files();
    let mut new = Vec::new();
    let made = names.iter().try_for_each(|name| {
        new.push(begin(&state, &source, name, arguments.with_secrets)?);
        Ok(())
    });
    let made = made.and_then(|()| {
        if is_kept { copy(&state, &source, &names) } else { ask(&state, &source, &new, ground) }
    });
    let made = made.and_then(|()| match ground.came() {
        None => new.iter().try_for_each(|one| complete(&state, one)),
        Some(signal) => Err(interrupted(signal)),
    });
    match made {
        Ok(()) => Ok((state, names)),
        // The warden still writes there, and has the locks.
        Err(error @ TeamError::Keeping { .. }) => Err(error),
        Err(error) => {
            new.into_iter().for_each(|one| take_back(&state, one));
            Err(error)
        }
    }
}

fn names(arguments: &KeepArgs) -> Result<Vec<String>, TeamError> {
    let base = &arguments.new.team;
    let Some(number) = arguments.number else { return Ok(vec![base.clone()]) };
    let names: Vec<String> = (1..=number).map(|n| format!("{base}-{n}")).collect();
    match names.iter().find(|name| !is_name(name)) {
        Some(name) => Err(TeamError::Refused(format!("{name} is too long for a team's name"))),
        None => Ok(names),
    }
}

/// Volumes of a team that was removed and that are to stay are nobody else's.
fn refuse_remains(origin: &Origin, name: &str) -> Result<(), TeamError> {
    let Some(place) = origin.volumes.clone().or_else(volumes::usual_place) else { return Ok(()) };
    let left = place.join(name);
    if left.exists() {
        let words = format!(
            "there are volumes of an earlier team {name} in {}: remove them, or choose another name",
            left.display()
        );
        return Err(TeamError::Refused(words));
    }
    Ok(())
}

/// Notes a team that is about to be made.
fn begin(
    state: &StateDir,
    source: &TeamRow,
    name: &str,
    with_secrets: bool,
) -> Result<New, TeamError> {
    let mut db = Db::open(state)?;
    let Some(lock) = state.lock(name)? else {
        return Err(StateError::Exists(name.to_owned()).into());
    };
    let origin =
        Origin { name: Some(name.to_owned()), withheld: !with_secrets, ..source.origin.clone() };
    match db.add(name, &origin, &db.agents(&source.name)?) {
        Ok(()) => Ok(New { name: name.to_owned(), origin, lock }),
        // It was there before: nothing of it is ours.
        Err(error @ StateError::Exists(_)) => Err(error.into()),
        Err(error) => {
            state.remove_team(name, &lock)?;
            Err(error.into())
        }
    }
}

/// Has a team's warden keep it for the others.
fn ask(
    state: &StateDir,
    source: &TeamRow,
    new: &[New],
    ground: &mut Ground,
) -> Result<(), TeamError> {
    let Ground { runtime, signals } = ground;
    runtime.block_on(async {
        let into = new.iter().map(|one| one.name.clone()).collect();
        let call = Call::Checkpoint { into };
        let mut connection = Connection::call(state, &source.name, &call).await?;
        let locks: Vec<_> = new.iter().map(|one| one.lock.as_fd()).collect();
        connection.hand_over(&locks).await?;
        let mut early = None;
        let reply = tokio::select! {
            reply = connection.reply() => reply,
            signal = signals.end() => {
                early = Some(signal);
                let team = &source.name;
                tell_line(format_args!(
                    "cloister: it is taken back when team {team} goes on; once more to leave that to its warden"
                ));
                tokio::select! {
                    reply = connection.reply() => reply,
                    signal = signals.end() => {
                        return Err(TeamError::Keeping { team: team.clone(), signal });
                    }
                }
            }
        };
        match reply? {
            Reply::Refused { words } => Err(TeamError::Refused(words)),
            Reply::Done => early.map_or(Ok(()), |signal| Err(interrupted(signal))),
            _ => Err(ChannelError::Gone.into()),
        }
    })
}

/// Copies what a suspended team has on the disk for the others.
fn copy(state: &StateDir, source: &TeamRow, names: &[String]) -> Result<(), TeamError> {
    let told = |error: saved::SavedError| TeamError::Told(describe(&error, Some(error.remedy())));
    // Nobody resumes it meanwhile.
    let _lock = state.lock(&source.name)?.ok_or_else(|| TeamError::Runs(source.name.clone()))?;
    let folder = state.team(&source.name);
    let plan = saved::read(&folder).map_err(told)?.plan;
    refuse_shared(&plan).map_err(TeamError::Refused)?;
    let place = source.origin.volumes.clone().or_else(volumes::usual_place);
    for name in names {
        if let Some(place) = &place {
            let wrap = |source| TeamError::Read { path: place.clone(), source };
            volumes::copy(place, &source.name, name, &plan.volumes_in_use()).map_err(wrap)?;
        }
        let work = Work::begin(&state.team(name)).map_err(told)?;
        work.take_over(&saved::place(&folder)).and_then(|()| work.publish()).map_err(told)?;
    }
    Ok(())
}

/// A team that writes to files of the host can't become two, which would both.
///
/// # Errors
/// What it writes to, and what to do.
pub(crate) fn refuse_shared(plan: &Plan) -> Result<(), String> {
    match plan.written_on_host().first() {
        None => Ok(()),
        Some((agent, path)) => Err(format!(
            "{agent} writes to {path} of this host, which can't be the files of two teams\n\
             give it a volume in place of that, which is copied; or `cloister suspend`"
        )),
    }
}

/// A team that was made is suspended from now on, its agents as they were then.
fn complete(state: &StateDir, new: &New) -> Result<(), TeamError> {
    let told = |error: saved::SavedError| TeamError::Told(describe(&error, Some(error.remedy())));
    let db = Db::open(state)?;
    for life in saved::read(&state.team(&new.name)).map_err(told)?.agents {
        db.set_agent(&new.name, &life.row)?;
    }
    Ok(db.set_team(&new.name, TeamStatus::Suspended, "")?)
}

/// Removes what was made of a team so far.
fn take_back(state: &StateDir, new: New) {
    let New { name, origin, lock } = new;
    let place = origin.volumes.clone().or_else(volumes::usual_place);
    let volumes = place.map_or(Ok(()), |place| volumes::remove(&place, &name));
    if let Err(error) = volumes {
        tell_line(format_args!("cloister: can't remove the volumes of {name}: {error}"));
    }
    sweep_groups(&origin);
    let removed = state
        .remove_team(&name, &lock)
        .and_then(|()| Db::open(state).and_then(|db| db.remove(&name)));
    if let Err(error) = removed {
        tell_line(describe(&error, Some(error.remedy())));
    }
}
