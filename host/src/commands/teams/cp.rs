//! `cloister cp`: files between this host and an agent's container.

use std::ffi::{OsStr, OsString};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use cloister_protocol::agent::Direction;
use cloister_protocol::message::ExitStatus;

use super::{TeamError, check_running, finish, open, runtime};
use crate::cli::teams::{AgentTarget, CopyPlace, CpArgs};
use crate::exit_codes;
use crate::state::StateDir;
use crate::transfer::{self, TransferError};
use crate::warden::api::{Call, Reply};
use crate::warden::channel::ChannelError;
use crate::warden::client::Connection;

/// Copies files.
#[must_use]
pub fn cp(arguments: CpArgs) -> u8 {
    finish(run(arguments))
}

fn run(arguments: CpArgs) -> Result<u8, TeamError> {
    let state = open(&arguments.state)?;
    match (arguments.from, arguments.to) {
        (CopyPlace::Agent(target, path), CopyPlace::Host(to)) => {
            copy_out(&state, &target, &path, &to)
        }
        (CopyPlace::Host(from), CopyPlace::Agent(target, path)) => {
            copy_in(&state, &from, &target, &path)
        }
        _ => Err(TeamError::CopySides),
    }
}

fn copy_out(
    state: &StateDir,
    target: &AgentTarget,
    path: &str,
    to: &Path,
) -> Result<u8, TeamError> {
    // As cp does: into a directory that is there.
    let to = match Path::new(path).file_name() {
        Some(name) if to.is_dir() => to.join(name),
        _ => to.to_owned(),
    };
    let direction = Direction::Out(path.as_bytes().to_vec());
    let (status, received) =
        exchange(state, target, direction, move |stream| transfer::receive(&stream, &to))?;
    if status != ExitStatus::Code(0) {
        return Err(TransferError::Container(path.to_owned()).into());
    }
    received?;
    Ok(exit_codes::OK)
}

fn copy_in(
    state: &StateDir,
    from: &Path,
    target: &AgentTarget,
    path: &str,
) -> Result<u8, TeamError> {
    let wrap = |source| TransferError::Host { what: "read", path: from.to_owned(), source };
    // `.` and `..` have no name of their own.
    let real: PathBuf = from.canonicalize().map_err(wrap)?;
    let name: OsString = from.file_name().or(real.file_name()).unwrap_or(OsStr::new("root")).into();
    let direction = Direction::In(path.as_bytes().to_vec());
    let from = from.to_owned();
    let (status, sent) =
        exchange(state, target, direction, move |stream| transfer::send(&from, &name, &stream))?;
    if status != ExitStatus::Code(0) {
        return Err(TeamError::Refused(format!(
            "can't copy into {path} of {}/{}: is it a directory, and may the agent write to it?",
            target.team, target.agent
        )));
    }
    sent?;
    Ok(exit_codes::OK)
}

type Work = Result<(), TransferError>;

/// Asks the warden for the copy, and does this side's part on a thread.
fn exchange(
    state: &StateDir,
    target: &AgentTarget,
    direction: Direction,
    work: impl FnOnce(UnixStream) -> Work + Send + 'static,
) -> Result<(ExitStatus, Work), TeamError> {
    check_running(state, &target.team, Some(&target.agent))?;
    runtime()?.block_on(async {
        let call = Call::Copy { agent: target.agent.clone(), direction };
        let mut connection = Connection::call(state, &target.team, &call).await?;
        let stream = match connection.reply().await? {
            Reply::Started { descriptors } => {
                connection.descriptors(descriptors)?.pop().ok_or(ChannelError::Gone)?
            }
            Reply::NotStarted { words, .. } | Reply::Refused { words } => {
                return Err(TeamError::Refused(words));
            }
            _ => return Err(ChannelError::Gone.into()),
        };
        let work = tokio::task::spawn_blocking(move || work(stream.into()));
        let status = match connection.reply().await? {
            Reply::Exited(status) => status,
            _ => return Err(TeamError::NotRunning(target.team.clone())),
        };
        let done = work.await.map_err(|_| TransferError::Nothing)?;
        Ok((status, done))
    })
}
