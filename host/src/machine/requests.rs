//! What the users of a machine ask its driver for.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use cloister_protocol::agent::{AgentSpec, Copy, Usage};
use cloister_protocol::check::Broken;
use cloister_protocol::egress::Egress;
use cloister_protocol::message;
use cloister_vmm::control::{Command, Stats};
use tokio::sync::{mpsc, oneshot};

use super::agents::CreateReply;
use super::answers::Reply;
use super::commands::{StartReply, Started};
use super::detach::Adopted;
use super::driver::{Driver, Finish, Link};
use super::end::{AgentError, ExecError, MachineError};
use super::streams::{self, StdioSpec, Streams};
use super::{CopySpec, ExecSpec};

/// What a user of the machine asks for.
#[derive(Debug)]
pub(super) enum Request {
    Exec { spec: Box<ExecSpec>, timeout_ms: Option<u64>, reply: StartReply },
    Copy { spec: Box<CopySpec>, reply: StartReply },
    CreateAgent { spec: Box<AgentSpec>, reply: CreateReply },
    RemoveAgent { agent: u32, reply: Reply<()> },
    AgentUsage { agent: u32, reply: Reply<Usage> },
    SetEgress { agent: u32, egress: Egress, reply: oneshot::Sender<bool> },
    Signal { id: u32, signal: u8 },
    Resize { id: u32, size: message::WindowSize },
    Ping { reply: Reply<()> },
    PowerOff,
    Pause { reply: Reply<()> },
    Resume { reply: Reply<()> },
    Save { state: OwnedFd, memory: Option<OwnedFd>, reply: Reply<u64> },
    Stats { reply: Reply<Stats> },
    Connect { port: u32, reply: Reply<UnixStream> },
    LetOut { queue: mpsc::Sender<UnixStream> },
    Detach { commands: Vec<u32>, reply: Reply<bool> },
    Attach { commands: Vec<u32>, reply: Reply<Vec<Streams>> },
    Adopt { carried: Box<Adopted>, reply: Reply<Vec<Started>> },
}

impl Driver {
    pub(super) fn request(&mut self, request: Request) -> Result<(), Finish> {
        match request {
            Request::Exec { spec, timeout_ms, reply } => {
                return self.exec(*spec, timeout_ms, reply);
            }
            Request::Copy { spec, reply } => return self.copy(*spec, reply),
            Request::CreateAgent { spec, reply } => return self.create_agent(*spec, reply),
            Request::RemoveAgent { agent, reply } => {
                if self.agents.removing(agent, reply).is_some() {
                    self.ask_supervisor(&message::Request::RemoveAgent { agent })?;
                }
            }
            Request::AgentUsage { agent, reply } => {
                if self.agents.usage_asked(agent, reply).is_some() {
                    self.ask_supervisor(&message::Request::AgentUsage { agent })?;
                }
            }
            Request::SetEgress { agent, egress, reply } => {
                if self.agents.egress_asked(agent, reply).is_some() {
                    self.ask_supervisor(&message::Request::SetEgress { agent, egress })?;
                }
            }
            Request::Signal { id, signal } => {
                self.ask_supervisor(&message::Request::Signal { id, signal })?;
            }
            Request::Resize { id, size } => {
                self.ask_supervisor(&message::Request::Resize { id, size })?;
            }
            Request::PowerOff => self.ask_now(&message::Request::PowerOff)?,
            Request::Ping { reply } => {
                if self.pings.ask(reply) {
                    self.ping_token = self.ping_token.wrapping_add(1);
                    let token = self.ping_token;
                    self.ask_supervisor(&message::Request::Ping { token })?;
                }
            }
            Request::Pause { reply } => {
                if self.answers.paused.ask(reply) {
                    return self.command(&Command::Pause, Vec::new());
                }
            }
            Request::Resume { reply } => {
                if self.answers.resumed.ask(reply) {
                    return self.command(&Command::Resume, Vec::new());
                }
            }
            Request::Save { state, memory, reply } => {
                if self.answers.saved.ask(reply) {
                    let command = if memory.is_some() { Command::SaveWhole } else { Command::Save };
                    let descriptors = [state].into_iter().chain(memory).collect();
                    return self.command(&command, descriptors);
                }
            }
            Request::Stats { reply } => {
                if self.answers.stats.ask(reply) {
                    return self.command(&Command::Stats, Vec::new());
                }
            }
            Request::Connect { port, reply } => return self.connect(port, reply),
            Request::LetOut { queue } => self.outside = Some(queue),
            Request::Detach { commands, reply } => self.detach(commands, reply)?,
            Request::Attach { commands, reply } => self.attach(&commands, reply)?,
            Request::Adopt { carried, reply } => self.adopt(&carried, reply)?,
        }
        Ok(())
    }

    fn exec(
        &mut self,
        spec: ExecSpec,
        timeout_ms: Option<u64>,
        reply: StartReply,
    ) -> Result<(), Finish> {
        self.begin(spec.stdio, reply, |id, stdio| {
            let ExecSpec { arguments, environment, directory, place, .. } = spec;
            let exec =
                message::Exec { id, place, arguments, environment, directory, stdio, timeout_ms };
            exec.validate()?;
            Ok(message::Request::Exec(exec))
        })
    }

    fn copy(&mut self, spec: CopySpec, reply: StartReply) -> Result<(), Finish> {
        self.begin(StdioSpec::Single, reply, |id, stdio| {
            let CopySpec { agent, user, direction } = spec;
            // Of the one stream that was asked for.
            let message::Stdio::Terminal { port, .. } = stdio else {
                return Err(ExecError::from(Broken::Port { port: 0 }));
            };
            let copy = Copy { id, agent, user, direction, port };
            copy.validate()?;
            Ok(message::Request::Copy(copy))
        })
    }

    /// Asks for a command with streams of its own.
    fn begin(
        &mut self,
        streams: StdioSpec,
        reply: StartReply,
        request: impl FnOnce(u32, message::Stdio) -> Result<message::Request, ExecError>,
    ) -> Result<(), Finish> {
        let Link::Open(supervisor) = &mut self.link else { return Ok(()) };
        let id = match self.commands.new_id() {
            Ok(id) => id,
            Err(error) => {
                reply.send(Err(error.into())).ok();
                return Ok(());
            }
        };
        let opened = self.ports.open(id, streams).map_err(MachineError::Stream);
        let asked = opened.map_err(ExecError::from).and_then(|(stdio, streams)| {
            let request = request(id, stdio)?;
            supervisor.queue(&request).map_err(ExecError::TooLong)?;
            Ok(streams)
        });
        match asked {
            Ok(streams) => self.commands.asked(id, streams, reply),
            Err(error) => {
                self.ports.close(id);
                // Whoever asked may have gone.
                reply.send(Err(error)).ok();
            }
        }
        supervisor.flush()?;
        Ok(())
    }

    fn create_agent(&mut self, spec: AgentSpec, reply: CreateReply) -> Result<(), Finish> {
        let Link::Open(supervisor) = &mut self.link else { return Ok(()) };
        if self.agents.asked(&spec, reply).is_none() {
            return Ok(());
        }
        let agent = spec.agent;
        if let Err(error) = supervisor.queue(&message::Request::CreateAgent(spec)) {
            self.agents.unasked(agent, AgentError::TooLong(error));
        }
        supervisor.flush()?;
        Ok(())
    }

    fn connect(&mut self, port: u32, reply: Reply<UnixStream>) -> Result<(), Finish> {
        let (ours, vmm_end) = match streams::pair() {
            Ok(pair) => pair,
            Err(error) => {
                reply.send(Err(MachineError::Stream(error))).ok();
                return Ok(());
            }
        };
        match self.answers.connecting(port, ours, reply) {
            Some(id) => self.command(&Command::Connect { id, port }, vec![vmm_end]),
            None => Ok(()),
        }
    }
}
