//! What is known of teams on this host: a directory of one user with a database, and for each team
//! a lock, a socket and its logs.
//!
//! ```text
//! state.db                what was started, and how it went
//! teams/NAME/lock         held by the team's warden as long as it lives
//! teams/NAME/control      the warden's socket
//! teams/NAME/logs/        what the agents wrote, and what happened to them
//! ```
//!
//! The lock is the kernel's, so it tells the truth after any crash: a team whose row says "running"
//! and whose lock is free has lost its warden.

pub mod db;

pub mod rows;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Where a team's control socket is, in its directory.
pub const CONTROL: &str = "control";
/// Only for its owner.
const PRIVATE: u32 = 0o700;

/// Why the state can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is no home.
    #[error("it is not known where the state is: neither XDG_STATE_HOME nor HOME is set")]
    Nowhere,
    /// The file system refuses.
    #[error("can't {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory belongs to somebody else, or others may look into it.
    #[error("{} belongs to another user, or others may use it", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// SQLite refuses.
    #[error("can't {what} in the list of teams ({})", path.display())]
    Database {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The database was made by another version.
    #[error("the list of teams is of version {found}, and this program knows version {known}")]
    Version {
        /// What it says.
        found: i64,
        /// What this program writes.
        known: i64,
    },
    /// A row can't be understood.
    #[error("the list of teams is damaged: {0}")]
    Damaged(String),
    /// There is no such team.
    #[error("there is no team {0:?}")]
    NoTeam(String),
    /// There is one already.
    #[error("there is a team {0:?} already")]
    Exists(String),
}

impl StateError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Nowhere => "name a directory with --state or CLOISTER_STATE",
            Self::Io { .. } | Self::Database { .. } => {
                "check the space and the permissions of the directory, or name another with --state"
            }
            Self::NotOurs { .. } => {
                "use a directory of your own with mode 0700, or name another with --state"
            }
            Self::Version { .. } | Self::Damaged(_) => {
                "use the program that wrote it, or name another directory with --state"
            }
            Self::NoTeam(_) => "`cloister ps -a` shows what is there",
            Self::Exists(_) => {
                "`cloister start` starts it again; `cloister down` removes it; or choose another name"
            }
        }
    }
}

/// The state's directory, which is this user's own.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens the directory, making it if it is not there: `named`, else `/var/lib/cloister/state`
    /// for root, else `cloister` below `$XDG_STATE_HOME`, which is `~/.local/state` if not set.
    ///
    /// # Errors
    /// It can't be made, or others could use it.
    pub fn open(named: Option<&Path>) -> Result<Self, StateError> {
        let path = match named {
            // The warden has another working directory.
            Some(path) => std::path::absolute(path).map_err(|source| wrap("find", path)(source))?,
            None => usual_path()?,
        };
        make_private(&path)?;
        let metadata = path.metadata().map_err(wrap("look at", &path))?;
        let owner = rustix::process::geteuid().as_raw();
        if metadata.uid() != owner || metadata.permissions().mode() & 0o077 != 0 {
            return Err(StateError::NotOurs { path });
        }
        Ok(Self { path })
    }

    /// Where it is; absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A team's own directory. Its name was checked.
    #[must_use]
    pub fn team(&self, name: &str) -> PathBuf {
        self.path.join("teams").join(name)
    }

    /// A team's logs.
    #[must_use]
    pub fn logs(&self, name: &str) -> PathBuf {
        self.team(name).join("logs")
    }

    /// Makes the directories of a team.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn make_team(&self, name: &str) -> Result<(), StateError> {
        make_private(&self.logs(name))
    }

    /// Takes a team's lock, and makes the team's directory if it is not there; `None`: its warden lives.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn lock(&self, name: &str) -> Result<Option<TeamLock>, StateError> {
        match self.lock_there(name) {
            // It never got that far.
            Err(StateError::NoTeam(_)) => {
                self.make_team(name)?;
                self.lock_there(name)
            }
            locked => locked,
        }
    }

    /// The same of a team whose directory is there. A warden takes it so: a team that was removed before its
    /// warden came this far must not be there again.
    ///
    /// # Errors
    /// There is no such team, or the file system refuses.
    pub fn lock_there(&self, name: &str) -> Result<Option<TeamLock>, StateError> {
        let path = self.team(name).join("lock");
        let file = match File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
        {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StateError::NoTeam(name.to_owned()));
            }
            opened => opened.map_err(wrap("open", &path))?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(TeamLock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(wrap("lock", &path)(error.into())),
        }
    }

    /// Waits until a team's warden has ended.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn wait_for_lock(&self, name: &str) -> Result<TeamLock, StateError> {
        let path = self.team(name).join("lock");
        let file = File::options().write(true).open(&path).map_err(wrap("open", &path))?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| wrap("lock", &path)(error.into()))?;
        Ok(TeamLock { _file: file })
    }

    /// Removes everything of a team but its row; its lock is held.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn remove_team(&self, name: &str, _lock: &TeamLock) -> Result<(), StateError> {
        let path = self.team(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(wrap("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// A team's lock; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct TeamLock {
    _file: File,
}

fn usual_path() -> Result<PathBuf, StateError> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/cloister/state"));
    }
    // The XDG specification: a relative path is to be ignored.
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .ok_or(StateError::Nowhere)?;
    Ok(state.join("cloister"))
}

fn make_private(path: &Path) -> Result<(), StateError> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(path).map_err(wrap("make", path))
}

fn wrap(what: &'static str, path: &Path) -> impl Fn(io::Error) -> StateError {
    move |source| StateError::Io { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(&folder.path().join("state"))).unwrap();
        let lock = state.lock("a").unwrap().expect("nobody has it");
        assert!(state.lock("a").unwrap().is_none());
        assert!(state.lock("b").unwrap().is_some());
        drop(lock);
        let lock = state.lock("a").unwrap().expect("it was let go");
        state.remove_team("a", &lock).unwrap();
        assert!(!state.team("a").exists());
    }

    #[test]
    fn a_team_that_was_removed_is_not_made_again_by_its_warden() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(&folder.path().join("state"))).unwrap();
        state.make_team("a").unwrap();
        let lock = state.lock_there("a").unwrap().expect("nobody has it");
        state.remove_team("a", &lock).unwrap();
        assert!(matches!(state.lock_there("a"), Err(StateError::NoTeam(_))));
        assert!(!state.team("a").exists());
    }

    #[test]
    fn a_directory_that_others_may_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("open");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(StateDir::open(Some(&path)), Err(StateError::NotOurs { .. })));
    }
}
