//! A machine's commands in mid-work without their streams, and with new ones: in the same machine, or in one that goes
//! on from its saved state.
//!
//! The order is: detach, read the streams to their ends and close them, pause, save, resume, attach. From the request
//! on, nothing is asked of the guest; what users ask waits in the queue.

use cloister_protocol::agent::AgentSpec;
use cloister_protocol::message::{self, Attached, Stdio};
use tokio::sync::oneshot;

use super::answers::Reply;
use super::commands::Started;
use super::driver::{Driver, Link};
use super::end::{GuestError, MachineError};
use super::requests::Request;
use super::streams::{StdioSpec, Streams};
use super::{Command, Machine};

/// What a machine that goes on from a saved one has from that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Every agent whose container was there.
    pub agents: Vec<AgentSpec>,
    /// The commands that go on, of those that were detached; all others are killed.
    pub commands: Vec<u32>,
}

/// How the driver and the guest stand.
#[derive(Debug, Default)]
pub(super) enum Detachment {
    /// As usual.
    #[default]
    Attached,
    /// The guest was asked to end the streams of these.
    Asked { commands: Vec<u32>, reply: Reply<bool> },
    /// It has.
    Detached { commands: Vec<u32> },
    /// It was given new ones.
    Returning(Returning),
}

/// Who waits for the new streams.
#[derive(Debug)]
pub(super) enum Returning {
    Here { streams: Vec<Streams>, reply: Reply<Vec<Streams>> },
    Adopted { started: Vec<Started>, reply: Reply<Vec<Started>> },
}

impl Detachment {
    /// Whether the guest may be asked for anything.
    pub(super) const fn takes_requests(&self) -> bool {
        matches!(self, Self::Attached)
    }

    /// Whether the guest may tell of anything.
    pub(super) const fn takes_events(&self) -> bool {
        matches!(self, Self::Attached | Self::Asked { .. })
    }
}

impl Driver {
    pub(super) fn detach(
        &mut self,
        commands: Vec<u32>,
        reply: Reply<bool>,
    ) -> Result<(), GuestError> {
        let request = message::Request::Detach { commands: commands.clone() };
        let answer = if !self.detachment.takes_requests() {
            Err(MachineError::Presence)
        } else if request.validate().is_err() {
            Err(MachineError::Unknown)
        } else {
            // A container that is half made is nothing that another host could go on with.
            Ok(self.agents.all_run() && commands.iter().all(|id| self.commands.runs(*id)))
        };
        if !matches!(answer, Ok(true)) {
            // Whoever asked may have gone.
            reply.send(answer).ok();
            return Ok(());
        }
        self.ask_now(&request)?;
        self.detachment = Detachment::Asked { commands, reply };
        Ok(())
    }

    /// The supervisor says whether it has ended the streams.
    pub(super) fn detached(&mut self, holds: bool) -> Result<(), GuestError> {
        let Detachment::Asked { commands, reply } = std::mem::take(&mut self.detachment) else {
            return Err(GuestError::Presence);
        };
        if holds {
            // It tells no end of those that it lists from its answer on, and none before.
            if let Some(id) = commands.iter().find(|id| !self.commands.runs(**id)) {
                return Err(GuestError::UnexpectedEvent { id: *id });
            }
            self.detachment = Detachment::Detached { commands };
        } else {
            self.ask_what_waits()?;
        }
        reply.send(Ok(holds)).ok();
        Ok(())
    }

    pub(super) fn attach(
        &mut self,
        commands: &[u32],
        reply: Reply<Vec<Streams>>,
    ) -> Result<(), GuestError> {
        let refused = match &self.detachment {
            Detachment::Detached { commands: detached } => {
                let fits = commands.len() == detached.len();
                let fits = fits && detached.iter().all(|id| commands.contains(id));
                (!fits).then_some(MachineError::Unknown)
            }
            _ => Some(MachineError::Presence),
        };
        let opened = refused.map_or_else(|| self.open(commands), Err);
        match opened {
            Ok((request, streams)) => {
                self.ask_now(&request)?;
                self.detachment = Detachment::Returning(Returning::Here { streams, reply });
            }
            Err(error) => drop(reply.send(Err(error))),
        }
        Ok(())
    }

    pub(super) fn adopt(
        &mut self,
        carried: &Adopted,
        reply: Reply<Vec<Started>>,
    ) -> Result<(), GuestError> {
        let opened = self.take_over(carried).and_then(|exits| {
            let (request, streams) = self.open(&carried.commands)?;
            Ok((request, streams.into_iter().zip(exits)))
        });
        match opened {
            Ok((request, streams)) => {
                let ids = carried.commands.iter().copied();
                let started =
                    ids.zip(streams).map(|(id, (streams, exited))| Started { id, streams, exited });
                let started = started.collect();
                self.ask_now(&request)?;
                self.detachment = Detachment::Returning(Returning::Adopted { started, reply });
            }
            Err(error) => drop(reply.send(Err(error))),
        }
        Ok(())
    }

    /// Notes commands and agents of the machine from which this one goes on; nothing was asked of it before.
    fn take_over(
        &mut self,
        carried: &Adopted,
    ) -> Result<Vec<oneshot::Receiver<message::ExitStatus>>, MachineError> {
        let is_new = self.detachment.takes_requests()
            && matches!(self.link, Link::Open(_))
            && self.commands.is_empty()
            && self.agents.is_empty();
        if !is_new {
            return Err(MachineError::Presence);
        }
        let commands = carried.commands.clone();
        let bounded = message::Request::Detach { commands }.validate().is_ok();
        let agents: Option<()> =
            carried.agents.iter().try_for_each(|spec| self.agents.carried(spec));
        let exits = carried.commands.iter().map(|id| self.commands.carried(*id)).collect();
        match (exits, agents) {
            (Some(exits), Some(())) if bounded => Ok(exits),
            _ => Err(MachineError::Unknown),
        }
    }

    /// Makes new streams for commands, and what asks the supervisor for its ends of them.
    fn open(&mut self, commands: &[u32]) -> Result<(message::Request, Vec<Streams>), MachineError> {
        let mut streams = Vec::new();
        let mut attached = Vec::new();
        for id in commands {
            match self.ports.open(*id, StdioSpec::Pipes { stdin: false }) {
                Ok((Stdio::Streams { stdout, stderr, .. }, opened)) => {
                    streams.push(opened);
                    attached.push(Attached { id: *id, stdout, stderr });
                }
                Ok((Stdio::Terminal { .. }, _)) => {}
                Err(error) => {
                    commands.iter().for_each(|id| self.ports.close(*id));
                    return Err(MachineError::Stream(error));
                }
            }
        }
        Ok((message::Request::Attach { commands: attached }, streams))
    }

    /// The supervisor says that the new streams are connected.
    pub(super) fn attached(&mut self) -> Result<(), GuestError> {
        let Detachment::Returning(returning) = std::mem::take(&mut self.detachment) else {
            return Err(GuestError::Presence);
        };
        // Whoever asked may have gone; the streams are closed then.
        match returning {
            Returning::Here { streams, reply } => drop(reply.send(Ok(streams))),
            Returning::Adopted { started, reply } => drop(reply.send(Ok(started))),
        }
        self.ask_what_waits()
    }

    fn ask_what_waits(&mut self) -> Result<(), GuestError> {
        let later = std::mem::take(&mut self.later);
        later.iter().try_for_each(|request| self.ask_now(request))
    }
}

impl Machine {
    /// Has all agents and commands stand still, and takes the output streams of running commands away, which have neither
    /// an input nor a terminal: each ends after what was sent on it, though its command does not. Comes back when all were read to their ends and closed, which is
    /// for others to do. The machine says nothing from then on, and can be paused and saved, until [`Self::attach`].
    /// `false`: nothing has changed, as a command has ended or can't be detached, something does not come to a stand, or an
    /// agent is being made or removed.
    ///
    /// # Errors
    /// The machine is detached already, the list is no good, it does not answer, or it has ended.
    pub async fn detach(&self, commands: Vec<u32>) -> Result<bool, MachineError> {
        let (reply, answer) = oneshot::channel();
        self.ask_directly(Request::Detach { commands, reply }, answer).await?
    }

    /// Undoes [`Self::detach`]: new streams of the same commands, in the order of this list. They go on where those
    /// before them ended.
    ///
    /// # Errors
    /// The machine is not detached, or was of other commands, it does not answer, or it has ended.
    pub async fn attach(&self, commands: Vec<u32>) -> Result<Vec<Streams>, MachineError> {
        let (reply, answer) = oneshot::channel();
        self.ask_directly(Request::Attach { commands, reply }, answer).await?
    }

    /// Takes over what a machine has that goes on from one that was saved while it was detached: its commands with new
    /// streams, in the order of the list. Nothing may have been asked of the guest before.
    ///
    /// # Errors
    /// Something was asked before, the lists are no good, the machine does not answer, or it has ended. It is no good any
    /// more then.
    pub async fn adopt(&self, carried: Adopted) -> Result<Vec<Command>, MachineError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Adopt { carried: Box::new(carried), reply };
        let started = self.ask_directly(request, answer).await??;
        Ok(started.into_iter().map(|one| self.command(one)).collect())
    }
}
