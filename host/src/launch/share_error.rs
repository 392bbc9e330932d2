//! Why something is not shared, and what to do about it.

use std::io;
use std::process::ExitStatus;

use cloister_file_server::control::{Refusal, Unrestored, Unsaved, Why};
use cloister_file_server::spec::{MAX_SHARES, SpecError};
use cloister_jailer::share::Stage;

use super::process::ProcessError;

/// Why something is not shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// Its name or owner is out of bounds.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Two have one name.
    #[error("two shares have the name {name:?}")]
    Twice {
        /// The name.
        name: String,
    },
    /// More than a file server holds.
    #[error("{count} shares are more than a machine can have, which is {MAX_SHARES}")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// Two writable ones belong to different users.
    #[error("the writable shares {first:?} and {second:?} belong to different users of the host")]
    Owners {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// The jailer made no mount of it.
    #[error("can't share {name:?}: {stage}")]
    Mount {
        /// The share.
        name: String,
        /// What was tried.
        stage: Stage,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The jailer ended without a word, or took too long.
    #[error("can't share {name:?}: cloister-jailer did not answer")]
    Silent {
        /// The share.
        name: String,
    },
    /// The file server does not serve it.
    #[error("can't share {name:?}")]
    Refused {
        /// The share.
        name: String,
        /// Why.
        #[source]
        refusal: Refusal,
    },
    /// What the machine knows of the shares can't be kept for later.
    #[error("the use of the shares can't be kept")]
    Unsaved(#[source] Unsaved),
    /// What was kept can't be gone on with.
    #[error("the use of the shares can't be gone on with")]
    Unrestored(#[source] Unrestored),
    /// The file server ended, or said something that fits to nothing.
    #[error("cloister-file-server did not answer as it should")]
    Server,
    /// The file server ended at its start.
    #[error("cloister-file-server ended at its start ({}): {said}", describe_status(*.status))]
    Ended {
        /// How the process ended.
        status: Option<ExitStatus>,
        /// What it wrote to its standard error.
        said: String,
    },
    /// The machine was started without shares, so it has no device for them.
    #[error("the machine was started without shares, so none can be added")]
    None,
    /// The system refuses.
    #[error("can't {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file server can't be started.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl ShareError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Mount { stage: Stage::Kind, .. } => Some("share a directory or a regular file"),
            Self::Mount { stage: Stage::Again | Stage::Same, .. } => Some(
                "it was moved or is out of this user's reach: name it anew, without symbolic links",
            ),
            Self::Mount { stage: Stage::Namespaces, .. } => {
                Some("see the check user-namespaces of `cloister doctor`")
            }
            Self::Refused { refusal: Refusal::Open { .. }, .. } => {
                Some("the file server's own user must be able to enter it")
            }
            Self::TooMany { .. } => Some(
                "each agent's image and each of its mounts is one: share a directory above them",
            ),
            Self::Owners { .. } => {
                Some("share directories of one owner, or start the team as the user who owns them")
            }
            Self::Unsaved(Unsaved::File { why: Why::Unlinked, .. }) => {
                Some("let the program that has it open end, or close it")
            }
            Self::Unsaved(Unsaved::File { why: Why::NotText, .. }) => {
                Some("give it, and the directories that it is in, names in UTF-8")
            }
            Self::Unsaved(Unsaved::File { why: Why::NotFound, .. }) => Some("move it back"),
            Self::Unrestored(Unrestored::Gone { .. }) => {
                Some("put it back where it was, with the rights that it had")
            }
            Self::Unrestored(Unrestored::Locked { .. }) => {
                Some("let the program that has locked it end")
            }
            Self::Unrestored(Unrestored::TooMany) => {
                Some("raise the limit of open files (ulimit -n)")
            }
            Self::None => Some("start the machine with a share, or with one that is empty"),
            Self::Process(error) => Some(error.remedy()),
            _ => None,
        }
    }
}

fn describe_status(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "its status is unknown".to_owned(), |status| status.to_string())
}
