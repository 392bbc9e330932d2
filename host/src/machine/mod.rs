//! A running machine: starting it, running commands in it, and ending it for certain.
//!
//! One task, the driver, owns the control socket, the supervisor's connection and all state; a
//! [`Machine`] and its [`Command`]s talk to it over channels. What the guest makes the vmm or the
//! supervisor say is bounded and checked there.

mod answers;
mod commands;
mod driver;
mod end;
mod events;
mod requests;
mod stage;
mod streams;
mod supervisor;

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloister_protocol::limits::MAX_TIMEOUT_MS;
use cloister_protocol::message::{ExitStatus, WindowSize};
use cloister_vmm::control::Stats;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::launch::LaunchSpec;
use crate::launch::shares::{FileServer, Share, ShareError};
use crate::tail::Tail;
use driver::{Driver, Wish};
use requests::Request;

pub use end::{ExecError, GuestError, MachineEnd, MachineError, StartError};
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

/// A command to be run.
#[derive(Clone, Debug)]
pub struct ExecSpec {
    /// Program and arguments. A program without a slash is looked for in the guest's `PATH`.
    pub arguments: Vec<Vec<u8>>,
    /// The whole environment.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Its working directory, absolute.
    pub directory: Vec<u8>,
    /// Its streams.
    pub stdio: StdioSpec,
    /// The guest kills it after this time.
    pub timeout: Option<Duration>,
}

impl ExecSpec {
    /// A command with three pipes, an ordinary environment and no time limit.
    #[must_use]
    pub fn new<Argument: Into<Vec<u8>>>(arguments: impl IntoIterator<Item = Argument>) -> Self {
        Self {
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: default_environment(),
            directory: b"/".to_vec(),
            stdio: StdioSpec::Pipes { stdin: true },
            timeout: None,
        }
    }

    fn timeout_ms(&self) -> Option<u64> {
        // Over the limit in any case; the protocol's check refuses it then.
        self.timeout.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(MAX_TIMEOUT_MS + 1))
    }
}

/// What every command finds in its environment, unless it is told otherwise.
#[must_use]
pub fn default_environment() -> Vec<(Vec<u8>, Vec<u8>)> {
    let variables = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("TERM", "dumb"),
    ];
    variables.map(|(name, value)| (name.into(), value.into())).into()
}

/// A running machine. Dropped, it is killed.
#[derive(Debug)]
pub struct Machine {
    requests: mpsc::Sender<Request>,
    wish: watch::Sender<Wish>,
    ended: watch::Receiver<Option<Arc<MachineEnd>>>,
    console: Tail,
    report: StartReport,
    refused: Arc<AtomicU64>,
    vmm_id: Option<u32>,
    file_server: Option<FileServer>,
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
        let prepared = spec.prepare()?;
        let (limit, console) = (prepared.start_limit(), prepared.console().clone());
        report.spawn_ns = now_ns();
        let launched = prepared.start().await?;
        report.sent_ns = now_ns();

        let (requests, request_queue) = mpsc::channel(REQUEST_QUEUE);
        let (wish, wish_seen) = watch::channel(Wish::Run);
        let (ended_told, mut ended) = watch::channel(None);
        let (progress_told, mut progress) = watch::channel((Stage::Spawned, report));
        let vmm_id = launched.process.id();
        let file_server = launched.file_server.clone();
        let refused = Arc::new(AtomicU64::new(0));
        let driver = Driver::new(launched, request_queue, wish_seen, progress_told)
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
        Ok(Self { requests, wish, ended, console, report, refused, vmm_id, file_server })
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
        Ok(Command {
            id: started.id,
            streams: Some(started.streams),
            exited: started.exited,
            status: None,
            requests: self.requests.clone(),
            ended: self.ended.clone(),
        })
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

    /// Connects to a port on which somebody in the guest listens.
    ///
    /// # Errors
    /// Nobody does, or the machine does not answer.
    pub async fn connect(&self, port: u32) -> Result<UnixStream, MachineError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Connect { port, reply }, answer).await?
    }

    /// Asks the supervisor whether it is alive.
    ///
    /// # Errors
    /// It does not answer, or the machine has ended.
    pub async fn ping(&self) -> Result<(), MachineError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Ping { reply }, answer).await?
    }

    /// Takes every vCPU out of the guest and keeps it out. No command answers until
    /// [`Self::resume`].
    ///
    /// # Errors
    /// The vmm does not answer, or the machine has ended.
    pub async fn pause(&self) -> Result<(), MachineError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Pause { reply }, answer).await?
    }

    /// Undoes [`Self::pause`].
    ///
    /// # Errors
    /// The vmm does not answer, or the machine has ended.
    pub async fn resume(&self) -> Result<(), MachineError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Resume { reply }, answer).await?
    }

    /// The vmm's counters.
    ///
    /// # Errors
    /// The vmm does not answer, or the machine has ended.
    pub async fn stats(&self) -> Result<Stats, MachineError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Stats { reply }, answer).await?
    }

    /// Asks the supervisor to end every command and power the machine off; [`Self::ended`] tells
    /// when it has.
    ///
    /// # Errors
    /// The machine has ended.
    pub async fn power_off(&self) -> Result<(), MachineError> {
        self.request(Request::PowerOff).await
    }

    /// Ends the machine now, whatever runs in it, and waits until nothing of it is left.
    pub async fn stop(mut self) -> Arc<MachineEnd> {
        self.wish.send_replace(Wish::Stop);
        wait_for_end(&mut self.ended).await
    }

    /// Waits until the machine has ended.
    pub async fn ended(&self) -> Arc<MachineEnd> {
        wait_for_end(&mut self.ended.clone()).await
    }

    async fn request(&self, request: Request) -> Result<(), MachineError> {
        send(&self.requests, &self.ended, request).await
    }

    async fn ask<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<T>,
    ) -> Result<T, MachineError> {
        let exchange = async {
            self.request(request).await?;
            match answer.await {
                Ok(answer) => Ok(answer),
                Err(_) => Err(MachineError::Ended(self.ended().await)),
            }
        };
        timeout(ANSWER_LIMIT, exchange)
            .await
            .unwrap_or(Err(MachineError::NoAnswer { limit: ANSWER_LIMIT }))
    }
}

/// A command that runs in a machine. Dropped, it runs on, without streams.
#[derive(Debug)]
pub struct Command {
    id: u32,
    streams: Option<Streams>,
    exited: oneshot::Receiver<ExitStatus>,
    /// Once it has been told.
    status: Option<ExitStatus>,
    requests: mpsc::Sender<Request>,
    ended: watch::Receiver<Option<Arc<MachineEnd>>>,
}

impl Command {
    /// The host's ends of its streams; only the first call gets them.
    pub fn take_streams(&mut self) -> Option<Streams> {
        self.streams.take()
    }

    /// Sends a signal to its process group, or to the foreground group of its terminal.
    ///
    /// # Errors
    /// The machine has ended.
    pub async fn signal(&self, signal: u8) -> Result<(), MachineError> {
        send(&self.requests, &self.ended, Request::Signal { id: self.id, signal }).await
    }

    /// Tells its terminal a new size.
    ///
    /// # Errors
    /// The machine has ended.
    pub async fn resize(&self, size: WindowSize) -> Result<(), MachineError> {
        send(&self.requests, &self.ended, Request::Resize { id: self.id, size }).await
    }

    /// Waits for its end. Cancel safe; called again, it tells the same.
    ///
    /// # Errors
    /// The machine ended first.
    pub async fn wait(&mut self) -> Result<ExitStatus, MachineError> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        match (&mut self.exited).await {
            Ok(status) => {
                self.status = Some(status);
                Ok(status)
            }
            Err(_) => Err(MachineError::Ended(wait_for_end(&mut self.ended).await)),
        }
    }
}

async fn send(
    requests: &mpsc::Sender<Request>,
    ended: &watch::Receiver<Option<Arc<MachineEnd>>>,
    request: Request,
) -> Result<(), MachineError> {
    match requests.send(request).await {
        Ok(()) => Ok(()),
        Err(_) => Err(MachineError::Ended(wait_for_end(&mut ended.clone()).await)),
    }
}

/// The driver tells the end before it goes; if the runtime dropped it, the machine was killed too.
async fn wait_for_end(ended: &mut watch::Receiver<Option<Arc<MachineEnd>>>) -> Arc<MachineEnd> {
    match ended.wait_for(Option::is_some).await.map(|end| (*end).clone()) {
        Ok(Some(end)) => end,
        Ok(None) | Err(_) => Arc::new(MachineEnd::Killed),
    }
}

/// A variable's new value in an environment, in place of one of the same name.
pub fn set_variable(environment: &mut Vec<(Vec<u8>, Vec<u8>)>, name: &[u8], value: &[u8]) {
    environment.retain(|(other, _)| other != name);
    environment.push((name.to_vec(), value.to_vec()));
}

/// Waiting answers by their id.
type Waiting<T> = HashMap<u32, T>;
