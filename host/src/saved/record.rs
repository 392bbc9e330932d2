//! What a team was when it was kept: its plan, and where each of its agents was in its life.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::SavedError;
use crate::state::rows::AgentRow;
use crate::team::plan::Plan;

/// Raised when anything here changes, or what is said to a supervisor that was suspended.
pub const VERSION: u32 = 1;

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// When it was kept: milliseconds since 1970.
    pub at_ms: i64,
    /// What the team was started with, and the egress rules that were put in since.
    pub plan: Plan,
    /// As in the plan.
    pub agents: Vec<Life>,
    /// The authority that its agents trust, sealed with the key of the host.
    pub authority: Option<Vec<u8>>,
    /// Of the files beside it.
    pub digests: Digests,
}

/// What the files must have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digests {
    /// The guest's memory.
    pub memory: String,
    /// The machine's state.
    pub state: String,
    /// The file server's state.
    pub files: Option<String>,
}

/// Where an agent is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Life {
    /// As in the database.
    pub row: AgentRow,
    /// What it does.
    pub phase: Phase,
    /// How often it was started again.
    pub restarts: u32,
    /// What is left of its time limit, once that has begun, in milliseconds.
    pub left_ms: Option<u64>,
    /// Bytes that it has sent and received of its quota.
    pub used: (u64, u64),
    /// Whether its container was made with a way outside, and whether with the authority's certificate: whatever the
    /// rules are by now, it has what it was made with.
    pub has_network: bool,
    /// See there.
    pub trusts: bool,
}

/// What an agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It waits for others.
    Waiting,
    /// It is to start, and has no container.
    Starting,
    /// Its command runs.
    Running {
        /// The command's id.
        command: u32,
    },
    /// It is started again after this time.
    BackOff {
        /// Milliseconds.
        left_ms: u64,
    },
    /// Nothing, until somebody orders it to start.
    Resting,
}

impl Record {
    /// Reads one that lies at `path`.
    ///
    /// # Errors
    /// It is none, or of another version.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, SavedError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |what| SavedError::Damaged { what, path: path.to_owned() };
        let unreadable = |_| damaged("its record can't be read");
        // Another version has other fields.
        let Versioned { version } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if version != VERSION {
            return Err(SavedError::Version { found: version });
        }
        let record: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        let agents = record.plan.agents.iter().map(|agent| &agent.name.value);
        if !agents.eq(record.agents.iter().map(|life| &life.row.name)) {
            return Err(damaged("its agents are not those of its plan"));
        }
        Ok(record)
    }
}
