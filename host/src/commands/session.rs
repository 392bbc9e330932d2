//! The command's time: its streams, its signals, its terminal and its end.

use std::io;
use std::time::Duration;

use super::run::{RunError, somebody_watches};
use crate::exit_codes;
use crate::machine::{Command, Streams};
use crate::pump::{self, Outcome, Output, Target};
use crate::report::{tell, tell_line};
use crate::signals::{Signals, Wish};
use crate::terminal::{self, RawMode};
use cloister_protocol::message::{ExitStatus, WindowSize};

/// How long after its time limit a command may still be reported; then the guest is not believed.
const OVERDUE: Duration = Duration::from_secs(10);

/// A command that runs somewhere else, whose streams are at hand. Waiting must be cancel safe.
pub(crate) trait Remote {
    /// Its streams; only the first call gets them.
    fn take_streams(&mut self) -> Option<Streams>;
    /// Waits for its end.
    async fn wait(&mut self) -> Result<ExitStatus, RunError>;
    /// Sends it a signal.
    async fn signal(&mut self, signal: u8) -> Result<(), RunError>;
    /// Tells its terminal a new size.
    async fn resize(&mut self, size: WindowSize) -> Result<(), RunError>;
}

impl Remote for Command {
    fn take_streams(&mut self) -> Option<Streams> {
        self.take_streams()
    }

    async fn wait(&mut self) -> Result<ExitStatus, RunError> {
        Ok(Command::wait(self).await?)
    }

    async fn signal(&mut self, signal: u8) -> Result<(), RunError> {
        Ok(Command::signal(self, signal).await?)
    }

    async fn resize(&mut self, size: WindowSize) -> Result<(), RunError> {
        Ok(Command::resize(self, size).await?)
    }
}

/// How a command's streams are connected to this process's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wiring {
    /// Standard input is passed on.
    pub(crate) stdin: bool,
    /// Standard input's terminal is in raw mode meanwhile.
    pub(crate) raw: bool,
    /// The command has a terminal.
    pub(crate) has_terminal: bool,
    /// The command's time limit, which the guest keeps.
    pub(crate) limit: Option<Duration>,
}

/// Follows a command that was started to its end; the exit code.
pub(crate) async fn follow(
    mut command: impl Remote,
    wiring: Wiring,
    signals: &mut Signals,
) -> Result<u8, RunError> {
    let Wiring { stdin, raw, has_terminal, limit } = wiring;
    // Before the streams, so that no key is shown that the command would hide.
    let raw_mode = if raw { Some(RawMode::enter().map_err(setup("raw mode"))?) } else { None };
    let outputs = connect(&mut command, stdin).map_err(setup("the command's streams"))?;
    if has_terminal {
        // It may have changed since the plan was made.
        resize(&mut command).await?;
    }

    let ended = wait(&mut command, limit, signals, has_terminal).await;
    let code = match ended? {
        Ended::Status(status) => exit_codes::of_status(status),
        Ended::Insisted(signal) => return Ok(exit_codes::of_signal(signal)),
    };
    let drained = drain(outputs, signals).await;
    drop(raw_mode);
    match drained {
        Drained::Whole => Ok(code),
        Drained::Insisted(signal) => Ok(exit_codes::of_signal(signal)),
        Drained::Failed(error) => Err(error),
    }
}

/// How the wait for the command ended.
enum Ended {
    Status(ExitStatus),
    Insisted(u8),
}

/// Connects the command's streams to ours.
fn connect(command: &mut impl Remote, stdin: bool) -> io::Result<Vec<Output>> {
    match command.take_streams() {
        None => Ok(Vec::new()),
        Some(Streams::Terminal(stream)) => {
            if stdin {
                pump::start_input(stream.try_clone()?)?;
            }
            Ok(vec![pump::start_output(stream, Target::Stdout)?])
        }
        Some(Streams::Pipes { stdin, stdout, stderr }) => {
            if let Some(stdin) = stdin {
                pump::start_input(stdin)?;
            }
            Ok(vec![
                pump::start_output(stdout, Target::Stdout)?,
                pump::start_output(stderr, Target::Stderr)?,
            ])
        }
    }
}

async fn wait(
    command: &mut impl Remote,
    limit: Option<Duration>,
    signals: &mut Signals,
    has_terminal: bool,
) -> Result<Ended, RunError> {
    // The guest keeps the limit; this is for one that does not.
    let overdue = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit.saturating_add(OVERDUE)).await,
            None => std::future::pending().await,
        }
    };
    let mut overdue = std::pin::pin!(overdue);
    loop {
        let wish = tokio::select! {
            status = command.wait() => return Ok(Ended::Status(status?)),
            () = &mut overdue => return Err(RunError::Overdue),
            wish = signals.next() => wish,
        };
        match wish {
            Wish::PassOn(signal) => command.signal(signal).await?,
            Wish::Resize if has_terminal => resize(command).await?,
            Wish::Resize => {}
            Wish::End(signal) => {
                tell_insistence();
                return Ok(Ended::Insisted(signal));
            }
        }
    }
}

async fn resize(command: &mut impl Remote) -> Result<(), RunError> {
    if let Some(size) = terminal::own_size() {
        command.resize(size).await?;
    }
    Ok(())
}

/// What became of the rest of the output.
enum Drained {
    Whole,
    Insisted(u8),
    Failed(RunError),
}

/// Waits for the rest of the command's output; somebody who insists need not wait.
async fn drain(outputs: Vec<Output>, signals: &mut Signals) -> Drained {
    let all = async {
        let mut failed = None;
        for output in outputs {
            let target = output.target();
            match output.drain().await {
                // A reader that went away has had what it wanted; the command's exit code tells the
                // rest, as with any other program in a pipeline.
                Outcome::Whole | Outcome::ReaderGone => {}
                Outcome::Failed(source) => failed = Some(RunError::Output { target, source }),
                Outcome::GivenUp => {
                    tell_line(format_args!(
                        "cloister: the guest kept {target} open after the command's end"
                    ));
                }
            }
        }
        failed.map_or(Drained::Whole, Drained::Failed)
    };
    tokio::select! {
        drained = all => drained,
        signal = insisted(signals) => Drained::Insisted(signal),
    }
}

/// After the command's end there is nobody to pass a signal to: the first that asks to end counts.
async fn insisted(signals: &mut Signals) -> u8 {
    signals.end().await
}

fn tell_insistence() {
    if somebody_watches() {
        // In raw mode a line end alone would leave a staircase.
        tell(format_args!("cloister: asked three times to end: the machine is removed\r\n"));
    }
}

fn setup(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::Setup { what, source }
}
