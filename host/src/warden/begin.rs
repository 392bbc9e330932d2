//! The start of a team in its warden: what was handed over is resolved, its machine starts or goes on from the disk, and
//! each agent has its task.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use tokio::net::UnixListener;
use tokio::task::{JoinSet, spawn_local};

use super::api::Handover;
use super::audit::Audit;
use super::channel::{self, Channel, ChannelError};
use super::events::Event;
use super::recipe::AgentRecipe;
use super::team::{Carried, Team};
use super::{Job, WardenError, carry, egress, machine};
use crate::audit::record::Entry;
use crate::commands::clean_up;
use crate::launch::LaunchSpec;
use crate::machine::Machine;
use crate::report::describe;
use crate::saved::{self, Opened, Used};
use crate::signals::Signals;
use crate::state::db::Db;
use crate::state::rows::TeamRow;
use crate::state::{CONTROL, TeamLock};
use crate::template::Wish;

/// A team that runs.
pub(super) struct Running {
    pub(super) team: Rc<Team>,
    pub(super) listener: UnixListener,
    pub(super) agents: JoinSet<()>,
    pub(super) _held: Vec<OwnedFd>,
    /// It goes on from the disk, where nothing of it is any more.
    pub(super) is_kept: bool,
}

/// Starts it, from nothing or from the disk.
///
/// # Errors
/// It does not start; what was kept of it is still there then.
pub(super) async fn start_team(
    job: &Job<'_>,
    row: &TeamRow,
    (db, audit): (Db, Rc<Audit>),
    starter: &mut Channel,
    signals: &mut Signals,
) -> Result<Running, WardenError> {
    let handed = take_over(starter).await.map_err(WardenError::StarterGone)?;
    let folder = job.state.team(&job.name);
    let kept = if handed.kept {
        Some(carry::open(&job.state, &job.name).map_err(WardenError::Team)?)
    } else {
        let discarded = saved::discard(&folder);
        discarded.map_err(|error| WardenError::Team(describe(&error, Some(error.remedy()))))?;
        None
    };
    let old = kept.as_ref().map(|kept| &kept.record);
    let mut recipe =
        (job.resolve)(row, &handed.plan, handed.descriptors, old).map_err(WardenError::Team)?;
    if let Some(old) = old {
        carry::check(&old.plan, &recipe.plan).map_err(WardenError::Team)?;
    }
    for entry in std::mem::take(&mut recipe.record) {
        audit.note(entry);
    }
    spawn_local(Rc::clone(&audit).keep_durable());
    if let Some(kept) = &kept {
        audit.note(Entry::new("carried", carry::words(kept, &recipe)));
    }
    let authority = kept.as_ref().map(|kept| carry::authority(kept, &job.state)).transpose();
    let authority = authority.map_err(WardenError::Team)?.flatten();
    let gate = egress::prepare(&mut recipe, authority, &job.state).map_err(WardenError::Team)?;
    clean_up(&recipe.launch.jail);
    let listener = channel::listen(&folder, CONTROL)
        .map_err(|source| WardenError::Setup { what: "the team's socket", source })?;
    let (mut machine, carried, used) = tokio::select! {
        started = start_machine(recipe.launch, &recipe.origin, &recipe.agents, kept, starter) => started?,
        signal = signals.end() => return Err(WardenError::Signal(signal)),
        why = audit.broken() => return Err(WardenError::Team(why)),
    };
    let is_kept = carried.is_some();
    let lives = carried.iter().flatten();
    let quotas: Vec<(u64, u64)> = lives.map(|(life, _)| life.used).collect();
    let started = machine::started_words(&machine, carried.is_some());
    let happenings = machine.take_happenings();
    let parts = (recipe.name, recipe.plan, recipe.agents);
    let (team, tasks) = Team::new(parts, machine, &job.state, (db, audit), carried)?;
    if let Some(used) = used {
        carry::renew_rules(&team).await.map_err(WardenError::Team)?;
        // From here on its shares are those of another time than the memory that was kept.
        let removed = used.remove();
        removed.map_err(|error| WardenError::Team(describe(&error, Some(error.remedy()))))?;
    }
    team.note(&Event::now("machine-started", started));
    if let Some(happenings) = happenings {
        spawn_local(Rc::clone(&team).listen(happenings));
    }
    if let Some(gate) = gate {
        spawn_local(egress::open(Rc::clone(&team), gate, quotas));
    }
    let mut agents = JoinSet::new();
    for task in tasks {
        agents.spawn_local(task);
    }
    Ok(Running { team, listener, agents, _held: recipe.held, is_kept })
}

/// Starts the team's machine, or has it go on from what was kept.
async fn start_machine(
    launch: LaunchSpec,
    origin: &Wish,
    agents: &[AgentRecipe],
    kept: Option<Opened>,
    starter: &mut Channel,
) -> Result<(Machine, Option<Carried>, Option<Used>), WardenError> {
    match kept {
        None => Ok((machine::start(launch, origin, starter).await?, None, None)),
        Some(kept) => {
            let (machine, carried, used) = carry::start(kept, launch, agents, starter).await?;
            Ok((machine, Some(carried), Some(used)))
        }
    }
}

/// Most bytes of a plan: a team file has at most 256 KiB, and each of its values is there once, with
/// where it comes from.
pub(super) const MAX_PLAN: usize = 16 << 20;

/// The team's lock, which the starter holds so far.
///
/// # Errors
/// The starter has gone.
pub(super) async fn take_lock(starter: &mut Channel) -> Result<TeamLock, ChannelError> {
    match starter.receive().await?.ok_or(ChannelError::Gone)? {
        Handover::Lock => {
            let lock = starter.take_descriptors(1)?.pop().ok_or(ChannelError::Gone)?;
            Ok(TeamLock::adopt(lock))
        }
        _ => Err(ChannelError::Gone),
    }
}

/// What the starter hands over beside it.
struct Handed {
    plan: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    /// The team goes on from the disk.
    kept: bool,
}

/// Takes it.
async fn take_over(starter: &mut Channel) -> Result<Handed, ChannelError> {
    let (mut plan, mut descriptors) = (Vec::new(), Vec::new());
    loop {
        match starter.receive().await?.ok_or(ChannelError::Gone)? {
            Handover::Plan(part) if plan.len() < MAX_PLAN => plan.extend(part),
            Handover::Plan(_) => return Err(ChannelError::Gone),
            Handover::Descriptors(count) => {
                descriptors.extend(starter.take_descriptors(usize::from(count))?);
            }
            Handover::Begin { kept } => return Ok(Handed { plan, descriptors, kept }),
            Handover::Lock => return Err(ChannelError::Gone),
        }
    }
}
