//! The store: blobs by digest, unpacked roots, and names, below one directory of one user.
//!
//! ```text
//! STORE/lock            held shared by every command, exclusively by what removes; dies with its holder
//!       names.lock      held while names.json is read and replaced
//!       names.json      names to manifest digests: what is visible
//!       blobs/HEX       manifests, configurations and layers, as they came
//!       roots/HEX/fs    an image's whole root, by the digest of its chain of layers
//!       roots/HEX/link-owners, facts.json
//!       work/N/         what a running import has not published yet
//! ```
//!
//! **Whole roots, not layers.** A root is shown to a guest read-only by a file server that binds
//! one directory, and may be the lower layer of an overlay there. With a directory for each layer
//! every look-up of a missing name would ask every layer, and whiteouts would have to be devices
//! or `trusted` attributes, which the file server never shows. The price is disk: images that share
//! layers share their blobs, but not what is unpacked of them. Images of the same layers share all.
//!
//! **A kill at any point** leaves nothing visible: everything is made in `work/`, synced, renamed
//! to where it belongs, and named last. The next command finds `work/` not empty and nobody at
//! work, and removes it with every blob and root that no name needs.

mod blobs;

pub mod names;

pub mod roots;

pub mod removal;

pub mod session;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::files;

use super::digest::Digest;
use super::manifest::ManifestError;
use removal::Removed;

/// The store's form; another one is refused, not guessed at.
const VERSION: &str = "cloister image store 1\n";
const DIRECTORIES: [&str; 3] = ["blobs", "roots", "work"];
/// Only the owner looks into it: it holds what may be secret of an image.
const PRIVATE: u32 = 0o700;

/// A store that is there.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    directory: OwnedFd,
    blobs: OwnedFd,
    roots: OwnedFd,
    work: OwnedFd,
}

/// Why the store can't do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is not known where it should be.
    #[error("it is not known where the image store is: neither XDG_DATA_HOME nor HOME is set")]
    Nowhere,
    /// The file system refused.
    #[error("can't {what} ({})", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else could change it.
    #[error("the image store {} {reason}", path.display())]
    NotOurs {
        /// Where it is.
        path: PathBuf,
        /// Why it is not to be trusted.
        reason: &'static str,
    },
    /// Made by another version, or no store at all.
    #[error("{} is not an image store of this version", .0.display())]
    Version(PathBuf),
    /// The file of names is damaged.
    #[error("the store's list of names ({}) is damaged", path.display())]
    Names {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Too many names.
    #[error("the store has {} names already", super::limits::MAX_NAMES)]
    Full,
    /// No such image.
    #[error("there is no image {0:?} in the store")]
    NotFound(String),
    /// Several images begin so.
    #[error("several images have a digest that begins with {0:?}")]
    Ambiguous(String),
    /// A blob that should be there is not.
    #[error("the store has lost the blob {0}")]
    Lost(Digest),
    /// A blob is not what its name says.
    #[error("the store's blob {0} is damaged")]
    Damaged(Digest),
    /// What a manifest in the store says.
    #[error("the image {digest} in the store")]
    Manifest {
        /// The image.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
}

impl StoreError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Nowhere => "name a directory with --store or CLOISTER_STORE",
            Self::Io { .. } => "check the space and the permissions of the store's file system",
            Self::NotOurs { .. } => {
                "use a directory of your own with mode 0700, or name another with --store"
            }
            Self::Version(_) => "name another directory with --store, or remove this one",
            Self::Names { .. } => {
                "put the list back from a backup, or remove the store and import again"
            }
            Self::Full => "remove some images with `cloister image rm`",
            Self::NotFound(_) => "`cloister image ls` shows what is there",
            Self::Ambiguous(_) => "write more digits; `cloister image ls --json` shows them all",
            Self::Lost(_) | Self::Damaged(_) | Self::Manifest { .. } => {
                "remove the image with `cloister image rm` and import it again"
            }
        }
    }
}

impl Store {
    /// Where the store is unless somebody says otherwise: `/var/lib/cloister/images` for root, else
    /// `cloister/images` below `$XDG_DATA_HOME`, which is `~/.local/share` if it is not set.
    ///
    /// # Errors
    /// There is no home.
    pub fn usual_path() -> Result<PathBuf, StoreError> {
        if rustix::process::geteuid().is_root() {
            return Ok(PathBuf::from("/var/lib/cloister/images"));
        }
        // The XDG specification: a relative path is to be ignored.
        let absolute =
            |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = absolute("XDG_DATA_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
            .ok_or(StoreError::Nowhere)?;
        Ok(data.join("cloister/images"))
    }

    /// Opens the store, making it if nothing is there.
    ///
    /// # Errors
    /// It can't be made, is no store, or others could write to it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let io =
            |what| move |source: io::Error| StoreError::Io { what, path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(io("make the image store"))?;
        }
        match sys::mkdir(path, Mode::from_raw_mode(PRIVATE)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(io("make the image store")(error.into())),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = sys::open(path, flags, Mode::empty())
            .map_err(|error| io("open the image store")(error.into()))?;
        check_owner(path, &directory)?;
        check_version(path, &directory)?;
        let sub = |name: &str| -> Result<OwnedFd, StoreError> {
            match sys::mkdirat(&directory, name, Mode::from_raw_mode(PRIVATE)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(io("make a directory of the image store")(error.into())),
            }
            sys::openat(&directory, name, flags | OFlags::NOFOLLOW, Mode::empty())
                .map_err(|error| io("open a directory of the image store")(error.into()))
        };
        let [blobs, roots, work] = DIRECTORIES;
        let (blobs, roots, work) = (sub(blobs)?, sub(roots)?, sub(work)?);
        Ok(Self { path: path.to_owned(), directory, blobs, roots, work })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes part in the store's use: nothing that is there is removed while the guard lives. If
    /// nobody else is at work, what a killed command left is removed first.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn enter(&self) -> Result<(Guard, Option<Removed>), StoreError> {
        let lock = self.open_lock("lock")?;
        let mut removed = None;
        if sys::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            removed = self.remove_leftovers()?;
        }
        // Not one step for the kernel, but what is between has nothing to lose yet.
        files::lock(&lock, false).map_err(|error| self.io("lock", error))?;
        Ok((Guard { _lock: lock }, removed))
    }

    /// Has the store alone, to remove things from it. `waiting` is called if somebody is at work.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn enter_alone(
        &self,
        waiting: impl FnOnce(),
    ) -> Result<(Guard, Option<Removed>), StoreError> {
        let lock = self.open_lock("lock")?;
        match sys::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                waiting();
                sys::flock(&lock, FlockOperation::LockExclusive)
                    .map_err(|error| self.io("lock", error))?;
            }
            Err(error) => return Err(self.io("lock", error)),
        }
        let removed = self.remove_leftovers()?;
        Ok((Guard { _lock: lock }, removed))
    }

    fn open_lock(&self, name: &str) -> Result<File, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        sys::openat(&self.directory, name, flags, Mode::from_raw_mode(0o600))
            .map(File::from)
            .map_err(|error| self.io("open a lock of the image store", error))
    }

    fn io(&self, what: &'static str, source: impl Into<io::Error>) -> StoreError {
        StoreError::Io { what, path: self.path.clone(), source: source.into() }
    }

    fn sync_directory(&self, directory: &OwnedFd) -> Result<(), StoreError> {
        sys::fsync(directory.as_fd()).map_err(|error| self.io("write to the disk", error))
    }
}

/// Keeps what is in the store from being removed.
#[derive(Debug)]
pub struct Guard {
    _lock: File,
}

fn check_owner(path: &Path, directory: &OwnedFd) -> Result<(), StoreError> {
    let stat = sys::fstat(directory).map_err(|source| StoreError::Io {
        what: "look at the image store",
        path: path.to_owned(),
        source: source.into(),
    })?;
    let reason = if stat.st_uid != rustix::process::geteuid().as_raw() {
        "belongs to another user"
    } else if stat.st_mode & 0o022 != 0 {
        "can be written by other users"
    } else {
        return Ok(());
    };
    Err(StoreError::NotOurs { path: path.to_owned(), reason })
}

/// Makes the file that says what this is, in an empty directory, or reads it.
fn check_version(path: &Path, directory: &OwnedFd) -> Result<(), StoreError> {
    if has_version(path, directory)? {
        return Ok(());
    }
    // One at a time: another command may be making the store at this moment.
    let io = making(path);
    files::lock(directory, true).map_err(|error| io(error.into()))?;
    let made = make_version(path, directory);
    sys::flock(directory, FlockOperation::Unlock).map_err(|error| io(error.into()))?;
    made
}

fn has_version(path: &Path, directory: &OwnedFd) -> Result<bool, StoreError> {
    match files::read_at(directory, "version", VERSION.len() as u64 + 1) {
        Ok(bytes) if bytes == VERSION.as_bytes() => Ok(true),
        Ok(_) => Err(StoreError::Version(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(making(path)(error)),
    }
}

fn make_version(path: &Path, directory: &OwnedFd) -> Result<(), StoreError> {
    if has_version(path, directory)? {
        return Ok(());
    }
    // What a killed command left of the file itself is in nobody's way.
    let strange = super::archive::tree::list(directory.as_fd())
        .map_err(making(path))?
        .into_iter()
        .any(|name| !name.starts_with(b"version"));
    if strange {
        return Err(StoreError::Version(path.to_owned()));
    }
    files::replace_at(directory, directory, "version", VERSION.as_bytes()).map_err(making(path))
}

fn making(path: &Path) -> impl Fn(io::Error) -> StoreError {
    |source| StoreError::Io { what: "open the image store", path: path.to_owned(), source }
}
