//! Where templates are kept: one directory of one user.
//!
//! ```text
//! TEMPLATES/lock             held while one is built or removed
//!           digests/NAME     the digest of a file that was seen before and has not changed since
//!           new-N/           one that is being built
//!           KEY/memory       guest memory, without its empty pages; only read, by its users mapped privately
//!               state        everything else of the machine
//!               written      which pages of the memory its users write at once
//!               about.json   what it was made of, and the digests of all three
//! ```
//! **Made whole or not at all**: everything is written in `new-N`, synced, and renamed. What a killed command left
//! the next that builds removes. **Used under a lock** on its directory, which dies with its user. **Checked before
//! each use**: by digests, for which memory and state are read again only when the kernel's stamps of the file say that
//! somebody has touched it since it was checked last. What no stamp tells, a disk that lies, the vmm finds in the state by
//! the checksum that is in it.

use std::fs::{self, File};
use std::io::{self, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use cloister_vmm::spec::WorkingSet;
use rustix::fs::{FlockOperation, flock};

use super::TemplateError;
use super::about::{About, Places, read_about, read_written};
use super::digests::Digests;
use super::key::Key;
use crate::images::digest::Digest;
use crate::images::files::{lock as lock_file, read_bounded};
use crate::launch::Saved;
use crate::launch::place::sealed;
use crate::machine::MAX_STATE;

const PRIVATE: u32 = 0o700;
/// Nobody writes a finished file, not even its owner by mistake.
const FINISHED: u32 = 0o400;
const NEW: &str = "new-";
/// A template that is open and checked.
#[derive(Debug)]
pub struct Opened {
    /// What it was made of.
    pub key: Key,
    /// For the start of a machine.
    pub saved: Arc<Saved>,
    /// Held by who uses it.
    pub lock: OwnedFd,
}

/// A template's name, and what it is, or what is wrong with it.
pub type Found = (String, Result<About, TemplateError>);

/// The directory of templates.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    digests: Digests,
}

impl Store {
    /// Opens it, making it if nothing is there.
    ///
    /// # Errors
    /// It can't be made, or is somebody else's.
    pub fn open(path: &Path) -> Result<Self, TemplateError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(PRIVATE);
        builder.create(path).map_err(TemplateError::io("make the templates' directory", path))?;
        let found = fs::metadata(path)
            .map_err(TemplateError::io("look at the templates' directory", path))?;
        let mine = found.uid() == rustix::process::geteuid().as_raw();
        if !mine || found.mode() & 0o022 != 0 {
            return Err(TemplateError::NotOurs(path.to_owned()));
        }
        let digests = Digests::open(path.join("digests"))
            .map_err(TemplateError::io("keep digests in", path))?;
        Ok(Self { path: path.to_owned(), digests })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn io(&self, what: &'static str) -> impl Fn(io::Error) -> TemplateError + '_ {
        TemplateError::io(what, &self.path)
    }

    /// The digest of what a file holds, as [`Digests`] knows it.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn digest(&self, file: &File) -> Result<Digest, TemplateError> {
        self.digests.of(file).map_err(self.io("read a file for a template of"))
    }

    fn place(&self, key: &Key) -> PathBuf {
        self.path.join(key.name())
    }

    /// Whether there is a template, good or bad.
    #[must_use]
    pub fn has(&self, key: &Key) -> bool {
        self.place(key).exists()
    }

    /// Templates of machines of the same shape that were made of something else that was in the same places: nobody can
    /// want them any more. One of a kernel elsewhere may well be wanted again.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn outdated(&self, key: &Key, places: &Places) -> Result<Vec<String>, TemplateError> {
        let all = self.list()?.into_iter();
        let similar = all.filter(|(_, about)| {
            about.as_ref().is_ok_and(|about| {
                about.key != *key && about.key.is_shaped_like(key) && about.places == *places
            })
        });
        Ok(similar.map(|(name, _)| name).collect())
    }

    /// Opens a template and checks it; `None`: there is none.
    ///
    /// # Errors
    /// It is not as it was made.
    pub fn take(&self, key: &Key) -> Result<Option<Opened>, TemplateError> {
        let place = self.place(key);
        let lock = match File::open(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(self.io("open a template of"))?,
        };
        lock_file(&lock, false).map_err(|errno| self.io("lock a template of")(errno.into()))?;
        let open = |name: &'static str| {
            File::open(place.join(name))
                .map_err(|_| TemplateError::Damaged("a file of it is missing"))
        };
        let about = read_about(open("about.json")?)?;
        if about.key != *key {
            return Err(TemplateError::Damaged("it was made of something else"));
        }
        let mut state = open("state")?;
        if self.digest(&state)?.hex() != about.state {
            return Err(TemplateError::Damaged("its state has changed"));
        }
        // Computing a digest leaves the file at its end.
        let state = state
            .rewind()
            .and_then(|()| read_bounded(state, MAX_STATE))
            .map_err(|_| TemplateError::Damaged("its state can't be read"))?;
        let written = read_written(open("written")?, &about)?;
        let memory = open("memory")?;
        if self.digest(&memory)?.hex() != about.memory {
            return Err(TemplateError::Damaged("its memory has changed"));
        }
        let state =
            sealed("template", &state).map_err(self.io("copy the state of a template of"))?;
        let saved = Saved { fingerprint: key.fingerprint(), memory: memory.into(), state, written };
        Ok(Some(Opened { key: key.clone(), saved: Arc::new(saved), lock: lock.into() }))
    }

    /// Has the store alone to build or remove something. What a killed command left is removed.
    ///
    /// # Errors
    /// The file system refuses.
    pub async fn build_alone(&self) -> Result<OwnedFd, TemplateError> {
        let lock = self.lock_file()?;
        let (path, digests) = (self.path.clone(), self.digests.clone());
        // Another command may take as long as a boot.
        let locked = tokio::task::spawn_blocking(move || {
            lock_file(&lock, true)?;
            sweep(&path)?;
            digests.sweep()?;
            io::Result::Ok(lock)
        });
        let locked = locked.await.map_err(io::Error::other).and_then(|locked| locked);
        locked.map(Into::into).map_err(self.io("lock"))
    }

    fn lock_file(&self) -> Result<File, TemplateError> {
        let options = File::options().create(true).truncate(false).write(true).mode(0o600).clone();
        options.open(self.path.join("lock")).map_err(self.io("lock"))
    }

    /// Begins a new template; [`Self::build_alone`] is held.
    pub(super) fn begin(&self) -> Result<Work<'_>, TemplateError> {
        let place = self.path.join(format!("{NEW}{}", std::process::id()));
        let work = Work { store: self, place };
        fs::DirBuilder::new().mode(PRIVATE).create(&work.place).map_err(work.error("make"))?;
        Ok(work)
    }

    /// All templates; what is wrong with those that can't be read.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn list(&self) -> Result<Vec<Found>, TemplateError> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(self.io("list"))? {
            let name = entry.map_err(self.io("list"))?.file_name().to_string_lossy().into_owned();
            if Digest::from_hex(&name).is_ok() {
                let file = File::open(self.path.join(&name).join("about.json"));
                let about = file.map_err(|_| TemplateError::Damaged("a file of it is missing"));
                all.push((name, about.and_then(read_about)));
            }
        }
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(all)
    }

    /// The one template whose name begins so.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn find(&self, digits: &str) -> Result<Found, TemplateError> {
        let mut found = self.list()?.into_iter().filter(|(name, _)| name.starts_with(digits));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(TemplateError::NotFound(digits.to_owned())),
            _ => Err(TemplateError::Ambiguous(digits.to_owned())),
        }
    }

    /// Removes a template, whatever it holds. Machines that run go on: they have it open.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn remove(&self, key: &Key) -> Result<(), TemplateError> {
        self.remove_named(&key.name())
    }

    /// Removes a template that nobody uses.
    ///
    /// # Errors
    /// A machine uses it, or the file system refuses.
    pub fn remove_unused(&self, name: &str) -> Result<(), TemplateError> {
        let directory = File::open(self.path.join(name)).map_err(self.io("open a template of"))?;
        flock(&directory, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| TemplateError::InUse(name.to_owned()))?;
        self.remove_named(name)
    }

    fn remove_named(&self, name: &str) -> Result<(), TemplateError> {
        // Out of sight in one step, so that no half of it is ever found.
        let scratch = self.path.join(format!("{NEW}{}-removed", std::process::id()));
        match fs::rename(self.path.join(name), &scratch) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(self.io("remove a template of"))?,
        }
        fs::remove_dir_all(&scratch).map_err(self.io("remove a template of"))
    }
}

/// Removes what killed commands were building. The lock is held, so nobody is.
fn sweep(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(NEW) {
            // Another command may just be removing it.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
    Ok(())
}

/// What a template consists of.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) memory: Digest,
    pub(super) stored_bytes: u64,
    pub(super) state: Digest,
    pub(super) written: WorkingSet,
}

/// A template that is being made. Dropped before it is published, nothing of it stays.
#[derive(Debug)]
pub(super) struct Work<'a> {
    store: &'a Store,
    place: PathBuf,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        // Gone if it was published.
        fs::remove_dir_all(&self.place).ok();
    }
}

impl Work<'_> {
    pub(super) fn error(&self, what: &'static str) -> impl Fn(io::Error) -> TemplateError + '_ {
        TemplateError::io(what, &self.place)
    }

    /// Writes a file of it, which then is only for reading.
    pub(super) fn file<T>(
        &self,
        name: &str,
        write: impl FnOnce(&File) -> io::Result<T>,
    ) -> Result<(File, T), TemplateError> {
        let make = || {
            let options =
                File::options().create_new(true).read(true).write(true).mode(0o600).clone();
            let file = options.open(self.place.join(name))?;
            let result = write(&file)?;
            rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(FINISHED))?;
            file.sync_all()?;
            Ok((file, result))
        };
        make().map_err(self.error("write a file in"))
    }

    /// Opens a file of it for reading alone.
    pub(super) fn reader(&self, name: &str) -> Result<File, TemplateError> {
        File::open(self.place.join(name)).map_err(self.error("read a file in"))
    }

    /// Makes it a template, whose memory and state are there.
    pub(super) fn publish(
        self,
        key: &Key,
        places: Places,
        content: &Content,
    ) -> Result<(), TemplateError> {
        let Content { memory, stored_bytes, state, written } = content;
        let written = postcard::to_allocvec(written).map_err(io::Error::other);
        let written = written.map_err(self.error("list pages for"))?;
        self.file("written", |mut file| file.write_all(&written))?;
        let made = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let about = About {
            key: key.clone(),
            made: made.as_secs(),
            stored_bytes: *stored_bytes,
            memory: memory.hex(),
            state: state.hex(),
            written: Digest::of(&written).hex(),
            places,
        };
        let text = serde_json::to_vec_pretty(&about).map_err(io::Error::other);
        let text = text.map_err(self.error("describe"))?;
        self.file("about.json", |mut file| file.write_all(&text))?;
        let sync = |path: &Path| File::open(path).and_then(|directory| directory.sync_all());
        sync(&self.place).map_err(self.error("sync"))?;
        let place = self.store.place(key);
        fs::rename(&self.place, &place).map_err(self.error("publish"))?;
        sync(&self.store.path).map_err(self.store.io("sync"))
    }
}

#[cfg(test)]
#[path = "store_test.rs"]
mod tests;
