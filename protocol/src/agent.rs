//! Agents: containers in a team's machine, as the host asks for them and as the supervisor tells
//! of them.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::egress::Egress;
use crate::limits::IDS_PER_AGENT;

/// A container to be made. Nothing runs in it but its init until an [`Exec`](crate::message::Exec)
/// names it.
///
/// Its user namespace maps the ids 0 to [`IDS_PER_AGENT`] - 1 to those from [`first_id`] on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSpec {
    /// The host's number for it, below [`MAX_AGENTS`](crate::limits::MAX_AGENTS) and not in use.
    pub agent: u32,
    /// Its host name; `[a-z0-9]` and within also `-`, at most
    /// [`MAX_AGENT_NAME`](crate::limits::MAX_AGENT_NAME) bytes.
    pub name: String,
    /// What it sees as `/`.
    pub root: Root,
    /// What is mounted below, in this order; a later one may lie within an earlier one.
    pub mounts: Vec<ShareMount>,
    /// How much it may use.
    pub limits: AgentLimits,
    /// Files, and directories with all in them, that may be executed; absolute paths in the
    /// container. `None`: whatever is executable.
    pub executables: Option<Vec<Vec<u8>>>,
    /// Directories that may be written to; absolute paths in the container. `None`: whatever its
    /// mounts allow. `/dev` is always writable as far as its modes are.
    pub writable: Option<Vec<Vec<u8>>>,
    /// What it may reach outside; `None`: nothing, and it has neither a name server nor routes.
    pub egress: Option<Egress>,
}

/// The root file system of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The share that holds it.
    pub share: String,
    /// `None`: read-only. Else what may be written is this many bytes, in memory, and counted
    /// against the agent's memory.
    pub writable_bytes: Option<u64>,
}

/// A share, or one file of the host, that a container sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareMount {
    /// The share's name.
    pub share: String,
    /// Where; absolute, no `.`, `..` or empty part, at most
    /// [`MAX_PATH`](crate::limits::MAX_PATH) bytes.
    pub target: Vec<u8>,
    /// Whether the guest mounts it read-only too. The host's file server has the last word.
    pub read_only: bool,
}

/// What a container may use at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentLimits {
    /// Memory in bytes, files in memory included. No swap.
    pub memory_bytes: u64,
    /// Processor time in thousandths of one processor.
    pub cpu_millis: u32,
    /// Processes and threads, its init included.
    pub pids: u32,
    /// Size of `/tmp` in bytes.
    pub tmp_bytes: u64,
    /// Files that one process may have open (`RLIMIT_NOFILE`, soft and hard).
    pub open_files: u32,
    /// Largest file that it may write, in bytes; `None`: no bound of its own.
    pub file_bytes: Option<u64>,
    /// Most files in each of its file systems in memory (`/tmp`, the writable root).
    pub files: u64,
}

/// Who a process in a container is; ids of the container's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id, below [`IDS_PER_AGENT`].
    pub uid: u32,
    /// Group id, below [`IDS_PER_AGENT`]. There are no further groups.
    pub gid: u32,
}

/// Where a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In the machine itself, as root.
    Machine,
    /// In an agent's container.
    Agent {
        /// Which.
        agent: u32,
        /// As whom.
        user: User,
    },
}

/// Files to be copied out of a container or into one, as a tar stream.
///
/// It counts as a command: it has an id, can be signalled, and ends with `Exited` or `Failed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// The host's name for it, not in use by a command.
    pub id: u32,
    /// Whose container.
    pub agent: u32,
    /// With whose rights.
    pub user: User,
    /// Which way.
    pub direction: Direction,
    /// The one stream: the tar archive.
    pub port: u32,
}

/// Which way files are copied. Paths are absolute, and resolved within the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// The file or directory at this path; its last part names the archive's top entry.
    Out(Vec<u8>),
    /// What the archive holds goes into this directory, which is there.
    In(Vec<u8>),
}

/// Something about a running agent that its operator wants to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// Its memory was used up, and processes of it were killed.
    OutOfMemory {
        /// How many, since the last notice.
        kills: u64,
    },
    /// It tried to have more processes than its limit.
    TooManyProcesses {
        /// How many tries failed, since the last notice.
        refused: u64,
    },
    /// It tried to execute something that is not among its executables.
    ExecDenied {
        /// As it named it, at most [`MAX_PATH`](crate::limits::MAX_PATH) bytes.
        path: Vec<u8>,
    },
    /// It asked for the address of a name that it may not reach.
    NameRefused {
        /// The name, at most [`MAX_HOST_NAME`](crate::limits::MAX_HOST_NAME) bytes.
        name: Vec<u8>,
    },
    /// Notices were left out, because there were too many.
    Dropped {
        /// How many.
        count: u64,
    },
}

/// What an agent uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Memory now, in bytes.
    pub memory_bytes: u64,
    /// The most it ever was.
    pub memory_peak_bytes: u64,
    /// Processor time used, in microseconds.
    pub cpu_us: u64,
    /// How long it was held back by its processor limit, in microseconds.
    pub throttled_us: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
}

/// The machine's id that an agent's id 0 is mapped to.
#[must_use]
pub const fn first_id(agent: u32) -> u32 {
    // Ids below are the machine's own. MAX_AGENTS keeps it far from overflow.
    agent.saturating_add(1).saturating_mul(IDS_PER_AGENT)
}
