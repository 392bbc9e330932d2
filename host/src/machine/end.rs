//! How a machine ended, and why a start or a request failed: in words, and with what to do.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use cloister_protocol::check::Broken;
use cloister_protocol::frame::FrameError;
use cloister_protocol::message::ExecFailure;
use cloister_vmm::exit::{Exit, ExitCode};

use super::save::SaveError;
use super::stage::Stage;
use crate::control::ControlError;
use crate::launch::LaunchError;
use crate::text::printable_line;

/// How a machine ended.
#[derive(Debug, thiserror::Error)]
pub enum MachineEnd {
    /// The vmm reported it.
    #[error("{}", describe(.0))]
    Reported(Exit),
    /// The vmm ended without a report.
    #[error("cloister-vmm ended without a report ({})", describe_status(*.status))]
    Died {
        /// How the process ended.
        status: Option<ExitStatus>,
        /// The last of its standard error.
        stderr: Vec<u8>,
    },
    /// The file server ended or broke its protocol, and the machine with it.
    #[error(
        "the machine ended, because {} (cloister-file-server: {})",
        printable_line(detail),
        describe_status(*.status)
    )]
    Files {
        /// What the vmm saw of it.
        detail: String,
        /// How the process ended.
        status: Option<ExitStatus>,
        /// The last of its standard error.
        stderr: Vec<u8>,
    },
    /// The vmm broke the control protocol; it was killed.
    #[error("cloister-vmm was killed, because it broke the control protocol")]
    Control(#[source] ControlError),
    /// The vmm sent an event that answers nothing; it was killed.
    #[error("cloister-vmm was killed, because it sent an event that nothing called for")]
    UnexpectedEvent,
    /// The supervisor broke its protocol; the machine was killed.
    #[error("the machine was killed, because its supervisor broke the protocol")]
    Guest(#[source] GuestError),
    /// The supervisor closed its connection and the machine did not end; it was killed.
    #[error("the machine was killed, because its supervisor closed the connection")]
    SupervisorGone,
    /// The host killed it.
    #[error("the machine was killed by the host")]
    Killed,
}

/// What a supervisor did that none may do.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A frame is malformed or too long.
    #[error("it sent something that is not a message")]
    Frame(#[from] FrameError),
    /// A message breaks a rule.
    #[error("it sent a message that breaks a rule")]
    Broken(#[from] Broken),
    /// It is of another version.
    #[error("it speaks version {guest} of the protocol, and this program version {host}")]
    Version {
        /// What it said.
        guest: u16,
        /// What this program speaks.
        host: u16,
    },
    /// It said something else before its hello, or a second one.
    #[error("its hello did not come first, or came twice")]
    Hello,
    /// It told of a command that does not exist, or the wrong thing about one.
    #[error("it sent an event for command {id} that does not fit")]
    UnexpectedEvent {
        /// The id in the event.
        id: u32,
    },
    /// It told of an agent that does not exist, or the wrong thing about one.
    #[error("it sent an event for agent {agent} that does not fit")]
    UnexpectedAgent {
        /// The agent in the event.
        agent: u32,
    },
    /// It answered what was not asked.
    #[error("it answered a ping that was not sent")]
    UnexpectedPong,
    /// It told of its streams what was not asked, or spoke while it was detached.
    #[error("it sent an event that does not fit to its being detached, or not")]
    Presence,
    /// There is no fresh randomness for it.
    #[error("there was no randomness for it")]
    Entropy(#[source] std::io::Error),
    /// Its connection can't be read or written.
    #[error("its connection failed")]
    Connection(#[from] std::io::Error),
    /// It does not read its requests, and the queue of them is full.
    #[error("it does not read its requests")]
    NotReading,
}

impl MachineEnd {
    /// The vmm's report, if it made one.
    #[must_use]
    pub const fn exit_code(&self) -> Option<ExitCode> {
        match self {
            Self::Reported(exit) => Some(exit.code),
            _ => None,
        }
    }

    /// Whether the machine ended as the guest or the host wanted it.
    #[must_use]
    pub const fn is_orderly(&self) -> bool {
        matches!(self.exit_code(), Some(ExitCode::Stopped | ExitCode::Reset))
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Reported(exit) => exit_remedy(exit.code),
            Self::Guest(GuestError::Version { .. }) => {
                Some("the guest root is of another build: `make rootfs` builds the one that fits")
            }
            Self::Died { .. } | Self::Control(_) | Self::UnexpectedEvent => {
                Some("this is a fault of cloister-vmm, or the guest has taken it over")
            }
            Self::Files { .. } => {
                Some("this is a fault of cloister-file-server, or its limits were reached")
            }
            Self::Guest(_) | Self::SupervisorGone | Self::Killed => None,
        }
    }
}

const fn exit_remedy(code: ExitCode) -> Option<&'static str> {
    match code {
        ExitCode::Kvm | ExitCode::KvmInternal => {
            Some("`cloister doctor` tells whether a Linux guest can run on this host's KVM")
        }
        ExitCode::Image => Some("`make kernel rootfs` builds images that fit"),
        ExitCode::Panic | ExitCode::TripleFault | ExitCode::Halted => {
            Some("give the machine more memory with --memory, or check the kernel and the root")
        }
        _ => None,
    }
}

/// One line for an exit report; its detail comes from another party.
fn describe(exit: &Exit) -> String {
    let what = match exit.code {
        ExitCode::Stopped => "the machine powered off",
        ExitCode::Host => "a system call of cloister-vmm failed",
        ExitCode::Spec => "cloister-vmm refused the machine's description",
        ExitCode::Image => "cloister-vmm could not load the kernel or the root",
        ExitCode::Kvm => "this host's KVM lacks something",
        ExitCode::Snapshot => "the saved machine can't go on here",
        ExitCode::Reset => "the machine reset itself",
        ExitCode::TripleFault => "the guest's processor gave up (triple fault)",
        ExitCode::Halted => "the guest halted for ever",
        ExitCode::KvmInternal => "KVM could not go on with the guest",
        ExitCode::Panic => "the guest's kernel panicked",
        ExitCode::GuestFault => "the guest did something that no correct guest does",
        ExitCode::HostGone => "cloister-vmm lost its control socket",
        ExitCode::FilesGone => "the file server ended",
    };
    let detail = printable_line(&exit.detail);
    if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") }
}

fn describe_status(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "its status is unknown".to_owned(), |status| status.to_string())
}

/// Why a machine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something is missing or wrong, and nothing was started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The machine ended before it was ready.
    #[error("the machine ended before it was ready ({stage})")]
    Ended {
        /// How far it came.
        stage: Stage,
        /// How it ended.
        #[source]
        end: Arc<MachineEnd>,
    },
    /// It was not ready in time; it was killed.
    #[error("the machine was not ready within {} s ({stage})", limit.as_secs_f32())]
    TimedOut {
        /// The limit.
        limit: Duration,
        /// How far it came.
        stage: Stage,
    },
}

impl StartError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Launch(error) => error.remedy(),
            Self::Ended { end, .. } => end.remedy(),
            Self::TimedOut { stage: Stage::Spawned | Stage::Running, .. } => Some(
                "`cloister doctor` tells whether a Linux guest can run here; on a slow host, \
                 --start-timeout gives it longer",
            ),
            Self::TimedOut { .. } => Some("on a slow host, --start-timeout gives it longer"),
        }
    }
}

/// Why a request to a running machine failed.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The machine has ended.
    #[error("the machine has ended")]
    Ended(#[source] Arc<MachineEnd>),
    /// No answer came in time.
    #[error("the machine did not answer within {} s", limit.as_secs())]
    NoAnswer {
        /// The limit.
        limit: Duration,
    },
    /// A stream's socket pair can't be made.
    #[error("can't make a stream")]
    Stream(#[source] std::io::Error),
    /// Nobody in the guest took the connection.
    #[error("nobody in the guest takes connections on port {port}")]
    Refused {
        /// The guest's port.
        port: u32,
    },
    /// Too much is going on at once.
    #[error("more than {limit} {what} at once")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
    /// It is detached, or about to be; or it is not, and can't be attached.
    #[error("the machine's streams are detached already, or not detached")]
    Presence,
    /// What is to be attached or adopted is not what the machine can have.
    #[error("the machine has no such commands or agents, or has others")]
    Unknown,
    /// The machine could not be saved.
    #[error("the machine could not be saved")]
    Save(#[from] SaveError),
    /// The supervisor can't make the sockets for other rules about the outside.
    #[error(
        "the supervisor can't carry its new egress rules out: too many sockets, or its ports are taken"
    )]
    Egress,
}

/// Why a command could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The request breaks a rule of the protocol; it was not sent.
    #[error("the command can't be asked for")]
    Invalid(#[from] Broken),
    /// The request is too big for one frame; it was not sent.
    #[error("the command's arguments and environment are too long")]
    TooLong(#[source] FrameError),
    /// The supervisor could not start it.
    #[error("{}", describe_failure(*.reason, detail))]
    Failed {
        /// Why.
        reason: ExecFailure,
        /// The guest's words, already made printable.
        detail: String,
    },
    /// The machine could not be asked.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// Why an agent's container could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The request breaks a rule of the protocol; it was not sent.
    #[error("the container can't be asked for")]
    Invalid(#[from] Broken),
    /// The request is too big for one frame; it was not sent.
    #[error("the container's description is too long")]
    TooLong(#[source] FrameError),
    /// The number is over the limit.
    #[error("a team has at most {} agents", cloister_protocol::limits::MAX_AGENTS)]
    TooMany,
    /// The number belongs to another one.
    #[error("the agent's number is in use")]
    InUse,
    /// The supervisor could not make it.
    #[error("the container can't be made: {detail}")]
    Failed {
        /// The guest's words, already made printable.
        detail: String,
    },
    /// The machine could not be asked.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

fn describe_failure(reason: ExecFailure, detail: &str) -> String {
    let what = match reason {
        ExecFailure::NotFound => "no such program in the guest",
        ExecFailure::NotExecutable => "the program can't be executed",
        ExecFailure::Directory => "the working directory can't be entered",
        ExecFailure::BadRequest => "the supervisor refused the request",
        ExecFailure::Resources => "the guest lacks the resources",
    };
    if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") }
}

#[cfg(test)]
#[path = "end_test.rs"]
mod tests;
