//! The command's time: its streams, its signals, its terminal and its end.

use std::io;
use std::time::Duration;

use super::plan::Plan;
use super::{RunError, somebody_watches};
use crate::exit_codes;
use crate::machine::{Command, Machine, Streams};
use crate::pump::{self, Outcome, Output, Target};
use crate::report::{tell, tell_line};
use crate::signals::{Signals, Wish};
use crate::terminal::{self, RawMode};
use cloister_protocol::message::ExitStatus;

/// How long after its time limit a command may still be reported; then the guest is not believed.
const OVERDUE: Duration = Duration::from_secs(10);

/// Runs the plan's command in `machine`; the exit code.
pub(super) async fn run(
    machine: &Machine,
    plan: Plan,
    signals: &mut Signals,
) -> Result<u8, RunError> {
    let limit = plan.exec.timeout;
    let has_terminal = plan.has_terminal();
    let (stdin, raw) = (plan.stdin, plan.raw);
    let mut command = tokio::select! {
        command = machine.exec(plan.exec) => command?,
        // Whatever keeps the guest from starting it, a person is not kept waiting.
        signal = signals.end() => return Ok(exit_codes::of_signal(signal)),
    };

    // Before the streams, so that no key is shown that the command would hide.
    let raw_mode = if raw { Some(RawMode::enter().map_err(setup("raw mode"))?) } else { None };
    let outputs = connect(&mut command, stdin).map_err(setup("the command's streams"))?;
    if has_terminal {
        // It may have changed since the plan was made.
        resize(&command).await?;
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
fn connect(command: &mut Command, stdin: bool) -> io::Result<Vec<Output>> {
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
    command: &mut Command,
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

async fn resize(command: &Command) -> Result<(), RunError> {
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
