//! The event loop: one thread that serves the host until it is told to stop.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use cloister_protocol::VERSION;
use cloister_protocol::agent::{AgentSpec, Notice};
use cloister_protocol::check::printable_detail;
use cloister_protocol::limits::MAX_COMMANDS;
use cloister_protocol::message::{Event, Exec, Request};
use rustix::io::Errno;

use crate::agent::{Agent, Around, Common};
use crate::command::{Command, Failure, Groups, Surroundings};
use crate::control::{Control, ControlError};
use crate::egress::{Egress, Tools};
use crate::host::Host;
use crate::identity::{self, IdentityError};
use crate::log::Log;
use crate::poller::{Owner, Poller};
use crate::stream::CHUNK;
use crate::{reaper, sys};

/// Most requests answered in one turn, so that commands have theirs.
const REQUESTS_A_TURN: usize = 64;

/// Why serving ended without the host's asking for it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("can't wait for events")]
    Poll(#[source] Errno),
    #[error("can't watch for children")]
    Children(#[source] Errno),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("can't take in what makes this machine another")]
    Identity(#[from] IdentityError),
    /// This machine goes on from a saved one, or the host has gone.
    #[error("the host closed the connection before it greeted")]
    Ungreeted,
}

/// What the loop works on.
pub(crate) struct Server<'a> {
    around: Surroundings<'a>,
    control: Control,
    children: OwnedFd,
    /// By their serial numbers.
    commands: BTreeMap<u64, Command>,
    /// What agents share.
    common: Common,
    /// The serial number of the last command or agent.
    serial: u64,
    /// There may be dead children left from the last turn.
    unreaped: bool,
    /// There may be requests left from the last turn.
    unheard: bool,
    /// The host asked for the end.
    stop: bool,
}

impl<'a> Server<'a> {
    /// Takes the control connection, which doesn't block. Signals are blocked.
    pub(crate) fn new(
        control: OwnedFd,
        host: &'a dyn Host,
        groups: &'a Groups,
        log: &'a Log,
        common: Common,
    ) -> Result<Self, ServeError> {
        let poller = Poller::new().map_err(ServeError::Poll)?;
        let children = sys::child_signals().map_err(ServeError::Children)?;
        poller.watch(&children, Owner::Children).map_err(ServeError::Poll)?;
        poller.watch(&control, Owner::Control).map_err(ServeError::Poll)?;
        let scratch = vec![0; CHUNK];
        Ok(Self {
            around: Surroundings {
                host,
                groups,
                agents: BTreeMap::new(),
                egress: Egress::default(),
                log,
                poller,
                scratch,
                events: Vec::new(),
            },
            control: Control::new(control),
            children,
            commands: BTreeMap::new(),
            common,
            serial: 0,
            unreaped: false,
            unheard: false,
            stop: false,
        })
    }

    /// Greets the host and serves it until it asks for the end. Every command is killed then,
    /// whatever the reason.
    pub(crate) fn run(mut self, start_tsc: u64) -> Result<(), ServeError> {
        let ready_tsc = sys::time_stamp();
        self.around.events.push(Event::Hello { version: VERSION, start_tsc, ready_tsc });
        let result = match self.turns() {
            Err(ServeError::Control(ControlError::Closed)) if !self.control.is_greeted() => {
                Err(ServeError::Ungreeted)
            }
            result => result,
        };
        for command in self.commands.values() {
            command.kill(&self.around);
        }
        for agent in self.around.agents.values() {
            agent.kill(self.around.log);
        }
        result
    }

    fn turns(&mut self) -> Result<(), ServeError> {
        self.answer()?;
        while !self.stop {
            let owners = self.around.poller.wait(self.has_work()).map_err(ServeError::Poll)?;
            for owner in owners {
                self.happened(owner);
            }
            for command in self.commands.values_mut().filter(|one| one.is_unfinished()) {
                command.run_streams(&mut self.around);
            }
            self.work_outside();
            self.reap();
            self.hear()?;
            self.end_agents();
            self.commands.retain(|_, command| !command.is_over());
            self.answer()?;
        }
        Ok(())
    }

    /// Whether something is left to do that no event will tell of.
    fn has_work(&self) -> bool {
        self.unreaped
            || self.unheard
            || self.around.egress.is_unfinished()
            || self.commands.values().any(Command::is_unfinished)
    }

    fn happened(&mut self, owner: Owner) {
        match owner {
            Owner::Control => self.unheard = true,
            Owner::Children => self.unreaped = true,
            Owner::Command(serial, part) => {
                // It may have ended in this very turn.
                if let Some(command) = self.commands.get_mut(&serial) {
                    command.happened(part, &mut self.around);
                }
            }
            Owner::Agent(serial, part) => {
                self.with_agent(
                    |agent| agent.serial() == serial,
                    |agent, around| {
                        agent.happened(part, around);
                    },
                );
            }
            Owner::Egress(serial, _) => self.around.egress.happened(serial),
        }
    }

    /// Passes bytes to the outside and back, answers questions for names, and tells of those that were
    /// refused.
    fn work_outside(&mut self) {
        let Surroundings { host, egress, poller, scratch, agents, events, .. } = &mut self.around;
        let mut refused = Vec::new();
        egress.turn(&mut Tools { host: *host, poller, scratch, refused: &mut refused });
        for (number, name) in refused {
            if let Some(agent) = agents.get_mut(&number) {
                agent.tell(Notice::NameRefused { name }, events);
            }
        }
    }

    /// Does something with the agent that is meant, if there is one.
    fn with_agent(
        &mut self,
        is_meant: impl Fn(&Agent) -> bool,
        act: impl FnOnce(&mut Agent, &mut Around<'_>),
    ) {
        let Surroundings { groups, agents, egress, log, poller, events, .. } = &mut self.around;
        let mut around = Around { groups, poller, egress, log, events };
        if let Some(agent) = agents.values_mut().find(|agent| is_meant(agent)) {
            act(agent, &mut around);
        }
    }

    /// Takes agents away of which nothing is left, after their commands.
    fn end_agents(&mut self) {
        let ending = self.around.agents.values().filter(|agent| agent.is_ending());
        let ending: Vec<u32> = ending.map(Agent::number).collect();
        for number in ending {
            let commands = self.commands.values_mut().filter(|one| one.is_of(number));
            let mut has_commands = false;
            for command in commands {
                command.agent_ends(&mut self.around);
                has_commands |= !command.has_ended();
            }
            self.with_agent(
                |agent| agent.number() == number,
                |agent, around| {
                    agent.end_when_empty(has_commands, around);
                },
            );
        }
        self.around.agents.retain(|_, agent| !agent.is_over());
    }

    /// Takes dead children away and tells the commands.
    fn reap(&mut self) {
        if !self.unreaped {
            return;
        }
        // First, so that a child which dies from here on is told of again.
        let mut told = [0; 128];
        let _empty = rustix::io::read(&self.children, &mut told);
        for _ in 0..reaper::MAX_A_TURN {
            let Some((process, status)) = reaper::next() else {
                self.unreaped = false;
                break;
            };
            let owner =
                self.commands.values_mut().find(|command| command.process() == Some(process));
            if let Some(command) = owner {
                command.reaped(status, &mut self.around);
            } else {
                self.with_agent(|agent| agent.process() == Some(process), Agent::reaped);
            }
        }
        // A group's event may be late by the 10 ms that the kernel limits them to; an orphan's
        // death tells the same sooner.
        for command in self.commands.values_mut() {
            command.end_when_empty(&mut self.around);
        }
    }

    /// Answers what the host asks for.
    fn hear(&mut self) -> Result<(), ServeError> {
        if !self.unheard {
            return Ok(());
        }
        for _ in 0..REQUESTS_A_TURN {
            let Some(request) = self.control.next(&mut self.around.scratch)? else {
                self.unheard = false;
                return Ok(());
            };
            self.obey(request)?;
        }
        Ok(())
    }

    fn obey(&mut self, request: Request) -> Result<(), ServeError> {
        match request {
            Request::Hello { fork: None, .. } => {}
            Request::Hello { fork: Some(identity), .. } => identity::take_in(&identity)?,
            Request::Exec(exec) => {
                let id = exec.id;
                if let Err(failure) = self.begin(exec) {
                    self.around.events.push(failure.event(id));
                }
            }
            Request::CreateAgent(spec) => {
                if let Err(event) = self.create_agent(&spec) {
                    self.around.events.push(event);
                }
            }
            // An agent may have ended while the request was on its way: no fault of the host.
            Request::RemoveAgent { agent } => {
                self.with_agent(|one| one.number() == agent, Agent::remove);
            }
            Request::AgentUsage { agent } => {
                self.with_agent(
                    |one| one.number() == agent,
                    |one, around| {
                        around.events.push(Event::AgentUsage { agent, usage: one.usage() });
                    },
                );
            }
            Request::SetEgress { agent, egress } => {
                self.with_agent(
                    |one| one.number() == agent,
                    |one, around| {
                        let holds = one.set_egress(&egress, around);
                        around.events.push(Event::EgressSet { agent, holds });
                    },
                );
            }
            Request::Copy(copy) => {
                let id = copy.id;
                let begun = self.admit(id).and_then(|serial| {
                    let command = Command::copy(copy, serial, &self.around)?;
                    self.commands.insert(serial, command);
                    Ok(())
                });
                if let Err(failure) = begun {
                    self.around.events.push(failure.event(id));
                }
            }
            // A command may have ended while the request was on its way: no fault of the host.
            Request::Signal { id, signal } => {
                if let Some(command) = self.by_id(id) {
                    command.signal(signal);
                }
            }
            Request::Resize { id, size } => {
                if let Some(command) = self.by_id(id) {
                    command.resize(size);
                }
            }
            Request::Ping { token } => self.around.events.push(Event::Pong { token }),
            Request::PowerOff => self.stop = true,
        }
        Ok(())
    }

    fn begin(&mut self, exec: Exec) -> Result<(), Failure> {
        let serial = self.admit(exec.id)?;
        let command = Command::new(exec, serial, &self.around)?;
        self.commands.insert(serial, command);
        Ok(())
    }

    /// Whether one more command with this id can be had: its serial number.
    fn admit(&mut self, id: u32) -> Result<u64, Failure> {
        if self.by_id(id).is_some() {
            return Err(Failure::IdInUse);
        }
        if self.commands.len() >= MAX_COMMANDS {
            return Err(Failure::TooMany);
        }
        self.serial = self.serial.saturating_add(1);
        Ok(self.serial)
    }

    fn create_agent(&mut self, spec: &AgentSpec) -> Result<(), Event> {
        let agent = spec.agent;
        let failed = |detail: String| Event::AgentFailed { agent, detail };
        spec.validate().map_err(|broken| failed(printable_detail(&broken.to_string())))?;
        if self.around.agents.contains_key(&agent) {
            return Err(failed("the number is in use".to_owned()));
        }
        self.serial = self.serial.saturating_add(1);
        let Surroundings { groups, agents, egress, log, poller, events, .. } = &mut self.around;
        let around = Around { groups, poller, egress, log, events };
        let made = Agent::new(spec, self.serial, &mut self.common, &around)?;
        agents.insert(agent, made);
        Ok(())
    }

    fn by_id(&self, id: u32) -> Option<&Command> {
        self.commands.values().find(|command| command.id() == id && !command.has_ended())
    }

    /// Sends what has to be told.
    fn answer(&mut self) -> Result<(), ServeError> {
        for event in self.around.events.drain(..) {
            self.control.push(&event)?;
        }
        let was_full = self.control.is_full();
        self.control.flush()?;
        // Requests were left in the socket then, and no event will tell of them again.
        self.unheard |= was_full && !self.control.is_full();
        Ok(())
    }
}

#[cfg(test)]
#[path = "serve_test.rs"]
mod tests;

#[cfg(test)]
#[path = "streams_test.rs"]
mod streams_tests;

#[cfg(test)]
#[path = "frames_test.rs"]
mod frames_tests;
