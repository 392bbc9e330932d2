//! A team on the disk: what it goes on from when it is resumed, after a restart of the host too.
//!
//! ```text
//! teams/NAME/saved/memory      the guest's memory, without its empty pages; who goes on maps it privately
//!                  state       everything else of the machine
//!                  files       what the file server knew, if there is one
//!                  team.json   plan, agents, and the digests of the three
//!           saved-new/         one that is being written
//! ```
//! **Whole or not at all**: everything is written in `saved-new`, synced, and renamed; what a killed warden left is removed
//! by the next that writes. **Used once**: before the machine goes on `saved` is moved out of sight, since from then on its
//! shares are those of another time. **Checked before**: by digests, so what a disk or a person has changed is no guest.

mod record;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use cloister_file_server::control::MAX_STATE_BYTES;

use crate::images::digest::Digest;
use crate::images::files::read_bounded;
use crate::launch::place::sealed;
use crate::machine::MAX_STATE;
use crate::template::content;

pub use record::{Digests, Life, Phase, Record, VERSION};

/// What the authority of a team is sealed as.
pub const AUTHORITY: &str = "team.authority";
/// The directory in the team's own.
const SAVED: &str = "saved";
const NEW: &str = "saved-new";
const USED: &str = "saved-used";
const MEMORY: &str = "memory";
const STATE: &str = "state";
const FILES: &str = "files";
const RECORD: &str = "team.json";
const PRIVATE: u32 = 0o700;
/// Nobody writes a finished file, not even its owner by mistake.
const FINISHED: u32 = 0o400;
/// Most bytes of the record: the plan has at most 16 MiB, and agents add little to it.
const MAX_RECORD: u64 = 32 << 20;

/// Why a team can't be kept, or not go on from what was.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
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
    /// There is none.
    #[error("nothing of the team is on the disk ({})", .0.display())]
    Missing(PathBuf),
    /// It is not as it was written.
    #[error("what was kept of the team is damaged: {what} ({})", path.display())]
    Damaged {
        /// What of it.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
    },
    /// Of another version of this program.
    #[error(
        "what was kept of the team is of version {found}, and this program knows version {VERSION}"
    )]
    Version {
        /// What it says.
        found: u32,
    },
}

impl SavedError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Io { .. } => "check the space and the permissions of the state's directory",
            Self::Missing(_) => "`cloister start` starts the team anew",
            Self::Damaged { .. } => {
                "its agents can't go on from it: `cloister down` removes the team, and `cloister up` starts it anew"
            }
            Self::Version { .. } => {
                "resume it with the version of cloister that wrote it, or `cloister down` and `cloister up`"
            }
        }
    }
}

fn wrap<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> SavedError + 'a {
    move |source| SavedError::Io { what, path: path.to_owned(), source }
}

/// A team that is being written.
#[derive(Debug)]
pub struct Work {
    team: PathBuf,
    folder: PathBuf,
}

impl Work {
    /// Begins in a team's own directory. What a killed warden left there is removed.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn begin(team: &Path) -> Result<Self, SavedError> {
        let folder = team.join(NEW);
        remove(&folder)?;
        fs::DirBuilder::new().mode(PRIVATE).create(&folder).map_err(wrap("make", &folder))?;
        Ok(Self { team: team.to_owned(), folder })
    }

    /// The empty file for the guest's memory.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn memory(&self) -> Result<File, SavedError> {
        self.file(MEMORY)
    }

    fn file(&self, name: &str) -> Result<File, SavedError> {
        let path = self.folder.join(name);
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).mode(FINISHED).open(&path);
        file.map_err(wrap("make", &path))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<Digest, SavedError> {
        let mut file = self.file(name)?;
        let path = self.folder.join(name);
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(wrap("write", &path))?;
        Ok(Digest::of(bytes))
    }

    /// Writes the states, and the digests of everything into the record.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn finish(
        &self,
        memory: &File,
        state: &[u8],
        files: Option<&[u8]>,
        record: Record,
    ) -> Result<(), SavedError> {
        let path = self.folder.join(MEMORY);
        memory.sync_all().map_err(wrap("write", &path))?;
        let digests = Digests {
            memory: content::digest(memory).map_err(wrap("read", &path))?.hex(),
            state: self.write(STATE, state)?.hex(),
            files: match files {
                Some(files) => Some(self.write(FILES, files)?.hex()),
                None => None,
            },
        };
        self.put(&Record { digests, ..record })
    }

    /// Takes over what another team has, whose memory both share from then on.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn take_over(&self, other: &Path) -> Result<(), SavedError> {
        for name in [MEMORY, STATE, FILES, RECORD] {
            let (from, to) = (other.join(name), self.folder.join(name));
            match fs::hard_link(&from, &to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && name == FILES => {}
                linked => linked.map_err(wrap("link", &from))?,
            }
        }
        Ok(())
    }

    fn put(&self, record: &Record) -> Result<(), SavedError> {
        let path = self.folder.join(RECORD);
        let bytes = serde_json::to_vec(record).map_err(io::Error::from);
        self.write(RECORD, &bytes.map_err(wrap("write", &path))?).map(drop)
    }

    /// Where what is written lies as yet.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts it into place: from then on it is there, whatever happens.
    ///
    /// # Errors
    /// The file system refuses; nothing is there then.
    pub fn publish(self) -> Result<(), SavedError> {
        let saved = self.team.join(SAVED);
        let sync = |path: &Path| File::open(path).and_then(|folder| folder.sync_all());
        sync(&self.folder).map_err(wrap("write", &self.folder))?;
        remove(&saved)?;
        fs::rename(&self.folder, &saved).map_err(wrap("rename", &self.folder))?;
        sync(&self.team).map_err(|source| {
            // Whose team goes on must not leave what it was.
            fs::remove_dir_all(&saved).ok();
            wrap("write", &self.team)(source)
        })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Published, it is somewhere else.
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// A team that was kept, open and checked.
#[derive(Debug)]
pub struct Opened {
    /// What it was.
    pub record: Record,
    /// The guest's memory; only for reading.
    pub memory: OwnedFd,
    /// The machine's state, in sealed memory.
    pub state: OwnedFd,
    /// The file server's.
    pub files: Option<Vec<u8>>,
    team: PathBuf,
}

/// Where a team's own directory has what was kept of it.
#[must_use]
pub fn place(team: &Path) -> PathBuf {
    team.join(SAVED)
}

/// Whether a team can go on from the disk.
#[must_use]
pub fn is_there(team: &Path) -> bool {
    place(team).join(RECORD).exists()
}

/// What a team was when it was kept. Of the rest nothing is looked at.
///
/// # Errors
/// There is none, or it can't be read.
pub fn read(team: &Path) -> Result<Record, SavedError> {
    let folder = place(team);
    let path = folder.join(RECORD);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SavedError::Missing(folder));
        }
        opened => opened.map_err(wrap("open", &path))?,
    };
    let bytes = read_bounded(file, MAX_RECORD).map_err(wrap("read", &path))?;
    Record::parse(&bytes, &path)
}

/// Opens what was kept of a team, and checks all of it.
///
/// # Errors
/// There is none, or it is not as it was written.
pub fn open(team: &Path) -> Result<Opened, SavedError> {
    let folder = place(team);
    let record = read(team)?;
    let damaged = |what| SavedError::Damaged { what, path: folder.clone() };
    let open = |name: &str, what| File::open(folder.join(name)).map_err(|_| damaged(what));
    let memory = open(MEMORY, "its memory is missing")?;
    let digest = content::digest(&memory).map_err(|_| damaged("its memory can't be read"))?;
    if digest.hex() != record.digests.memory {
        return Err(damaged("its memory has changed"));
    }
    let state = read_bounded(open(STATE, "its state is missing")?, MAX_STATE)
        .map_err(|_| damaged("its state can't be read"))?;
    if Digest::of(&state).hex() != record.digests.state {
        return Err(damaged("its state has changed"));
    }
    let files = match &record.digests.files {
        None => None,
        Some(digest) => {
            let most = u64::try_from(MAX_STATE_BYTES).unwrap_or(u64::MAX);
            let files = read_bounded(open(FILES, "the state of its files is missing")?, most)
                .map_err(|_| damaged("the state of its files can't be read"))?;
            if Digest::of(&files).hex() != *digest {
                return Err(damaged("the state of its files has changed"));
            }
            Some(files)
        }
    };
    let state = sealed("saved", &state).map_err(wrap("copy", &folder.join(STATE)))?;
    Ok(Opened { record, memory: memory.into(), state, files, team: team.to_owned() })
}

impl Opened {
    /// Moves it out of sight: it is used from now on, and never again.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn use_up(&self) -> Result<Used, SavedError> {
        let used = Used { team: self.team.clone() };
        remove(&used.folder())?;
        let saved = place(&self.team);
        fs::rename(&saved, used.folder()).map_err(wrap("rename", &saved))?;
        Ok(used)
    }
}

/// Removes what there is of a team on the disk: it starts anew.
///
/// # Errors
/// The file system refuses.
pub fn discard(team: &Path) -> Result<(), SavedError> {
    [SAVED, NEW, USED].iter().try_for_each(|name| remove(&team.join(name)))
}

/// One that is being used. Dropped before the machine goes on, it is there again.
#[derive(Debug)]
pub struct Used {
    team: PathBuf,
}

impl Drop for Used {
    fn drop(&mut self) {
        // Removed, there is none.
        fs::rename(self.folder(), place(&self.team)).ok();
    }
}

impl Used {
    fn folder(&self) -> PathBuf {
        self.team.join(USED)
    }

    /// The machine goes on, and has open what it needs of it.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn remove(self) -> Result<(), SavedError> {
        remove(&self.folder())
    }
}

fn remove(folder: &Path) -> Result<(), SavedError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(wrap("remove", folder)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "saved_test.rs"]
mod tests;
