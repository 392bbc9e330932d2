//! What the database holds of a team and of its agents.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::template::Choice;

/// How a team stands, as its warden last said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TeamStatus {
    /// Its machine is being started.
    Starting,
    /// Its machine runs.
    Running,
    /// Its machine is paused.
    Paused,
    /// Its machine is on the disk, and goes on from there when it is resumed.
    Suspended,
    /// It ended: all agents have, or it was stopped.
    Ended,
    /// It could not be started, or its machine failed.
    Failed,
    /// Its warden is gone and said nothing. Never stored: it is what a free lock means.
    Crashed,
}

impl TeamStatus {
    /// Whether it has a warden, and a machine or soon one.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Paused)
    }
}

/// How an agent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentStatus {
    /// Waits for other agents.
    Waiting,
    /// Its container is being made.
    Starting,
    /// Its command runs.
    Running,
    /// Its command failed and is started again soon.
    BackOff,
    /// Its command ended with code 0.
    Succeeded,
    /// Its command failed for good, or could not be started.
    Failed,
    /// Somebody stopped it, or its team ended.
    Stopped,
    /// An agent that it waits for did not succeed.
    Skipped,
}

impl AgentStatus {
    /// Whether nothing of it happens any more, unless it is started anew.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Stopped | Self::Skipped)
    }
}

/// The word that is stored and shown.
macro_rules! words {
    ($kind:ty, $($variant:ident = $word:literal),+) => {
        impl $kind {
            /// The word that is stored and shown.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// What a word means.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

words!(
    TeamStatus,
    Starting = "starting",
    Running = "running",
    Paused = "paused",
    Suspended = "suspended",
    Ended = "ended",
    Failed = "failed",
    Crashed = "crashed"
);
words!(
    AgentStatus,
    Waiting = "waiting",
    Starting = "starting",
    Running = "running",
    BackOff = "back-off",
    Succeeded = "succeeded",
    Failed = "failed",
    Stopped = "stopped",
    Skipped = "skipped"
);

/// What a team was started with, so that it can be started again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The team file; absolute. A later start reads it again.
    pub file: PathBuf,
    /// Whether its volumes stay when it is removed.
    pub persistent: bool,
    /// The image store; `None`: the usual one.
    pub store: Option<PathBuf>,
    /// Where volumes are; `None`: the usual place.
    pub volumes: Option<PathBuf>,
    /// The guest's kernel; `None`: the usual one.
    pub kernel: Option<PathBuf>,
    /// The guest's root; `None`: the usual one.
    pub rootfs: Option<PathBuf>,
    /// The directory for control groups; `None`: the usual one.
    pub group: Option<PathBuf>,
    /// Ids for machines, as root, as `FIRST-LAST`; `None`: the usual ones.
    pub ids: Option<String>,
    /// How long the machine may take to start, in milliseconds.
    pub start_timeout_ms: u64,
    /// Where templates are; `None`: there is no place for any.
    #[serde(default)]
    pub templates: Option<PathBuf>,
    /// Whether its agents' egress is only observed.
    #[serde(default)]
    pub observes: bool,
    /// The pool that its machine's process comes from, if it has one.
    #[serde(default)]
    pub pool: Option<crate::pool::Place>,
    /// Whether it goes on from one; `None`: as its file says.
    #[serde(default)]
    pub template: Option<Choice>,
    /// The name that it has in place of its file's: it is a fork of that team.
    #[serde(default)]
    pub name: Option<String>,
    /// Whether egress rules that give secrets are left out, as of a fork.
    #[serde(default)]
    pub withheld: bool,
}

/// A team.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamRow {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub status: TeamStatus,
    /// Why, if something went wrong.
    pub detail: String,
    /// What it was started with.
    pub origin: Origin,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// When its status changed, in milliseconds since 1970.
    pub changed_ms: i64,
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRow {
    /// Its name in the team.
    pub name: String,
    /// The image's name.
    pub image: String,
    /// How it stands.
    pub status: AgentStatus,
    /// Its last exit code, as `cloister run` would give it.
    pub code: Option<u8>,
    /// Why, in words, if there is something to say.
    pub detail: String,
    /// How often it was started again.
    pub restarts: u32,
    /// Last start, in milliseconds since 1970.
    pub started_ms: Option<i64>,
    /// Last end, in milliseconds since 1970.
    pub ended_ms: Option<i64>,
}

impl AgentRow {
    /// An agent that has not begun.
    #[must_use]
    pub const fn new(name: String, image: String) -> Self {
        Self {
            name,
            image,
            status: AgentStatus::Waiting,
            code: None,
            detail: String::new(),
            restarts: 0,
            started_ms: None,
            ended_ms: None,
        }
    }
}
