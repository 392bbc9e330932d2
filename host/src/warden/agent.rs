//! One agent's life: wait for others, make its container, run its command, see it end, and start it
//! again if its team file says so.

use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cloister_protocol::message::ExitStatus;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, sleep_until, timeout};

use super::api::Order;
use super::events::Event;
use super::log::Source;
use super::output::Pump;
use super::recipe::{AgentRecipe, Condition};
use super::team::{Ordered, Team};
use crate::exit_codes;
use crate::machine::{Command, Streams};
use crate::report::chain;
use crate::state::db::now_ms;
use crate::state::rows::{AgentRow, AgentStatus};
use crate::transfer;

/// How long a command may take to end when it is asked, before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How long the machine may take to tell the end of a command that it was to kill; then it is not
/// believed to come.
const END_LIMIT: Duration = Duration::from_secs(10);
const SIGTERM: u8 = 15;
/// Shortest time limit of a command.
const LEAST_LIMIT: Duration = Duration::from_millis(1);

/// How a wait or a life ended.
enum End {
    /// By itself; it is started again after this time, if ever.
    Itself { again: Option<Duration> },
    /// By an order, which is answered when it is carried out.
    Ordered(Order, oneshot::Sender<()>),
    /// It will never come to it.
    Never(String),
    /// The team is gone.
    Gone,
}

/// Runs an agent until its team ends.
pub(super) async fn supervise(team: Rc<Team>, index: usize, mut orders: mpsc::Receiver<Ordered>) {
    let Some(recipe) = team.recipes.get(index) else { return };
    let mut one = One { team: &team, recipe, index, deadline: None, restarts: 0 };
    loop {
        let end = match one.wait_for_others(&mut orders).await {
            None => {
                let limit = recipe.time_limit;
                one.deadline =
                    one.deadline.or(limit.and_then(|limit| Instant::now().checked_add(limit)));
                one.live(&mut orders).await
            }
            Some(end) => end,
        };
        let rest = match end {
            End::Gone => return,
            End::Never(reason) => {
                one.finish(AgentStatus::Skipped, reason);
                None
            }
            End::Itself { again: Some(wait) } => {
                one.restarts += 1;
                match one.back_off(wait, &mut orders).await {
                    None => continue,
                    Some(ordered) => Some(ordered),
                }
            }
            End::Itself { again: None } => None,
            End::Ordered(order, done) => Some((order, done)),
        };
        if !one.rest(rest, &mut orders).await {
            return;
        }
        one.restarts = 0;
        one.deadline = None;
    }
}

/// One agent.
struct One<'a> {
    team: &'a Rc<Team>,
    recipe: &'a AgentRecipe,
    index: usize,
    /// When its time limit ends it; the limit begins with its first start.
    deadline: Option<Instant>,
    /// How often it was started again.
    restarts: u32,
}

impl One<'_> {
    fn change(&self, change: impl FnOnce(&mut AgentRow)) {
        self.team.change(self.index, change);
    }

    fn note(&self, kind: &str, detail: impl Into<String>) {
        self.team.note(&Event::now(kind, detail).of(&self.team.recipes, self.index));
    }

    fn finish(&self, status: AgentStatus, detail: String) {
        self.note(status.word(), detail.clone());
        self.change(|row| (row.status, row.detail) = (status, detail));
    }

    /// The agent's number in the machine; there are at most 64.
    fn number(&self) -> u32 {
        self.recipe.spec.agent
    }

    /// Waits until the agents that it needs are where it needs them. `None`: they are.
    async fn wait_for_others(&self, orders: &mut mpsc::Receiver<Ordered>) -> Option<End> {
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
    async fn live(&self, orders: &mut mpsc::Receiver<Ordered>) -> End {
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
        // A machine that does not answer is ended by its driver.
        machine.remove_agent(self.number()).await.ok();
        match end {
            End::Ordered(Order::Stop, done) => {
                self.finish(AgentStatus::Stopped, String::new());
                End::Ordered(Order::Stop, done)
            }
            end => end,
        }
    }

    fn not_started(&self, detail: String) -> End {
        let again = self.recipe.restart.wait(self.restarts);
        self.note(AgentStatus::Failed.word(), detail.clone());
        self.change(|row| {
            row.status = failed_status(again);
            row.ended_ms = Some(now_ms());
            row.detail = detail;
        });
        End::Itself { again }
    }

    async fn run(&self, mut command: Command, orders: &mut mpsc::Receiver<Ordered>) -> End {
        let pumps = match self.connect(&mut command) {
            Ok(pumps) => pumps,
            Err(error) => return self.not_started(format!("can't read its output: {error}")),
        };
        self.change(|row| {
            row.status = AgentStatus::Running;
            row.started_ms = Some(now_ms());
            (row.ended_ms, row.code) = (None, None);
        });
        self.note("started", String::new());
        let (status, ordered) = self.wait(&mut command, orders).await;
        for pump in pumps {
            pump.drain().await;
        }
        let Some(status) = status else { return End::Gone };
        let again = match status {
            // There is no time left to start it again in.
            ExitStatus::Code(0) | ExitStatus::TimedOut => None,
            _ => self.recipe.restart.wait(self.restarts),
        };
        // Final only if it is: others, and the end of the team, wait for that.
        let next = match &ordered {
            Some((Order::Stop, _)) => AgentStatus::Stopped,
            Some(_) => AgentStatus::Waiting,
            None if status == ExitStatus::Code(0) => AgentStatus::Succeeded,
            None => failed_status(again),
        };
        self.ended(status, next).await;
        match ordered {
            Some((order, done)) => End::Ordered(order, done),
            None => End::Itself { again },
        }
    }

    fn connect(&self, command: &mut Command) -> std::io::Result<Vec<Pump>> {
        let Some(Streams::Pipes { stdout, stderr, .. }) = command.take_streams() else {
            return Ok(Vec::new());
        };
        let streams = [(stdout, Source::Stdout), (stderr, Source::Stderr)];
        let mut pumps = Vec::new();
        for (stream, source) in streams {
            if let Some(sink) = self.team.sink(self.index) {
                pumps.push(Pump::start(stream, source, sink)?);
            }
        }
        Ok(pumps)
    }

    /// Waits for the command's end; `None`: the machine ended first, or does not tell it.
    async fn wait(
        &self,
        command: &mut Command,
        orders: &mut mpsc::Receiver<Ordered>,
    ) -> (Option<ExitStatus>, Option<Ordered>) {
        let mut overdue = pin!(self.overdue());
        let ordered = loop {
            tokio::select! {
                status = command.wait() => return (status.ok(), None),
                () = &mut overdue => {
                    // Whatever the guest says of how it ended, its time is over.
                    let ended = self.kill(command).await;
                    return (ended.map(|_| ExitStatus::TimedOut), None);
                }
                order = orders.recv() => match order {
                    Some((Order::Start, done)) => { done.send(()).ok(); }
                    order => break order,
                },
            }
        };
        command.signal(SIGTERM).await.ok();
        let status = match timeout(STOP_GRACE, command.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => self.kill(command).await,
        };
        (status, ordered)
    }

    /// Comes back when the agent's time is over and the guest, which keeps the limit, has not ended it.
    async fn overdue(&self) {
        let Some(deadline) = self.deadline else { return std::future::pending().await };
        sleep_until(deadline.into()).await;
        // A guest that is paused keeps its limits when it goes on.
        self.team.machine.paused().pass(END_LIMIT).await;
    }

    /// Removes the container with what runs in it. `None`: the machine does not tell that it ended.
    async fn kill(&self, command: &mut Command) -> Option<ExitStatus> {
        self.team.machine.remove_agent(self.number()).await.ok();
        let status = timeout(END_LIMIT, command.wait()).await;
        if status.is_err() {
            let words = "the machine did not tell the end of its command".to_owned();
            self.finish(AgentStatus::Failed, words);
        }
        status.ok()?.ok()
    }

    /// Notes the command's end and copies its outputs.
    async fn ended(&self, status: ExitStatus, next: AgentStatus) {
        let code = exit_codes::of_status(status);
        let words = match status {
            ExitStatus::Code(code) => format!("exit code {code}"),
            ExitStatus::Signal(signal) => format!("ended by signal {signal}"),
            ExitStatus::TimedOut => "its time limit ended it".to_owned(),
        };
        self.note("exited", words.clone());
        for output in &self.recipe.outputs {
            let copied = transfer::copy_out(
                &self.team.machine,
                self.number(),
                self.recipe.user,
                &output.path,
                &output.to,
            );
            match copied.await {
                Ok(()) => self.note("output-copied", output.shown.clone()),
                Err(error) => self.note("output-failed", chain(&error)),
            }
        }
        let succeeded = status == ExitStatus::Code(0);
        self.change(|row| {
            row.status = next;
            row.code = Some(code);
            row.ended_ms = Some(now_ms());
            row.detail = if succeeded { String::new() } else { words };
        });
    }

    /// Waits before the next start. `None`: it is time.
    async fn back_off(
        &self,
        wait: Duration,
        orders: &mut mpsc::Receiver<Ordered>,
    ) -> Option<Ordered> {
        let restarts = self.restarts;
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
const fn failed_status(again: Option<Duration>) -> AgentStatus {
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
