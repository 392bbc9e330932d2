//! The agents of one machine, as the host knows them; checks what the supervisor says of them.

use std::collections::{HashMap, VecDeque};

use cloister_protocol::agent::{AgentSpec, Notice, Usage};
use cloister_protocol::check::printable_detail;
use cloister_protocol::limits::MAX_AGENTS;
use tokio::sync::{mpsc, oneshot};

use super::end::{AgentError, GuestError, MachineError};

/// Who waits for an agent's container.
pub(super) type CreateReply = oneshot::Sender<Result<(), AgentError>>;

/// Happenings that wait for the one who listens; more are counted and left out, so a guest that
/// makes them without end costs nothing.
pub(super) const HAPPENING_QUEUE: usize = 256;

/// Something that the supervisor told of an agent, unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// About a running agent.
    Notice {
        /// Which.
        agent: u32,
        /// What.
        notice: Notice,
    },
    /// The agent's container is gone, and nobody asked for it.
    Gone {
        /// Which.
        agent: u32,
    },
}

/// An agent's life: asked for, there, and then forgotten.
#[derive(Debug)]
enum Agent {
    Asked { reply: CreateReply },
    Running,
    Removing { replies: Vec<oneshot::Sender<Result<(), MachineError>>> },
}

/// All agents that are not gone.
#[derive(Debug)]
pub(super) struct Agents {
    known: HashMap<u32, Agent>,
    usages: HashMap<u32, Vec<oneshot::Sender<Result<Usage, MachineError>>>>,
    /// Who waits for answers about rules, in the order in which they asked.
    egress: HashMap<u32, VecDeque<oneshot::Sender<bool>>>,
    happenings: mpsc::Sender<Happening>,
    /// Not told since the last one that was.
    left_out: u64,
}

impl Agents {
    /// None, with the one who listens.
    pub(super) fn new(happenings: mpsc::Sender<Happening>) -> Self {
        let (known, usages, egress) = Default::default();
        Self { known, usages, egress, happenings, left_out: 0 }
    }

    /// Notes a container that is to be made; `None`: refused here, and must not be asked for.
    pub(super) fn asked(&mut self, spec: &AgentSpec, reply: CreateReply) -> Option<()> {
        let refused = if spec.agent >= MAX_AGENTS {
            Some(AgentError::TooMany)
        } else if self.known.contains_key(&spec.agent) {
            Some(AgentError::InUse)
        } else {
            spec.validate().err().map(|broken| AgentError::Invalid(broken.into()))
        };
        match refused {
            None => {
                self.known.insert(spec.agent, Agent::Asked { reply });
                Some(())
            }
            Some(error) => {
                // Whoever asked may have gone.
                reply.send(Err(error)).ok();
                None
            }
        }
    }

    /// Whether all that are there run, and none is being made or removed.
    pub(super) fn all_run(&self) -> bool {
        self.known.values().all(|agent| matches!(agent, Agent::Running))
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Notes a container that was there before this machine was. `None`: no such one can be.
    pub(super) fn carried(&mut self, spec: &AgentSpec) -> Option<()> {
        let fits = spec.validate().is_ok() && !self.known.contains_key(&spec.agent);
        fits.then(|| drop(self.known.insert(spec.agent, Agent::Running)))
    }

    /// The container could not even be asked for.
    pub(super) fn unasked(&mut self, agent: u32, error: AgentError) {
        if let Some(Agent::Asked { reply }) = self.known.remove(&agent) {
            reply.send(Err(error)).ok();
        }
    }

    /// The supervisor says that a container is there. `false`: nobody waits for it any more.
    pub(super) fn created(&mut self, agent: u32) -> Result<bool, GuestError> {
        match self.known.remove(&agent) {
            Some(Agent::Asked { reply }) => {
                self.known.insert(agent, Agent::Running);
                Ok(reply.send(Ok(())).is_ok())
            }
            _ => Err(GuestError::UnexpectedAgent { agent }),
        }
    }

    /// The supervisor says that a container could not be made.
    pub(super) fn failed(&mut self, agent: u32, detail: &str) -> Result<(), GuestError> {
        match self.known.remove(&agent) {
            Some(Agent::Asked { reply }) => {
                self.egress.remove(&agent);
                reply.send(Err(AgentError::Failed { detail: printable_detail(detail) })).ok();
                Ok(())
            }
            _ => Err(GuestError::UnexpectedAgent { agent }),
        }
    }

    /// Notes that a container is to be removed; `None`: it is not there, or being removed, and
    /// must not be asked for.
    pub(super) fn removing(
        &mut self,
        agent: u32,
        reply: oneshot::Sender<Result<(), MachineError>>,
    ) -> Option<()> {
        match self.known.get_mut(&agent) {
            Some(Agent::Removing { replies }) => {
                replies.retain(|waiting| !waiting.is_closed());
                replies.push(reply);
                None
            }
            Some(known @ Agent::Running) => {
                *known = Agent::Removing { replies: vec![reply] };
                Some(())
            }
            Some(Agent::Asked { .. }) | None => {
                reply.send(Ok(())).ok();
                None
            }
        }
    }

    /// The supervisor says that a container is gone.
    pub(super) fn removed(&mut self, agent: u32) -> Result<(), GuestError> {
        self.usages.remove(&agent);
        // Dropped: nothing of it is left that rules could be about.
        self.egress.remove(&agent);
        match self.known.remove(&agent) {
            Some(Agent::Removing { replies }) => {
                for reply in replies {
                    reply.send(Ok(())).ok();
                }
                Ok(())
            }
            Some(Agent::Running) => {
                self.tell(Happening::Gone { agent });
                Ok(())
            }
            _ => Err(GuestError::UnexpectedAgent { agent }),
        }
    }

    /// Notes that somebody wants to know what an agent uses; `None`: it is not there.
    pub(super) fn usage_asked(
        &mut self,
        agent: u32,
        reply: oneshot::Sender<Result<Usage, MachineError>>,
    ) -> Option<()> {
        if !matches!(self.known.get(&agent), Some(Agent::Running)) {
            // Dropped: the one who asked learns that there is no answer.
            return None;
        }
        let waiting = self.usages.entry(agent).or_default();
        // A guest that never answers makes nothing pile up, and is asked anew.
        waiting.retain(|waiting| !waiting.is_closed());
        waiting.push(reply);
        // Those who came before get the same answer.
        (waiting.len() == 1).then_some(())
    }

    /// What an agent uses.
    pub(super) fn usage(&mut self, agent: u32, usage: Usage) -> Result<(), GuestError> {
        let Some(waiting) = self.usages.remove(&agent) else {
            return match self.known.get(&agent) {
                Some(_) => Ok(()),
                None => Err(GuestError::UnexpectedAgent { agent }),
            };
        };
        for reply in waiting {
            reply.send(Ok(usage)).ok();
        }
        Ok(())
    }

    /// Notes that somebody gives an agent other rules; `None`: it is not there, and must not be asked for.
    pub(super) fn egress_asked(&mut self, agent: u32, reply: oneshot::Sender<bool>) -> Option<()> {
        if !matches!(self.known.get(&agent), Some(Agent::Asked { .. } | Agent::Running)) {
            return None;
        }
        self.egress.entry(agent).or_default().push_back(reply);
        Some(())
    }

    /// Whether an agent's rules hold.
    pub(super) fn egress_set(&mut self, agent: u32, holds: bool) -> Result<(), GuestError> {
        let waiting = self.egress.get_mut(&agent).and_then(VecDeque::pop_front);
        let waiting = waiting.ok_or(GuestError::UnexpectedAgent { agent })?;
        // Whoever asked may have given up.
        waiting.send(holds).ok();
        Ok(())
    }

    /// Something has happened to an agent.
    pub(super) fn notice(&mut self, agent: u32, notice: Notice) -> Result<(), GuestError> {
        match self.known.get(&agent) {
            Some(Agent::Running | Agent::Removing { .. }) => {
                self.tell(Happening::Notice { agent, notice });
                Ok(())
            }
            _ => Err(GuestError::UnexpectedAgent { agent }),
        }
    }

    fn tell(&mut self, happening: Happening) {
        let agent = match happening {
            Happening::Notice { agent, .. } | Happening::Gone { agent } => agent,
        };
        if self.left_out > 0 {
            let notice = Notice::Dropped { count: self.left_out };
            if self.happenings.try_send(Happening::Notice { agent, notice }).is_ok() {
                self.left_out = 0;
            }
        }
        if self.happenings.try_send(happening).is_err() {
            self.left_out = self.left_out.saturating_add(1);
        }
    }
}

#[cfg(test)]
#[path = "agents_test.rs"]
mod tests;
