//! A supervisor without its host: between the end of the streams that one has read, and the streams that one gives.
//!
//! Between both the machine may be saved, and go on in another one, any number of times. There every connection is
//! broken, the control connection too, so that the supervisor makes a new one; that is how it knows. What it would have
//! told meanwhile it keeps, and tells after [`Event::Attached`].

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use cloister_protocol::agent::Notice;
use cloister_protocol::message::{Attached, Event, Request};

use super::{ServeError, Server};
use crate::command::Command;
use crate::control::{Control, ControlError};
use crate::poller::Owner;

/// Most notices of agents that are kept; what is over is counted. All other events that are kept are bounded by
/// [`MAX_COMMANDS`](cloister_protocol::limits::MAX_COMMANDS) and
/// [`MAX_AGENTS`](cloister_protocol::limits::MAX_AGENTS): as no request is taken, each command and agent can have begun
/// once and ended once.
const MAX_NOTICES: usize = 256;

/// Whether there is a host, as far as the supervisor knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Presence {
    /// It serves as usual.
    #[default]
    Attached,
    /// It does, but takes no request until nothing runs any more.
    Freezing,
    /// The detached streams have ended; the host has not closed its ends of all of them.
    Leaving,
    /// The host was told that it is so.
    Detached,
    /// New streams are being made, and commands that the host does not know are being ended.
    Returning,
}

/// What the host is told when it is back.
#[derive(Debug, Default)]
pub(super) struct HeldBack {
    events: Vec<Event>,
    /// How many of them are notices.
    notices: usize,
    /// How many of each agent are not among them.
    dropped: BTreeMap<u32, u64>,
}

impl HeldBack {
    fn keep(&mut self, event: Event) {
        match event {
            Event::AgentNotice { .. } if self.notices < MAX_NOTICES => self.notices += 1,
            Event::AgentNotice { agent, notice } => {
                let more = if let Notice::Dropped { count } = notice { count } else { 1 };
                let count = self.dropped.entry(agent).or_default();
                *count = count.saturating_add(more);
                return;
            }
            // Nothing is told of it afterwards.
            Event::AgentRemoved { agent } => {
                let dropped = self.take_dropped(agent);
                self.events.extend(dropped);
            }
            _ => {}
        }
        self.events.push(event);
    }

    fn take_dropped(&mut self, agent: u32) -> Option<Event> {
        let count = self.dropped.remove(&agent)?;
        Some(Event::AgentNotice { agent, notice: Notice::Dropped { count } })
    }

    /// Leaves out what is about commands that the host does not know.
    fn leave_out(&mut self, is_known: impl Fn(u32) -> bool) {
        self.events.retain(|event| match event {
            Event::Started { id } | Event::Failed { id, .. } | Event::Exited { id, .. } => {
                is_known(*id)
            }
            _ => true,
        });
    }

    fn take(&mut self) -> Vec<Event> {
        let Self { mut events, dropped, .. } = std::mem::take(self);
        let dropped = dropped.into_iter();
        events.extend(
            dropped.map(|(agent, count)| Event::AgentNotice {
                agent,
                notice: Notice::Dropped { count },
            }),
        );
        events
    }
}

impl Server<'_> {
    /// Goes on with another connection, if [`Self::may_lose_host`] was so.
    pub(super) fn reconnect(&mut self, control: OwnedFd) -> Result<(), ServeError> {
        let poller = &self.around.poller;
        poller.watch(&control, Owner::Control).map_err(ServeError::Poll)?;
        self.control = Control::new(control);
        self.is_anew = self.is_silent();
        // One that was being made when the machine was saved is not told that it never will be.
        self.around.egress.cut();
        Ok(())
    }

    /// Whether the host's end of the control connection may go without an end of the machine: nothing was done yet,
    /// or all is kept for another host.
    pub(super) fn may_lose_host(&self) -> bool {
        !self.control.is_greeted() || self.is_silent() && self.control.is_sent()
    }

    fn is_silent(&self) -> bool {
        self.presence == Presence::Detached
    }

    /// Whether this may be asked for now.
    pub(super) fn check_presence(&self, request: &Request) -> Result<(), ControlError> {
        let fits = match (self.presence, request) {
            (_, Request::PowerOff) => true,
            // The machine is another then, and must know.
            (_, Request::Hello { fork, .. }) => !self.is_silent() || fork.is_some(),
            (Presence::Attached, Request::Attach { .. }) => false,
            (Presence::Attached, _) | (Presence::Detached, Request::Attach { .. }) => true,
            _ => false,
        };
        if fits { Ok(()) } else { Err(ControlError::Presence) }
    }

    /// Whether the streams can be taken from all of these commands.
    pub(super) fn can_detach(&self, ids: &[u32]) -> bool {
        ids.iter().all(|id| self.by_id(*id).is_some_and(Command::can_detach))
    }

    /// Takes the streams from these commands.
    pub(super) fn leave(&mut self, ids: &[u32]) -> Result<(), ServeError> {
        // What is not told yet was before.
        self.tell()?;
        self.presence = Presence::Leaving;
        for command in self.commands.values_mut() {
            if !command.has_ended() && ids.contains(&command.id()) {
                command.detach(&mut self.around);
            }
        }
        Ok(())
    }

    /// Gives streams to the commands that wait for them, which are these, and has all run again. A machine that is
    /// another has been told so.
    pub(super) fn attach(&mut self, known: &[Attached]) -> Result<(), ServeError> {
        let waiting: BTreeMap<u32, u64> = self
            .commands
            .iter()
            .filter(|(_, one)| one.is_detached())
            .map(|(serial, one)| (one.id(), *serial))
            .collect();
        let all_wait = known.iter().all(|one| waiting.contains_key(&one.id));
        if !all_wait || !self.is_anew && waiting.len() != known.len() {
            return Err(ControlError::Unknown.into());
        }
        self.presence = Presence::Returning;
        for one in known {
            let command = waiting.get(&one.id).and_then(|serial| self.commands.get_mut(serial));
            if let Some(command) = command {
                command.attach(one, &mut self.around).map_err(ServeError::Attach)?;
            }
        }
        if self.is_anew {
            // Their connections were another host's. What they had to tell too.
            let is_known = |id| known.iter().any(|one| one.id == id);
            self.held_back.leave_out(is_known);
            let known: Vec<u64> =
                known.iter().filter_map(|one| waiting.get(&one.id).copied()).collect();
            for (_, command) in self.commands.iter_mut().filter(|(one, _)| !known.contains(one)) {
                command.forget(&mut self.around);
            }
        }
        self.thaw()
    }

    /// Goes from one presence to the next when it is time.
    pub(super) fn turn_presence(&mut self) -> Result<(), ServeError> {
        self.turn_freezing()?;
        match self.presence {
            Presence::Leaving if self.commands.values_mut().all(has_left) => {
                self.presence = Presence::Detached;
                self.control.push(&Event::Detached { holds: true })?;
            }
            Presence::Returning if self.commands.values_mut().all(has_returned) => {
                self.presence = Presence::Attached;
                self.is_anew = false;
                self.control.push(&Event::Attached)?;
                // Before what has happened in this turn.
                let later = std::mem::replace(&mut self.around.events, self.held_back.take());
                self.around.events.extend(later);
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes what the host has to be told: to the connection, or to be told later.
    pub(super) fn tell(&mut self) -> Result<(), ControlError> {
        for event in self.around.events.drain(..) {
            if matches!(self.presence, Presence::Attached | Presence::Freezing) {
                self.control.push(&event)?;
            } else {
                self.held_back.keep(event);
            }
        }
        Ok(())
    }
}

fn has_left(command: &mut Command) -> bool {
    !command.is_detached() || command.has_left()
}

fn has_returned(command: &mut Command) -> bool {
    !command.is_forgotten() && !command.is_attaching()
}

#[cfg(test)]
mod tests {
    use cloister_protocol::agent::Notice;
    use cloister_protocol::message::{Event, ExitStatus};

    use super::{HeldBack, MAX_NOTICES};

    fn notice(agent: u32) -> Event {
        Event::AgentNotice { agent, notice: Notice::OutOfMemory { kills: 1 } }
    }

    fn dropped(agent: u32, count: u64) -> Event {
        Event::AgentNotice { agent, notice: Notice::Dropped { count } }
    }

    #[test]
    fn notices_are_kept_up_to_the_limit_and_then_counted() {
        let mut held = HeldBack::default();
        for _ in 0..MAX_NOTICES {
            held.keep(notice(1));
        }
        for _ in 0..1000 {
            held.keep(notice(1));
            held.keep(dropped(2, 5));
        }
        held.keep(Event::AgentRemoved { agent: 1 });
        held.keep(notice(3));
        let events = held.take();
        let rest = events.get(MAX_NOTICES..).unwrap();
        let removed = Event::AgentRemoved { agent: 1 };
        assert_eq!(rest, [dropped(1, 1000), removed, dropped(2, 5000), dropped(3, 1)]);
        assert_eq!(held.take(), []);
    }

    #[test]
    fn what_is_about_others_commands_is_left_out() {
        let mut held = HeldBack::default();
        let exited = |id| Event::Exited { id, status: ExitStatus::Code(0) };
        for event in [Event::Started { id: 1 }, notice(1), exited(1), exited(2)] {
            held.keep(event);
        }
        held.leave_out(|id| id == 2);
        assert_eq!(held.take(), [notice(1), exited(2)]);
    }
}
