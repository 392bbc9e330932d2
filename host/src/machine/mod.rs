//! A running machine: starting it, running commands in it, and ending it for certain.
//!
//! One task, the driver, owns the control socket, the supervisor's connection and all state; a
//! [`Machine`] and its [`Command`]s talk to it over channels. What the guest makes the vmm or the
//! supervisor say is bounded and checked there.

mod agents;
mod answers;
mod ask;
mod command;
mod commands;
mod detach;
mod driver;
mod end;
mod events;
mod pause;
mod requests;
mod rules;
mod save;
mod spec;
mod stage;
mod streams;
mod supervisor;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloister_protocol::agent::{AgentSpec, Usage};
use cloister_vmm::control::Stats;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::launch::LaunchSpec;
use crate::launch::process::VmmProcess;
use crate::launch::shares::{FileServer, Share, ShareError};
use crate::tail::Tail;
use ask::{send, wait_for_end};
use driver::{Driver, Wish};
use requests::Request;

pub use agents::Happening;
pub use command::Command;
pub use detach::Adopted;
pub use end::{AgentError, ExecError, GuestError, MachineEnd, MachineError, StartError};
pub use pause::Pause;
pub use save::{MAX_STATE, SaveError};
pub use spec::{CopySpec, ExecSpec, default_environment, set_variable};
pub use stage::Stage;
pub use stage::{StartReport, now_ns};
pub use streams::{StdioSpec, Streams};

/// How long the machine may take to answer a request. Only a guest that is overloaded or hostile, or
/// a vmm that hangs, takes longer.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long the machine may take to stop when it is asked, before it is killed.
pub const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Requests that wait for the driver; more wait for room.
const REQUEST_QUEUE: usize = 64;

/// A running machine. Dropped, it is killed.
#[derive(Debug)]
pub struct Machine {
    requests: mpsc::Sender<Request>,
    /// What the guest need not be attached for.
    direct: mpsc::Sender<Request>,
    wish: watch::Sender<Wish>,
    ended: watch::Receiver<Option<Arc<MachineEnd>>>,
    happenings: Option<mpsc::Receiver<Happening>>,
    console: Tail,
    report: StartReport,
    refused: Arc<AtomicU64>,
    vmm_id: Option<u32>,
    file_server_id: Option<u32>,
    file_server: Option<FileServer>,
    held: Option<OwnedFd>,
    pause: Pause,
    memory_bytes: u64,
}

impl Machine {
    /// Starts a machine and waits until its supervisor is ready.
    ///
    /// Call it on a thread that lives as long as the machine: the kernel kills the vmm when the thread
    /// that started it ends.
    ///
    /// # Errors
    /// Something is missing or wrong, the machine ended, or it was not ready in time. Nothing of it
    /// runs any more then.
    pub async fn start(spec: LaunchSpec) -> Result<Self, StartError> {
        let begin = Instant::now();
        let mut report = StartReport { begin_ns: now_ns(), ..StartReport::default() };
        let memory_bytes = spec.vm.memory_bytes();
        let blank = spec.take_blank().await?;
        report.is_pooled = blank.is_some();
        let prepared = spec.prepare(blank)?;
        let (limit, console) = (prepared.start_limit(), prepared.console().clone());
        report.spawn_ns = now_ns();
        let Ok(launched) = timeout(limit, prepared.start()).await else {
            return Err(StartError::TimedOut { limit, stage: Stage::Prepared });
        };
        let launched = launched?;
        report.sent_ns = now_ns();

        let (requests, request_queue) = mpsc::channel(REQUEST_QUEUE);
        let (direct, direct_queue) = mpsc::channel(REQUEST_QUEUE);
        let (wish, wish_seen) = watch::channel(Wish::Run);
        let (ended_told, mut ended) = watch::channel(None);
        let (progress_told, mut progress) = watch::channel((Stage::Spawned, report));
        let vmm_id = launched.process.id();
        let file_server = launched.file_server.clone();
        let file_server_id = launched.files.as_ref().and_then(VmmProcess::id);
        let refused = Arc::new(AtomicU64::new(0));
        let (happen, happenings) = mpsc::channel(agents::HAPPENING_QUEUE);
        let happenings = Some(happenings);
        let driver =
            Driver::new(launched, (request_queue, direct_queue), wish_seen, progress_told, happen)
                .count_refused(Arc::clone(&refused));
        tokio::spawn(driver.run(ended_told));

        let left = limit.saturating_sub(begin.elapsed());
        let ready = timeout(left, progress.wait_for(|(stage, _)| *stage == Stage::Ready))
            .await
            .map(|reached| reached.map(|reached| reached.1));
        let report = match ready {
            Ok(Ok(report)) => report,
            Ok(Err(_)) => {
                let end = wait_for_end(&mut ended).await;
                let stage = progress.borrow().0;
                return Err(StartError::Ended { stage, end });
            }
            Err(_) => {
                let stage = progress.borrow().0;
                wish.send_replace(Wish::Kill);
                wait_for_end(&mut ended).await;
                return Err(StartError::TimedOut { limit, stage });
            }
        };
        Ok(Self {
            requests,
            direct,
            wish,
            ended,
            happenings,
            console,
            report,
            refused,
            vmm_id,
            file_server_id,
            file_server,
            held: None,
            pause: Pause::default(),
            memory_bytes,
        })
    }

    /// Keeps a descriptor open as long as the machine runs: a lock on what it was made of.
    #[must_use]
    pub fn holding(self, held: OwnedFd) -> Self {
        Self { held: Some(held), ..self }
    }

    /// Whether it went on from a template.
    #[must_use]
    pub const fn is_fork(&self) -> bool {
        self.held.is_some()
    }

    /// When each stage of the start was reached.
    #[must_use]
    pub const fn start_report(&self) -> &StartReport {
        &self.report
    }

    /// The process id of the vmm, for measuring. It may have ended.
    #[must_use]
    pub const fn vmm_id(&self) -> Option<u32> {
        self.vmm_id
    }

    /// The process id of the file server, if there is one. It may have ended.
    #[must_use]
    pub const fn file_server_id(&self) -> Option<u32> {
        self.file_server_id
    }

    /// How many connections of the guest were refused, because it was not expected on their ports.
    #[must_use]
    pub fn refused_connections(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The last of what the guest wrote to its serial console. Raw: see [`crate::text::printable`].
    #[must_use]
    pub fn console(&self) -> Vec<u8> {
        self.console.bytes()
    }

    /// Starts a command; many can run at once.
    ///
    /// # Errors
    /// It could not be started.
    pub async fn exec(&self, spec: ExecSpec) -> Result<Command, ExecError> {
        let (reply, answer) = oneshot::channel();
        let timeout_ms = spec.timeout_ms();
        let request = Request::Exec { spec: Box::new(spec), timeout_ms, reply };
        let started = self.ask(request, answer).await??;
        Ok(self.command(started))
    }

    /// Begins to copy files; the command's one stream ([`Streams::Terminal`]) is the archive.
    ///
    /// # Errors
    /// It could not be started.
    pub async fn copy(&self, spec: CopySpec) -> Result<Command, ExecError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Copy { spec: Box::new(spec), reply };
        let started = self.ask(request, answer).await??;
        Ok(self.command(started))
    }

    fn command(&self, started: commands::Started) -> Command {
        Command::new(started, self.requests.clone(), self.ended.clone())
    }

    /// Makes an agent's container; nothing runs in it yet.
    ///
    /// # Errors
    /// It could not be made; nothing of it is left in the machine.
    pub async fn create_agent(&self, spec: AgentSpec) -> Result<(), AgentError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::CreateAgent { spec: Box::new(spec), reply }, answer).await?
    }

    /// Kills what runs in an agent's container and removes it. One that is not there is removed.
    ///
    /// # Errors
    /// The machine does not answer, or has ended.
    pub async fn remove_agent(&self, agent: u32) -> Result<(), MachineError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::RemoveAgent { agent, reply }, answer).await?
    }

    /// What an agent uses; `None`: there is no such agent.
    ///
    /// # Errors
    /// The machine does not answer, or has ended.
    pub async fn agent_usage(&self, agent: u32) -> Result<Option<Usage>, MachineError> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.request(Request::AgentUsage { agent, reply }).await?;
            // Dropped without an answer when the agent is not there, or the machine ended.
            answer.await.ok().transpose()
        };
        self.pause
            .within(ANSWER_LIMIT, exchange)
            .await
            .unwrap_or(Err(MachineError::NoAnswer { limit: ANSWER_LIMIT }))
    }

    /// What happens to agents, unasked; only the first call gets it.
    pub fn take_happenings(&mut self) -> Option<mpsc::Receiver<Happening>> {
        self.happenings.take()
    }

    /// Shares one more directory or file; the guest finds it at once in the directory of shares. Only for
    /// a machine that was started with shares.
    ///
    /// # Errors
    /// It can't be shared; nothing has changed then.
    pub async fn add_share(&self, share: Share) -> Result<(), ShareError> {
        match &self.file_server {
            Some(server) => server.add(share).await,
            None => Err(ShareError::None),
        }
    }

    /// What the file server knows of its shares, if there is one; the machine is paused.
    ///
    /// # Errors
    /// Something that is in use can't be carried, or it does not answer.
    pub async fn save_files(&self) -> Result<Option<Vec<u8>>, ShareError> {
        match &self.file_server {
            Some(server) => server.save().await.map(Some),
            None => Ok(None),
        }
    }

    /// Connects to a port on which somebody in the guest listens.
    ///
    /// # Errors
    /// Nobody does, or the machine does not answer.
    pub async fn connect(&self, port: u32) -> Result<UnixStream, MachineError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Connect { port, reply }, answer).await?
    }

    /// Passes the guest's streams to the outside on to this queue from now on; before, and while it is
    /// full, they are refused.
    ///
    /// # Errors
    /// The machine has ended.
    pub async fn let_out(&self, queue: mpsc::Sender<UnixStream>) -> Result<(), MachineError> {
        send(&self.direct, &self.ended, Request::LetOut { queue }).await
    }

    /// Asks the supervisor whether it is alive.
    ///
    /// # Errors
    /// It does not answer, or the machine has ended.
    pub async fn ping(&self) -> Result<(), MachineError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Ping { reply }, answer).await?
    }

    /// The vmm's counters.
    ///
    /// # Errors
    /// The vmm does not answer, or the machine has ended.
    pub async fn stats(&self) -> Result<Stats, MachineError> {
        let (reply, answer) = oneshot::channel();
        self.ask_vmm(Request::Stats { reply }, answer).await?
    }

    /// Asks the supervisor to end every command and power the machine off; [`Self::ended`] tells
    /// when it has.
    ///
    /// # Errors
    /// The machine has ended.
    pub async fn power_off(&self) -> Result<(), MachineError> {
        send(&self.direct, &self.ended, Request::PowerOff).await
    }

    /// Ends the machine now, whatever runs in it, and waits until nothing of it is left.
    pub async fn stop(mut self) -> Arc<MachineEnd> {
        self.wish.send_replace(Wish::Stop);
        wait_for_end(&mut self.ended).await
    }

    /// Kills the machine, should it still run, and waits until nothing of it is left.
    pub async fn kill(&self) -> Arc<MachineEnd> {
        self.wish.send_replace(Wish::Kill);
        self.ended().await
    }

    /// Waits until the machine has ended.
    pub async fn ended(&self) -> Arc<MachineEnd> {
        wait_for_end(&mut self.ended.clone()).await
    }
}

/// Waiting answers by their id.
type Waiting<T> = HashMap<u32, T>;
