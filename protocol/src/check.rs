//! What a message must keep to beyond its shape; each side checks what it got from the other.

use alloc::collections::BTreeSet;
use alloc::string::String;

use crate::check_agent::AgentBroken;
use crate::limits::{MAX_ARGUMENTS, MAX_COMMANDS, MAX_DETAIL, MAX_TIMEOUT_MS, MAX_VARIABLES};
use crate::message::{Attached, Event, Exec, ExitStatus, Request, Stdio};

/// The rule that a message breaks.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Broken {
    /// No argument at all, or an empty program name.
    #[error("the command has no program")]
    NoProgram,
    /// Over [`MAX_ARGUMENTS`].
    #[error("the command has {count} arguments, the limit is {MAX_ARGUMENTS}")]
    TooManyArguments {
        /// How many.
        count: usize,
    },
    /// Over [`MAX_VARIABLES`].
    #[error("the command has {count} environment variables, the limit is {MAX_VARIABLES}")]
    TooManyVariables {
        /// How many.
        count: usize,
    },
    /// A NUL would end a string early.
    #[error("{place} has a NUL byte in it")]
    Nul {
        /// Where.
        place: Place,
    },
    /// Empty, or with `=` in it: it would name another variable.
    #[error("environment variable {index} has an empty name or one with '=' in it")]
    VariableName {
        /// Which one, from 0.
        index: usize,
    },
    /// The supervisor's own directory must not matter.
    #[error("the working directory is not absolute")]
    RelativeDirectory,
    /// A port that can't be a stream's, or that is given twice.
    #[error("port {port} can't be a stream's port, or is given twice")]
    Port {
        /// The port.
        port: u32,
    },
    /// Zero, or over [`MAX_TIMEOUT_MS`].
    #[error("a time limit of {timeout_ms} ms is not within 1 and {MAX_TIMEOUT_MS}")]
    Timeout {
        /// The limit.
        timeout_ms: u64,
    },
    /// Not a signal number of Linux.
    #[error("{signal} is not a signal (1 to 64)")]
    Signal {
        /// The number.
        signal: u8,
    },
    /// Over [`MAX_COMMANDS`].
    #[error("{count} commands are named, the limit is {MAX_COMMANDS}")]
    TooManyCommands {
        /// How many.
        count: usize,
    },
    /// The same one again.
    #[error("command {id} is named twice")]
    Repeated {
        /// Which.
        id: u32,
    },
    /// About an agent.
    #[error(transparent)]
    Agent(#[from] AgentBroken),
    /// Over [`MAX_DETAIL`].
    #[error("a detail text of {length} bytes is over the limit of {MAX_DETAIL}")]
    Detail {
        /// Its length.
        length: usize,
    },
}

/// A text in an [`Exec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Argument with this index.
    Argument(usize),
    /// Name or value of the variable with this index.
    Variable(usize),
    /// The working directory.
    Directory,
}

impl core::fmt::Display for Place {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Argument(index) => write!(f, "argument {index}"),
            Self::Variable(index) => write!(f, "environment variable {index}"),
            Self::Directory => f.write_str("the working directory"),
        }
    }
}

impl Exec {
    /// Checks every rule of a command: the host before it sends one, the supervisor before it
    /// starts one.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), Broken> {
        self.validate_place()?;
        self.validate_arguments()?;
        self.validate_environment()?;
        if !self.directory.starts_with(b"/") {
            return Err(Broken::RelativeDirectory);
        }
        check_nul(&self.directory, Place::Directory)?;
        self.stdio.validate()?;
        match self.timeout_ms {
            Some(timeout_ms) if timeout_ms == 0 || timeout_ms > MAX_TIMEOUT_MS => {
                Err(Broken::Timeout { timeout_ms })
            }
            _ => Ok(()),
        }
    }

    fn validate_arguments(&self) -> Result<(), Broken> {
        if self.arguments.first().is_none_or(alloc::vec::Vec::is_empty) {
            return Err(Broken::NoProgram);
        }
        if self.arguments.len() > MAX_ARGUMENTS {
            return Err(Broken::TooManyArguments { count: self.arguments.len() });
        }
        for (index, argument) in self.arguments.iter().enumerate() {
            check_nul(argument, Place::Argument(index))?;
        }
        Ok(())
    }

    fn validate_environment(&self) -> Result<(), Broken> {
        if self.environment.len() > MAX_VARIABLES {
            return Err(Broken::TooManyVariables { count: self.environment.len() });
        }
        for (index, (name, value)) in self.environment.iter().enumerate() {
            if name.is_empty() || name.contains(&b'=') {
                return Err(Broken::VariableName { index });
            }
            check_nul(name, Place::Variable(index))?;
            check_nul(value, Place::Variable(index))?;
        }
        Ok(())
    }
}

impl Stdio {
    /// Ports are above those of fixed services, below the wildcard, and each is given once.
    fn validate(self) -> Result<(), Broken> {
        match self {
            Self::Terminal { port, .. } => check_port(port),
            Self::Streams { stdin, stdout, stderr } => {
                stdin.map_or(Ok(()), check_port)?;
                check_port(stdout)?;
                check_port(stderr)?;
                if stdin == Some(stdout) || stdin == Some(stderr) || stdout == stderr {
                    let port = if stdout == stderr { stderr } else { stdin.unwrap_or(stdout) };
                    return Err(Broken::Port { port });
                }
                Ok(())
            }
        }
    }
}

impl Request {
    /// Checks what the host asks for. A broken [`Exec`] or [`Copy`](crate::agent::Copy) is
    /// answered by [`Event::Failed`] with [`BadRequest`](crate::message::ExecFailure::BadRequest),
    /// a broken agent by [`Event::AgentFailed`]; any other broken request ends the connection.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), Broken> {
        match self {
            Self::Exec(exec) => exec.validate(),
            Self::CreateAgent(spec) => Ok(spec.validate()?),
            Self::Copy(copy) => copy.validate(),
            Self::SetEgress { egress, .. } => Ok(egress.validate()?),
            Self::Signal { signal, .. } => check_signal(*signal),
            Self::Detach { commands } => check_commands(commands.iter().copied()),
            Self::Attach { commands } => check_attached(commands),
            Self::Hello { .. }
            | Self::RemoveAgent { .. }
            | Self::AgentUsage { .. }
            | Self::Resize { .. }
            | Self::Ping { .. }
            | Self::PowerOff => Ok(()),
        }
    }
}

impl Event {
    /// Checks what the hostile guest says. Whether an id is in use, and whether the event fits to
    /// what was asked, is for the one who keeps the commands to know.
    ///
    /// # Errors
    /// The first rule that is broken; the connection must end.
    pub fn validate(&self) -> Result<(), Broken> {
        match self {
            Self::Failed { detail, .. } | Self::AgentFailed { detail, .. }
                if detail.len() > MAX_DETAIL =>
            {
                Err(Broken::Detail { length: detail.len() })
            }
            Self::Exited { status: ExitStatus::Signal(signal), .. } => check_signal(*signal),
            Self::AgentNotice { notice, .. } => Ok(notice.validate()?),
            Self::Hello { .. }
            | Self::AgentCreated { .. }
            | Self::AgentFailed { .. }
            | Self::AgentRemoved { .. }
            | Self::AgentUsage { .. }
            | Self::EgressSet { .. }
            | Self::Started { .. }
            | Self::Failed { .. }
            | Self::Exited { .. }
            | Self::Pong { .. }
            | Self::Detached { .. }
            | Self::Attached => Ok(()),
        }
    }
}

/// `text` cut to at most [`MAX_DETAIL`] bytes, between characters, with every control character
/// replaced, so that it can't steer the terminal that it ends on. For both sides: the supervisor
/// before it sends a detail, the host before it shows one.
#[must_use]
pub fn printable_detail(text: &str) -> String {
    let mut detail = String::new();
    for character in text.chars() {
        let shown = if is_harmless(character) { character } else { char::REPLACEMENT_CHARACTER };
        if detail.len().saturating_add(shown.len_utf8()) > MAX_DETAIL {
            break;
        }
        detail.push(shown);
    }
    detail
}

/// Neither a control character nor one that reorders what is written after it.
fn is_harmless(character: char) -> bool {
    let reorders = matches!(character, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !character.is_control() && !reorders
}

fn check_nul(text: &[u8], place: Place) -> Result<(), Broken> {
    if text.contains(&0) { Err(Broken::Nul { place }) } else { Ok(()) }
}

pub(crate) fn check_port(port: u32) -> Result<(), Broken> {
    // u32::MAX is VMADDR_PORT_ANY.
    if port <= crate::EGRESS_PORT || port == u32::MAX {
        return Err(Broken::Port { port });
    }
    Ok(())
}

/// Not too many, and none twice.
fn check_commands(ids: impl ExactSizeIterator<Item = u32>) -> Result<(), Broken> {
    let count = ids.len();
    if count > MAX_COMMANDS {
        return Err(Broken::TooManyCommands { count });
    }
    let mut seen = BTreeSet::new();
    for id in ids {
        if !seen.insert(id) {
            return Err(Broken::Repeated { id });
        }
    }
    Ok(())
}

/// The same of those that get streams, whose ports are each given once.
fn check_attached(commands: &[Attached]) -> Result<(), Broken> {
    check_commands(commands.iter().map(|one| one.id))?;
    let mut seen = BTreeSet::new();
    for port in commands.iter().flat_map(|one| [one.stdout, one.stderr]) {
        check_port(port)?;
        if !seen.insert(port) {
            return Err(Broken::Port { port });
        }
    }
    Ok(())
}

fn check_signal(signal: u8) -> Result<(), Broken> {
    if (1..=64).contains(&signal) { Ok(()) } else { Err(Broken::Signal { signal }) }
}

#[cfg(test)]
#[path = "check_test.rs"]
mod tests;
