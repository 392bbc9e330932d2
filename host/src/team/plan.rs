//! What `cloister up` would start: plain data with the origin of every value, and the descriptors that it
//! speaks of, by their positions.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::accounts::User;
use super::mistake::Mistakes;
use super::mounts::policy::{Grant, PolicyError};
use super::setting::Setting;
use super::spec::{Dependency, Lifetime, Limits, Mode, Restart, Root};
use crate::egress::quota::Quota;
use crate::egress::rule::Rule;
use crate::images::store::StoreError;
use crate::template::Choice;

/// Raised when a field goes or changes its meaning.
pub const SCHEMA: u32 = 1;

/// A team, ready to be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The team's name.
    pub name: Setting<String>,
    /// What becomes of its volumes.
    pub lifetime: Setting<Lifetime>,
    /// What becomes of connections that no egress rule is about.
    pub egress_mode: Setting<Mode>,
    /// The machine.
    pub machine: Machine,
    /// Names of its volumes.
    pub volumes: Vec<String>,
    /// In the order in which they start.
    pub agents: Vec<Agent>,
}

impl Plan {
    /// Names of the volumes that agents see, each once.
    #[must_use]
    pub fn volumes_in_use(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .agents
            .iter()
            .flat_map(|agent| &agent.mounts)
            .filter_map(|mount| match &mount.source {
                Source::Volume(name) => Some(name.clone()),
                Source::Host { .. } => None,
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Agents that write to files of the host, and their paths as the team file writes them.
    #[must_use]
    pub fn written_on_host(&self) -> Vec<(&str, &str)> {
        let written = self.agents.iter().flat_map(|agent| {
            let writable = agent.mounts.iter().filter(|mount| mount.writable);
            writable.filter_map(|mount| match &mount.source {
                Source::Host { path, .. } => Some((agent.name.value.as_str(), path.value.as_str())),
                Source::Volume(_) => None,
            })
        });
        written.collect()
    }
}

/// The team's machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// vCPUs.
    pub cpus: Setting<u8>,
    /// Memory in MiB.
    pub memory_mib: Setting<u32>,
    /// The guest's kernel, if not the usual one.
    pub kernel: Option<Kernel>,
    /// Whether it goes on from a template.
    pub template: Setting<Choice>,
}

/// A kernel of the team's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// As the file writes it.
    pub path: Setting<String>,
    /// The position of its descriptor, open for reading.
    pub descriptor: usize,
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its name.
    pub name: Setting<String>,
    /// Its image.
    pub image: Image,
    /// Program and arguments; at least one word.
    pub command: Setting<Vec<String>>,
    /// Names and values, each name once, in the order of the names.
    pub environment: Vec<(String, Setting<String>)>,
    /// The working directory.
    pub directory: Setting<String>,
    /// Whom it runs as.
    pub user: Setting<User>,
    /// What it may use.
    pub limits: Limits,
    /// Whether its root can be written to.
    pub root: Setting<Root>,
    /// Those further up in the tree first.
    pub mounts: Vec<Mount>,
    /// What is copied to the host at the end.
    pub outputs: Vec<Output>,
    /// What it may execute; nothing if everything.
    pub executables: Setting<Option<Vec<String>>>,
    /// Where it may write; nothing if wherever root, `/tmp` and mounts let it.
    pub writable_directories: Setting<Option<Vec<String>>>,
    /// What happens when it fails.
    pub restart: Setting<Restart>,
    /// What it waits for.
    pub after: Vec<Setting<Dependency>>,
    /// What it may reach outside.
    pub egress: Vec<Setting<Rule>>,
    /// How much may pass on the way there.
    pub egress_quota: Setting<Quota>,
}

/// An agent's image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// As the file writes it.
    pub name: Setting<String>,
    /// The manifest's digest.
    pub digest: String,
    /// The digest of the chain of layers, which names the root.
    pub chain: String,
    /// The position of the root's descriptor.
    pub root: usize,
    /// The position of the descriptor whose lock keeps the root from being removed.
    pub lock: usize,
}

/// What an agent sees of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What.
    pub source: Source,
    /// Where.
    pub target: Setting<String>,
    /// Whether it can be written to.
    pub writable: bool,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A directory or a file of the host.
    Host {
        /// As the file writes it.
        path: Setting<String>,
        /// Where it was when it was opened; for people.
        real: String,
        /// Whether it is one file.
        is_file: bool,
        /// What allows it.
        grant: Grant,
        /// The position of its descriptor (`O_PATH`).
        descriptor: usize,
    },
    /// A volume of the team.
    Volume(String),
}

/// What is copied to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// In the container.
    pub path: Setting<String>,
    /// As the file writes it.
    pub to: Setting<String>,
    /// The name in its directory.
    pub name: String,
    /// What allows it.
    pub grant: Grant,
    /// The position of its directory's descriptor (`O_PATH`).
    pub directory: usize,
}

/// A plan and its descriptors.
#[derive(Debug)]
pub struct Resolved {
    /// The plan.
    pub plan: Plan,
    /// What it speaks of by positions. All close at execution.
    pub descriptors: Vec<OwnedFd>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum TeamError {
    /// The team file can't be read.
    #[error("can't read the team file {}", path.display())]
    Read {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The team file is wrong.
    #[error("{0}")]
    Mistakes(Mistakes),
    /// The operator's list of mounts can't be used.
    #[error(transparent)]
    Policy(PolicyError),
    /// The host's accounts can't be read.
    #[error("can't read the host's accounts, /etc/passwd")]
    Accounts(#[source] io::Error),
    /// The image store can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Mistakes> for TeamError {
    fn from(mistakes: Mistakes) -> Self {
        Self::Mistakes(mistakes)
    }
}

impl TeamError {
    /// What a person can do about it; mistakes say it each for themselves.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Read { .. } => {
                Some("name a team file: text of at most 256 KiB, see docs/user-guide.md")
            }
            Self::Mistakes(_) => None,
            Self::Policy(error) => Some(error.remedy()),
            Self::Accounts(_) => {
                Some("make it readable: without it other people's homes are not known")
            }
            Self::Store(error) => Some(error.remedy()),
        }
    }
}
