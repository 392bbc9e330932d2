//! Commands and copies for people, who wait for them: beside the agents' own, and not kept with the team.

use std::os::fd::{AsFd, OwnedFd};

use cloister_protocol::agent::{Direction, Place};

use super::api::{Call, ExecCall, Reply};
use super::channel::{Channel, ChannelError};
use super::serve::find;
use super::team::Team;
use crate::machine::{Command, CopySpec, ExecError, ExecSpec, StdioSpec, Streams, set_variable};
use crate::report::chain;

/// Runs a command in an agent's container for whoever has called.
///
/// # Errors
/// The caller has gone.
pub(super) async fn exec(
    team: &Team,
    call: ExecCall,
    mut channel: Channel,
) -> Result<(), ChannelError> {
    let Some(index) = find(team, &call.agent, &mut channel).await? else { return Ok(()) };
    let Some(recipe) = team.recipes.get(index) else { return Ok(()) };
    let mut environment = recipe.exec.environment.clone();
    for (name, value) in &call.environment {
        set_variable(&mut environment, name, value);
    }
    let spec = ExecSpec {
        arguments: call.arguments,
        environment,
        directory: call.directory.unwrap_or_else(|| recipe.exec.directory.clone()),
        stdio: match call.terminal {
            Some(size) => StdioSpec::Terminal(size),
            None => StdioSpec::Pipes { stdin: call.stdin },
        },
        timeout: None,
        place: Place::Agent { agent: recipe.spec.agent, user: recipe.user },
    };
    let (visit, calm) = (Visit::begin(team), team.calm.read().await);
    let command = team.machine.exec(spec).await;
    drop(calm);
    run(team, command, channel).await?;
    drop(visit);
    Ok(())
}

/// A command that was not started by an agent's task, while it runs.
struct Visit<'a>(&'a Team);

impl<'a> Visit<'a> {
    fn begin(team: &'a Team) -> Self {
        team.visitors.set(team.visitors.get().saturating_add(1));
        Self(team)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.0.visitors.set(self.0.visitors.get().saturating_sub(1));
    }
}

/// Copies files out of an agent's container or into it.
///
/// # Errors
/// The caller has gone.
pub(super) async fn copy(
    team: &Team,
    agent: &str,
    direction: Direction,
    mut channel: Channel,
) -> Result<(), ChannelError> {
    let Some(index) = find(team, agent, &mut channel).await? else { return Ok(()) };
    let Some(recipe) = team.recipes.get(index) else { return Ok(()) };
    let spec = CopySpec { agent: recipe.spec.agent, user: recipe.user, direction };
    let (visit, calm) = (Visit::begin(team), team.calm.read().await);
    let command = team.machine.copy(spec).await;
    drop(calm);
    run(team, command, channel).await?;
    drop(visit);
    Ok(())
}

/// Hands a command's streams over and follows it to its end.
async fn run(
    team: &Team,
    command: Result<Command, ExecError>,
    mut channel: Channel,
) -> Result<(), ChannelError> {
    let mut command = match command {
        Ok(command) => command,
        Err(error) => {
            let reason = match &error {
                ExecError::Failed { reason, .. } => Some(*reason),
                _ => None,
            };
            let reply = Reply::NotStarted { reason, words: chain(&error) };
            return channel.send(&reply, &[]).await;
        }
    };
    // The vmm serves these: no byte of them passes here.
    let streams: Vec<OwnedFd> = match command.take_streams() {
        Some(Streams::Terminal(stream)) => vec![stream.into()],
        Some(Streams::Pipes { stdin, stdout, stderr }) => {
            stdin.into_iter().chain([stdout, stderr]).map(Into::into).collect()
        }
        None => Vec::new(),
    };
    let descriptors = u8::try_from(streams.len()).unwrap_or(u8::MAX);
    let borrowed: Vec<_> = streams.iter().map(AsFd::as_fd).collect();
    channel.send(&Reply::Started { descriptors }, &borrowed).await?;
    drop(streams);
    loop {
        tokio::select! {
            status = command.wait() => {
                return match status {
                    Ok(status) => channel.send(&Reply::Exited(status), &[]).await,
                    Err(_) => channel.send(&Reply::Ended, &[]).await,
                };
            }
            call = channel.receive() => match call {
                Ok(Some(Call::Signal(signal))) => {
                    let _calm = team.calm.read().await;
                    command.signal(signal).await.ok();
                }
                Ok(Some(Call::Resize(size))) => {
                    let _calm = team.calm.read().await;
                    command.resize(size).await.ok();
                }
                // Whoever started it has gone: it is hung up, and killed if it does not mind.
                _ => {
                    let _calm = team.calm.read().await;
                    command.signal(SIGHUP).await.ok();
                    if tokio::time::timeout(HANG_UP_GRACE, command.wait()).await.is_err() {
                        command.signal(SIGKILL).await.ok();
                    }
                    return Ok(());
                }
            },
        }
    }
}

const SIGHUP: u8 = 1;
const SIGKILL: u8 = 9;
/// How long a command may go on without the one who started it.
const HANG_UP_GRACE: std::time::Duration = std::time::Duration::from_secs(5);
