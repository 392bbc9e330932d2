//! The task that owns a machine: every request, every event and the end go through its loop.
//!
//! Nothing in a turn waits: what can't be sent now is queued, the queues are bounded, and while they
//! are full no further request is taken, so that a guest or vmm that does not read slows its users
//! down and nothing else. A queue that only the other side makes grow ends the machine when full.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use cloister_protocol::message;
use cloister_protocol::{CONTROL_PORT, VERSION};
use cloister_vmm::control::{Command, Event, Stats};
use cloister_vmm::exit::Exit;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::answers::{Answers, Queue, Reply};
use super::commands::{Commands, StartReply};
use super::end::{ExecError, GuestError, MachineEnd, MachineError};
use super::stage::{Stage, StartReport, now_ns};
use super::streams::{self, Ports};
use super::supervisor::{Read, Supervisor};
use super::{ExecSpec, STOP_LIMIT};
use crate::control::{ControlError, ControlSocket, Packet};
use crate::launch::Launched;

/// Most packets that wait for the vmm. A guest that connects without pause makes it answer one each.
const MAX_OUTGOING: usize = 1024;
/// How long a vmm that has said goodbye may take to exit before it is killed.
const EXIT_LIMIT: Duration = Duration::from_secs(5);

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

/// Whether the machine shall run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Run,
    Stop,
    Kill,
}

/// Why the loop ends.
#[derive(Debug)]
enum Finish {
    /// The vmm has reported the end and is about to exit.
    Reported(Exit),
    /// The vmm has closed the control socket.
    Closed,
    /// The machine has to be killed.
    Kill(MachineEnd),
}

impl<T: Into<MachineEnd>> From<T> for Finish {
    fn from(end: T) -> Self {
        Self::Kill(end.into())
    }
}

impl From<GuestError> for MachineEnd {
    fn from(error: GuestError) -> Self {
        Self::Guest(error)
    }
}

impl From<ControlError> for MachineEnd {
    fn from(error: ControlError) -> Self {
        Self::Control(error)
    }
}

/// The supervisor's connection, which comes once.
#[derive(Debug)]
enum Link {
    Expected,
    Open(Supervisor),
    Gone,
}

/// What woke the loop.
enum Wake {
    Wish(Option<Wish>),
    Request(Request),
    Control(Result<Option<Event>, ControlError>),
    Sent(Result<(), ControlError>),
    Supervisor(std::io::Result<()>),
    Deadline,
}

#[derive(Debug)]
pub(super) struct Driver {
    launched: Launched,
    requests: mpsc::Receiver<Request>,
    wish: watch::Receiver<Wish>,
    progress: watch::Sender<(Stage, StartReport)>,
    outgoing: VecDeque<Packet>,
    link: Link,
    ports: Ports,
    commands: Commands,
    answers: Answers,
    pings: Queue<()>,
    ping_token: u64,
    answered_token: u64,
    /// When the machine is killed, should it still run.
    deadline: Option<(Instant, MachineEnd)>,
}

impl Driver {
    pub(super) fn new(
        launched: Launched,
        requests: mpsc::Receiver<Request>,
        wish: watch::Receiver<Wish>,
        progress: watch::Sender<(Stage, StartReport)>,
    ) -> Self {
        Self {
            launched,
            requests,
            wish,
            progress,
            outgoing: VecDeque::new(),
            link: Link::Expected,
            ports: Ports::default(),
            commands: Commands::default(),
            answers: Answers::default(),
            pings: Queue::default(),
            ping_token: 0,
            answered_token: 0,
            deadline: None,
        }
    }

    /// Runs the machine to its end and tells how it ended.
    pub(super) async fn run(mut self, ended: watch::Sender<Option<Arc<MachineEnd>>>) {
        let finish = loop {
            let wake = self.wait().await;
            if let Err(finish) = self.turn(wake) {
                break finish;
            }
        };
        let end = self.finish(finish).await;
        ended.send_replace(Some(Arc::new(end)));
        // Whoever still waits for an answer learns of the end now, when `self` is dropped.
    }

    async fn wait(&mut self) -> Wake {
        let Self { launched, requests, wish, outgoing, link, deadline, .. } = self;
        let control = &launched.control;
        let full = outgoing.len() >= MAX_OUTGOING / 2
            || matches!(&*link, Link::Open(supervisor) if supervisor.is_full());
        // In random order: a vmm or guest that keeps one source busy must not starve the others.
        tokio::select! {
            changed = wish.changed() => {
                Wake::Wish(changed.ok().map(|()| *wish.borrow_and_update()))
            }
            () = reach(deadline.as_ref()) => Wake::Deadline,
            event = control.receive() => Wake::Control(event),
            sent = send_first(control, outgoing) => Wake::Sent(sent),
            ready = supervisor_ready(link) => Wake::Supervisor(ready),
            // Closed only when every handle is gone, and then the wish says so.
            Some(request) = requests.recv(), if !full => Wake::Request(request),
        }
    }

    fn turn(&mut self, wake: Wake) -> Result<(), Finish> {
        match wake {
            Wake::Wish(Some(Wish::Run)) => Ok(()),
            Wake::Wish(Some(Wish::Stop)) => {
                self.end_by(STOP_LIMIT, MachineEnd::Killed);
                self.command(&Command::Stop, Vec::new())
            }
            Wake::Wish(Some(Wish::Kill) | None) => Err(MachineEnd::Killed.into()),
            Wake::Deadline => {
                let end = self.deadline.take().map_or(MachineEnd::Killed, |(_, end)| end);
                Err(end.into())
            }
            Wake::Control(Ok(Some(event))) => self.control_event(event),
            Wake::Control(Ok(None)) | Wake::Control(Err(ControlError::Receive(_))) => {
                Err(Finish::Closed)
            }
            Wake::Control(Err(error)) => Err(error.into()),
            Wake::Sent(Ok(())) => {
                self.outgoing.pop_front();
                Ok(())
            }
            // The vmm is gone; receiving tells why, so only what can't be sent is dropped.
            Wake::Sent(Err(_)) => {
                self.outgoing.clear();
                Ok(())
            }
            Wake::Supervisor(ready) => self.supervisor_turn(ready),
            Wake::Request(request) => self.request(request),
        }
    }

    fn control_event(&mut self, event: Event) -> Result<(), Finish> {
        match event {
            Event::Running(times) => {
                if self.progress.borrow().1.vmm != Default::default() {
                    return Err(MachineEnd::UnexpectedEvent.into());
                }
                self.reach(Stage::Running, |report| report.vmm = times);
            }
            Event::Incoming { id, port } => return self.incoming(id, port),
            Event::Exited(exit) => return Err(Finish::Reported(exit)),
            Event::Paused => self.answers.paused.answer(())?,
            Event::Resumed => self.answers.resumed.answer(())?,
            Event::Stats(stats) => self.answers.stats.answer(stats)?,
            Event::Connected { id } => self.answers.connected(id, true)?,
            Event::Refused { id } => self.answers.connected(id, false)?,
            Event::Probed(_) => return Err(MachineEnd::UnexpectedEvent.into()),
        }
        Ok(())
    }

    /// The guest connects: only ports that were named to it, each once, and the supervisor's once.
    fn incoming(&mut self, id: u32, port: u32) -> Result<(), Finish> {
        let vmm_end = match &self.link {
            Link::Expected if port == CONTROL_PORT => Some(self.accept_supervisor()?),
            _ => self.ports.take(port),
        };
        match vmm_end {
            Some(vmm_end) => self.command(&Command::Accept { id }, vec![vmm_end]),
            None => self.command(&Command::Refuse { id }, Vec::new()),
        }
    }

    fn accept_supervisor(&mut self) -> Result<OwnedFd, Finish> {
        let (ours, vmm_end) = streams::pair().map_err(GuestError::Connection)?;
        self.link = Link::Open(Supervisor::new(ours).map_err(GuestError::Connection)?);
        self.reach(Stage::Connected, |report| report.connected_ns = now_ns());
        Ok(vmm_end)
    }

    fn supervisor_turn(&mut self, ready: std::io::Result<()>) -> Result<(), Finish> {
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
                self.ask_supervisor(&message::Request::Hello { version: VERSION })?;
                self.reach(Stage::Ready, |report| {
                    report.ready_ns = now_ns();
                    report.supervisor_start_tsc = start_tsc;
                    report.supervisor_ready_tsc = ready_tsc;
                });
            }
            message::Event::Hello { .. } => return Err(GuestError::Hello.into()),
            _ if !greeted => return Err(GuestError::Hello.into()),
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

    fn request(&mut self, request: Request) -> Result<(), Finish> {
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
            let exec = message::Exec { id, arguments, environment, directory, stdio, timeout_ms };
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

    /// Queues a command for the vmm.
    fn command(&mut self, command: &Command, descriptors: Vec<OwnedFd>) -> Result<(), Finish> {
        if self.outgoing.len() >= MAX_OUTGOING {
            return Err(ControlError::NotReading.into());
        }
        self.outgoing.push_back(Packet::new(command, descriptors)?);
        Ok(())
    }

    /// Queues a request for the supervisor, and sends what can be sent.
    fn ask_supervisor(&mut self, request: &message::Request) -> Result<(), GuestError> {
        let Link::Open(supervisor) = &mut self.link else { return Ok(()) };
        supervisor.queue(request)?;
        supervisor.flush()
    }

    /// Notes how far the start has come.
    fn reach(&mut self, stage: Stage, note: impl FnOnce(&mut StartReport)) {
        self.progress.send_modify(|(reached, report)| {
            *reached = stage.max(*reached);
            note(report);
        });
    }

    /// The machine is killed after `limit`, should it still run; the earliest limit counts.
    fn end_by(&mut self, limit: Duration, end: MachineEnd) {
        let new = Instant::now() + limit;
        if self.deadline.as_ref().is_none_or(|(deadline, _)| new < *deadline) {
            self.deadline = Some((new, end));
        }
    }

    /// Sees the process off: nothing of the machine is left afterwards.
    async fn finish(&mut self, finish: Finish) -> MachineEnd {
        let process = &mut self.launched.process;
        let end = match finish {
            Finish::Reported(exit) => {
                process.end(EXIT_LIMIT).await;
                MachineEnd::Reported(exit)
            }
            Finish::Closed => {
                let status = process.end(EXIT_LIMIT).await;
                MachineEnd::Died { status, stderr: process.stderr() }
            }
            Finish::Kill(end) => {
                process.end(Duration::ZERO).await;
                end
            }
        };
        // Only the vmm held the console's other end.
        tokio::time::timeout(EXIT_LIMIT, &mut self.launched.console).await.ok();
        end
    }
}

/// Nobody waits for such a command any more.
const SIGKILL: u8 = 9;

async fn reach(deadline: Option<&(Instant, MachineEnd)>) {
    match deadline {
        Some((instant, _)) => sleep_until(*instant).await,
        None => std::future::pending().await,
    }
}

async fn send_first(
    control: &ControlSocket,
    outgoing: &VecDeque<Packet>,
) -> Result<(), ControlError> {
    match outgoing.front() {
        Some(packet) => control.send(packet).await,
        None => std::future::pending().await,
    }
}

async fn supervisor_ready(link: &Link) -> std::io::Result<()> {
    match link {
        Link::Open(supervisor) => supervisor.ready().await,
        Link::Expected | Link::Gone => std::future::pending().await,
    }
}
