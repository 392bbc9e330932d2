//! The event loop: one thread that serves the host until it is told to stop.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use cloister_protocol::VERSION;
use cloister_protocol::limits::MAX_COMMANDS;
use cloister_protocol::message::{Event, Exec, Request};
use rustix::io::Errno;

use crate::command::{Command, Failure, Groups, Surroundings};
use crate::control::{Control, ControlError};
use crate::host::Host;
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
}

/// What the loop works on.
pub(crate) struct Server<'a> {
    around: Surroundings<'a>,
    control: Control,
    children: OwnedFd,
    /// By their serial numbers.
    commands: BTreeMap<u64, Command>,
    /// The last command's serial number.
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
    ) -> Result<Self, ServeError> {
        let poller = Poller::new().map_err(ServeError::Poll)?;
        let children = sys::child_signals().map_err(ServeError::Children)?;
        poller.watch(&children, Owner::Children).map_err(ServeError::Poll)?;
        poller.watch(&control, Owner::Control).map_err(ServeError::Poll)?;
        let scratch = vec![0; CHUNK];
        Ok(Self {
            around: Surroundings { host, groups, log, poller, scratch, events: Vec::new() },
            control: Control::new(control),
            children,
            commands: BTreeMap::new(),
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
        let result = self.turns();
        for command in self.commands.values() {
            command.kill(&self.around);
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
            self.reap();
            self.hear()?;
            self.commands.retain(|_, command| !command.is_over());
            self.answer()?;
        }
        Ok(())
    }

    /// Whether something is left to do that no event will tell of.
    fn has_work(&self) -> bool {
        self.unreaped || self.unheard || self.commands.values().any(Command::is_unfinished)
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
            self.obey(request);
        }
        Ok(())
    }

    fn obey(&mut self, request: Request) {
        match request {
            Request::Hello { .. } => {}
            Request::Exec(exec) => {
                let id = exec.id;
                if let Err(failure) = self.begin(exec) {
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
    }

    fn begin(&mut self, exec: Exec) -> Result<(), Failure> {
        if self.by_id(exec.id).is_some() {
            return Err(Failure::IdInUse);
        }
        if self.commands.len() >= MAX_COMMANDS {
            return Err(Failure::TooMany);
        }
        self.serial = self.serial.saturating_add(1);
        let command = Command::new(exec, self.serial, &self.around)?;
        self.commands.insert(self.serial, command);
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
