//! What the vmm and the supervisor say to a machine's driver. All of it is hostile once the guest runs:
//! what does not fit to what was asked ends the machine.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use cloister_protocol::limits::ENTROPY_BYTES;
use cloister_protocol::message;
use cloister_protocol::{CONTROL_PORT, EGRESS_PORT, VERSION};
use cloister_vmm::control::{Command, Event, StartTimes};
use tokio::sync::oneshot;

use super::STOP_LIMIT;
use super::driver::{Driver, Finish, Link};
use super::end::{GuestError, MachineEnd};
use super::stage::{Stage, now_ns};
use super::streams;
use super::supervisor::{Read, Supervisor};
use crate::launch::Greeting;

/// Nobody waits for such a command any more.
const SIGKILL: u8 = 9;

impl Driver {
    pub(super) fn control_event(&mut self, event: Event) -> Result<(), Finish> {
        match event {
            Event::Running(times) => {
                if self.progress.borrow().1.vmm != StartTimes::default() {
                    return Err(MachineEnd::UnexpectedEvent.into());
                }
                self.reach(Stage::Running, |report| report.vmm = times);
            }
            Event::Incoming { id, port } => return self.incoming(id, port),
            Event::Exited(exit) => return Err(Finish::Reported(exit)),
            Event::Paused => self.answers.paused.answer(())?,
            Event::Resumed => self.answers.resumed.answer(())?,
            Event::Saved { bytes } => self.answers.saved.answer(bytes)?,
            Event::Stats(stats) => self.answers.stats.answer(stats)?,
            Event::Connected { id } => self.answers.connected(id, true)?,
            Event::Refused { id } => self.answers.connected(id, false)?,
            Event::Probed(_) => return Err(MachineEnd::UnexpectedEvent.into()),
        }
        Ok(())
    }

    /// The guest connects: only ports that were named to it, each once, the supervisor's once, and that
    /// of streams to the outside.
    fn incoming(&mut self, id: u32, port: u32) -> Result<(), Finish> {
        let vmm_end = match &self.link {
            Link::Expected if port == CONTROL_PORT => Some(self.accept_supervisor()?),
            _ if port == EGRESS_PORT => self.outside_stream(),
            _ => self.ports.take(port),
        };
        match vmm_end {
            Some(vmm_end) => self.command(&Command::Accept { id }, vec![vmm_end]),
            None => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                self.command(&Command::Refuse { id }, Vec::new())
            }
        }
    }

    /// A stream for whoever takes those to the outside; `None`: nobody does, or not now.
    fn outside_stream(&self) -> Option<OwnedFd> {
        let place = self.outside.as_ref()?.try_reserve().ok()?;
        let (ours, vmm_end) = streams::pair().ok()?;
        place.send(ours);
        Some(vmm_end)
    }

    /// The supervisor has said its hello.
    fn ready(&mut self, start_tsc: u64, ready_tsc: u64) {
        self.reach(Stage::Ready, |report| {
            report.ready_ns = now_ns();
            report.supervisor_start_tsc = start_tsc;
            report.supervisor_ready_tsc = ready_tsc;
        });
    }

    fn accept_supervisor(&mut self) -> Result<OwnedFd, Finish> {
        let (ours, vmm_end) = streams::pair().map_err(GuestError::Connection)?;
        self.link = Link::Open(Supervisor::new(ours).map_err(GuestError::Connection)?);
        self.reach(Stage::Connected, |report| report.connected_ns = now_ns());
        Ok(vmm_end)
    }

    pub(super) fn supervisor_turn(&mut self, ready: std::io::Result<()>) -> Result<(), Finish> {
        let Link::Open(supervisor) = &mut self.link else { return Ok(()) };
        ready.map_err(GuestError::Connection)?;
        supervisor.flush()?;
        match supervisor.read()? {
            Read::Events(events) => {
                events.into_iter().try_for_each(|event| self.supervisor_event(event))
            }
            Read::Closed => {
                self.link = Link::Gone;
                // It closes when it powers the machine off; the vmm's report follows then.
                self.end_by(STOP_LIMIT, MachineEnd::SupervisorGone);
                Ok(())
            }
        }
    }

    fn supervisor_event(&mut self, event: message::Event) -> Result<(), Finish> {
        let greeted = self.progress.borrow().0 == Stage::Ready;
        match event {
            message::Event::Hello { version, start_tsc, ready_tsc } if !greeted => {
                if version != VERSION {
                    return Err(GuestError::Version { guest: version, host: VERSION }.into());
                }
                let fork = match self.launched.greeting {
                    Greeting::Plain => None,
                    Greeting::Identity => Some(identity().map_err(GuestError::Entropy)?),
                    Greeting::None => {
                        self.ready(start_tsc, ready_tsc);
                        return Ok(());
                    }
                };
                self.ask_supervisor(&message::Request::Hello { version: VERSION, fork })?;
                self.ready(start_tsc, ready_tsc);
            }
            message::Event::Hello { .. } => return Err(GuestError::Hello.into()),
            _ if !greeted => return Err(GuestError::Hello.into()),
            message::Event::Detached { holds } => self.detached(holds)?,
            message::Event::Attached => self.attached()?,
            _ if !self.detachment.takes_events() => return Err(GuestError::Presence.into()),
            message::Event::Started { id } => {
                if !self.commands.started(id)? {
                    // Whoever asked has gone: nobody else would ever end it.
                    let signal = message::Request::Signal { id, signal: SIGKILL };
                    self.ask_supervisor(&signal)?;
                }
            }
            message::Event::Failed { id, reason, detail } => {
                self.commands.failed(id, reason, &detail)?;
                self.ports.close(id);
            }
            message::Event::Exited { id, status } => {
                self.commands.exited(id, status)?;
                self.ports.close(id);
            }
            message::Event::AgentCreated { agent } => {
                if !self.agents.created(agent)? {
                    // Whoever asked has gone: nobody else would ever remove it.
                    self.ask_supervisor(&message::Request::RemoveAgent { agent })?;
                    let (reply, _nobody) = oneshot::channel();
                    self.agents.removing(agent, reply);
                }
            }
            message::Event::AgentFailed { agent, detail } => self.agents.failed(agent, &detail)?,
            message::Event::AgentRemoved { agent } => self.agents.removed(agent)?,
            message::Event::AgentUsage { agent, usage } => self.agents.usage(agent, usage)?,
            message::Event::EgressSet { agent, holds } => self.agents.egress_set(agent, holds)?,
            message::Event::AgentNotice { agent, notice } => self.agents.notice(agent, notice)?,
            message::Event::Pong { token } => {
                // They come in the order in which they were asked for.
                if token != self.answered_token.wrapping_add(1) {
                    return Err(GuestError::UnexpectedPong.into());
                }
                self.answered_token = token;
                self.pings.answer(()).map_err(|_| GuestError::UnexpectedPong)?;
            }
        }
        Ok(())
    }
}

/// What makes a forked machine another than its template: fresh randomness, and the time.
fn identity() -> std::io::Result<message::Identity> {
    let mut entropy = [0; ENTROPY_BYTES];
    let mut rest = &mut entropy[..];
    while !rest.is_empty() {
        let got = rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty())?;
        rest = rest.get_mut(got..).unwrap_or_default();
    }
    let wall = std::time::UNIX_EPOCH.elapsed().map_err(std::io::Error::other)?;
    let wall_ns = u64::try_from(wall.as_nanos()).map_err(std::io::Error::other)?;
    Ok(message::Identity { entropy, wall_ns })
}
