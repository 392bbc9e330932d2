//! `cloister stop`, `start`, `restart`, `pause`, `resume`, `down` and `rm`.

use super::super::clean_up;
use super::up::{Ground, go_on, start_again};
use super::{
    TeamError, check, check_alive, check_running, finish, open, open_and_sweep, runtime,
    true_status,
};
use crate::audit;
use crate::audit::record::Entry;
use crate::cli::pause::PauseArgs;
use crate::cli::teams::{RemoveArgs, TargetArgs};
use crate::exit_codes;
use crate::launch::jail::{IdRange, JailSpec, LimitsWish};
use crate::state::StateDir;
use crate::state::db::Db;
use crate::state::rows::{Origin, TeamRow, TeamStatus};
use crate::team::volumes;
use crate::warden::api::{Call, Order, Reply};
use crate::warden::channel::ChannelError;
use crate::warden::client::Connection;

/// Stops a team or an agent.
#[must_use]
pub fn stop(arguments: &TargetArgs) -> u8 {
    finish(stop_target(arguments).map(|()| exit_codes::OK))
}

/// Starts a team or an agent again.
#[must_use]
pub fn start(arguments: &TargetArgs) -> u8 {
    finish(open(&arguments.state).and_then(|state| {
        let target = &arguments.target;
        match &target.agent {
            Some(_) => order(&state, arguments, Order::Start).map(|()| exit_codes::OK),
            None => {
                let row = check(&state, &target.team, None)?;
                match true_status(&state, &row)? {
                    status if status.is_alive() => {
                        return Err(TeamError::Runs(target.team.clone()));
                    }
                    // Its agents would be lost, which nobody has asked for.
                    TeamStatus::Suspended => return Err(TeamError::Suspended(row.name)),
                    _ => {}
                }
                start_again(&state, &row)
            }
        }
    }))
}

/// Stops and starts a team or an agent.
#[must_use]
pub fn restart(arguments: &TargetArgs) -> u8 {
    finish(open(&arguments.state).and_then(|state| {
        let target = &arguments.target;
        if target.agent.is_some() {
            return order(&state, arguments, Order::Restart).map(|()| exit_codes::OK);
        }
        let row = check(&state, &target.team, None)?;
        match true_status(&state, &row)? {
            status if status.is_alive() => stop_team(&state, &target.team)?,
            TeamStatus::Suspended => return Err(TeamError::Suspended(row.name)),
            _ => {}
        }
        start_again(&state, &row)
    }))
}

/// Stops teams and removes what is left of them.
#[must_use]
pub fn down(arguments: &RemoveArgs) -> u8 {
    finish(each(arguments, |state, row| {
        if true_status(state, row)?.is_alive() {
            stop_team(state, &row.name)?;
        }
        remove(state, row)
    }))
}

/// Removes what is left of teams that have ended.
#[must_use]
pub fn rm(arguments: &RemoveArgs) -> u8 {
    finish(each(arguments, |state, row| match true_status(state, row)? {
        status if status.is_alive() => Err(TeamError::Runs(row.name.clone())),
        _ => remove(state, row),
    }))
}

/// Does something to each of the teams, whatever becomes of the others.
fn each(
    arguments: &RemoveArgs,
    work: impl Fn(&StateDir, &TeamRow) -> Result<(), TeamError>,
) -> Result<u8, TeamError> {
    let state = open_and_sweep(&arguments.state)?;
    if arguments.teams.iter().any(|target| target.agent.is_some()) {
        return Err(TeamError::WholeTeam);
    }
    let mut code = exit_codes::OK;
    for target in &arguments.teams {
        let done = check(&state, &target.team, None).and_then(|row| work(&state, &row));
        code = code.max(finish(done.map(|()| exit_codes::OK)));
    }
    Ok(code)
}

fn stop_target(arguments: &TargetArgs) -> Result<(), TeamError> {
    let state = open(&arguments.state)?;
    match &arguments.target.agent {
        Some(_) => order(&state, arguments, Order::Stop),
        None => {
            check_alive(&state, &arguments.target.team, None)?;
            stop_team(&state, &arguments.target.team)
        }
    }
}

/// Keeps a team's machine from doing anything, until it is to go on.
#[must_use]
pub fn pause(arguments: &PauseArgs) -> u8 {
    finish(say(arguments, &Call::Pause).map(|()| exit_codes::OK))
}

/// Lets a paused team go on, or one that is on the disk.
#[must_use]
pub fn resume(arguments: &PauseArgs) -> u8 {
    finish(open(&arguments.state).and_then(|state| {
        // Reading a team file opens everything that it names.
        crate::warden::raise_open_files();
        let row = check(&state, &arguments.target.team, None)?;
        let is_kept = true_status(&state, &row)? == TeamStatus::Suspended;
        if arguments.target.agent.is_none() && is_kept {
            return Ok(match go_on(&state, &row, &mut Ground::new()?)? {
                None => exit_codes::OK,
                // It came too late: the team runs, and nothing of it is on the disk any more.
                Some(signal) => exit_codes::of_signal(signal),
            });
        }
        say(arguments, &Call::Resume).map(|()| exit_codes::OK)
    }))
}

fn say(arguments: &PauseArgs, call: &Call) -> Result<(), TeamError> {
    if arguments.target.agent.is_some() {
        return Err(TeamError::WholeTeam);
    }
    let state = open(&arguments.state)?;
    check_alive(&state, &arguments.target.team, None)?;
    make(&state, &arguments.target.team, call)
}

fn order(state: &StateDir, arguments: &TargetArgs, order: Order) -> Result<(), TeamError> {
    let target = &arguments.target;
    check_running(state, &target.team, target.agent.as_deref())?;
    make(state, &target.team, &Call::Order { agent: target.agent.clone(), order })
}

/// Makes a call that is only to be done.
fn make(state: &StateDir, team: &str, call: &Call) -> Result<(), TeamError> {
    runtime()?.block_on(async {
        let mut connection = Connection::call(state, team, call).await?;
        match connection.reply().await? {
            Reply::Done => Ok(()),
            Reply::Refused { words } => Err(TeamError::Refused(words)),
            _ => Err(ChannelError::Gone.into()),
        }
    })
}

/// Stops a team and waits until its warden, and with it everything of the team, is gone.
pub(super) fn stop_team(state: &StateDir, team: &str) -> Result<(), TeamError> {
    runtime()?.block_on(async {
        let call = Call::Order { agent: None, order: Order::Stop };
        match Connection::call(state, team, &call).await {
            // The answer is its end, however that comes.
            Ok(mut connection) => {
                connection.reply().await.ok();
                Ok(())
            }
            // It is about to end, or has not begun to listen: its lock tells.
            Err(ChannelError::Connect(_)) => Ok(()),
            Err(error) => Err(TeamError::from(error)),
        }
    })?;
    state.await_end(team)?;
    Ok(())
}

/// Removes what is left of a team that does not run.
fn remove(state: &StateDir, row: &TeamRow) -> Result<(), TeamError> {
    let lock = match state.lock(&row.name)? {
        Some(lock) => lock,
        None if Db::open(state)?.team(&row.name)?.status.is_alive() => {
            return Err(TeamError::Runs(row.name.clone()));
        }
        None => {
            // Its warden has said that it ends, and does.
            state.await_end(&row.name)?;
            state.lock(&row.name)?.ok_or_else(|| TeamError::Runs(row.name.clone()))?
        }
    };
    // Before anything goes. The log itself stays.
    let mut audit = audit::open(state, &row.name)?;
    audit.append_last(Entry::new("removed", row.status.word()).by_me())?;
    audit.close()?;
    sweep_groups(&row.origin);
    if !row.origin.persistent
        && let Some(place) = row.origin.volumes.clone().or_else(volumes::usual_place)
    {
        volumes::remove(&place, &row.name)
            .map_err(|source| TeamError::Read { path: place.join(&row.name), source })?;
    }
    state.remove_team(&row.name, &lock)?;
    Db::open(state)?.remove(&row.name)?;
    Ok(())
}

/// A killed warden took its machine with it; its control groups may be left, and are removed here.
pub(super) fn sweep_groups(origin: &Origin) {
    let ids = origin.ids.as_deref().and_then(|ids| ids.parse::<IdRange>().ok());
    let group = origin.group.clone();
    clean_up(&JailSpec { group, ids: ids.unwrap_or_default(), limits: LimitsWish::Asked });
}
