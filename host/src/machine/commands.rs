//! The commands of one machine, as the host knows them; checks what the supervisor says of them.

use std::collections::HashMap;

use cloister_protocol::check::printable_detail;
use cloister_protocol::limits::MAX_COMMANDS;
use cloister_protocol::message::{ExecFailure, ExitStatus};
use tokio::sync::oneshot;

use super::end::{ExecError, GuestError, MachineError};
use super::streams::Streams;

/// A command that was started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) id: u32,
    pub(super) streams: Streams,
    pub(super) exited: oneshot::Receiver<ExitStatus>,
}

/// Who waits for a command's start.
pub(super) type StartReply = oneshot::Sender<Result<Started, ExecError>>;

/// A command's life: asked for, started, and then forgotten.
#[derive(Debug)]
enum Command {
    Asked { streams: Streams, reply: StartReply },
    Running { exited: oneshot::Sender<ExitStatus> },
}

/// All commands that have not ended.
#[derive(Debug, Default)]
pub(super) struct Commands {
    known: HashMap<u32, Command>,
    last_id: u32,
}

impl Commands {
    /// An id for a new command.
    pub(super) fn new_id(&mut self) -> Result<u32, MachineError> {
        if self.known.len() >= MAX_COMMANDS {
            return Err(MachineError::TooMany { what: "commands", limit: MAX_COMMANDS });
        }
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if !self.known.contains_key(&self.last_id) {
                return Ok(self.last_id);
            }
        }
    }

    pub(super) fn asked(&mut self, id: u32, streams: Streams, reply: StartReply) {
        self.known.insert(id, Command::Asked { streams, reply });
    }

    /// Whether it was started, and has not ended.
    pub(super) fn runs(&self, id: u32) -> bool {
        matches!(self.known.get(&id), Some(Command::Running { .. }))
    }

    /// Notes a command that has run before this machine did. `None`: the id is in use.
    pub(super) fn carried(&mut self, id: u32) -> Option<oneshot::Receiver<ExitStatus>> {
        if self.known.contains_key(&id) {
            return None;
        }
        let (exited, wait) = oneshot::channel();
        self.known.insert(id, Command::Running { exited });
        // The next ones are far from those that have run.
        self.last_id = self.last_id.max(id);
        Some(wait)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The supervisor says that a command runs. `false`: nobody waits for it any more.
    pub(super) fn started(&mut self, id: u32) -> Result<bool, GuestError> {
        match self.known.remove(&id) {
            Some(Command::Asked { streams, reply }) => {
                let (exited, wait) = oneshot::channel();
                self.known.insert(id, Command::Running { exited });
                Ok(reply.send(Ok(Started { id, streams, exited: wait })).is_ok())
            }
            _ => Err(GuestError::UnexpectedEvent { id }),
        }
    }

    /// The supervisor says that a command could not be started.
    pub(super) fn failed(
        &mut self,
        id: u32,
        reason: ExecFailure,
        detail: &str,
    ) -> Result<(), GuestError> {
        match self.known.remove(&id) {
            Some(Command::Asked { reply, .. }) => {
                let detail = printable_detail(detail);
                // Whoever asked may have gone.
                reply.send(Err(ExecError::Failed { reason, detail })).ok();
                Ok(())
            }
            _ => Err(GuestError::UnexpectedEvent { id }),
        }
    }

    /// The supervisor says that a command has ended.
    pub(super) fn exited(&mut self, id: u32, status: ExitStatus) -> Result<(), GuestError> {
        match self.known.remove(&id) {
            Some(Command::Running { exited }) => {
                // Whoever started it may have gone.
                exited.send(status).ok();
                Ok(())
            }
            _ => Err(GuestError::UnexpectedEvent { id }),
        }
    }
}
