//! Pausing a team in place, and letting it go on.

use std::rc::Rc;

use tokio::sync::{Mutex, MutexGuard};

use super::events::Event;
use super::team::Team;
use crate::machine::MachineError;
use crate::report::{chain, tell_line};
use crate::state::rows::TeamStatus;

/// What a team knows of its pauses: held while one begins or ends.
#[derive(Debug, Default)]
pub(super) struct Pauses(Mutex<Closed>);

/// Whether the team ends, so that no pause may begin any more.
#[derive(Debug, Default)]
pub(super) struct Closed(bool);

/// Pauses the team's machine; nothing changes if it is.
///
/// # Errors
/// Why not, for people.
pub(super) async fn pause(team: &Rc<Team>) -> Result<(), String> {
    let _held = hold(team).await?;
    if team.machine.paused().is() {
        return Ok(());
    }
    again(team).await
}

/// Pauses the machine of a team whose pauses are held.
///
/// # Errors
/// Why not, for people.
pub(super) async fn again(team: &Rc<Team>) -> Result<(), String> {
    team.machine.pause().await.map_err(|error| chain(&error))?;
    told(team, "paused", TeamStatus::Paused);
    Ok(())
}

/// Has the team's pauses alone.
///
/// # Errors
/// The team ends; for people.
pub(super) async fn hold(team: &Team) -> Result<Held<'_>, String> {
    let closed = team.pauses.0.lock().await;
    if closed.0 {
        return Err(format!("team {} ends", team.name));
    }
    if team.is_kept() {
        return Err(format!("team {} has been suspended, and ends here", team.name));
    }
    Ok(Held(closed))
}

/// No other pause begins or ends.
pub(super) struct Held<'a>(
    #[expect(dead_code, reason = "held, not looked at")] MutexGuard<'a, Closed>,
);

/// Lets the team's machine go on; nothing changes if it does.
///
/// # Errors
/// Why not, for people.
pub(super) async fn resume(team: &Rc<Team>) -> Result<(), String> {
    let _held = hold(team).await?;
    go_on(team).await.map_err(|error| chain(&error))
}

/// The team ends: it is not paused from now on. `false`: it was put on the disk meanwhile; what of it is still in memory
/// must do nothing more.
pub(super) async fn end(team: &Rc<Team>) -> bool {
    let mut closed = team.pauses.0.lock().await;
    closed.0 = true;
    if team.is_kept() {
        return false;
    }
    if let Err(error) = go_on(team).await {
        // It is killed then.
        tell_line(format_args!("cloister: {}", chain(&error)));
    }
    true
}

/// Lets the machine go on, if it is paused.
pub(super) async fn go_on(team: &Rc<Team>) -> Result<(), MachineError> {
    if !team.machine.paused().is() {
        return Ok(());
    }
    team.machine.resume().await?;
    told(team, "resumed", TeamStatus::Running);
    Ok(())
}

fn told(team: &Team, what: &str, status: TeamStatus) {
    team.note(&Event::now(what, ""));
    team.set_status(status);
}
