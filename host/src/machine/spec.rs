//! What a machine is asked to run.

use std::time::Duration;

use cloister_protocol::agent::{Direction, Place, User};
use cloister_protocol::limits::MAX_TIMEOUT_MS;

use super::streams::StdioSpec;

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
    /// In the machine itself, or in an agent's container.
    pub place: Place,
}

/// Files to be copied out of an agent's container or into one, as a tar stream; see
/// [`cloister_protocol::agent::Copy`].
#[derive(Clone, Debug)]
pub struct CopySpec {
    /// Whose container.
    pub agent: u32,
    /// With whose rights.
    pub user: User,
    /// Which way.
    pub direction: Direction,
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
            place: Place::Machine,
        }
    }

    pub(super) fn timeout_ms(&self) -> Option<u64> {
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

/// A variable's new value in an environment, in place of one of the same name.
pub fn set_variable(environment: &mut Vec<(Vec<u8>, Vec<u8>)>, name: &[u8], value: &[u8]) {
    environment.retain(|(other, _)| other != name);
    environment.push((name.to_vec(), value.to_vec()));
}
