//! What is known of teams on this host: a directory of one user with a database, and for each team
//! a lock, a socket and its logs.
//!
//! ```text
//! state.db                what was started, and how it went
//! teams.lock              held while directories of teams come or go
//! teams/NAME/lock         held by the team's warden as long as it lives, and before by who starts it
//! teams/NAME/control      the warden's socket
//! teams/NAME/logs/        what the agents wrote, and what happened to them
//! ```
//!
//! The lock is the kernel's, so it tells the truth after any crash: a team whose row says "running"
//! and whose lock is free has lost its warden.

pub mod db;

mod lock;

pub mod rows;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

pub use lock::TeamLock;

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

    /// Takes a team's lock, and makes the team's directory if it is not there; `None`: it is held, by a warden or by a
    /// command that starts or removes the team.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn lock(&self, name: &str) -> Result<Option<TeamLock>, StateError> {
        // Nobody sweeps what is made here before its lock is held.
        let _stay = self.have_teams(FlockOperation::LockShared)?;
        self.make_team(name)?;
        let path = self.lock_path(name);
        TeamLock::take(&path).map_err(wrap("lock", &path))
    }

    /// Whether a team has a warden, or is about to have one.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn is_locked(&self, name: &str) -> Result<bool, StateError> {
        let path = self.lock_path(name);
        TeamLock::is_held(&path).map_err(wrap("look at the lock", &path))
    }

    /// Waits until a team's warden has ended.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn await_end(&self, name: &str) -> Result<(), StateError> {
        let path = self.lock_path(name);
        TeamLock::await_end(&path).map_err(wrap("wait for the lock", &path))
    }

    /// Removes the directories of teams that are in no list and that nobody is at: a command was killed that had just begun
    /// one; which.
    ///
    /// # Errors
    /// The file system refuses, or the list can't be read.
    pub fn sweep(&self) -> Result<Vec<PathBuf>, StateError> {
        let teams = self.path.join("teams");
        let names: Vec<String> = match fs::read_dir(&teams) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => {
                let entries = entries.map_err(wrap("look into", &teams))?.flatten();
                entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
            }
        };
        let mut removed = Vec::new();
        if names.is_empty() {
            return Ok(removed);
        }
        let db = db::Db::open(self)?;
        let is_unknown = |name: &str| matches!(db.team(name), Err(StateError::NoTeam(_)));
        for name in names.iter().filter(|name| is_unknown(name)) {
            let _alone = self.have_teams(FlockOperation::LockExclusive)?;
            let path = self.lock_path(name);
            let lock = match TeamLock::take(&path) {
                // Another command was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                taken => taken.map_err(wrap("lock", &path))?,
            };
            // Whoever begins a team has the lock before it is in the list: now it is certain.
            if lock.is_some() && is_unknown(name) {
                self.remove_directory(name)?;
                removed.push(self.team(name));
            }
        }
        Ok(removed)
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.team(name).join("lock")
    }

    /// Removes everything of a team but its row; its lock is held.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn remove_team(&self, name: &str, _lock: &TeamLock) -> Result<(), StateError> {
        let _alone = self.have_teams(FlockOperation::LockExclusive)?;
        self.remove_directory(name)
    }

    fn remove_directory(&self, name: &str) -> Result<(), StateError> {
        let path = self.team(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(wrap("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Has the directories of teams stay as they are, but for who makes one, or has them alone; while the file lives.
    fn have_teams(&self, how: FlockOperation) -> Result<File, StateError> {
        let path = self.path.join("teams.lock");
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(wrap("open", &path))?;
        loop {
            match rustix::fs::flock(&file, how) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(wrap("lock", &path)(error.into())),
                Ok(()) => return Ok(file),
            }
        }
    }
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
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_team_is_locked_once_and_removed_with_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(&folder.path().join("state"))).unwrap();
        assert!(!state.is_locked("a").unwrap());
        let lock = state.lock("a").unwrap().expect("nobody has it");
        assert!(state.is_locked("a").unwrap() && !state.is_locked("b").unwrap());
        assert!(state.lock("a").unwrap().is_none());
        assert!(state.lock("b").unwrap().is_some());
        state.remove_team("a", &lock).unwrap();
        assert!(!state.team("a").exists());
        assert!(state.lock("a").unwrap().is_some());
    }

    #[test]
    fn what_is_in_no_list_and_held_by_nobody_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(&folder.path().join("state"))).unwrap();
        assert!(state.sweep().unwrap().is_empty());
        let held = state.lock("held").unwrap().expect("nobody has it");
        drop(state.lock("left").unwrap());
        drop(state.lock("listed").unwrap());
        state.make_team("torn").unwrap();
        let mut db = db::Db::open(&state).unwrap();
        db.add("listed", &rows::Origin::default(), &[]).unwrap();
        let mut removed = state.sweep().unwrap();
        removed.sort();
        assert_eq!(removed, [state.team("left"), state.team("torn")]);
        assert!(state.team("held").exists() && state.team("listed").exists());
        assert!(!state.team("left").exists() && !state.team("torn").exists());
        drop(held);
        assert_eq!(state.sweep().unwrap(), [state.team("held")]);
    }

    #[test]
    fn who_sweeps_is_not_in_the_way_of_who_begins_or_ends() {
        const TIMES: usize = 1000;
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(&folder.path().join("state"))).unwrap();
        let is_done = AtomicBool::new(false);
        let sweep = || {
            while !is_done.load(Ordering::Relaxed) {
                state.sweep().unwrap();
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(sweep);
            }
            let had = |round: &usize| match state.lock("a") {
                Ok(Some(lock)) => round.is_multiple_of(2) || state.remove_team("a", &lock).is_ok(),
                _ => false,
            };
            let count = (0..TIMES).filter(had).count();
            is_done.store(true, Ordering::Relaxed);
            assert_eq!(count, TIMES);
        });
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
