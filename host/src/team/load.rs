//! From the path of a team file to a checked one with everything of the host that it names: what
//! `cloister validate` does. No image has been looked for yet.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, Mode, OFlags};

use super::file::{Surroundings, TeamFile};
use super::host::{HostFiles, Judge};
use super::limits::MAX_FILE;
use super::mistake::Mistakes;
use super::mounts::open::real_path;
use super::mounts::person::Person;
use super::mounts::policy::{Policy, PolicyError};
use super::plan::TeamError;
use super::source::{Source, shown};
use super::variables::Lookup;
use crate::images::files::read_bounded;

/// A team file that is in order, and what it names on the host.
#[derive(Debug)]
pub struct Loaded {
    /// The file.
    pub file: TeamFile,
    /// What it names.
    pub host: HostFiles,
    /// The real path of its directory.
    pub directory: PathBuf,
}

/// What a team file is loaded with.
#[derive(Clone, Copy)]
pub struct Loading<'a> {
    /// A variable of the environment.
    pub environment: Lookup<'a>,
    /// The operator's list of mounts.
    pub policy: &'a Policy,
    /// Whose team it is.
    pub person: &'a Person,
}

impl std::fmt::Debug for Loading<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loading").field("policy", self.policy).finish_non_exhaustive()
    }
}

/// Loads a team file for this process's user, with its environment and the operator's list. `store` is the
/// image store's directory, which no team may see.
///
/// # Errors
/// The file can't be read, the operator's list can't be trusted, or there are mistakes.
pub fn load_for_me(path: &Path, store: &Path) -> Result<Loaded, TeamError> {
    let policy = Policy::load(Path::new(super::mounts::policy::OPERATORS_FILE))?;
    let person = Person::current(store).map_err(TeamError::Accounts)?;
    let environment = |name: &str| std::env::var_os(name);
    load(path, Loading { environment: &environment, policy: &policy, person: &person })
}

/// Loads a team file.
///
/// # Errors
/// The file can't be read, or there are mistakes.
pub fn load(path: &Path, loading: Loading<'_>) -> Result<Loaded, TeamError> {
    let (directory, own, source) = read(path)?;
    let real = real_path(&directory)
        .map_err(|error| TeamError::Read { path: path.to_owned(), source: error.into() })?;
    // Also where it leads, if it is a symbolic link.
    let mut inputs = vec![real.join(path.file_name().unwrap_or_default()), own];
    let judge = Judge {
        policy: loading.policy,
        person: loading.person,
        directory: &directory,
        real: &real,
        inputs: &[],
    };
    let variables = std::cell::RefCell::new(None);
    let read = |path: &str| {
        let opened = judge.input(path)?;
        let file = opened.reader().map_err(|(what, remedy)| (what, remedy.to_owned()))?;
        variables.replace(Some(opened.real));
        text(path, file).map_err(|error| match error {
            TextError::Io(error) => {
                (format!("it can't be read ({error})"), "name a smaller text file".to_owned())
            }
            TextError::Utf8(_) => {
                ("it is not UTF-8".to_owned(), "save it as UTF-8 text".to_owned())
            }
        })
    };
    let surroundings = Surroundings { environment: loading.environment, read: &read };
    let file = TeamFile::parse(source, surroundings)?;
    inputs.extend(variables.take());
    let host = Judge { inputs: &inputs, ..judge }.open(&file)?;
    Ok(Loaded { file, host, directory: real })
}

/// The team file's directory, where it really is, and its text.
fn read(path: &Path) -> Result<(OwnedFd, PathBuf, Source), TeamError> {
    let wrong = |source: io::Error| TeamError::Read { path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| wrong(io::Error::from(io::ErrorKind::NotFound)))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = sys::open(parent.unwrap_or(Path::new(".")), flags, Mode::empty())
        .map_err(|error| wrong(error.into()))?;
    // Not to wait for the writer of a FIFO.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file =
        sys::openat(&directory, name, flags, Mode::empty()).map_err(|error| wrong(error.into()))?;
    let own = real_path(&file).map_err(|error| wrong(error.into()))?;
    let shown_path = path.to_string_lossy();
    match text(&shown_path, File::from(file)) {
        Ok(source) => Ok((directory, own, source)),
        Err(TextError::Io(error)) => Err(wrong(error)),
        Err(TextError::Utf8(source)) => {
            let mut mistakes = Mistakes::default();
            // The last place that is still text.
            let end = source.text().len();
            let place = source.place(end..end);
            let remedy = "save it as UTF-8 text";
            mistakes.add(&source, place, "what follows here is not UTF-8", remedy);
            Err(TeamError::Mistakes(mistakes))
        }
    }
}

enum TextError {
    Io(io::Error),
    /// With what comes before it.
    Utf8(Source),
}

/// The text of a regular file of bounded size.
fn text(name: &str, file: File) -> Result<Source, TextError> {
    let metadata = file.metadata().map_err(TextError::Io)?;
    if !metadata.is_file() {
        let kind = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
        return Err(TextError::Io(kind));
    }
    let bytes = read_bounded(file, MAX_FILE).map_err(TextError::Io)?;
    let name = shown(name);
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source::new(&name, &text)),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes().get(..valid).unwrap_or_default());
            Err(TextError::Utf8(Source::new(&name, &text)))
        }
    }
}

impl From<PolicyError> for TeamError {
    fn from(error: PolicyError) -> Self {
        Self::Policy(error)
    }
}
