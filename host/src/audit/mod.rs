//! The audit log: what a team and its operators did, written by the warden, outside of the VM, so that
//! no later change of it goes unnoticed.
//!
//! One log per team, over all its lives: `audit/TEAM/` in the state's directory, which `down` leaves
//! alone. Segments of JSON lines, each record signed by the host's key and naming the digest of the one
//! before it ([`record`]); and a head, which tells how far the log had come when it was last made
//! durable ([`head`]), so that a cut end shows as well.

pub mod export;
pub mod head;
pub mod key;
pub mod limits;
pub mod log;
pub mod ocsf;
pub mod policy;
pub mod reader;
pub mod record;
pub mod verify;

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use key::HostKey;
use limits::{Limits, OPERATORS_FILE};
use log::Log;

use crate::operator::FileError;
use crate::state::StateDir;

/// Why nothing can be recorded, or a log can't be read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file system refuses.
    #[error("can't {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host's key is no key.
    #[error("{} is no key of an audit log", .0.display())]
    Key(PathBuf),
    /// The host's key can be read by others.
    #[error("others can read {}", .0.display())]
    KeyOpen(PathBuf),
    /// The system gives no random bytes, or the key does not sign.
    #[error("can't make a key or a name for the audit log")]
    Random,
    /// The log's end is not what its head says.
    #[error("the audit log {} was changed: {what}", path.display())]
    Changed {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It may not grow.
    #[error("the audit log {} has its full {} MiB", path.display(), bytes >> 20)]
    Full {
        /// Which.
        path: PathBuf,
        /// Its bound.
        bytes: u64,
    },
    /// Somebody else writes it.
    #[error("another process writes the audit log {}", .0.display())]
    Busy(PathBuf),
    /// There is none.
    #[error("there is no audit log of a team {0}")]
    None(String),
    /// The operator's file is not to be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The operator's file asks for what can't be.
    #[error("the operator's settings {}: {why}", path.display())]
    Settings {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl AuditError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Io { .. } => {
                "nothing runs unrecorded: make room, or give this user the directory"
            }
            Self::Key(_) | Self::Random => {
                "keep what is there for an investigation, move it away, and a new key is made"
            }
            Self::KeyOpen(_) => "chmod 600 FILE, and ask who has read it",
            Self::Changed { .. } => {
                "`cloister audit verify` tells where; keep it, move it away, and a new log begins"
            }
            Self::Full { .. } => {
                "export it and move it away, or let root set `when-full = \"drop-oldest\"` or a \
                 larger `max-mib` in /etc/cloister/audit.toml"
            }
            Self::Busy(_) => "`cloister ps -a` tells how the team stands",
            Self::None(_) => "`cloister audit ls` lists them",
            Self::File(error) => error.remedy(),
            Self::Settings { .. } => {
                "no team starts until root has put the file in order or removed it"
            }
        }
    }
}

/// The directory of all logs and the host's key.
#[must_use]
pub fn folder(state: &StateDir) -> PathBuf {
    state.path().join("audit")
}

/// A team's log, to be written; it is made if it is not there.
///
/// # Errors
/// Nothing can be recorded.
pub fn open(state: &StateDir, team: &str) -> Result<Log, AuditError> {
    let limits = Limits::load(Path::new(OPERATORS_FILE))?;
    let folder = folder(state);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(io_error("make", &folder))?;
    Log::open(&folder.join(team), HostKey::open(&folder)?, limits)
}

fn io_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> AuditError + use<> {
    let path = path.to_owned();
    move |source| AuditError::Io { what, path: path.clone(), source }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string can't fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// Lower-case digits only: every value has one form.
fn from_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = pair.iter().try_fold(0_u8, |value, digit| {
            let digit = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            Some(value << 4 | digit)
        })?;
    }
    Some(bytes)
}
