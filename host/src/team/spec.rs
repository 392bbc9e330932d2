//! What an agent may have and do: plain data that the team file decides alone.

use serde::{Deserialize, Serialize};

use super::setting::Setting;

/// What becomes of a team's volumes when it is taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifetime {
    /// They go.
    Ephemeral,
    /// They stay.
    Persistent,
}

/// What becomes of connections that no egress rule is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// They are denied.
    #[default]
    Enforce,
    /// They are let through, and recorded as such.
    Observe,
}

impl Mode {
    /// As the team file writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }

    /// Whether connections that no rule is about are let through.
    #[must_use]
    pub const fn observes(self) -> bool {
        matches!(self, Self::Observe)
    }
}

/// Bounds on what an agent uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// CPU time, in thousandths of a CPU.
    pub cpu_thousandths: Setting<u32>,
    /// Memory in bytes, `/tmp` and what is written to the root included; no swap.
    pub memory: Setting<u64>,
    /// Processes and threads.
    pub pids: Setting<u32>,
    /// Size of `/tmp`, in bytes.
    pub tmp: Setting<u64>,
    /// Files and directories in `/tmp`, and as many in a writable root.
    pub files: Setting<u64>,
    /// Open files of each process.
    pub open_files: Setting<u64>,
    /// Largest file that it can write, in bytes.
    pub file_size: Setting<u64>,
    /// How long it may run, restarts included, in milliseconds; for ever if nothing.
    pub time_limit_ms: Setting<Option<u64>>,
}

/// Whether the image's root can be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// It can't.
    ReadOnly,
    /// What is written goes to memory, at most this many bytes, and is gone at the end.
    Writable(u64),
}

/// What happens when an agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Nothing.
    Never,
    /// If it failed (another code than 0, or a signal), it is started again.
    OnFailure {
        /// At most so often.
        times: u32,
        /// The pause before the first, in milliseconds; it doubles each time, up to
        /// [`super::limits::BACK_OFF`]'s most.
        back_off_ms: u64,
    },
}

/// What must have happened to another agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// It runs, or has run.
    Started,
    /// It has ended with code 0, and will not be started again.
    Succeeded,
}

/// What an agent waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// The other agent's name.
    pub agent: String,
    /// What must have happened to it.
    pub condition: Condition,
}
