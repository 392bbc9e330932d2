//! `cloister exec`: a command in an agent's container. Its streams come from the warden as
//! descriptors, so its bytes go straight between this process and the vmm.

use std::io::IsTerminal as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;

use cloister_protocol::message::{ExitStatus, WindowSize};

use super::{TeamError, check_running, finish, open, runtime};
use crate::cli::teams::ExecArgs;
use crate::commands::run::RunError;
use crate::commands::session::{Remote, Wiring, follow};
use crate::machine::Streams;
use crate::report::{describe, tell_line};
use crate::signals::Signals;
use crate::terminal::{self, DEFAULT_SIZE};
use crate::warden::api::{Call, ExecCall, Reply};
use crate::warden::channel::ChannelError;
use crate::warden::client::Connection;

/// Runs a command in an agent's container; its exit code, or ours.
#[must_use]
pub fn exec(arguments: ExecArgs) -> u8 {
    finish(run(arguments))
}

fn run(arguments: ExecArgs) -> Result<u8, TeamError> {
    let state = open(&arguments.state)?;
    let target = &arguments.target;
    check_running(&state, &target.team, Some(&target.agent))?;
    let stdin_is_terminal = std::io::stdin().is_terminal();
    let stdin = arguments.interactive || !stdin_is_terminal;
    let size = terminal::own_size().unwrap_or(DEFAULT_SIZE);
    let mut environment: Vec<_> =
        arguments.env.into_iter().map(|variable| (variable.name, variable.value)).collect();
    if let Some(kind) = std::env::var_os("TERM").filter(|_| arguments.tty) {
        environment.insert(0, (b"TERM".to_vec(), kind.into_vec()));
    }
    let call = Call::Exec(ExecCall {
        agent: target.agent.clone(),
        arguments: arguments.command.into_iter().map(OsStringExt::into_vec).collect(),
        environment,
        directory: arguments.workdir.map(OsStringExt::into_vec),
        terminal: arguments.tty.then_some(size),
        stdin,
    });
    let wiring = Wiring {
        stdin,
        raw: arguments.tty && stdin && stdin_is_terminal,
        has_terminal: arguments.tty,
        limit: None,
    };
    let outcome = runtime()?.block_on(async {
        let mut signals = Signals::listen()
            .map_err(|source| RunError::Setup { what: "the signal handlers", source })?;
        let connection = Connection::call(&state, &target.team, &call).await?;
        let command = WardenCommand::started(connection, arguments.tty, stdin).await?;
        follow(command, wiring, &mut signals).await
    });
    Ok(outcome.unwrap_or_else(|error: RunError| {
        tell_line(describe(&error, error.remedy()));
        error.exit_code()
    }))
}

/// A command that a warden started for us.
pub(super) struct WardenCommand {
    connection: Connection,
    streams: Option<Streams>,
}

impl WardenCommand {
    /// Waits for its start.
    pub(super) async fn started(
        mut connection: Connection,
        terminal: bool,
        stdin: bool,
    ) -> Result<Self, RunError> {
        let count = match connection.reply().await? {
            Reply::Started { descriptors } => descriptors,
            reply => return Err(unexpected(reply)),
        };
        let descriptors = connection.descriptors(count)?;
        let streams = streams(descriptors, terminal, stdin).ok_or(ChannelError::Gone)?;
        Ok(Self { connection, streams: Some(streams) })
    }
}

fn streams(descriptors: Vec<OwnedFd>, terminal: bool, stdin: bool) -> Option<Streams> {
    let mut streams = descriptors.into_iter().map(UnixStream::from);
    if terminal {
        return streams.next().map(Streams::Terminal);
    }
    let stdin = if stdin { Some(streams.next()?) } else { None };
    Some(Streams::Pipes { stdin, stdout: streams.next()?, stderr: streams.next()? })
}

fn unexpected(reply: Reply) -> RunError {
    match reply {
        Reply::NotStarted { reason, words } => RunError::NotStarted { reason, words },
        Reply::Refused { words } => RunError::Refused(words),
        Reply::Ended => RunError::TeamEnded,
        _ => RunError::Warden(ChannelError::Gone),
    }
}

impl Remote for WardenCommand {
    fn take_streams(&mut self) -> Option<Streams> {
        self.streams.take()
    }

    async fn wait(&mut self) -> Result<ExitStatus, RunError> {
        match self.connection.reply().await {
            Ok(Reply::Exited(status)) => Ok(status),
            Ok(reply) => Err(unexpected(reply)),
            Err(ChannelError::Gone) => Err(RunError::TeamEnded),
            Err(error) => Err(error.into()),
        }
    }

    async fn signal(&mut self, signal: u8) -> Result<(), RunError> {
        Ok(self.connection.say(&Call::Signal(signal)).await?)
    }

    async fn resize(&mut self, size: WindowSize) -> Result<(), RunError> {
        Ok(self.connection.say(&Call::Resize(size)).await?)
    }
}
