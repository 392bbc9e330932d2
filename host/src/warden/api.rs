//! What commands and a team's warden say to each other over its socket.
//!
//! One connection is one call: a [`Call`], then [`Reply`]s to its end. Only this user can connect,
//! and both sides are this program; frames are bounded all the same.

use cloister_protocol::agent::{Direction, Usage};
use cloister_protocol::message::{ExecFailure, ExitStatus, WindowSize};
use serde::{Deserialize, Serialize};

use super::log::Source;
use crate::egress::ask::Question;
use crate::egress::totals::Totals;

/// Raised when anything here changes: a team's warden may be older than the command.
pub const VERSION: u16 = 7;

/// A command to the warden.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// First on every connection; not answered when it fits.
    Hello {
        /// [`VERSION`] of the command.
        version: u16,
    },
    /// Run a command in an agent's container: [`Reply::Started`] with its streams, then
    /// [`Reply::Exited`]. [`Call::Signal`] and [`Call::Resize`] may follow.
    Exec(ExecCall),
    /// Of the command that this connection started.
    Signal(u8),
    /// Of the command that this connection started.
    Resize(WindowSize),
    /// Copy files: [`Reply::Started`] with the archive's stream, then [`Reply::Exited`].
    Copy {
        /// Whose.
        agent: String,
        /// Which way.
        direction: Direction,
    },
    /// Follow what agents write: [`Reply::Output`] until the team ends.
    Attach {
        /// Which; none: all.
        agents: Vec<String>,
    },
    /// Stop, start or restart agents: [`Reply::Done`] once it is so.
    Order {
        /// Which; `None`: all, and for [`Order::Stop`] the team's machine too.
        agent: Option<String>,
        /// What.
        order: Order,
    },
    /// Put other egress rules in place of the team's: [`Call::Plan`]s follow, and then comes [`Reply::Applied`].
    ApplyPolicy {
        /// How many bytes the plan has.
        bytes: u64,
    },
    /// The next bytes of a plan.
    Plan(Vec<u8>),
    /// Keep the team's machine from doing anything: [`Reply::Done`] once it is so.
    Pause,
    /// Let it go on: [`Reply::Done`] once it does.
    Resume,
    /// Put the team on the disk: the warden ends then, or says why not.
    Suspend {
        /// Whether commands that the team's agents did not start are ended for it.
        end_commands: bool,
    },
    /// Keep the team as the beginning of others: [`Call::Locks`] follow, and [`Reply::Done`] comes once it is so.
    Checkpoint {
        /// Which: their directories are there.
        into: Vec<String>,
    },
    /// So many descriptors come with it: the next locks of the others. The warden holds them too while it writes there, so
    /// nobody removes what it writes when the caller is killed.
    Locks(u8),
    /// [`Reply::Usage`].
    Usage,
    /// [`Reply::Processes`].
    Processes,
    /// [`Reply::Totals`].
    Totals,
    /// [`Reply::Questions`].
    Questions,
    /// Answer a question: [`Reply::Answered`].
    Answer {
        /// Which.
        number: u64,
        /// Whether the connection may be made.
        yes: bool,
        /// Whether the answer is for later connections too.
        keep: bool,
    },
}

/// A command for an agent's container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecCall {
    /// Whose.
    pub agent: String,
    /// Program and arguments.
    pub arguments: Vec<Vec<u8>>,
    /// Added to the agent's own environment.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// `None`: the agent's own.
    pub directory: Option<Vec<u8>>,
    /// A terminal of this size, in place of three pipes.
    pub terminal: Option<WindowSize>,
    /// Whether its standard input is passed on.
    pub stdin: bool,
}

/// What to do with an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// End it, and don't start it again.
    Stop,
    /// Start it, if it is not running.
    Start,
    /// Both.
    Restart,
}

/// The warden's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The command runs; so many descriptors come with it: its terminal, or its standard input if
    /// asked for, output and errors.
    Started {
        /// How many.
        descriptors: u8,
    },
    /// The command ended.
    Exited(ExitStatus),
    /// The command could not be started.
    NotStarted {
        /// Why, if the guest said.
        reason: Option<ExecFailure>,
        /// In words.
        words: String,
    },
    /// An agent wrote something.
    Output {
        /// Which.
        agent: String,
        /// Where to.
        source: Source,
        /// What.
        bytes: Vec<u8>,
    },
    /// Output was left out, because this connection was not read.
    Lost {
        /// How many pieces.
        count: u64,
    },
    /// It is done.
    Done,
    /// These egress rules hold.
    Applied {
        /// Their digest.
        digest: String,
    },
    /// What each agent that runs uses.
    Usage(Vec<(String, Usage)>),
    /// The team's processes on the host: role and process id.
    Processes(Vec<(String, i32)>),
    /// What the egress of each agent came to; none of teams whose agents have no rules.
    Totals(Vec<(String, Totals)>),
    /// What the operator is asked, with the agents' names.
    Questions(Vec<(String, Question)>),
    /// This question was answered.
    Answered(String, Question),
    /// It can't be done.
    Refused {
        /// Why.
        words: String,
    },
    /// The team ends.
    Ended,
}

/// What the command that starts a warden hands over: the team's lock, parts of its plan, its descriptors, and the
/// word to begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handover {
    /// First: the lock's descriptor comes with this message.
    Lock,
    /// The next bytes of the plan.
    Plan(Vec<u8>),
    /// The next descriptors, so many, come with this message.
    Descriptors(u8),
    /// This was all.
    Begin {
        /// Whether the team goes on from the disk.
        kept: bool,
    },
}

/// What a warden tells the command that started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// It is doing this.
    Doing(String),
    /// The team runs.
    Ready,
    /// It does not; nothing of it is left.
    Failed {
        /// Why and what to do, ready to be shown.
        words: String,
    },
}
