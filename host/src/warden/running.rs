//! An agent's command while it runs: its output, its end by itself, by an order or by its time limit, and what is copied
//! afterwards.

use std::pin::pin;
use std::time::Duration;

use cloister_protocol::message::ExitStatus;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use super::agent::{End, One, failed_status};
use super::api::Order;
use super::lives::Doing;
use super::log::Source;
use super::output::Pump;
use super::team::{Ordered, Team};
use crate::exit_codes;
use crate::machine::{Command, Streams};
use crate::report::chain;
use crate::state::db::now_ms;
use crate::state::rows::AgentStatus;
use crate::transfer;

/// How long a command may take to end when it is asked, before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How long the machine may take to tell the end of a command that it was to kill; then it is not
/// believed to come.
const END_LIMIT: Duration = Duration::from_secs(10);
const SIGTERM: u8 = 15;

/// What ends the wait for a command.
enum Cause {
    /// It has ended; `None`: its machine has.
    Ended(Option<ExitStatus>),
    /// Its time is over.
    Overdue,
    /// Somebody wants something else of it, or the team is gone.
    Order(Option<Ordered>),
}

impl One<'_> {
    /// Notes that the command runs, and follows it.
    pub(super) async fn run(
        &mut self,
        command: Command,
        orders: &mut mpsc::Receiver<Ordered>,
    ) -> End {
        self.change(|row| {
            row.status = AgentStatus::Running;
            row.started_ms = Some(now_ms());
            (row.ended_ms, row.code) = (None, None);
        });
        self.note("started", String::new());
        self.follow(command, orders).await
    }

    /// Follows a command that runs to its end.
    pub(super) async fn follow(
        &mut self,
        mut command: Command,
        orders: &mut mpsc::Receiver<Ordered>,
    ) -> End {
        if let Some(streams) = command.take_streams()
            && let Err(error) = self.team.read_output(self.index, streams)
        {
            return self.not_started(format!("can't read its output: {error}"));
        }
        self.does(Doing::Running(command.id()));
        let (status, ordered) = self.wait(&mut command, orders).await;
        for pump in self.team.lives.take_pumps(self.index) {
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

    /// Waits for the command's end; `None`: the machine ended first, or does not tell it. Only while nothing else than
    /// that is waited for, the team can be kept.
    async fn wait(
        &mut self,
        command: &mut Command,
        orders: &mut mpsc::Receiver<Ordered>,
    ) -> (Option<ExitStatus>, Option<Ordered>) {
        self.busy = None;
        let cause = self.await_cause(command, orders).await;
        self.begin_work().await;
        let ordered = match cause {
            Cause::Ended(status) => return (status, None),
            // Whatever the guest says of how it ended, its time is over.
            Cause::Overdue => {
                let ended = self.kill(command).await;
                return (ended.map(|_| ExitStatus::TimedOut), None);
            }
            Cause::Order(ordered) => ordered,
        };
        command.signal(SIGTERM).await.ok();
        let status = match timeout(STOP_GRACE, command.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => self.kill(command).await,
        };
        (status, ordered)
    }

    async fn await_cause(
        &self,
        command: &mut Command,
        orders: &mut mpsc::Receiver<Ordered>,
    ) -> Cause {
        let mut overdue = pin!(self.overdue());
        loop {
            tokio::select! {
                status = command.wait() => return Cause::Ended(status.ok()),
                () = &mut overdue => return Cause::Overdue,
                order = orders.recv() => match order {
                    Some((Order::Start, done)) => { done.send(()).ok(); }
                    order => return Cause::Order(order),
                },
            }
        }
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
}

impl Team {
    /// Reads what an agent's command writes, to the streams' ends.
    pub(super) fn read_output(&self, agent: usize, streams: Streams) -> std::io::Result<()> {
        let Streams::Pipes { stdout, stderr, .. } = streams else { return Ok(()) };
        for (stream, source) in [(stdout, Source::Stdout), (stderr, Source::Stderr)] {
            if let Some(sink) = self.sink(agent) {
                self.lives.put_pump(agent, Pump::start(stream, source, sink)?);
            }
        }
        Ok(())
    }
}
