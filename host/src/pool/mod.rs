//! A pool of blanks: vmms that were started in their jails beforehand and know of no machine yet, so that a start need
//! not wait for process and jail.
//!
//! ```text
//!   cloister pool serve ──keeps──▶ cloister blank ──parent of──▶ vmm in its jail
//!          ▲                            ▲
//!      1. takes                  2. its connection, handed over: the vmm's control socket comes by it
//!   cloister run, a warden ─────────────┘
//! ```
//!
//! Each blank has a process of its own for a parent ([`blank`]), whose one connection goes from the pool to whoever takes
//! the blank. So a vmm of the pool is bound to its user's life as any other: when the connection closes, its parent kills
//! it and removes its control group; when the parent is killed, the kernel kills the vmm. The pool itself ([`keeper`])
//! may end at any time: what was taken goes on.
//!
//! Who finds no pool, or none with a blank that fits ([`take`]), starts a vmm as ever. All of them belong to one user.

pub mod blank;

pub mod keeper;

pub mod take;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::control::ControlError;
use crate::launch::files::{FileError, Files};
use crate::launch::group::GroupError;
use crate::launch::jail::{JailSpec, LimitsWish, limits_of_blank};
use crate::launch::process::ProcessError;

/// Raised when anything here changes: a pool may be older than who takes from it.
const VERSION: u16 = 1;
/// The pool's socket, in its directory.
const SOCKET: &str = "socket";
/// Held by the pool's process as long as it lives.
const LOCK: &str = "lock";
/// Most blanks of a pool: each has a control group, two processes and a megabyte or two.
pub const MAX_SIZE: u16 = 1000;

/// A pool's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The directory; of this user alone.
    pub folder: PathBuf,
    /// It was named: then a pool must be there.
    pub named: bool,
}

impl Place {
    /// Where a pool is unless somebody says otherwise: `/run/cloister/pool` for root, else `cloister/pool` below
    /// `$XDG_RUNTIME_DIR`; `None`: that is not set.
    #[must_use]
    pub fn usual() -> Option<Self> {
        let runtime = if rustix::process::geteuid().is_root() {
            PathBuf::from("/run")
        } else {
            // The XDG specification: a relative path is to be ignored.
            std::env::var_os("XDG_RUNTIME_DIR")
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())?
        };
        Some(Self { folder: runtime.join("cloister/pool"), named: false })
    }

    /// Whether there is reason to ask: where none was named, none need be.
    #[must_use]
    pub fn may_be_there(&self) -> bool {
        self.named || self.folder.join(SOCKET).exists()
    }
}

/// Why a pool can't be used or kept.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// There is no place for it.
    #[error("it is not known where the pool is: XDG_RUNTIME_DIR is not set")]
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
    /// Others could use it.
    #[error("{} belongs to another user, or others may use it", .0.display())]
    NotOurs(PathBuf),
    /// There is one already.
    #[error("a pool is kept in {} already", .0.display())]
    Kept(PathBuf),
    /// Nobody answers.
    #[error("no pool answers in {}", folder.display())]
    Silent {
        /// Its directory.
        folder: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What came is not what comes from a pool of this version.
    #[error("the pool in {} is of another version, or broken", .0.display())]
    Broken(PathBuf),
    /// The control groups.
    #[error("can't make the jail's control group")]
    Group(#[from] GroupError),
    /// The vmm.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// KVM can't be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The vmm can't be spoken to.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The system refuses something.
    #[error("can't make {what}")]
    Setup {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A blank ended before it was one.
    #[error("a blank can't be made; its own words stand above")]
    Blank,
}

impl PoolError {
    fn io<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Self + 'a {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }

    fn setup(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Setup { what, source }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Nowhere | Self::Io { .. } | Self::NotOurs(_) => {
                Some("name a directory of your own with --pool or CLOISTER_POOL")
            }
            Self::Kept(_) => {
                Some("`cloister pool status` tells of it; --pool names another directory")
            }
            Self::Silent { .. } => Some(
                "`cloister pool serve` keeps one; without --pool and CLOISTER_POOL none is needed",
            ),
            Self::Broken(_) => Some("restart the pool with this version of cloister"),
            Self::Group(error) => Some(error.remedy()),
            Self::Process(error) => Some(error.remedy()),
            Self::File(error) => error.remedy(),
            Self::Control(_) | Self::Setup { .. } | Self::Blank => None,
        }
    }
}

/// What all blanks of a pool are, and a machine needs: the programs, and where and as whom they are jailed. The limits of
/// its shape are written when it is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    version: u16,
    /// Those of a blank's control group, if there are any: a machine's that are the same are not written again.
    limits: Option<String>,
    ids: String,
    groups: PathBuf,
    vmm: FileId,
    jailer: FileId,
}

/// Which file it is, and in which state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileId {
    device: u64,
    inode: u64,
    bytes: u64,
    /// When its content was changed last: seconds and nanoseconds since 1970. (When anything of it was is of no use: another
    /// name for the file counts.)
    modified: (i64, i64),
}

impl FileId {
    fn of(path: &Path) -> Result<Self, PoolError> {
        let facts = path.metadata().map_err(PoolError::io("look at", path))?;
        Ok(Self {
            device: facts.dev(),
            inode: facts.ino(),
            bytes: facts.size(),
            modified: (facts.mtime(), facts.mtime_nsec()),
        })
    }
}

impl Kind {
    /// Of machines that are started with these programs and so jailed, as the files are now.
    ///
    /// # Errors
    /// A program is not there, or no place for control groups.
    pub fn of(files: &Files, jail: &JailSpec) -> Result<Self, PoolError> {
        Ok(Self {
            version: VERSION,
            limits: (jail.limits == LimitsWish::Asked).then(|| format!("{:?}", limits_of_blank())),
            ids: jail.ids.to_string(),
            groups: jail.place()?.folder,
            vmm: FileId::of(&files.vmm)?,
            jailer: FileId::of(&files.jailer)?,
        })
    }
}

/// To the pool, one on each connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Ask {
    /// A blank of this kind: [`Answer::Given`] or [`Answer::Nothing`].
    Take(Kind),
    /// [`Answer::Status`]; once every blank is ready, if that is to be waited for.
    Status {
        /// Whether it is.
        when_full: bool,
    },
}

/// The pool's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    /// The connection to a blank's parent comes with this message. It is the taker's alone from now on.
    Given,
    /// There is none that fits.
    Nothing,
    /// How it stands.
    Status(Status),
}

/// How a pool stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// How many blanks it keeps ready.
    pub size: u16,
    /// How many are ready now.
    pub ready: u16,
    /// How many were taken since it began.
    pub taken: u64,
    /// How often there was none, or none that fitted.
    pub missed: u64,
}

/// From a blank's parent to whoever has its connection, who says nothing and closes it when the vmm is to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Word {
    /// The vmm waits in its jail. With this message come the host's end of its control socket, a descriptor of the
    /// process, and what it writes to its standard error.
    Ready {
        /// Its process id.
        pid: i32,
        /// Its control group.
        group: PathBuf,
    },
    /// It has ended, and nothing of it is left.
    Ended {
        /// As `waitpid` gives it.
        status: i32,
    },
}
