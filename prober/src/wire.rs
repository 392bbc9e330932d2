//! What `cloister` and a prober say to each other: cases with their words, orders, and what was seen.

use serde::{Deserialize, Serialize};

/// Longest word that a prober may say of one case, in bytes: a sentence.
pub const MAX_WORDS: usize = 400;
/// Most cases of one catalogue.
pub const MAX_CASES: usize = 2000;
/// Before each line that a prober writes in a container; a command of an agent writes nothing else.
pub const LINE: &str = "prober: ";
/// What it writes there at its end.
pub const LAST_LINE: &str = "prober ends";
/// What the prober that plays the neighbour writes when all is there that the attacks look for.
pub const READY_LINE: &str = "neighbour is ready";

/// Who attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// A vmm that was taken over, in its jail.
    Vmm,
    /// A file server that was taken over, in its jail.
    FileServer,
    /// A guest's kernel, against the vmm.
    GuestKernel,
    /// A program in an agent's container.
    Container,
    /// An agent, against the rules about what it may reach.
    Egress,
}

/// Every group, in the order of reports.
pub const GROUPS: [Group; 5] =
    [Group::Vmm, Group::FileServer, Group::GuestKernel, Group::Container, Group::Egress];

impl Group {
    /// As it is written before a case's name.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Vmm => "vmm",
            Self::FileServer => "file-server",
            Self::GuestKernel => "guest-kernel",
            Self::Container => "container",
            Self::Egress => "egress",
        }
    }

    /// For a heading.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Vmm => "From the place of a vmm that was taken over",
            Self::FileServer => "From the place of a file server that was taken over",
            Self::GuestKernel => "From a hostile guest kernel, against the vmm",
            Self::Container => "From inside an agent's container",
            Self::Egress => "On the rules about what an agent may reach",
        }
    }
}

/// How much of its confinement a process in a jail has when it attacks. All but [`Stage::Bare`] is what the real
/// programs have at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The vmm's event loop, while the machine runs.
    Loop,
    /// A vCPU thread, while the machine runs.
    Vcpu,
    /// A thread of the file server, while it serves.
    Serving,
    /// Between the start of the program and its own filter: the jailer's filter.
    Setup,
    /// Without any filter of system calls, so that everything else must hold alone.
    Bare,
}

impl Stage {
    /// For a report.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Loop => "event loop",
            Self::Vcpu => "vCPU thread",
            Self::Serving => "serving",
            Self::Setup => "set-up",
            Self::Bare => "no filter",
        }
    }
}

/// One way in which an attack may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// SIGSYS came: the real program's handler tells the call's number and ends the process.
    Trapped,
    /// The call failed with this number of the system.
    Errno(i32),
    /// There was nothing to be had.
    Nothing,
    /// The process was killed by this signal.
    Killed(i32),
}

/// A stage, and the ends that are right in it; every other is a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Where.
    pub stage: Stage,
    /// What may come.
    pub ends: Vec<End>,
}

/// An attack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// Who attacks.
    pub group: Group,
    /// Within the group: small letters, digits and dashes.
    pub name: String,
    /// What it tries.
    pub tries: String,
    /// Why that must fail: which layer, which rule.
    pub why: String,
    /// From a jail: the stages in which it is tried.
    pub expected: Vec<Expected>,
    /// From a jail: the process does not survive it, so it gets one of its own.
    pub alone: bool,
    /// From a guest: the vmm's exit codes that are right.
    pub exits: Vec<u8>,
    /// From a guest: it goes on until it is stopped; the vmm must answer meanwhile.
    pub goes_on: bool,
    /// From a guest: the machine has shared directories.
    pub shares: bool,
}

/// What a prober in a jail is to do; it stands where a vmm finds its kernel's command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// How far it confines itself.
    pub stage: Stage,
    /// One case by its name, or all that can be tried in one process.
    pub only: Option<String>,
    /// What it does instead of the cases.
    pub act: Act,
}

/// What a prober in a jail does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// The cases.
    Attack,
    /// Nothing: it stays and is looked at.
    Stay,
    /// A system call that the filter refuses, with the real program's handler.
    Die,
    /// To the host, in place of an answer: a packet longer than any message.
    SendTooLong,
    /// Bytes that are no message.
    SendNoise,
    /// A message with more behind it.
    SendTail,
    /// A message with a descriptor.
    SendDescriptor,
    /// Nothing at all, and its end is closed.
    SendEnd,
}

/// What a prober says of one case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// It begins; what follows, or its end, belongs to this case.
    Begins(String),
    /// It is over.
    Saw {
        /// Which.
        name: String,
        /// How the attack ended; nothing: it succeeded.
        end: Option<End>,
        /// The particulars.
        words: String,
    },
    /// It could not be tried here.
    Unable {
        /// Which.
        name: String,
        /// Why not.
        words: String,
    },
    /// All are over.
    Done,
}
