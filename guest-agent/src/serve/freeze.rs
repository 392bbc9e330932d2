//! Nothing runs in agents and commands while the host is away.
//!
//! A machine that goes on from a saved one has the random numbers of that until its host has greeted it. So whatever
//! could use them stands still before the host is told that it may save the machine, and goes on when the host is back,
//! which has greeted it then. What stands still can be killed all the same.

use std::os::fd::OwnedFd;
use std::time::Duration;

use cloister_protocol::message::Event;
use rustix::io::{Errno, Result};

use super::detach::Presence;
use super::{ServeError, Server};
use crate::agent::Agent;
use crate::command::{Command, Group};
use crate::poller::Owner;
use crate::timer;

/// How long it may take until all stands still. What waits for a file of a share does when it has that; a program that
/// has found how to keep the kernel from it keeps its own team from being saved, and must not keep it from working.
pub(super) const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// All is coming to a stand.
#[derive(Debug)]
pub(super) struct Freezing {
    /// Whose streams are taken away then.
    commands: Vec<u32>,
    _limit: OwnedFd,
    is_late: bool,
}

impl Server<'_> {
    /// Takes the streams from these commands, if it can be done with all of them, as soon as nothing runs.
    pub(super) fn detach(&mut self, commands: Vec<u32>) -> std::result::Result<(), ServeError> {
        if !self.can_detach(&commands) {
            return self.stay();
        }
        match self.freeze() {
            Ok(limit) => {
                self.freezing = Some(Freezing { commands, _limit: limit, is_late: false });
                self.presence = Presence::Freezing;
                Ok(())
            }
            Err(error) => self.stay_for(error),
        }
    }

    /// The time is over.
    pub(super) const fn freezes_late(&mut self) {
        if let Some(freezing) = &mut self.freezing {
            freezing.is_late = true;
        }
    }

    /// Goes on with leaving when nothing runs any more, or stays.
    pub(super) fn turn_freezing(&mut self) -> std::result::Result<(), ServeError> {
        let Some(freezing) = self.freezing.take() else { return Ok(()) };
        match self.stands_still() {
            // One may have come to its time limit meanwhile.
            Ok(true) if self.can_detach(&freezing.commands) => self.leave(&freezing.commands),
            Ok(true) => self.stay(),
            Ok(false) if freezing.is_late => self.stay_for(Errno::TIMEDOUT),
            Ok(false) => {
                self.freezing = Some(freezing);
                Ok(())
            }
            Err(error) => self.stay_for(error),
        }
    }

    /// Lets all run again.
    pub(super) fn thaw(&mut self) -> std::result::Result<(), ServeError> {
        if std::mem::take(&mut self.around.is_frozen) {
            self.groups().try_for_each(Group::thaw).map_err(ServeError::Thaw)?;
        }
        Ok(())
    }

    /// Has all come to a stand; what is started from now on never begins to run. Gives a timer for how long it may take.
    fn freeze(&mut self) -> Result<OwnedFd> {
        let limit = timer::start(FREEZE_LIMIT)?;
        self.around.poller.watch(&limit, Owner::Freezing)?;
        for (count, group) in self.groups().enumerate() {
            if let Err(error) = group.freeze() {
                // Those before it could be frozen, and so can be thawed.
                self.groups().take(count).try_for_each(Group::thaw)?;
                return Err(error);
            }
        }
        self.around.is_frozen = true;
        Ok(limit)
    }

    fn stands_still(&self) -> Result<bool> {
        for group in self.groups() {
            if !group.is_frozen()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The groups that have all the others in them.
    fn groups(&self) -> impl Iterator<Item = &Group> {
        let agents = self.around.agents.values().map(Agent::group);
        agents.chain(self.commands.values().filter_map(Command::group_of_machine))
    }

    fn stay_for(&mut self, error: Errno) -> std::result::Result<(), ServeError> {
        self.around.log.error(&ServeError::Freeze(error));
        self.stay()
    }

    /// Tells the host that nothing has changed.
    fn stay(&mut self) -> std::result::Result<(), ServeError> {
        self.thaw()?;
        self.presence = Presence::Attached;
        self.around.events.push(Event::Detached { holds: false });
        Ok(())
    }
}
