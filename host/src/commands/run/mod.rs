//! `cloister run`: a machine for one command, from its start to its removal.

mod plan;

use std::fs::{self, File};
use std::future::Future;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cloister_protocol::message::ExecFailure;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::RunArgs;
use crate::commands::template::tell as tell_notice;
use crate::commands::{clean_up, session};
use crate::exit_codes;
use crate::launch::files::FileError;
use crate::launch::jail::LimitsWish;
use crate::machine::{ExecError, Machine, MachineEnd, MachineError, StartError, StartReport};
use crate::pump::Target;
use crate::report::{describe, tell, tell_line};
use crate::signals::Signals;
use crate::tail::Tail;
use crate::template::{self, Notice};
use crate::text::{printable, quoted};
use crate::warden::channel::ChannelError;
use plan::{Plan, Surroundings};

/// A start that takes longer is told of, on a terminal.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the sign of life turns.
const TURN: Duration = Duration::from_millis(100);

/// Why a run failed, beside what the command itself says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// This program can't find its files.
    #[error(transparent)]
    Files(#[from] FileError),
    /// The runtime, a thread or a signal handler can't be made.
    #[error("can't set up {what}")]
    Setup {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file for the guest's console can't be written.
    #[error("can't write the guest's console to {}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The machine did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The command did not start.
    #[error(transparent)]
    Exec(ExecError),
    /// The machine ended before the command.
    #[error("the machine ended before the command")]
    Ended(#[source] Arc<MachineEnd>),
    /// The machine did something else wrong.
    #[error(transparent)]
    Machine(MachineError),
    /// The command did not end at its time limit, and neither did the guest's supervisor end it.
    #[error("the machine did not end the command at its time limit")]
    Overdue,
    /// The team's warden can't be reached, or went away.
    #[error(transparent)]
    Warden(#[from] ChannelError),
    /// The team's warden says no.
    #[error("{0}")]
    Refused(String),
    /// The command in the container could not be started.
    #[error("{words}")]
    NotStarted {
        /// Why, if the guest said.
        reason: Option<ExecFailure>,
        /// In words.
        words: String,
    },
    /// The team ended before the command.
    #[error("the team ended before the command")]
    TeamEnded,
    /// The command's output could not be written.
    #[error("can't write {target}")]
    Output {
        /// Where to.
        target: Target,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl From<MachineError> for RunError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Ended(end) => Self::Ended(end),
            error => Self::Machine(error),
        }
    }
}

impl From<ExecError> for RunError {
    fn from(error: ExecError) -> Self {
        match error {
            ExecError::Machine(error) => error.into(),
            error => Self::Exec(error),
        }
    }
}

impl RunError {
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Exec(ExecError::Failed { reason, .. }) => exit_codes::of_failure(*reason),
            Self::NotStarted { reason: Some(reason), .. } => exit_codes::of_failure(*reason),
            Self::Overdue => exit_codes::TIMED_OUT,
            _ => exit_codes::FAILED,
        }
    }

    pub(crate) fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Files(error) => error.remedy(),
            Self::Start(error) => error.remedy(),
            Self::Ended(end) if end.is_orderly() => Some(
                "the command, or something that it started, powered the machine off or restarted it",
            ),
            Self::Ended(end) => end.remedy(),
            Self::Warden(ChannelError::Connect(_)) | Self::TeamEnded => {
                Some("`cloister ps -a` tells whether the team runs")
            }
            _ => None,
        }
    }

    /// Whether the guest's console helps to understand it.
    fn is_about_the_guest(&self) -> bool {
        match self {
            Self::Start(StartError::Launch(_)) => false,
            Self::Start(_) => true,
            Self::Ended(end) => !end.is_orderly(),
            Self::Overdue => true,
            Self::Machine(_) => true,
            _ => false,
        }
    }
}

/// Runs the command; its exit code, or ours.
#[must_use]
pub fn run(arguments: RunArgs, limits: LimitsWish) -> u8 {
    let plan = match Plan::resolve(arguments, limits, &Surroundings::look()) {
        Ok(plan) => plan,
        Err(error) => return fail(&error.into(), &Tail::new(0)),
    };
    clean_up(&plan.launch.jail);
    let console = plan.launch.console.clone();
    let log = plan.log.clone();
    let result = execute(plan);
    let code = result.unwrap_or_else(|error| fail(&error, &console));
    match log.map_or(Ok(()), |path| write_log(&path, &console)) {
        Ok(()) => code,
        Err(error) => fail(&error, &console),
    }
}

fn execute(plan: Plan) -> Result<u8, RunError> {
    if let Some(path) = &plan.log {
        // Found out now, not when the command has run.
        File::create(path).map_err(|source| RunError::Log { path: path.clone(), source })?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::Setup { what: "the runtime", source })?;
    runtime.block_on(in_machine(plan))
}

/// The recipe: start, run, remove.
async fn in_machine(plan: Plan) -> Result<u8, RunError> {
    let mut signals = Signals::listen()
        .map_err(|source| RunError::Setup { what: "the signal handlers", source })?;
    let console = plan.launch.console.clone();
    let start = start(&plan);
    let machine = tokio::select! {
        machine = with_sign_of_life(start) => machine?,
        // Dropped half-way, a start takes everything of it down.
        signal = signals.end() => return Ok(exit_codes::of_signal(signal)),
    };
    if plan.verbose {
        tell_start(machine.start_report());
    }
    let verbose = plan.verbose;
    let result = run_command(&machine, plan, &mut signals).await;
    if verbose {
        tell_counters(&machine, &console).await;
    }
    machine.stop().await;
    result
}

async fn start(plan: &Plan) -> Result<Machine, StartError> {
    let tells = plan.verbose || somebody_watches();
    let tell = |notice: Notice<'_>| {
        // A first start is no fault.
        if tells || !matches!(notice, Notice::Building) {
            tell_notice(notice);
        }
    };
    template::start(plan.launch.clone(), &plan.origin, tell).await
}

/// Runs the plan's command in the machine; the exit code.
async fn run_command(machine: &Machine, plan: Plan, signals: &mut Signals) -> Result<u8, RunError> {
    let wiring = session::Wiring {
        stdin: plan.stdin,
        raw: plan.raw,
        has_terminal: plan.has_terminal(),
        limit: plan.exec.timeout,
    };
    let command = tokio::select! {
        command = machine.exec(plan.exec) => command?,
        // Whatever keeps the guest from starting it, a person is not kept waiting.
        signal = signals.end() => return Ok(exit_codes::of_signal(signal)),
    };
    session::follow(command, wiring, signals).await
}

/// Shows that something is being done, once it takes longer than a moment.
pub(crate) async fn with_sign_of_life<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    if let Ok(done) = tokio::time::timeout(PATIENCE, &mut work).await {
        return done;
    }
    // Draws nothing where standard error is not a terminal.
    let bar =
        ProgressBar::new_spinner().with_message("starting the machine").with_elapsed(PATIENCE);
    if let Ok(style) = ProgressStyle::with_template("cloister: {msg} {spinner} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TURN);
    let done = work.await;
    bar.finish_and_clear();
    done
}

fn tell_start(report: &StartReport) {
    let since_begin = |instant_ns: u64| {
        Duration::from_nanos(instant_ns.saturating_sub(report.begin_ns)).as_secs_f64() * 1000.0
    };
    for (stage, instant_ns) in [
        (
            if report.is_pooled { "vmm process taken" } else { "vmm process started" },
            report.spawn_ns,
        ),
        ("vmm entered main", report.vmm.process_ns),
        ("machine built by KVM", report.vmm.kvm_ns),
        ("kernel and root loaded", report.vmm.loaded_ns),
        ("first entry into the guest", report.vmm.run_ns),
        ("supervisor connected", report.connected_ns),
        ("supervisor ready", report.ready_ns),
    ] {
        tell_line(format_args!("cloister: {:>9.3} ms  {stage}", since_begin(instant_ns)));
    }
}

async fn tell_counters(machine: &Machine, console: &Tail) {
    if let Ok(stats) = machine.stats().await {
        tell_line(format_args!(
            "cloister: {} exits ({} device, {} port), {} B from and {} B to the guest by vsock, {} \
             connections refused",
            stats.exits,
            stats.mmio_exits,
            stats.port_exits,
            stats.vsock_from_guest_bytes,
            stats.vsock_to_guest_bytes,
            machine.refused_connections()
        ));
    }
    tell_console(console);
}

/// Tells an error on standard error; the exit code for it.
fn fail(error: &RunError, console: &Tail) -> u8 {
    tell_line(describe(error, error.remedy()));
    if error.is_about_the_guest() {
        tell_console(console);
    }
    if let RunError::Start(StartError::Ended { end, .. }) | RunError::Ended(end) = error
        && let MachineEnd::Died { stderr, .. } = &**end
        && !stderr.is_empty()
    {
        tell(format_args!(
            "cloister: cloister-vmm said:\n{}",
            quoted("  vmm| ", &printable(stderr))
        ));
    }
    error.exit_code()
}

fn tell_console(console: &Tail) {
    let console = console.bytes();
    if !console.is_empty() {
        tell(format_args!(
            "cloister: the guest's console:\n{}",
            quoted("  guest| ", &printable(&console))
        ));
    }
}

fn write_log(path: &Path, console: &Tail) -> Result<(), RunError> {
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).open(path)?;
        file.write_all(&console.bytes())
    };
    write().map_err(|source| RunError::Log { path: path.to_owned(), source })
}

/// Whether a word to the person at the terminal would reach one.
pub(crate) fn somebody_watches() -> bool {
    io::stderr().is_terminal()
}
