//! One agent's life: wait for others, make its container, run its command, see it end, and start it
//! again if its team file says so.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{RwLockReadGuard, mpsc, oneshot};
use tokio::time::sleep;

use super::api::Order;
use super::events::Event;
use super::lives::Doing;
use super::recipe::{AgentRecipe, Condition};
use super::team::{Ordered, Team};
use crate::machine::Command;
use crate::report::chain;
use crate::state::db::now_ms;
use crate::state::rows::{AgentRow, AgentStatus};

/// Shortest time limit of a command.
const LEAST_LIMIT: Duration = Duration::from_millis(1);

/// How a wait or a life ended.
pub(super) enum End {
    /// By itself; it is started again after this time, if ever.
    Itself { again: Option<Duration> },
    /// By an order, which is answered when it is carried out.
    Ordered(Order, oneshot::Sender<()>),
    /// It will never come to it.
    Never(String),
    /// The team is gone.
    Gone,
}

/// What an agent does next.
pub(super) enum Next {
    /// It waits for others.
    Wait,
    /// It starts.
    Live,
    /// Its command runs already: it was kept with its machine.
    GoOn(Box<Command>),
    /// It is started again after this time.
    BackOff(Duration),
    /// Nothing, until it is ordered to start.
    Rest,
}

/// Runs an agent until its team ends.
pub(super) async fn supervise(
    team: Rc<Team>,
    index: usize,
    mut orders: mpsc::Receiver<Ordered>,
    begin: Begin,
) {
    let Some(recipe) = team.recipes.get(index) else { return };
    let Begin { mut next, deadline, restarts } = begin;
    let mut one = One { team: &team, recipe, index, deadline, restarts, busy: None };
    loop {
        let end = match next {
            Next::Wait => match one.wait_for_others(&mut orders).await {
                None => {
                    next = Next::Live;
                    continue;
                }
                Some(end) => end,
            },
            Next::Live => {
                let limit = recipe.time_limit;
                one.deadline =
                    one.deadline.or(limit.and_then(|limit| Instant::now().checked_add(limit)));
                one.live(&mut orders).await
            }
            Next::GoOn(command) => one.go_on(*command, &mut orders).await,
            Next::BackOff(wait) => match one.back_off(wait, &mut orders).await {
                None => {
                    next = Next::Wait;
                    continue;
                }
                Some((order, done)) => End::Ordered(order, done),
            },
            Next::Rest => End::Itself { again: None },
        };
        one.busy = None;
        let rest = match end {
            End::Gone => return,
            End::Never(reason) => {
                one.finish(AgentStatus::Skipped, reason);
                None
            }
            End::Itself { again: Some(wait) } => {
                one.restarts += 1;
                next = Next::BackOff(wait);
                continue;
            }
            End::Itself { again: None } => None,
            End::Ordered(order, done) => Some((order, done)),
        };
        if !one.rest(rest, &mut orders).await {
            return;
        }
        one.restarts = 0;
        one.deadline = None;
        next = Next::Wait;
    }
}

/// Where an agent begins.
pub(super) struct Begin {
    pub(super) next: Next,
    /// When its time limit ends it, if that has begun.
    pub(super) deadline: Option<Instant>,
    /// How often it was started again.
    pub(super) restarts: u32,
}

impl Begin {
    /// Where it begins in a team that is started.
    pub(super) const fn anew() -> Self {
        Self { next: Next::Wait, deadline: None, restarts: 0 }
    }
}

/// One agent.
pub(super) struct One<'a> {
    pub(super) team: &'a Rc<Team>,
    pub(super) recipe: &'a AgentRecipe,
    pub(super) index: usize,
    /// When its time limit ends it; the limit begins with its first start.
    pub(super) deadline: Option<Instant>,
    /// How often it was started again.
    pub(super) restarts: u32,
    /// Something is going on with its machine, of which no half may be kept.
    pub(super) busy: Option<RwLockReadGuard<'a, ()>>,
}

impl One<'_> {
    /// From here on it has to do with its machine, which is not kept meanwhile.
    pub(super) async fn begin_work(&mut self) {
        if self.busy.is_none() {
            self.busy = Some(self.team.calm.read().await);
        }
    }

    /// Notes what it does, for whoever keeps the team.
    pub(super) fn does(&self, phase: Doing) {
        self.team.lives.note(self.index, phase, self.restarts, self.deadline);
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut AgentRow)) {
        self.team.change(self.index, change);
    }

    pub(super) fn note(&self, kind: &str, detail: impl Into<String>) {
        self.team.note(&Event::now(kind, detail).of(&self.team.recipes, self.index));
    }

    pub(super) fn finish(&self, status: AgentStatus, detail: String) {
        self.note(status.word(), detail.clone());
        self.change(|row| (row.status, row.detail) = (status, detail));
    }

    /// The agent's number in the machine; there are at most 64.
    pub(super) fn number(&self) -> u32 {
        self.recipe.spec.agent
    }

    /// Waits until the agents that it needs are where it needs them. `None`: they are.
    async fn wait_for_others(&self, orders: &mut mpsc::Receiver<Ordered>) -> Option<End> {
        self.does(Doing::Waiting);
        self.change(|row| (row.status, row.detail) = (AgentStatus::Waiting, String::new()));
        let mut rows = self.team.rows.subscribe();
        let decided = rows.wait_for(|rows| self.verdict(rows) != Verdict::Open);
        tokio::select! {
            decided = decided => match decided.map(|rows| self.verdict(&rows)) {
                Ok(Verdict::Never(reason)) => Some(End::Never(reason)),
                Ok(_) => None,
                Err(_) => Some(End::Gone),
            },
            order = orders.recv() => match order {
                None => Some(End::Gone),
                // It shall run: it does not wait any longer.
                Some((Order::Start | Order::Restart, done)) => {
                    self.takes(done);
                    None
                }
                Some((order, done)) => Some(End::Ordered(order, done)),
            },
        }
    }

    /// Takes an order to start. Whoever gave it goes on when the agent has begun, which its status tells from here on.
    fn takes(&self, done: oneshot::Sender<()>) {
        self.change(|row| row.status = AgentStatus::Starting);
        // Whoever ordered may have gone.
        done.send(()).ok();
    }

    fn verdict(&self, rows: &[AgentRow]) -> Verdict {
        let mut verdict = Verdict::Ready;
        for after in &self.recipe.after {
            let Some(row) = rows.get(after.agent) else { continue };
            let (met, never) = match after.condition {
                Condition::Started => {
                    let started = row.started_ms.is_some();
                    (started, row.status.is_final() && !started)
                }
                Condition::Succeeded => {
                    let met = row.status == AgentStatus::Succeeded;
                    (met, row.status.is_final() && !met)
                }
            };
            if never {
                let (name, status) = (&row.name, row.status.word());
                return Verdict::Never(format!("{name}, which it waits for, is {status}"));
            }
            if !met {
                verdict = Verdict::Open;
            }
        }
        verdict
    }

    /// From the container to the command's end.
    async fn live(&mut self, orders: &mut mpsc::Receiver<Ordered>) -> End {
        self.does(Doing::Starting);
        self.begin_work().await;
        self.change(|row| (row.status, row.detail) = (AgentStatus::Starting, String::new()));
        let machine = &self.team.machine;
        if let Err(error) = machine.create_agent(self.team.container(self.recipe, self.index)).await
        {
            return self.not_started(chain(&error));
        }
        let mut exec = self.recipe.exec.clone();
        // The guest refuses a limit of nothing.
        let left = |end: Instant| end.saturating_duration_since(Instant::now()).max(LEAST_LIMIT);
        exec.timeout = self.deadline.map(left);
        let end = match machine.exec(exec).await {
            Ok(command) => self.run(command, orders).await,
            Err(error) => self.not_started(chain(&error)),
        };
        self.clear_up(end).await
    }

    /// From a command that was kept while it ran, to its end.
    async fn go_on(&mut self, command: Command, orders: &mut mpsc::Receiver<Ordered>) -> End {
        let end = self.follow(command, orders).await;
        self.clear_up(end).await
    }

    /// Removes what is left of its container.
    async fn clear_up(&mut self, end: End) -> End {
        // A machine that does not answer is ended by its driver.
        self.team.machine.remove_agent(self.number()).await.ok();
        match end {
            End::Ordered(Order::Stop, done) => {
                self.finish(AgentStatus::Stopped, String::new());
                End::Ordered(Order::Stop, done)
            }
            end => end,
        }
    }

    pub(super) fn not_started(&self, detail: String) -> End {
        let again = self.recipe.restart.wait(self.restarts);
        self.note(AgentStatus::Failed.word(), detail.clone());
        self.change(|row| {
            row.status = failed_status(again);
            row.ended_ms = Some(now_ms());
            row.detail = detail;
        });
        End::Itself { again }
    }

    /// Waits before the next start. `None`: it is time.
    async fn back_off(
        &self,
        wait: Duration,
        orders: &mut mpsc::Receiver<Ordered>,
    ) -> Option<Ordered> {
        let restarts = self.restarts;
        self.does(Doing::BackOff(Instant::now() + wait));
        self.change(|row| (row.status, row.restarts) = (AgentStatus::BackOff, restarts));
        self.note("restarting", format!("in {} s", wait.as_secs_f32()));
        tokio::select! {
            () = sleep(wait) => None,
            order = orders.recv() => match order {
                Some((Order::Start | Order::Restart, done)) => {
                    self.takes(done);
                    None
                }
                Some((Order::Stop, done)) => {
                    self.finish(AgentStatus::Stopped, String::new());
                    Some((Order::Stop, done))
                }
                None => None,
            },
        }
    }

    /// Rests until it is to start anew; `false`: the team is gone.
    async fn rest(
        &self,
        mut ordered: Option<Ordered>,
        orders: &mut mpsc::Receiver<Ordered>,
    ) -> bool {
        loop {
            let Some((order, done)) = ordered.take() else {
                self.does(Doing::Resting);
                ordered = orders.recv().await;
                if ordered.is_none() {
                    return false;
                }
                continue;
            };
            if order == Order::Stop && self.team.status(self.index).is_some_and(|s| !s.is_final()) {
                self.finish(AgentStatus::Stopped, String::new());
            }
            if order != Order::Stop {
                self.takes(done);
                return true;
            }
            done.send(()).ok();
        }
    }
}

/// How an agent that failed stands.
pub(super) const fn failed_status(again: Option<Duration>) -> AgentStatus {
    match again {
        Some(_) => AgentStatus::BackOff,
        None => AgentStatus::Failed,
    }
}

/// Whether an agent may start.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Ready,
    Open,
    Never(String),
}
