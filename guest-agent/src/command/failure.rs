//! Why a command could not be started: in the protocol's terms, and in words.

use std::ffi::CStr;

use cloister_protocol::agent::Direction;
use cloister_protocol::check::{Broken, printable_detail};
use cloister_protocol::message::{Event, ExecFailure};
use rustix::io::Errno;

use super::plan::Work;
use super::program::ExecuteError;

/// The step that failed, with the system's answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Broken(#[from] Broken),
    #[error("the id is in use")]
    IdInUse,
    #[error("too many commands run already")]
    TooMany,
    #[error("agent {agent} is not running")]
    NoAgent { agent: u32 },
    #[error("can't enter the agent's container: {0}")]
    Enter(Errno),
    #[error("can't find {path}: {error}")]
    Copied { path: String, error: Errno },
    #[error("can't connect its streams: {0}")]
    Connect(Errno),
    #[error("can't make its streams: {0}")]
    Streams(Errno),
    #[error("can't make its control group: {0}")]
    Group(Errno),
    #[error("can't make a process: {0}")]
    Fork(Errno),
    #[error("can't prepare its process: {0}")]
    Prepare(Errno),
    #[error("can't enter {directory}: {error}")]
    Directory { directory: String, error: Errno },
    #[error("can't execute {program}: {error}")]
    Execute { program: String, error: Errno },
    #[error("can't execute {program}: the interpreter that it names is missing")]
    NoInterpreter { program: String },
}

impl Failure {
    fn reason(&self) -> ExecFailure {
        match self {
            Self::Broken(_) | Self::IdInUse | Self::NoAgent { .. } => ExecFailure::BadRequest,
            Self::Copied { error: Errno::NOENT, .. } => ExecFailure::NotFound,
            Self::Directory { .. } | Self::Copied { .. } => ExecFailure::Directory,
            Self::NoInterpreter { .. } => ExecFailure::NotExecutable,
            Self::Execute { error, .. } => execute_reason(*error),
            Self::TooMany
            | Self::Connect(_)
            | Self::Streams(_)
            | Self::Group(_)
            | Self::Fork(_)
            | Self::Enter(_)
            | Self::Prepare(_) => ExecFailure::Resources,
        }
    }

    /// What a process said before it gave up.
    pub(crate) fn of_process(report: Report, work: &Work) -> Self {
        let (name, directory) = match work {
            Work::Program(program) => (lossy(program.name()), lossy(program.directory())),
            Work::Copy(Direction::Out(path) | Direction::In(path)) => {
                (String::from_utf8_lossy(path).into_owned(), String::new())
            }
        };
        match report {
            Report::Prepare(error) => Self::Prepare(error),
            Report::Enter(error) => Self::Enter(error),
            Report::Directory(error) => Self::Directory { directory, error },
            Report::Execute(ExecuteError::Refused(error)) => Self::Execute { program: name, error },
            Report::Execute(ExecuteError::NoInterpreter) => Self::NoInterpreter { program: name },
            Report::Copied(error) => Self::Copied { path: name, error },
        }
    }

    /// What the host is told.
    pub(crate) fn event(&self, id: u32) -> Event {
        Event::Failed { id, reason: self.reason(), detail: printable_detail(&self.to_string()) }
    }
}

fn lossy(text: &CStr) -> String {
    text.to_string_lossy().into_owned()
}

/// Says whose fault it is: there is none, it is no good, or the machine is too small for it.
fn execute_reason(error: Errno) -> ExecFailure {
    match error {
        Errno::NOENT => ExecFailure::NotFound,
        Errno::NOMEM
        | Errno::AGAIN
        | Errno::MFILE
        | Errno::NFILE
        | Errno::TOOBIG
        | Errno::IO
        | Errno::NOSPC => ExecFailure::Resources,
        _ => ExecFailure::NotExecutable,
    }
}

/// The step of a new process that failed: what the child sends to the supervisor, five bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    Prepare(Errno),
    Directory(Errno),
    Execute(ExecuteError),
    Enter(Errno),
    Copied(Errno),
}

impl Report {
    pub(crate) const LENGTH: usize = 5;

    pub(crate) const fn to_bytes(self) -> [u8; Self::LENGTH] {
        let (step, error) = match self {
            Self::Prepare(error) => (0, error.raw_os_error()),
            Self::Directory(error) => (1, error.raw_os_error()),
            Self::Execute(ExecuteError::Refused(error)) => (2, error.raw_os_error()),
            Self::Execute(ExecuteError::NoInterpreter) => (3, Errno::NOENT.raw_os_error()),
            Self::Enter(error) => (4, error.raw_os_error()),
            Self::Copied(error) => (5, error.raw_os_error()),
        };
        let [a, b, c, d] = error.to_le_bytes();
        [step, a, b, c, d]
    }

    pub(crate) fn from_bytes([step, a, b, c, d]: [u8; Self::LENGTH]) -> Option<Self> {
        let number = i32::from_le_bytes([a, b, c, d]);
        // What the kernel uses; the type takes no others.
        if !(1..4096).contains(&number) {
            return None;
        }
        let error = Errno::from_raw_os_error(number);
        match step {
            0 => Some(Self::Prepare(error)),
            1 => Some(Self::Directory(error)),
            2 => Some(Self::Execute(ExecuteError::Refused(error))),
            3 => Some(Self::Execute(ExecuteError::NoInterpreter)),
            4 => Some(Self::Enter(error)),
            5 => Some(Self::Copied(error)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use cloister_protocol::message::{Event, ExecFailure};
    use rustix::io::Errno;

    use super::{ExecuteError, Failure, Report};

    #[test]
    fn reports_come_back() {
        for report in [
            Report::Prepare(Errno::NOMEM),
            Report::Directory(Errno::NOTDIR),
            Report::Execute(ExecuteError::Refused(Errno::ACCESS)),
            Report::Execute(ExecuteError::NoInterpreter),
            Report::Enter(Errno::PERM),
            Report::Copied(Errno::NOENT),
        ] {
            assert_eq!(Report::from_bytes(report.to_bytes()), Some(report));
        }
        for bytes in [[9, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 16, 0, 0], [1, 255, 255, 255, 255]] {
            assert_eq!(Report::from_bytes(bytes), None);
        }
    }

    #[test]
    fn failures_are_told_in_words_and_bounded() {
        let said = |failure: Failure| match failure.event(1) {
            Event::Failed { reason, detail, .. } => (reason, detail),
            other => panic!("{other:?}"),
        };
        let program = String::from("x\u{1b}[2J");
        let (reason, detail) = said(Failure::Execute { program, error: Errno::NOENT });
        assert_eq!(reason, ExecFailure::NotFound);
        assert_eq!(detail, "can't execute x\u{fffd}[2J: No such file or directory (os error 2)");
        let directory = "d".repeat(5000);
        let (reason, detail) = said(Failure::Directory { directory, error: Errno::NOTDIR });
        assert_eq!(reason, ExecFailure::Directory);
        assert_eq!(detail.len(), cloister_protocol::limits::MAX_DETAIL);
        for (error, reason) in [
            (Errno::ACCESS, ExecFailure::NotExecutable),
            (Errno::NOEXEC, ExecFailure::NotExecutable),
            (Errno::TOOBIG, ExecFailure::Resources),
        ] {
            assert_eq!(said(Failure::Execute { program: "x".into(), error }).0, reason);
        }
    }
}
