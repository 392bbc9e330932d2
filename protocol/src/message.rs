//! The messages themselves.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::agent::{AgentSpec, Copy, Notice, Place, Usage};
use crate::egress::Egress;
use crate::limits::ENTROPY_BYTES;

/// Host to supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Answer to [`Event::Hello`]: the versions are the same.
    Hello {
        /// [`crate::VERSION`] of the host.
        version: u16,
        /// For a machine that goes on from a saved one: what makes it another.
        fork: Option<Identity>,
    },
    /// Start a command.
    Exec(Exec),
    /// Make an agent's container; answered by [`Event::AgentCreated`] or [`Event::AgentFailed`].
    CreateAgent(AgentSpec),
    /// Kill what runs in an agent's container and remove it; answered by [`Event::AgentRemoved`]
    /// after the ends of its commands.
    RemoveAgent {
        /// Which.
        agent: u32,
    },
    /// Answered by [`Event::AgentUsage`]; by nothing if there is no such agent.
    AgentUsage {
        /// Which.
        agent: u32,
    },
    /// Let an agent reach this from now on; answered by [`Event::EgressSet`], by nothing if there is no such agent.
    SetEgress {
        /// Which; its container was made with rules of this kind.
        agent: u32,
        /// In place of what it has.
        egress: Egress,
    },
    /// Copy files out of a container or into one.
    Copy(Copy),
    /// Send a signal to a command's process group (terminal: to its foreground group).
    Signal {
        /// Which command.
        id: u32,
        /// Signal number, 1 to 64.
        signal: u8,
    },
    /// A command's terminal has a new size.
    Resize {
        /// Which command.
        id: u32,
        /// The new size.
        size: WindowSize,
    },
    /// Answered at once by [`Event::Pong`]; tells that the supervisor is alive, and how fast.
    Ping {
        /// Returned as it is.
        token: u64,
    },
    /// End every command and power the machine off.
    PowerOff,
    /// Have all agents and commands stand still, end the output streams of these commands after what was sent on them,
    /// without an end for the commands, and then say nothing more; answered by [`Event::Detached`]. The host closes
    /// its ends when it has read them, and asks for nothing but [`Self::Attach`] and [`Self::PowerOff`] from here on,
    /// unless the answer is no.
    Detach {
        /// Running ones with no input and no terminal, each once; others keep their streams.
        commands: Vec<u32>,
    },
    /// Give the detached commands new streams, let all run, and speak again; answered by [`Event::Attached`]. On the
    /// connection that they were detached on, all of them are listed. On a later one, a machine that goes on from a
    /// saved one, every command that is not listed is killed before it runs, and no word said of it.
    Attach {
        /// Each once.
        commands: Vec<Attached>,
    },
}

/// A detached command's new streams: ports of the host, each good for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Which command.
    pub id: u32,
    /// Written by the command.
    pub stdout: u32,
    /// Written by the command.
    pub stderr: u32,
}

/// What makes a machine another than the one from whose saved state it goes on. The supervisor takes it in
/// before it does anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Random bytes of this machine alone, for its kernel's generator.
    pub entropy: [u8; ENTROPY_BYTES],
    /// The wall clock when this was sent: nanoseconds since 1970.
    pub wall_ns: u64,
}

/// Supervisor to host. Hostile: the guest may have been taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// First message of the connection: the supervisor is ready.
    Hello {
        /// [`crate::VERSION`] of the supervisor.
        version: u16,
        /// The boot vCPU's time-stamp counter when the supervisor's `main` began.
        start_tsc: u64,
        /// The same when this message was about to be sent.
        ready_tsc: u64,
    },
    /// The command runs.
    Started {
        /// Which command.
        id: u32,
    },
    /// The command could not be started; its id is free again.
    Failed {
        /// Which command.
        id: u32,
        /// Why.
        reason: ExecFailure,
        /// The system's words for it, for a person; at most [`crate::limits::MAX_DETAIL`] bytes.
        detail: String,
    },
    /// The command ended and everything that it started was killed; its output streams end after
    /// the last byte that was written.
    Exited {
        /// Which command.
        id: u32,
        /// How.
        status: ExitStatus,
    },
    /// The agent's container is there.
    AgentCreated {
        /// Which.
        agent: u32,
    },
    /// The agent's container could not be made, and nothing of it is left.
    AgentFailed {
        /// Which.
        agent: u32,
        /// What failed and why, for a person; at most [`crate::limits::MAX_DETAIL`] bytes.
        detail: String,
    },
    /// The agent's container is gone: as asked, or because its init ended.
    AgentRemoved {
        /// Which.
        agent: u32,
    },
    /// Answer to [`Request::AgentUsage`].
    AgentUsage {
        /// Which.
        agent: u32,
        /// What it uses.
        usage: Usage,
    },
    /// Answer to [`Request::SetEgress`].
    EgressSet {
        /// Which.
        agent: u32,
        /// Whether it holds. If not, what it may reach is in part that of before.
        holds: bool,
    },
    /// Something has happened to a running agent.
    AgentNotice {
        /// Which.
        agent: u32,
        /// What.
        notice: Notice,
    },
    /// Answer to [`Request::Ping`].
    Pong {
        /// From the request.
        token: u64,
    },
    /// Answer to [`Request::Detach`].
    Detached {
        /// Whether it was done: the streams have ended, the host has closed its ends, and this is the last event
        /// before [`Self::Attached`]. If not, nothing has changed: a command can't be detached, or something did not
        /// come to a stand in time.
        holds: bool,
    },
    /// Answer to [`Request::Attach`]: the new streams are connected, and there is no command that the host does not
    /// know. The events that were held back follow.
    Attached,
}

/// A command to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The host's name for the command, not in use.
    pub id: u32,
    /// Where it runs, and as whom.
    pub place: Place,
    /// Program and arguments; no NUL. A program without a slash is looked for in `PATH`.
    pub arguments: Vec<Vec<u8>>,
    /// The whole environment; no `=` in a name, no NUL.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directory; absolute.
    pub directory: Vec<u8>,
    /// Where its streams go.
    pub stdio: Stdio,
    /// Killed after this time, in milliseconds.
    pub timeout_ms: Option<u64>,
}

/// Where a command's streams go: ports of the host, each good for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// Three pipes.
    Streams {
        /// Read by the command; `None`: `/dev/null`.
        stdin: Option<u32>,
        /// Written by the command.
        stdout: u32,
        /// Written by the command.
        stderr: u32,
    },
    /// One pseudo-terminal, the command's controlling terminal.
    Terminal {
        /// Both directions.
        port: u32,
        /// Its first size.
        size: WindowSize,
    },
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// Why a command could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecFailure {
    /// No such program.
    NotFound,
    /// It is there but can't be executed.
    NotExecutable,
    /// The working directory can't be entered.
    Directory,
    /// The request is out of bounds or its id is in use.
    BadRequest,
    /// The guest lacks memory, processes or another resource, or a stream could not be connected.
    Resources,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It exited by itself.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
    /// Its time limit ended it.
    TimedOut,
}
