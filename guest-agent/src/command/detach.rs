//! A command without its host: its output is kept back, and goes on later on other connections.

use cloister_protocol::message::Attached;
use rustix::io::{Errno, Result};

use super::plan::{ERRORS, OUTPUT};
use super::{Command, Failure, State, Surroundings};
use crate::poller::{Owner, Part};
use crate::stream::{Output, Stream};

impl Command {
    /// Whether its streams can be taken from it and others given: it runs, and has outputs alone.
    pub(crate) fn can_detach(&self) -> bool {
        let has_input = self.streams.iter().any(|one| matches!(one, Some(Stream::Input(_))));
        let runs = matches!(self.state, State::Running { .. });
        runs && !has_input && !self.is_copy && self.terminal.is_none()
    }

    /// Ends its streams after what was sent on them. It is kept until [`Self::attach`], also if it ends.
    pub(crate) fn detach(&mut self, around: &mut Surroundings<'_>) {
        self.detached = true;
        self.outputs().for_each(Output::detach);
        // A host that has closed its end already may have nothing to tell any more.
        self.run_streams(around);
    }

    /// Whether it was detached and not attached since.
    pub(crate) const fn is_detached(&self) -> bool {
        self.detached
    }

    /// Whether the host has closed its ends of all streams.
    pub(crate) fn has_left(&mut self) -> bool {
        self.outputs().all(|output| output.is_detached())
    }

    /// Begins to connect new streams. One that has come to its end is there to tell that.
    pub(crate) fn attach(&mut self, to: &Attached, around: &mut Surroundings<'_>) -> Result<()> {
        for (place, port) in [(OUTPUT, to.stdout), (ERRORS, to.stderr)] {
            let socket = around.host.connect(port)?;
            around.poller.watch(&socket, Owner::Command(self.serial, Part::Stream(place)))?;
            let slot = self.streams.get_mut(usize::from(place));
            match slot {
                Some(Some(Stream::Output(output))) => output.attach(socket),
                Some(slot) => *slot = Some(Stream::ended(socket)),
                None => return Err(Errno::INVAL),
            }
        }
        self.detached = false;
        self.run_streams(around);
        Ok(())
    }

    /// Whether a new stream is not connected yet.
    pub(crate) fn is_attaching(&mut self) -> bool {
        self.outputs().any(|output| output.is_connecting())
    }

    /// The host does not know it: it is killed, and nothing more is said of it.
    pub(crate) fn forget(&mut self, around: &mut Surroundings<'_>) {
        self.forgotten = true;
        self.detached = false;
        self.streams = [None, None, None];
        self.terminal = None;
        self.kill(around);
        if matches!(self.state, State::Connecting(_)) {
            let failure = Failure::Connect(Errno::CONNRESET);
            self.state = State::Ending { last: failure.event(self.id) };
            self.end_when_empty(around);
        }
    }

    /// Whether the host does not know it.
    pub(crate) const fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    fn outputs(&mut self) -> impl Iterator<Item = &mut Output> {
        self.streams.iter_mut().filter_map(|one| match one {
            Some(Stream::Output(output)) => Some(output),
            Some(Stream::Input(_)) | None => None,
        })
    }
}
