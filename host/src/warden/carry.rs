//! A team that goes on from the disk: its machine, its agents where they were, and the authority that they trust.

use std::sync::Arc;

use super::WardenError;
use super::channel::Channel;
use super::machine::doing;
use super::policy::tell_supervisor;
use super::recipe::Recipe;
use super::team::{Carried, Team};
use crate::egress::authority::{Authority, KeptAuthority};
use crate::launch::{self, LaunchSpec, Origin, Saved, fingerprint};
use crate::machine::{Adopted, Machine};
use crate::report::describe;
use crate::saved::{self, Life, Opened, Phase, Used};
use crate::secrets::Store;
use crate::state::StateDir;
use crate::team::difference::of_kept;
use crate::team::plan::Plan;

/// Most differences that are named.
const MAX_NAMED: usize = 8;

/// Opens what was kept of a team, and checks it.
///
/// # Errors
/// There is none, or it is not as it was; in words.
pub(super) fn open(state: &StateDir, name: &str) -> Result<Opened, String> {
    saved::open(&state.team(name)).map_err(|error| describe(&error, Some(error.remedy())))
}

/// The authority of a team that was kept.
///
/// # Errors
/// Its keys can't be had; in words.
pub(super) fn authority(opened: &Opened, state: &StateDir) -> Result<Option<Authority>, String> {
    let Some(sealed) = &opened.record.authority else { return Ok(None) };
    let bytes = Store::of(state).open(saved::AUTHORITY, sealed);
    let bytes = bytes.map_err(|error| describe(&error, Some("start the team anew")))?;
    let kept: KeptAuthority = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    Authority::again(&kept).map(Some).map_err(|error| describe(&error, None))
}

/// Whether a team's file is still that of which it was made, but for its egress rules.
///
/// # Errors
/// Where it differs; in words.
pub(super) fn check(kept: &Plan, now: &Plan) -> Result<(), String> {
    let differences = of_kept(kept, now);
    if differences.is_empty() {
        return Ok(());
    }
    let named: Vec<&str> = differences.iter().take(MAX_NAMED).map(String::as_str).collect();
    let more = if differences.len() > MAX_NAMED { " and more" } else { "" };
    Err(format!(
        "the team file or an image is not as it was when the team was kept: {}{more}\n\
         put it back, or `cloister down` the team and start it anew; only egress rules may change",
        named.join(", ")
    ))
}

/// Has the machine go on, with its agents where they were.
///
/// # Errors
/// It does not; what was kept is still there then.
pub(super) async fn start(
    opened: Opened,
    launch: LaunchSpec,
    recipe: &[super::recipe::AgentRecipe],
    starter: &mut Channel,
) -> Result<(Machine, Carried, Used), WardenError> {
    doing(starter, "resuming the machine").await?;
    let words = |error: &dyn std::error::Error| WardenError::Team(describe(error, None));
    let used = opened
        .use_up()
        .map_err(|error| WardenError::Team(describe(&error, Some(error.remedy()))))?;
    let Opened { record, memory, state, files, .. } = opened;
    let saved = Saved {
        fingerprint: fingerprint::here().map_err(|error| words(&error))?,
        memory,
        state,
        written: Default::default(),
    };
    let origin = Origin::Carried(Arc::new(launch::Carried { saved, files }));
    // One out of the pool would be asked for something else.
    let launch = LaunchSpec { origin, pool: None, ..launch };
    let machine = Machine::start(launch)
        .await
        .map_err(|error| WardenError::Team(describe(&error, error.remedy())))?;
    let lives = record.agents;
    let agents = lives.iter().zip(recipe).filter(|(life, _)| command_of(life).is_some());
    let adopted = Adopted {
        agents: agents.map(|(_, recipe)| recipe.spec.clone()).collect(),
        commands: lives.iter().filter_map(command_of).collect(),
    };
    let mut commands = machine.adopt(adopted).await.map_err(|error| words(&error))?.into_iter();
    let with_command = |life: Life| {
        let command = command_of(&life).and_then(|_| commands.next());
        (life, command)
    };
    let carried = lives.into_iter().map(with_command).collect();
    Ok((machine, carried, used))
}

const fn command_of(life: &Life) -> Option<u32> {
    match life.phase {
        Phase::Running { command } => Some(command),
        _ => None,
    }
}

/// Gives the supervisor the rules that hold now: those that it has are of another time.
///
/// # Errors
/// It does not take them; in words.
pub(super) async fn renew_rules(team: &Team) -> Result<(), String> {
    let rules = team.egress.borrow().clone();
    tell_supervisor(team, &rules).await
}

/// What the log says of where the team goes on from.
pub(super) fn words(opened: &Opened, recipe: &Recipe) -> String {
    let name = &opened.record.plan.name.value;
    let at = chrono::DateTime::<chrono::Utc>::from_timestamp_millis(opened.record.at_ms);
    let at = at.map(|at| at.to_rfc3339()).unwrap_or_default();
    let of = if *name == recipe.name { String::new() } else { format!(" of team {name}") };
    format!("goes on from what was kept{of} at {at}")
}
