//! Every key of a team file: its kind, its bounds, its default, its meaning. What reads the file, the
//! JSON Schema and the user guide's tables all come from here.

use cloister_protocol::limits::{MAX_ARGUMENTS, MAX_EGRESS_RULES, MAX_VARIABLES};

pub use super::egress_keys::{EGRESS, EGRESS_QUOTA};

use super::limits::{
    BACK_OFF, Bounds, CPUS, FILE_SIZE, FILES, MACHINE_CPUS, MACHINE_MEMORY, MAX_AGENTS, MAX_MOUNTS,
    MAX_OUTPUTS, MAX_PATHS, MAX_TEAM_VARIABLES, MAX_VOLUMES, MEMORY, OPEN_FILES, PIDS, RESTARTS,
    TIME_LIMIT, TMP, WRITABLE_ROOT,
};
use crate::template::Choice;

/// What a key of a table is.
#[derive(Debug)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What its value must be.
    pub kind: Kind,
    /// Whether it must be there.
    pub required: bool,
    /// What it is without it, in words; empty if the kind's bounds say it.
    pub usual: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

/// What a value must be.
#[derive(Debug)]
pub enum Kind {
    /// A string that keeps a rule.
    Text(Rule),
    /// One of some words.
    Choice(&'static [&'static str]),
    /// A string with a number and a unit of 1024, in bytes.
    Size(Bounds),
    /// A string with a number and a unit of time, in milliseconds.
    Time(Bounds),
    /// A whole number.
    Count(Bounds),
    /// A number of CPUs, in thousandths.
    Cpus(Bounds),
    /// `true` or `false`.
    Flag,
    /// A list of one kind, with the most items.
    List(&'static Self, usize),
    /// A table with these keys.
    Table(&'static Table),
    /// A table whose keys are names that the file chooses.
    Map(Rule, &'static Self, usize),
    /// A word or text, or else a table.
    Either(&'static Self, &'static Table),
}

/// A table with a name of its own in messages.
#[derive(Debug)]
pub struct Table {
    /// With its article: `a mount`.
    pub what: &'static str,
    /// In the order of the user guide.
    pub keys: &'static [Key],
}

/// What a string must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A name of a team, an agent or a volume.
    Name,
    /// An image of the store.
    Image,
    /// Any text without NUL.
    Free,
    /// A path on the host.
    HostPath,
    /// An absolute path in an agent's container.
    Inside,
    /// A user, perhaps with a group.
    User,
    /// The name of a variable.
    Variable,
    /// A host's name, or all names below one.
    Host,
    /// An address, or a range of them.
    Range,
    /// A method of HTTP.
    Method,
    /// A path of requests, or a pattern of paths.
    Path,
    /// Where a secret is put into requests.
    Credential,
}

pub(super) const fn key(
    name: &'static str,
    kind: Kind,
    usual: &'static str,
    meaning: &'static str,
) -> Key {
    Key { name, kind, required: false, usual, meaning }
}

const fn required(name: &'static str, kind: Kind, meaning: &'static str) -> Key {
    Key { name, kind, required: true, usual: "", meaning }
}

static FREE: Kind = Kind::Text(Rule::Free);
static INSIDE: Kind = Kind::Text(Rule::Inside);

/// The top of the file.
pub static TEAM: Table = Table {
    what: "a team",
    keys: &[
        required("name", Kind::Text(Rule::Name), "The team's name."),
        required(
            "agents",
            Kind::Map(Rule::Name, &Kind::Table(&AGENT), MAX_AGENTS),
            "The agents, each by its name; at least one.",
        ),
        key(
            "cpus",
            Kind::Count(MACHINE_CPUS),
            "what the agents' `cpus` come to",
            "vCPUs of the machine.",
        ),
        key(
            "memory",
            Kind::Size(MACHINE_MEMORY),
            "what the agents' `memory` comes to, a 32nd of it, and 96MiB",
            "Memory of the machine.",
        ),
        key(
            "lifetime",
            Kind::Choice(&["ephemeral", "persistent"]),
            "`\"ephemeral\"`",
            "Whether the team's volumes are kept when it is taken down.",
        ),
        key(
            "egress-mode",
            Kind::Choice(&["enforce", "observe"]),
            "`\"enforce\"`",
            "What becomes of connections that no egress rule is about: denied, or only recorded and let through.",
        ),
        key(
            "kernel",
            Kind::Text(Rule::HostPath),
            "the kernel that Cloister comes with",
            "The guest's kernel, a path on the host.",
        ),
        key(
            "template",
            Kind::Choice(Choice::WORDS),
            "`\"auto\"`",
            "A saved machine to go on from: `auto`, if one was built; `build`, built if not; `none`, boots.",
        ),
        key(
            "volumes",
            Kind::Map(Rule::Name, &Kind::Table(&VOLUME), MAX_VOLUMES),
            "none",
            "Directories that Cloister keeps for the team, each by its name.",
        ),
        key(
            "variables",
            Kind::Map(Rule::Variable, &FREE, MAX_TEAM_VARIABLES),
            "none",
            "Values for `${NAME}` where neither the environment nor `variables-file` has one.",
        ),
        key(
            "variables-file",
            Kind::Text(Rule::HostPath),
            "none",
            "A file of lines `NAME=value`, for `${NAME}` where the environment has no value.",
        ),
    ],
};

/// `[agents.NAME]`.
pub static AGENT: Table = Table {
    what: "an agent",
    keys: &[
        required(
            "image",
            Kind::Text(Rule::Image),
            "A name in the image store, a name with `@sha256:…`, or a digest.",
        ),
        key(
            "command",
            Kind::List(&FREE, MAX_ARGUMENTS),
            "the image's entry point",
            "The program and its first arguments; the image's entry point and its arguments are then not used.",
        ),
        key(
            "args",
            Kind::List(&FREE, MAX_ARGUMENTS),
            "the image's arguments, without `command`",
            "Arguments after `command` or after the image's entry point, in place of the image's (Docker's CMD).",
        ),
        key(
            "environment",
            Kind::Map(Rule::Variable, &FREE, MAX_VARIABLES),
            "the image's",
            "Variables, added to the image's or in place of them.",
        ),
        key(
            "directory",
            Kind::Text(Rule::Inside),
            "the image's, or `\"/\"`",
            "The working directory.",
        ),
        key(
            "user",
            Kind::Text(Rule::User),
            "the image's; `\"1000:1000\"` if that is root",
            "User, or user and group: numbers, or names of the image's `/etc/passwd` and `/etc/group`.",
        ),
        key("cpus", Kind::Cpus(CPUS), "", "CPU time: 0.5 is half of one CPU."),
        key(
            "memory",
            Kind::Size(MEMORY),
            "",
            "Memory, its `/tmp` and what it writes to its root included; no swap.",
        ),
        key("pids", Kind::Count(PIDS), "", "Processes and threads."),
        key(
            "tmp",
            Kind::Size(TMP),
            "a quarter of `memory`, at most 64MiB",
            "Size of `/tmp`, which lies in the agent's memory.",
        ),
        key(
            "files",
            Kind::Count(FILES),
            "",
            "Files and directories in `/tmp`, and as many in a writable root.",
        ),
        key("open-files", Kind::Count(OPEN_FILES), "", "Open files of each process."),
        key("file-size", Kind::Size(FILE_SIZE), "", "Largest file that it can write."),
        key(
            "root",
            Kind::Either(&Kind::Choice(&["read-only"]), &WRITABLE),
            "`\"read-only\"`",
            "Whether the image's root can be written to; what is written is gone at the end.",
        ),
        key(
            "mounts",
            Kind::List(&Kind::Table(&MOUNT), MAX_MOUNTS),
            "none",
            "Directories and files of the host, and volumes, that it sees.",
        ),
        key(
            "outputs",
            Kind::List(&Kind::Table(&OUTPUT), MAX_OUTPUTS),
            "none",
            "What is copied to the host when the agent has ended.",
        ),
        key(
            "executables",
            Kind::List(&INSIDE, MAX_PATHS),
            "everything",
            "Programs that it may execute: files, or directories with all that is below.",
        ),
        key(
            "writable-directories",
            Kind::List(&INSIDE, MAX_PATHS),
            "all that `tmp`, `root` and `mounts` let it write",
            "Directories that it may write to; it narrows what mounts allow and widens nothing.",
        ),
        key(
            "restart",
            Kind::Either(&Kind::Choice(&["never"]), &RESTART),
            "`\"never\"`",
            "What happens when it fails.",
        ),
        key(
            "time-limit",
            Kind::Time(TIME_LIMIT),
            "none",
            "It is ended after this time, restarts included.",
        ),
        key(
            "after",
            Kind::List(&Kind::Either(&Kind::Text(Rule::Name), &AFTER), MAX_AGENTS),
            "none",
            "Agents that must have started, or have succeeded, before it starts.",
        ),
        key(
            "egress",
            Kind::List(&Kind::Table(&EGRESS), MAX_EGRESS_RULES),
            "nothing outside can be reached",
            "What it may reach outside; what denies wins, and what no rule allows is denied.",
        ),
        key(
            "egress-quota",
            Kind::Table(&EGRESS_QUOTA),
            "none",
            "How much may pass on its connections to the outside until the team ends; then they end.",
        ),
    ],
};

/// `root = { … }`.
pub static WRITABLE: Table = Table {
    what: "a writable root",
    keys: &[required(
        "writable",
        Kind::Size(WRITABLE_ROOT),
        "How much can be written to it; it lies in the agent's memory.",
    )],
};

/// `mounts = [{ … }]`.
pub static MOUNT: Table = Table {
    what: "a mount",
    keys: &[
        key(
            "source",
            Kind::Text(Rule::HostPath),
            "one of `source` and `volume`",
            "A directory or a file of the host; relative to the team file's directory.",
        ),
        key(
            "volume",
            Kind::Text(Rule::Name),
            "one of `source` and `volume`",
            "A volume of the team.",
        ),
        required("target", Kind::Text(Rule::Inside), "Where the agent sees it."),
        key("writable", Kind::Flag, "`false`", "Whether the agent can write to it."),
    ],
};

/// `outputs = [{ … }]`.
pub static OUTPUT: Table = Table {
    what: "an output",
    keys: &[
        required("path", Kind::Text(Rule::Inside), "A file or a directory of the agent."),
        required(
            "to",
            Kind::Text(Rule::HostPath),
            "What it becomes on the host, in a directory that is there; what was there before is replaced.",
        ),
    ],
};

/// `restart = { … }`.
pub static RESTART: Table = Table {
    what: "a restart policy",
    keys: &[
        required(
            "on-failure",
            Kind::Count(RESTARTS),
            "How often it is started again when it ended with another code than 0 or by a signal.",
        ),
        key(
            "back-off",
            Kind::Time(BACK_OFF),
            "",
            "The pause before the first restart; it doubles each time, up to 1h.",
        ),
    ],
};

/// `after = [{ … }]`.
pub static AFTER: Table = Table {
    what: "a dependency",
    keys: &[
        required("agent", Kind::Text(Rule::Name), "The other agent."),
        key(
            "condition",
            Kind::Choice(&["started", "succeeded"]),
            "`\"started\"`",
            "Whether it must run, or have ended with code 0.",
        ),
    ],
};

/// `[volumes.NAME]`: nothing can be said of one. A bound could not be kept: it is a directory of the host.
pub static VOLUME: Table = Table { what: "a volume", keys: &[] };

/// Every table with the heading that the user guide gives it.
pub static TABLES: [(&str, &Table); 9] = [
    ("The team", &TEAM),
    ("`[agents.NAME]`", &AGENT),
    ("`root = { … }`", &WRITABLE),
    ("`mounts = [{ … }]`", &MOUNT),
    ("`outputs = [{ … }]`", &OUTPUT),
    ("`restart = { … }`", &RESTART),
    ("`after = [{ … }]`", &AFTER),
    ("`[[agents.NAME.egress]]`", &EGRESS),
    ("`egress-quota = { … }`", &EGRESS_QUOTA),
];

impl Table {
    /// The key of a name.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}
