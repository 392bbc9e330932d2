//! A running team: its machine, and what is known of its agents, shared by everything that the
//! warden does at once (on one thread).

use std::cell::{Cell, OnceCell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloister_protocol::agent::{AgentSpec, Notice};
use cloister_protocol::egress::Egress;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::agent::{self, Begin};
use super::api::Order;
use super::audit::Audit;
use super::events::{Event, EventLog};
use super::lives::{self, Lives};
use super::log::Log;
use super::output::{Piece, Sink};
use super::pause::Pauses;
use super::recipe::AgentRecipe;
use crate::egress::gate::Gate;
use crate::machine::{Command, Happening, Machine};
use crate::report::tell_line;
use crate::saved::Life;
use crate::secrets::Store;
use crate::state::db::Db;
use crate::state::rows::{AgentRow, AgentStatus, TeamStatus};
use crate::state::{StateDir, StateError};
use crate::team::plan::Plan;

/// Pieces of output that a slow follower may be behind.
const FOLLOWED: usize = 256;
/// Most notices that are written in a turn, and how long one is: the supervisor keeps to less by itself,
/// and one that was taken over must not keep the host's disk busy.
const NOTICES_A_TURN: u32 = 100;
const NOTICE_TURN: Duration = Duration::from_secs(1);
/// Orders that wait for an agent.
const ORDERS: usize = 16;

/// An order, and who waits until it is carried out.
pub(super) type Ordered = (Order, oneshot::Sender<()>);

/// A running team.
#[derive(Debug)]
pub(super) struct Team {
    pub(super) name: String,
    pub(super) machine: Machine,
    pub(super) recipes: Vec<AgentRecipe>,
    /// How the agents stand, as in the database.
    pub(super) rows: watch::Sender<Vec<AgentRow>>,
    pub(super) followers: broadcast::Sender<Piece>,
    pub(super) orders: Vec<mpsc::Sender<Ordered>>,
    /// The team is to end.
    pub(super) ending: watch::Sender<bool>,
    logs: Vec<Arc<Mutex<Log>>>,
    events: RefCell<EventLog>,
    pub(super) audit: Rc<Audit>,
    db: Db,
    /// What it was started with, and the egress rules that were put in since.
    pub(super) plan: RefCell<Plan>,
    /// The supervisor's copies of the rules, by agent, as they are now.
    pub(super) egress: RefCell<Vec<Egress>>,
    /// Where its streams go; nothing if no agent had a way outside at its start.
    pub(super) gate: OnceCell<Rc<Gate>>,
    /// One change of rules at a time.
    pub(super) applying: tokio::sync::Mutex<()>,
    pub(super) secrets: Store,
    pub(super) pauses: Pauses,
    /// Held by many while something is begun or ended in the machine, and alone by who keeps the team.
    pub(super) calm: Arc<RwLock<()>>,
    /// The same, for good.
    pub(super) stilled: RefCell<Option<OwnedRwLockWriteGuard<()>>>,
    pub(super) lives: Lives,
    /// Commands that were not started by agents' tasks.
    pub(super) visitors: Cell<u32>,
    /// It is on the disk, and no longer here.
    pub(super) kept: watch::Sender<bool>,
    pub(super) state: StateDir,
    pub(super) folder: PathBuf,
    /// Where its volumes are; `None`: the usual place.
    pub(super) volumes: Option<PathBuf>,
}

/// Agents of a team that was kept: their lives, and the commands of those that run.
pub(super) type Carried = Vec<(Life, Option<Command>)>;

impl Team {
    /// A team whose machine runs, and its agents' tasks, to be run beside each other.
    pub(super) fn new(
        (name, plan, recipes): (String, Plan, Vec<AgentRecipe>),
        machine: Machine,
        state: &StateDir,
        (db, audit): (Db, Rc<Audit>),
        carried: Option<Carried>,
    ) -> Result<(Rc<Self>, Vec<impl Future<Output = ()> + use<>>), StateError> {
        let folder = state.logs(&name);
        let wrap = |source| StateError::Io { what: "open a log in", path: folder.clone(), source };
        let logs = recipes
            .iter()
            .map(|agent| Log::open(&folder.join(format!("{}.log", agent.name))))
            .map(|log| log.map(|log| Arc::new(Mutex::new(log))))
            .collect::<Result<_, _>>()
            .map_err(wrap)?;
        let events = RefCell::new(EventLog::open(&folder).map_err(wrap)?);
        let volumes = db.team(&name)?.origin.volumes;
        let new = || recipes.iter().map(|one| AgentRow::new(one.name.clone(), one.image.clone()));
        let (rows, begins): (Vec<AgentRow>, Vec<Begin>) = match carried {
            None => new().map(|row| (row, Begin::anew())).unzip(),
            Some(carried) => {
                // Theirs was another database's, or of another time.
                carried.iter().try_for_each(|(life, _)| db.set_agent(&name, &life.row))?;
                let begun = |(life, command): (Life, Option<Command>)| {
                    let begin = lives::begin(&life, command);
                    (life.row, begin)
                };
                carried.into_iter().map(begun).unzip()
            }
        };
        let (rows, _) = watch::channel(rows);
        let (followers, _) = broadcast::channel(FOLLOWED);
        let (ending, _) = watch::channel(false);
        let (orders, queues): (Vec<_>, Vec<_>) =
            recipes.iter().map(|_| mpsc::channel(ORDERS)).unzip();
        let egress: Vec<Egress> =
            recipes.iter().map(|one| one.spec.egress.clone().unwrap_or_default()).collect();
        let (lives, owned_name) = (Lives::new(recipes.len()), name.clone());
        let team = Self {
            name,
            machine,
            recipes,
            rows,
            followers,
            orders,
            ending,
            logs,
            events,
            audit,
            db,
            plan: plan.into(),
            egress: egress.into(),
            gate: OnceCell::new(),
            applying: tokio::sync::Mutex::new(()),
            secrets: Store::of(state),
            pauses: Pauses::default(),
            calm: Arc::default(),
            stilled: RefCell::default(),
            lives,
            visitors: Cell::new(0),
            kept: watch::channel(false).0,
            folder: state.team(&owned_name),
            state: state.clone(),
            volumes,
        };
        let team = Rc::new(team);
        let tasks = queues
            .into_iter()
            .zip(begins)
            .enumerate()
            .map(|(index, (queue, begin))| agent::supervise(Rc::clone(&team), index, queue, begin))
            .collect();
        Ok((team, tasks))
    }

    /// An agent's container, with the rules that hold now.
    pub(super) fn container(&self, recipe: &AgentRecipe, index: usize) -> AgentSpec {
        let mut spec = recipe.spec.clone();
        if spec.egress.is_some() {
            spec.egress = self.egress.borrow().get(index).cloned();
        }
        spec
    }

    /// Notes in the database whether the team observes.
    pub(super) fn set_observes(&self, observes: bool) {
        if let Err(error) = self.db.set_observes(&self.name, observes) {
            tell_line(crate::report::describe(&error, Some(error.remedy())));
        }
    }

    /// Whether it is on the disk, and no longer here.
    pub(super) fn is_kept(&self) -> bool {
        *self.kept.borrow()
    }

    /// The number of the agent of this name.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.recipes.iter().position(|agent| agent.name == name)
    }

    /// Where an agent's output goes.
    pub(super) fn sink(&self, agent: usize) -> Option<Sink> {
        let log = Arc::clone(self.logs.get(agent)?);
        Some(Sink { agent, log, followers: self.followers.clone() })
    }

    /// The team's processes on the host.
    pub(super) fn processes(&self) -> Vec<(String, i32)> {
        let own = ("warden", Some(std::process::id()));
        let all =
            [own, ("vmm", self.machine.vmm_id()), ("file-server", self.machine.file_server_id())];
        let id = |id: Option<u32>| id.and_then(|id| i32::try_from(id).ok());
        all.into_iter().filter_map(|(role, pid)| Some((role.to_owned(), id(pid)?))).collect()
    }

    /// How an agent stands.
    pub(super) fn status(&self, agent: usize) -> Option<AgentStatus> {
        self.rows.borrow().get(agent).map(|row| row.status)
    }

    /// Changes what is known of an agent, here and in the database.
    pub(super) fn change(&self, agent: usize, change: impl FnOnce(&mut AgentRow)) {
        let mut changed = None;
        self.rows.send_modify(|rows| {
            if let Some(row) = rows.get_mut(agent) {
                change(row);
                changed = Some(row.clone());
            }
        });
        if let Some(row) = changed {
            // What can't be written is told; the agents run on.
            if let Err(error) = self.db.set_agent(&self.name, &row) {
                tell_line(crate::report::describe(&error, Some(error.remedy())));
            }
        }
    }

    /// Changes how the team stands, in the database.
    pub(super) fn set_status(&self, status: TeamStatus) {
        if let Err(error) = self.db.set_team(&self.name, status, "") {
            tell_line(crate::report::describe(&error, Some(error.remedy())));
        }
    }

    /// Notes something that happened, for people and programs.
    pub(super) fn note(&self, event: &Event) {
        self.audit.note_event(event);
        self.note_for_people(event);
    }

    /// The same, when the audit log tells it already, or tells more.
    pub(super) fn note_for_people(&self, event: &Event) {
        if let Err(error) = self.events.borrow_mut().write(event) {
            tell_line(format_args!("cloister: can't write the team's events: {error}"));
        }
    }

    /// Waits until nothing of any agent is going on.
    pub(super) async fn all_final(&self) {
        let mut rows = self.rows.subscribe();
        // The sender is in `self`.
        rows.wait_for(|rows| rows.iter().all(|row| row.status.is_final())).await.ok();
    }

    /// Waits until every agent that waits for no other runs, or has failed to.
    pub(super) async fn first_agents_begun(&self) {
        let begun = |rows: &Vec<AgentRow>| {
            let early = rows.iter().zip(&self.recipes).filter(|(_, one)| one.after.is_empty());
            let waits = [AgentStatus::Waiting, AgentStatus::Starting];
            early.into_iter().all(|(row, _)| !waits.contains(&row.status))
        };
        let mut rows = self.rows.subscribe();
        let ended = self.machine.ended();
        tokio::select! {
            _ = rows.wait_for(begun) => {}
            _ = ended => {}
        }
    }

    /// Gives an order to an agent and waits until it is carried out.
    pub(super) async fn order(&self, agent: usize, order: Order) {
        let (done, wait) = oneshot::channel();
        if let Some(orders) = self.orders.get(agent)
            && orders.send((order, done)).await.is_ok()
        {
            // Dropped when the agent's task has ended.
            wait.await.ok();
            if order != Order::Stop {
                self.has_begun(agent).await;
            }
        }
    }

    /// Waits until an agent that was ordered to start runs, has failed to, or waits for others.
    async fn has_begun(&self, agent: usize) {
        let waits_for_none = self.recipes.get(agent).is_some_and(|one| one.after.is_empty());
        let begun = |rows: &Vec<AgentRow>| {
            rows.get(agent).is_none_or(|row| match row.status {
                AgentStatus::Starting => false,
                AgentStatus::Waiting => !waits_for_none,
                _ => true,
            })
        };
        let mut rows = self.rows.subscribe();
        let mut ending = self.ending.subscribe();
        tokio::select! {
            _ = rows.wait_for(begun) => {}
            _ = ending.wait_for(|ending| *ending) => {}
            _ = self.machine.ended() => {}
        }
    }

    /// Stops every agent.
    pub(super) async fn stop_all(self: &Rc<Self>) {
        let mut all = tokio::task::JoinSet::new();
        for agent in 0..self.recipes.len() {
            let team = Rc::clone(self);
            all.spawn_local(async move { team.order(agent, Order::Stop).await });
        }
        while all.join_next().await.is_some() {}
    }

    /// Takes what the machine tells of agents, to its end.
    pub(super) async fn listen(self: Rc<Self>, mut happenings: mpsc::Receiver<Happening>) {
        let (mut begin, mut count) = (Instant::now(), 0);
        while let Some(happening) = happenings.recv().await {
            if begin.elapsed() >= NOTICE_TURN {
                (begin, count) = (Instant::now(), 0);
            }
            count += 1;
            if count == NOTICES_A_TURN {
                // Meanwhile the machine's driver counts what it leaves out.
                sleep_until(begin + NOTICE_TURN).await;
            }
            let (agent, event) = match happening {
                Happening::Notice { agent, notice } => (agent, Event::of_notice(&notice)),
                Happening::Gone { agent } => (agent, Event::gone()),
            };
            let Some(index) = usize::try_from(agent).ok().filter(|i| *i < self.recipes.len())
            else {
                continue;
            };
            self.note(&event.of(&self.recipes, index));
        }
    }
}

/// The words for a notice.
pub(super) fn words(notice: &Notice) -> String {
    match notice {
        Notice::OutOfMemory { kills } => {
            format!("it used up its memory: {kills} of its processes killed")
        }
        Notice::TooManyProcesses { refused } => {
            format!("it has as many processes as it may: {refused} more refused")
        }
        Notice::ExecDenied { path } => {
            let path = crate::text::printable_line(&String::from_utf8_lossy(path));
            format!("it may not execute {path}")
        }
        Notice::NameRefused { name } => {
            let name = crate::text::printable_line(&String::from_utf8_lossy(name));
            format!("it asked for the name {name}, which it may not reach")
        }
        Notice::Dropped { count } => format!("{count} notices left out, as there were too many"),
    }
}
