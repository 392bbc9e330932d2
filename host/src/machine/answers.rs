//! What the vmm has been asked and has not answered yet; checks that its answers fit.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;

use cloister_vmm::control::Stats;
use tokio::sync::oneshot;

use super::Waiting;
use super::end::{MachineEnd, MachineError};

/// Who waits for an answer.
pub(super) type Reply<T> = oneshot::Sender<Result<T, MachineError>>;

/// Most answers of one kind that are waited for: bounds what a vmm that never answers can hold.
const MAX_WAITING: usize = 256;

/// Everything that waits for an answer of the vmm.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) paused: Queue<()>,
    pub(super) resumed: Queue<()>,
    pub(super) stats: Queue<Stats>,
    pub(super) saved: Queue<u64>,
    connects: Waiting<(u32, UnixStream, Reply<UnixStream>)>,
    last_id: u32,
}

impl Answers {
    /// Notes a connection to be made; its id, or `None` when it was refused here.
    pub(super) fn connecting(
        &mut self,
        port: u32,
        stream: UnixStream,
        reply: Reply<UnixStream>,
    ) -> Option<u32> {
        if self.connects.len() >= MAX_WAITING {
            reply.send(Err(too_many("connections being made"))).ok();
            return None;
        }
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if !self.connects.contains_key(&self.last_id) {
                self.connects.insert(self.last_id, (port, stream, reply));
                return Some(self.last_id);
            }
        }
    }

    /// The vmm's answer to a connection.
    pub(super) fn connected(&mut self, id: u32, taken: bool) -> Result<(), MachineEnd> {
        let (port, stream, reply) = self.connects.remove(&id).ok_or(MachineEnd::UnexpectedEvent)?;
        let answer = if taken { Ok(stream) } else { Err(MachineError::Refused { port }) };
        // Whoever asked may have gone; the stream is closed then.
        reply.send(answer).ok();
        Ok(())
    }
}

/// Answers of one kind come in the order in which they were asked for.
#[derive(Debug)]
pub(super) struct Queue<T> {
    waiting: VecDeque<Reply<T>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new() }
    }
}

impl<T> Queue<T> {
    /// Notes a question; `false` when it was refused here and must not be sent.
    pub(super) fn ask(&mut self, reply: Reply<T>) -> bool {
        if self.waiting.len() >= MAX_WAITING {
            reply.send(Err(too_many("unanswered requests"))).ok();
            return false;
        }
        self.waiting.push_back(reply);
        true
    }

    /// The vmm's answer.
    pub(super) fn answer(&mut self, answer: T) -> Result<(), MachineEnd> {
        let reply = self.waiting.pop_front().ok_or(MachineEnd::UnexpectedEvent)?;
        // Whoever asked may have gone.
        reply.send(Ok(answer)).ok();
        Ok(())
    }
}

const fn too_many(what: &'static str) -> MachineError {
    MachineError::TooMany { what, limit: MAX_WAITING }
}
