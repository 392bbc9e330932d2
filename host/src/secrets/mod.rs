//! Secrets that rules give to hosts and agents never see: kept by name below the state's directory, each
//! sealed with a key of the host (AES-256-GCM; the name is sealed in too, so that files can't be swapped).
//!
//! What is kept is the value, or where it is read when it is needed: a file, or a command's output; or with
//! what a token server gives it. A value is one line of text: it goes into heads of requests.

pub mod value;

pub mod grant;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::images::files::{self, read_bounded};
use crate::state::StateDir;
use grant::{Grant, Mark};
use value::Secret;

/// Most secrets of one user.
pub const MAX_SECRETS: usize = 1024;
/// Longest value, in bytes: it must fit into a head that servers take.
pub const MAX_VALUE: usize = 8 << 10;
/// Most bytes of a file of the store.
const MAX_FILE: u64 = 64 << 10;
/// The key's file; no secret's name has a dot.
const KEY: &str = "host.key";
const KEY_LEN: usize = 32;
/// What stands behind the name of a secret, and a dot, in the name of the file that its turn is held by.
const TURN: &str = "turn";
/// Raised when the form of the files changes.
const VERSION: u8 = 1;

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
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
    /// There is none of this name.
    #[error("there is no secret {0:?}")]
    Missing(String),
    /// Its file was changed, or sealed with another key.
    #[error("the secret {0:?} can't be opened: its file was changed, or is of another host")]
    Sealed(String),
    /// The key is none, or others can read it.
    #[error("{} is no key that only its owner can read", .0.display())]
    Key(PathBuf),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// There are too many.
    #[error("there are {MAX_SECRETS} secrets already")]
    TooMany,
    /// The value can't be one.
    #[error("the value of the secret {name:?} can't be used: {why}")]
    Value {
        /// Whose.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It is not what it is wanted for.
    #[error("the secret {name:?} can't be used: {why}")]
    Unfit {
        /// Whose.
        name: String,
        /// What is wrong with it.
        why: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The command that tells it fails.
    #[error("the command that tells the secret {name:?} {why}")]
    Command {
        /// Whose.
        name: String,
        /// How.
        why: String,
    },
}

impl SecretError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Io { .. } => {
                "see that the file is there, that this user may read it, and that there is space"
            }
            Self::Missing(_) => {
                "`cloister secret set NAME` keeps one, `cloister secret ls` shows them"
            }
            Self::Sealed(_) => "set it again: cloister secret set NAME",
            Self::Key(_) => "chmod 0600 FILE; if it is lost, remove it and set the secrets again",
            Self::Random => "this host's kernel is not as it should be",
            Self::TooMany => "remove some: cloister secret rm NAME",
            Self::Value { .. } => "a secret is one line of text without control characters",
            Self::Unfit { remedy, .. } => remedy,
            Self::Command { .. } => {
                "run it by hand as this user: it must write the secret and end with code 0"
            }
        }
    }
}

/// Whether a secret can be called so: 1 to 32 lower-case letters, digits and dashes, the first no dash.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 32
        && name.bytes().next().is_some_and(inner)
        && name.bytes().all(|byte| inner(byte) || byte == b'-')
}

/// What is kept of a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    /// The value.
    Value(Vec<u8>),
    /// A file that has it, read each time.
    File(PathBuf),
    /// A command that writes it, with its arguments.
    Command(Vec<String>),
    /// What a token server gives it for.
    OAuth(Grant),
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Self::Value(bytes) = self {
            bytes.zeroize();
        }
    }
}

impl Kept {
    /// What it is, for people, without the value.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Value(_) => "value".to_owned(),
            Self::File(path) => format!("file {}", path.display()),
            Self::Command(words) => {
                format!("command {}", words.first().map_or("", String::as_str))
            }
            Self::OAuth(grant) => grant.shown(),
        }
    }
}

/// The secrets of a user.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Those of a state's directory. Nothing is made before the first is kept.
    #[must_use]
    pub fn of(state: &StateDir) -> Self {
        Self { folder: state.path().join("secrets") }
    }

    /// Keeps a secret, in place of one of the same name. Whole or not at all.
    ///
    /// # Errors
    /// The value can't be one, or it can't be written.
    pub fn set(&self, name: &str, kept: &Kept) -> Result<(), SecretError> {
        match kept {
            Kept::Value(bytes) => Secret::check(name, bytes)?,
            Kept::OAuth(grant) => grant.check(name)?,
            Kept::File(_) | Kept::Command(_) => {}
        }
        self.make_folder()?;
        if self.names()?.len() >= MAX_SECRETS && !self.path(name).exists() {
            return Err(SecretError::TooMany);
        }
        let bytes = seal(&self.key(true)?, name, plain(kept))?;
        files::put(&self.folder, name, &bytes).map_err(wrap("write", &self.path(name)))
    }

    /// Puts another refresh token into a grant, if it is still the one with this mark: whole or not at all, and
    /// nothing that somebody sets meanwhile is lost.
    ///
    /// # Errors
    /// It can't be one, or it can't be written.
    pub fn rotate(&self, name: &str, mark: &Mark, refresh: &[u8]) -> Result<(), SecretError> {
        Secret::check(name, refresh)?;
        let held = files::hold(&self.folder).map_err(wrap("hold", &self.folder))?;
        let mut kept = match self.find(name) {
            Err(SecretError::Missing(_)) => return Ok(()),
            kept => kept?,
        };
        match &mut kept {
            Kept::OAuth(grant) if grant.mark == *mark => {
                grant.refresh_token.zeroize();
                grant.refresh_token = Some(refresh.to_vec());
            }
            _ => return Ok(()),
        }
        let bytes = seal(&self.key(false)?, name, plain(&kept))?;
        files::put_held(&held, &self.folder, name, &bytes).map_err(wrap("write", &self.path(name)))
    }

    /// Holds a secret's turn at its token server for all processes of this user, until the file is dropped: of two that
    /// use one refresh token, the second would be taken for a thief. Waits for whoever has it.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn turn(&self, name: &str) -> Result<File, SecretError> {
        let path = self.folder.join(format!("{name}.{TURN}"));
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(wrap("make", &path))?;
        files::lock(&file, true).map_err(|error| wrap("lock", &path)(error.into()))?;
        Ok(file)
    }

    /// What is kept under a name.
    ///
    /// # Errors
    /// Nothing is, or it can't be opened.
    pub fn find(&self, name: &str) -> Result<Kept, SecretError> {
        let path = self.path(name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SecretError::Missing(name.to_owned()));
            }
            file => file.map_err(wrap("open", &path))?,
        };
        let bytes = read_bounded(file, MAX_FILE).map_err(wrap("read", &path))?;
        let plain = unseal(&self.key(false)?, name, &bytes)?;
        postcard::from_bytes(&plain).map_err(|_| SecretError::Sealed(name.to_owned()))
    }

    /// Seals what is kept elsewhere with the key of the host, which is made if there is none. `what` is sealed in, and is no
    /// secret's name.
    ///
    /// # Errors
    /// There is no key, and none can be made.
    pub fn seal(&self, what: &str, bytes: &[u8]) -> Result<Vec<u8>, SecretError> {
        self.make_folder()?;
        seal(&self.key(true)?, what, Zeroizing::new(bytes.to_vec()))
    }

    /// Opens what [`Self::seal`] sealed.
    ///
    /// # Errors
    /// It is something else, or of another host.
    pub fn open(&self, what: &str, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        unseal(&self.key(false)?, what, bytes)
    }

    fn make_folder(&self) -> Result<(), SecretError> {
        match fs::DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(wrap("make", &self.folder)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// There is none, or it can't be removed.
    pub fn remove(&self, name: &str) -> Result<(), SecretError> {
        let path = self.path(name);
        let missing = |error: io::Error, path| match error.kind() {
            io::ErrorKind::NotFound => SecretError::Missing(name.to_owned()),
            _ => wrap("remove", path)(error),
        };
        let _held = files::hold(&self.folder).map_err(|error| missing(error, &self.folder))?;
        fs::remove_file(&path).map_err(|error| missing(error, &path))?;
        // Most have none.
        fs::remove_file(self.folder.join(format!("{name}.{TURN}"))).ok();
        Ok(())
    }

    /// The names, in their order.
    ///
    /// # Errors
    /// They can't be read.
    pub fn names(&self) -> Result<Vec<String>, SecretError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(wrap("read", &self.folder))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(wrap("read", &self.folder))?;
            // Names have no dot; the key and scratch files have one.
            names.extend(entry.file_name().into_string().ok().filter(|name| !name.contains('.')));
        }
        names.sort();
        Ok(names)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The key; made if it may be.
    fn key(&self, make: bool) -> Result<LessSafeKey, SecretError> {
        let path = self.folder.join(KEY);
        if make && !path.exists() {
            let mut bytes = Zeroizing::new([0; KEY_LEN]);
            let filled = SystemRandom::new().fill(&mut *bytes);
            filled.map_err(|_unspecified| SecretError::Random)?;
            files::put_new(&self.folder, KEY, &*bytes).map_err(wrap("make", &path))?;
        }
        let file = File::open(&path).map_err(wrap("open", &path))?;
        let metadata = file.metadata().map_err(wrap("look at", &path))?;
        let bytes = read_bounded(file, MAX_FILE).map_err(wrap("read", &path))?;
        let bytes = Zeroizing::new(bytes);
        let private = metadata.mode() & 0o077 == 0;
        let key = UnboundKey::new(&AES_256_GCM, &bytes).ok().filter(|_| private);
        key.map(LessSafeKey::new).ok_or(SecretError::Key(path))
    }
}

/// As it is sealed. Plain data: this can't fail.
fn plain(kept: &Kept) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(postcard::to_allocvec(kept).unwrap_or_default())
}

/// What a secret's file has: version, nonce, and the rest sealed together with its name.
fn seal(
    key: &LessSafeKey,
    name: &str,
    mut plain: Zeroizing<Vec<u8>>,
) -> Result<Vec<u8>, SecretError> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).map_err(|_unspecified| SecretError::Random)?;
    key.seal_in_place_append_tag(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(name.as_bytes()),
        &mut *plain,
    )
    .map_err(|_unspecified| SecretError::Sealed(name.to_owned()))?;
    Ok([[VERSION].as_slice(), &nonce, &plain].concat())
}

/// What was sealed under this name.
fn unseal(key: &LessSafeKey, name: &str, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let sealed = || SecretError::Sealed(name.to_owned());
    let rest = bytes.strip_prefix(&[VERSION]).ok_or_else(sealed)?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(sealed)?;
    let mut rest = Zeroizing::new(rest.to_vec());
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let length = key
        .open_in_place(nonce, Aad::from(name.as_bytes()), &mut rest)
        .map_err(|_unspecified| sealed())?
        .len();
    rest.truncate(length);
    Ok(rest)
}

fn wrap<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> SecretError + 'a {
    move |source| SecretError::Io { what, path: path.to_owned(), source }
}

#[cfg(test)]
#[path = "secrets_test.rs"]
mod tests;
