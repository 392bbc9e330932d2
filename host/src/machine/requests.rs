//! What the users of a machine ask its driver for.

use std::os::unix::net::UnixStream;

use cloister_protocol::agent::Place;
use cloister_protocol::message;
use cloister_vmm::control::{Command, Stats};

use super::ExecSpec;
use super::answers::Reply;
use super::commands::StartReply;
use super::driver::{Driver, Finish, Link};
use super::end::{ExecError, MachineError};
use super::streams;

/// What a user of the machine asks for.
#[derive(Debug)]
pub(super) enum Request {
    Exec { spec: Box<ExecSpec>, timeout_ms: Option<u64>, reply: StartReply },
    Signal { id: u32, signal: u8 },
    Resize { id: u32, size: message::WindowSize },
    Ping { reply: Reply<()> },
    PowerOff,
    Pause { reply: Reply<()> },
    Resume { reply: Reply<()> },
    Stats { reply: Reply<Stats> },
    Connect { port: u32, reply: Reply<UnixStream> },
}

impl Driver {
    pub(super) fn request(&mut self, request: Request) -> Result<(), Finish> {
        match request {
            Request::Exec { spec, timeout_ms, reply } => {
                return self.exec(*spec, timeout_ms, reply);
            }
            Request::Signal { id, signal } => {
                self.ask_supervisor(&message::Request::Signal { id, signal })?;
            }
            Request::Resize { id, size } => {
                self.ask_supervisor(&message::Request::Resize { id, size })?;
            }
            Request::PowerOff => self.ask_supervisor(&message::Request::PowerOff)?,
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
            Request::Stats { reply } => {
                if self.answers.stats.ask(reply) {
                    return self.command(&Command::Stats, Vec::new());
                }
            }
            Request::Connect { port, reply } => return self.connect(port, reply),
        }
        Ok(())
    }

    fn exec(
        &mut self,
        spec: ExecSpec,
        timeout_ms: Option<u64>,
        reply: StartReply,
    ) -> Result<(), Finish> {
        let Link::Open(supervisor) = &mut self.link else { return Ok(()) };
        let id = match self.commands.new_id() {
            Ok(id) => id,
            Err(error) => {
                reply.send(Err(error.into())).ok();
                return Ok(());
            }
        };
        let opened = self.ports.open(id, spec.stdio).map_err(MachineError::Stream);
        let asked = opened.map_err(ExecError::from).and_then(|(stdio, streams)| {
            let ExecSpec { arguments, environment, directory, .. } = spec;
            let place = Place::Machine;
            let exec =
                message::Exec { id, place, arguments, environment, directory, stdio, timeout_ms };
            exec.validate()?;
            supervisor.queue(&message::Request::Exec(exec)).map_err(ExecError::TooLong)?;
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
