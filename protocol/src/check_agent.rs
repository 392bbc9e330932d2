//! What agents, copies and notices must keep to.

use crate::agent::{AgentLimits, AgentSpec, Copy, Direction, Notice, Place, User};
use crate::check::{Broken, check_port};
use crate::limits::{
    IDS_PER_AGENT, MAX_AGENT_NAME, MAX_AGENTS, MAX_BYTES, MAX_CPU_MILLIS, MAX_FILES, MAX_HOST_NAME,
    MAX_MOUNTS, MAX_OPEN_FILES, MAX_PATH, MAX_PIDS, MAX_RULES, MAX_SHARE_NAME, MIN_CPU_MILLIS,
    MIN_FILE_SYSTEM, MIN_FILES, MIN_MEMORY, MIN_OPEN_FILES, MIN_PIDS,
};
use crate::message::Exec;

/// Directories that a container gets from the supervisor; nothing is mounted over or into them.
const RESERVED: [&[u8]; 3] = [b"dev", b"proc", b"sys"];

/// The rule about agents that a message breaks.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AgentBroken {
    /// Not below [`MAX_AGENTS`].
    #[error("agent {agent} is not below {MAX_AGENTS}")]
    Number {
        /// The number.
        agent: u32,
    },
    /// Not a host name's label.
    #[error("the agent's name is not of a-z, 0-9 and, within, '-', or over {MAX_AGENT_NAME} bytes")]
    Name,
    /// Not a share's name.
    #[error(
        "{item}: a share's name is of a-z, 0-9, '.', '_' and '-', not '.' or '..', and at most {MAX_SHARE_NAME} bytes"
    )]
    Share {
        /// Whose.
        item: Item,
    },
    /// Over the limit of its list.
    #[error("{item}: {count} are over the limit of {limit}")]
    TooMany {
        /// The list's first item.
        item: Item,
        /// How many.
        count: usize,
        /// The most.
        limit: usize,
    },
    /// Not absolute, with a `.`, `..` or empty part, with a NUL, or over [`MAX_PATH`].
    #[error(
        "{item}: a path must be absolute, without '.', '..' and empty parts and NUL bytes, and at most {MAX_PATH} bytes"
    )]
    Path {
        /// Whose.
        item: Item,
    },
    /// `/` itself, or in what the supervisor makes.
    #[error("{item}: nothing can be mounted on / or in /dev, /proc and /sys")]
    Reserved {
        /// Whose.
        item: Item,
    },
    /// Out of its bounds.
    #[error("{item} of {value} is not within {least} and {most}")]
    Limit {
        /// Which limit.
        item: Item,
        /// Its value.
        value: u64,
        /// The least that works.
        least: u64,
        /// The most.
        most: u64,
    },
    /// Not a host name or network, or not with ports.
    #[error("{item}: it wants a host name or a small network, and some ports")]
    Egress {
        /// Which.
        item: Item,
    },
    /// An id that the container doesn't have.
    #[error("user {uid} or group {gid} is not below {IDS_PER_AGENT}")]
    Id {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

/// What of a message is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// The root.
    Root,
    /// The mount with this index.
    Mount(usize),
    /// The executable with this index.
    Executable(usize),
    /// The writable directory with this index.
    Writable(usize),
    /// The rule about names with this index.
    NameRule(usize),
    /// The rule about addresses with this index.
    RangeRule(usize),
    /// The name that was refused.
    Refused,
    /// What is copied.
    Copied,
    /// What was to be executed.
    Denied,
    /// A limit, by its name.
    Limit(&'static str),
}

impl core::fmt::Display for Item {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Root => f.write_str("the root"),
            Self::Mount(index) => write!(f, "mount {index}"),
            Self::Executable(index) => write!(f, "executable {index}"),
            Self::Writable(index) => write!(f, "writable directory {index}"),
            Self::NameRule(index) => write!(f, "rule {index} about names"),
            Self::RangeRule(index) => write!(f, "rule {index} about addresses"),
            Self::Refused => f.write_str("the refused name"),
            Self::Copied => f.write_str("the copied path"),
            Self::Denied => f.write_str("the denied program"),
            Self::Limit(name) => write!(f, "a limit on {name}"),
        }
    }
}

impl AgentSpec {
    /// Checks every rule of an agent: the host before it asks for one, the supervisor before it
    /// makes one.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), AgentBroken> {
        if self.agent >= MAX_AGENTS {
            return Err(AgentBroken::Number { agent: self.agent });
        }
        check_name(&self.name)?;
        check_share(&self.root.share, Item::Root)?;
        check_count(self.mounts.len(), MAX_MOUNTS, Item::Mount)?;
        for (index, mount) in self.mounts.iter().enumerate() {
            check_share(&mount.share, Item::Mount(index))?;
            check_target(&mount.target, Item::Mount(index))?;
        }
        self.limits.validate()?;
        if let Some(bytes) = self.root.writable_bytes {
            check_limit("the writable root", bytes, MIN_FILE_SYSTEM, MAX_BYTES)?;
        }
        check_paths(self.executables.as_deref(), Item::Executable)?;
        check_paths(self.writable.as_deref(), Item::Writable)?;
        self.egress.as_ref().map_or(Ok(()), crate::egress::Egress::validate)
    }
}

impl AgentLimits {
    fn validate(&self) -> Result<(), AgentBroken> {
        check_limit("memory", self.memory_bytes, MIN_MEMORY, MAX_BYTES)?;
        check_limit("processor time", self.cpu_millis.into(), MIN_CPU_MILLIS, MAX_CPU_MILLIS)?;
        check_limit("processes", self.pids.into(), MIN_PIDS, MAX_PIDS)?;
        check_limit("/tmp", self.tmp_bytes, MIN_FILE_SYSTEM, MAX_BYTES)?;
        check_limit("open files", self.open_files.into(), MIN_OPEN_FILES, MAX_OPEN_FILES)?;
        check_limit("files", self.files, MIN_FILES, MAX_FILES)?;
        check_limit("a file's size", self.file_bytes.unwrap_or(0), 0, MAX_BYTES)
    }
}

impl User {
    fn validate(self) -> Result<(), AgentBroken> {
        let Self { uid, gid } = self;
        let known = uid < IDS_PER_AGENT && gid < IDS_PER_AGENT;
        if known { Ok(()) } else { Err(AgentBroken::Id { uid, gid }) }
    }
}

impl Place {
    pub(crate) fn validate(self) -> Result<(), AgentBroken> {
        match self {
            Self::Machine => Ok(()),
            Self::Agent { agent, user } => check_place(agent, user),
        }
    }
}

impl Copy {
    /// Checks every rule of a copy.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), Broken> {
        check_place(self.agent, self.user)?;
        let (Direction::Out(path) | Direction::In(path)) = &self.direction;
        // The whole root may be copied out and into.
        if path != b"/" {
            check_path(path, Item::Copied)?;
        }
        check_port(self.port)
    }
}

impl Notice {
    pub(crate) fn validate(&self) -> Result<(), AgentBroken> {
        match self {
            // As the agent named it: any bytes.
            Self::ExecDenied { path } if path.len() > MAX_PATH => {
                Err(AgentBroken::Path { item: Item::Denied })
            }
            Self::NameRefused { name } if name.len() > MAX_HOST_NAME => {
                Err(AgentBroken::Egress { item: Item::Refused })
            }
            _ => Ok(()),
        }
    }
}

impl Exec {
    pub(crate) fn validate_place(&self) -> Result<(), AgentBroken> {
        self.place.validate()
    }
}

fn check_place(agent: u32, user: User) -> Result<(), AgentBroken> {
    if agent >= MAX_AGENTS {
        return Err(AgentBroken::Number { agent });
    }
    user.validate()
}

fn check_name(name: &str) -> Result<(), AgentBroken> {
    let fits = (1..=MAX_AGENT_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if fits { Ok(()) } else { Err(AgentBroken::Name) }
}

fn check_share(name: &str, item: Item) -> Result<(), AgentBroken> {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    let fits = (1..=MAX_SHARE_NAME).contains(&name.len())
        && name.bytes().all(plain)
        && name != "."
        && name != "..";
    if fits { Ok(()) } else { Err(AgentBroken::Share { item }) }
}

fn check_target(path: &[u8], item: Item) -> Result<(), AgentBroken> {
    if path == b"/" {
        return Err(AgentBroken::Reserved { item });
    }
    check_path(path, item)?;
    let first = path.split(|byte| *byte == b'/').nth(1).unwrap_or_default();
    if RESERVED.contains(&first) { Err(AgentBroken::Reserved { item }) } else { Ok(()) }
}

fn check_path(path: &[u8], item: Item) -> Result<(), AgentBroken> {
    let mut parts = path.split(|byte| *byte == b'/');
    let fits = path.len() <= MAX_PATH
        && !path.contains(&0)
        && parts.next().is_some_and(<[u8]>::is_empty)
        && path.len() > 1
        && parts.all(|part| !part.is_empty() && part != b"." && part != b"..");
    if fits { Ok(()) } else { Err(AgentBroken::Path { item }) }
}

fn check_paths(
    paths: Option<&[alloc::vec::Vec<u8>]>,
    item: fn(usize) -> Item,
) -> Result<(), AgentBroken> {
    let paths = paths.unwrap_or_default();
    check_count(paths.len(), MAX_RULES, item)?;
    for (index, path) in paths.iter().enumerate() {
        if path != b"/" {
            check_path(path, item(index))?;
        }
    }
    Ok(())
}

pub(crate) fn check_count(
    count: usize,
    limit: usize,
    item: fn(usize) -> Item,
) -> Result<(), AgentBroken> {
    if count <= limit { Ok(()) } else { Err(AgentBroken::TooMany { item: item(0), count, limit }) }
}

fn check_limit(name: &'static str, value: u64, least: u64, most: u64) -> Result<(), AgentBroken> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(AgentBroken::Limit { item: Item::Limit(name), value, least, most })
}

#[cfg(test)]
#[path = "check_agent_test.rs"]
pub(crate) mod tests;
