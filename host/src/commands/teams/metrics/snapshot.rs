//! How all teams stand at one moment.

use std::sync::Arc;
use std::time::Duration;

use cloister_protocol::agent::Usage;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::{TeamError, true_status};
use crate::egress::totals::Totals;
use crate::state::StateDir;
use crate::state::db::Db;
use crate::state::rows::{AgentRow, AgentStatus, TeamStatus};
use crate::warden::api::{Call, Reply};
use crate::warden::channel::ChannelError;
use crate::warden::client::Connection;

/// How long a team may take to answer: a guest that does not must not keep the figures of the others.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Teams that are asked at once, each by two connections. A thousand that do not answer take half a minute.
const MAX_ASKED: usize = 64;

/// All teams.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) teams: Vec<Team>,
}

/// One team.
#[derive(Clone, Debug)]
pub(super) struct Team {
    pub(super) name: String,
    pub(super) status: TeamStatus,
    /// Whether it said all that it was asked.
    pub(super) answered: bool,
    pub(super) agents: Vec<Agent>,
}

/// One agent.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) name: String,
    pub(super) status: AgentStatus,
    pub(super) restarts: u32,
    pub(super) usage: Option<Usage>,
    pub(super) egress: Option<Totals>,
}

impl Snapshot {
    /// Looks at the state, and asks each team that runs.
    pub(super) async fn take(state: &StateDir) -> Result<Self, TeamError> {
        let (places, mut asked) = (Arc::new(Semaphore::new(MAX_ASKED)), JoinSet::new());
        {
            let db = Db::open(state)?;
            for row in db.teams()? {
                let status = true_status(state, &row)?;
                let agents = db.agents(&row.name)?;
                let (state, places) = (state.clone(), Arc::clone(&places));
                asked.spawn(async move {
                    // Never closed.
                    let _place = places.acquire().await;
                    Team::ask(&state, row.name, status, agents).await
                });
            }
        }
        let mut teams = asked.join_all().await;
        teams.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Self { teams })
    }
}

impl Team {
    async fn ask(state: &StateDir, name: String, status: TeamStatus, rows: Vec<AgentRow>) -> Self {
        // What needs the machine is not asked of one that is paused, and nothing of one that is not up yet.
        let (usage, egress) = match status {
            TeamStatus::Running => {
                tokio::join!(ask(state, &name, &Call::Usage), ask(state, &name, &Call::Totals))
            }
            TeamStatus::Paused => (Ok(None), ask(state, &name, &Call::Totals).await),
            _ => (Ok(None), Ok(None)),
        };
        let answered = usage.is_ok() && egress.is_ok();
        let mut usages = match usage {
            Ok(Some(Reply::Usage(usages))) => usages,
            _ => Vec::new(),
        };
        let mut totals = match egress {
            Ok(Some(Reply::Totals(totals))) => totals,
            _ => Vec::new(),
        };
        let agents = rows.into_iter().map(|row| Agent {
            usage: take(&mut usages, &row.name),
            egress: take(&mut totals, &row.name),
            name: row.name,
            status: row.status,
            restarts: row.restarts,
        });
        Self { status, answered, agents: agents.collect(), name }
    }
}

/// What belongs to that name.
fn take<T>(all: &mut Vec<(String, T)>, name: &str) -> Option<T> {
    let place = all.iter().position(|(of, _)| of == name)?;
    Some(all.swap_remove(place).1)
}

async fn ask(state: &StateDir, team: &str, call: &Call) -> Result<Option<Reply>, ChannelError> {
    let answer =
        timeout(ANSWER_LIMIT, async { Connection::call(state, team, call).await?.reply().await });
    match answer.await {
        Ok(Ok(Reply::Refused { .. })) | Err(_) => Err(ChannelError::Gone),
        Ok(answer) => answer.map(Some),
    }
}
