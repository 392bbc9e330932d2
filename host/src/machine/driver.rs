//! The task that owns a machine: every request, every event and the end go through its loop.
//!
//! Nothing in a turn waits: what can't be sent now is queued, the queues are bounded, and while they
//! are full no further request is taken, so that a guest or vmm that does not read slows its users
//! down and nothing else. A queue that only the other side makes grow ends the machine when full.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use cloister_protocol::message;
use cloister_vmm::control::{Command, Event};
use cloister_vmm::exit::{Exit, ExitCode};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::STOP_LIMIT;
use super::agents::{Agents, Happening};
use super::answers::{Answers, Queue};
use super::commands::Commands;
use super::detach::Detachment;
use super::end::{GuestError, MachineEnd};
use super::requests::Request;
use super::stage::{Stage, StartReport};
use super::streams::Ports;
use super::supervisor::Supervisor;
use crate::control::{ControlError, ControlSocket, Packet};
use crate::launch::Launched;

/// Most packets that wait for the vmm. A guest that connects without pause makes it answer one each.
const MAX_OUTGOING: usize = 1024;
/// How long a vmm that has said goodbye may take to exit before it is killed.
const EXIT_LIMIT: Duration = Duration::from_secs(5);

/// Whether the machine shall run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Run,
    Stop,
    Kill,
}

/// Why the loop ends.
#[derive(Debug)]
pub(super) enum Finish {
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
pub(super) enum Link {
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
    pub(super) launched: Launched,
    /// What is for the guest; not taken while it is detached.
    pub(super) requests: mpsc::Receiver<Request>,
    /// What is for the vmm and for this driver, and what is for a guest that is detached too.
    pub(super) direct: mpsc::Receiver<Request>,
    pub(super) wish: watch::Receiver<Wish>,
    pub(super) progress: watch::Sender<(Stage, StartReport)>,
    pub(super) outgoing: VecDeque<Packet>,
    pub(super) link: Link,
    pub(super) ports: Ports,
    /// Who takes streams to the outside.
    pub(super) outside: Option<mpsc::Sender<UnixStream>>,
    pub(super) commands: Commands,
    pub(super) detachment: Detachment,
    /// For the supervisor when it is attached.
    pub(super) later: Vec<message::Request>,
    pub(super) agents: Agents,
    pub(super) answers: Answers,
    pub(super) pings: Queue<()>,
    pub(super) ping_token: u64,
    pub(super) answered_token: u64,
    /// Connections of the guest that were refused.
    pub(super) refused: Arc<AtomicU64>,
    /// When the machine is killed, should it still run.
    pub(super) deadline: Option<(Instant, MachineEnd)>,
}

impl Driver {
    pub(super) fn new(
        launched: Launched,
        (requests, direct): (mpsc::Receiver<Request>, mpsc::Receiver<Request>),
        wish: watch::Receiver<Wish>,
        progress: watch::Sender<(Stage, StartReport)>,
        happenings: mpsc::Sender<Happening>,
    ) -> Self {
        Self {
            launched,
            requests,
            direct,
            wish,
            progress,
            outgoing: VecDeque::new(),
            link: Link::Expected,
            ports: Ports::default(),
            outside: None,
            commands: Commands::default(),
            detachment: Detachment::default(),
            later: Vec::new(),
            agents: Agents::new(happenings),
            answers: Answers::default(),
            pings: Queue::default(),
            ping_token: 0,
            answered_token: 0,
            refused: Arc::default(),
            deadline: None,
        }
    }

    /// Counts refused connections where others can see it.
    pub(super) fn count_refused(self, refused: Arc<AtomicU64>) -> Self {
        Self { refused, ..self }
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
        let Self { launched, requests, direct, wish, outgoing, link, deadline, .. } = self;
        let attached = self.detachment.takes_requests();
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
            Some(request) = requests.recv(), if !full && attached => Wake::Request(request),
            Some(request) = direct.recv(), if !full => Wake::Request(request),
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

    /// Queues a command for the vmm.
    pub(super) fn command(
        &mut self,
        command: &Command,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Finish> {
        if self.outgoing.len() >= MAX_OUTGOING {
            return Err(ControlError::NotReading.into());
        }
        self.outgoing.push_back(Packet::new(command, descriptors)?);
        Ok(())
    }

    /// Queues a request for the supervisor, and sends what can be sent; while it is detached, keeps it for later.
    pub(super) fn ask_supervisor(&mut self, request: &message::Request) -> Result<(), GuestError> {
        if !self.detachment.takes_requests() {
            // Users' requests are not taken then: only what an event calls for comes here, one for each command or
            // agent at most.
            self.later.push(request.clone());
            return Ok(());
        }
        self.ask_now(request)
    }

    /// The same, also while it is detached.
    pub(super) fn ask_now(&mut self, request: &message::Request) -> Result<(), GuestError> {
        let Link::Open(supervisor) = &mut self.link else { return Ok(()) };
        supervisor.queue(request)?;
        supervisor.flush()
    }

    /// Notes how far the start has come.
    pub(super) fn reach(&mut self, stage: Stage, note: impl FnOnce(&mut StartReport)) {
        self.progress.send_modify(|(reached, report)| {
            *reached = stage.max(*reached);
            note(report);
        });
    }

    /// The machine is killed after `limit`, should it still run; the earliest limit counts.
    pub(super) fn end_by(&mut self, limit: Duration, end: MachineEnd) {
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
        let end = self.finish_files(end).await;
        // Only the vmm held the console's other end.
        tokio::time::timeout(EXIT_LIMIT, &mut self.launched.console).await.ok();
        end
    }
}

impl Driver {
    /// Sees the file server off: without a vmm it ends by itself. If its end was the machine's, what it
    /// said last is what matters.
    async fn finish_files(&mut self, end: MachineEnd) -> MachineEnd {
        let Some(mut files) = self.launched.files.take() else { return end };
        let status = files.end(EXIT_LIMIT).await;
        match end {
            MachineEnd::Reported(Exit { code: ExitCode::FilesGone, detail }) => {
                MachineEnd::Files { detail, status, stderr: files.stderr() }
            }
            end => end,
        }
    }
}

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
