//! The event loop: one thread that serves the host until it is told to stop.

mod agents;

mod detach;

mod freeze;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use cloister_protocol::VERSION;
use cloister_protocol::limits::MAX_COMMANDS;
use cloister_protocol::message::{Event, Exec, Request};
use rustix::io::Errno;

use self::detach::{HeldBack, Presence};
use self::freeze::Freezing;
use crate::agent::{Agent, Common};
use crate::command::{Command, Failure, Groups, Surroundings};
use crate::control::{Control, ControlError};
use crate::egress::Egress;
use crate::host::Host;
use crate::identity::IdentityError;
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
    #[error("can't connect new streams")]
    Attach(#[source] Errno),
    #[error("can't have agents and commands stand still")]
    Freeze(#[source] Errno),
    #[error("can't have agents and commands go on")]
    Thaw(#[source] Errno),
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
    presence: Presence,
    /// As long as the presence is that.
    freezing: Option<Freezing>,
    held_back: HeldBack,
    /// The connection is not the first, and the host on it has not attached yet.
    is_anew: bool,
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
                is_frozen: false,
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
            presence: Presence::default(),
            freezing: None,
            held_back: HeldBack::default(),
            is_anew: false,
        })
    }

    /// Greets the host and serves it until it asks for the end. Every command is killed then,
    /// whatever the reason. A machine that was saved where the host may leave goes on in another, whose host is
    /// another: `connect` makes a connection to that.
    pub(crate) fn run<E: From<ServeError>>(
        mut self,
        start_tsc: u64,
        connect: impl FnMut() -> Result<OwnedFd, E>,
    ) -> Result<(), E> {
        let result = self.serve_hosts(start_tsc, connect);
        for command in self.commands.values() {
            command.kill(&self.around);
        }
        for agent in self.around.agents.values() {
            agent.kill(self.around.log);
        }
        result
    }

    fn serve_hosts<E: From<ServeError>>(
        &mut self,
        mut start_tsc: u64,
        mut connect: impl FnMut() -> Result<OwnedFd, E>,
    ) -> Result<(), E> {
        loop {
            match self.turns(start_tsc) {
                Err(ServeError::Control(ControlError::Closed)) if self.may_lose_host() => {}
                result => return Ok(result?),
            }
            start_tsc = sys::time_stamp();
            self.reconnect(connect()?)?;
        }
    }

    fn turns(&mut self, start_tsc: u64) -> Result<(), ServeError> {
        let ready_tsc = sys::time_stamp();
        self.control.push(&Event::Hello { version: VERSION, start_tsc, ready_tsc })?;
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
            Owner::Freezing => self.freezes_late(),
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
        self.check_presence(&request)?;
        match request {
            Request::Hello { fork: None, .. } => {}
            Request::Hello { fork: Some(identity), .. } => self.around.host.take_in(&identity)?,
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
            Request::Detach { commands } => self.detach(commands)?,
            Request::Attach { commands } => self.attach(&commands)?,
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

    fn by_id(&self, id: u32) -> Option<&Command> {
        self.commands.values().find(|command| command.id() == id && !command.has_ended())
    }

    /// Sends what has to be told.
    fn answer(&mut self) -> Result<(), ServeError> {
        self.turn_presence()?;
        self.tell()?;
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

#[cfg(test)]
#[path = "detach_test.rs"]
mod detach_tests;

#[cfg(test)]
#[path = "freeze_test.rs"]
mod freeze_tests;
