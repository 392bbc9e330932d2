//! Which images may come in: what the operator's file says, and what this command was asked.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::signature::{Key, SignatureError};
use crate::operator::{self, FileError};

/// The operator's file. No variable names another: a user could name one that allows more.
pub const OPERATORS_FILE: &str = "/etc/cloister/images.toml";

/// What an image must be to come in.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Sets of keys; the image must be signed by one of each.
    pub required: Vec<Vec<Key>>,
    /// Whether it must be asked for by its digest.
    pub require_digest: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct PolicyFile {
    #[serde(default)]
    require_signature: bool,
    #[serde(default)]
    require_digest: bool,
    #[serde(default)]
    keys: Vec<PathBuf>,
}

/// What is known of an image that wants to come in.
#[derive(Clone, Copy, Debug)]
pub struct Checked<'a> {
    /// Whether a key of each set has signed it.
    pub signed: bool,
    /// Whether it was asked for by its digest.
    pub pinned: bool,
    /// What it is called in a message.
    pub name: &'a str,
}

/// Why the policy refuses, or can't be read.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file is not to be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Signatures are asked for, and no key is named.
    #[error("the operator's policy {} asks for signatures and names no key", .0.display())]
    NoKeys(PathBuf),
    /// A key of the file.
    #[error("a key that the operator's policy names")]
    Key(#[source] SignatureError),
    /// It is not signed.
    #[error("only signed images may come in, and {0} is not")]
    Unsigned(String),
    /// It was not asked for by its digest.
    #[error("only images that are asked for by digest may come in, and {0} is not")]
    Unpinned(String),
}

impl PolicyError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::File(error) => error.remedy(),
            Self::NoKeys(_) | Self::Key(_) => {
                "nothing is imported until root has put the file in order or removed it"
            }
            Self::Unsigned(_) => {
                "use an image with a signature beside it: pull it, or copy both into one OCI layout"
            }
            Self::Unpinned(_) => "write the name with its digest: NAME@sha256:…",
        }
    }
}

impl Policy {
    /// Reads the operator's file; without one everything may come in.
    ///
    /// # Errors
    /// It can't be read or trusted: then nothing may come in.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let Some(parsed) = operator::load::<PolicyFile>(path)? else { return Ok(Self::default()) };
        let mut required = Vec::new();
        if parsed.require_signature {
            if parsed.keys.is_empty() {
                return Err(PolicyError::NoKeys(path.to_owned()));
            }
            let keys = parsed.keys.iter().map(|key| Key::load(key)).collect::<Result<_, _>>();
            required.push(keys.map_err(PolicyError::Key)?);
        }
        Ok(Self { required, require_digest: parsed.require_digest })
    }

    /// Whether an image may come in.
    ///
    /// # Errors
    /// It may not.
    pub fn check(&self, image: Checked<'_>) -> Result<(), PolicyError> {
        if !self.required.is_empty() && !image.signed {
            return Err(PolicyError::Unsigned(image.name.to_owned()));
        }
        if self.require_digest && !image.pinned {
            return Err(PolicyError::Unpinned(image.name.to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[test]
    fn without_a_file_everything_may_come_in() {
        let policy = Policy::load(Path::new("/nonexistent/images.toml")).unwrap();
        assert!(policy.check(Checked { signed: false, pinned: false, name: "it" }).is_ok());
    }

    #[test]
    fn what_is_not_pinned_is_refused_when_asked_for() {
        let policy = Policy { require_digest: true, ..Policy::default() };
        let check = |pinned| policy.check(Checked { signed: false, pinned, name: "it" });
        assert!(check(true).is_ok());
        assert!(matches!(check(false), Err(PolicyError::Unpinned(_))));
    }

    #[test]
    fn a_file_with_a_mistake_lets_nothing_in() {
        if !rustix::process::geteuid().is_root() {
            // Any file of this user is one that others than root can write.
            return;
        }
        let (_folder, path) = file("require-digset = true", 0o644);
        assert!(matches!(Policy::load(&path), Err(PolicyError::File(FileError::Parse { .. }))));
        let (_folder, path) = file("require-signature = true", 0o644);
        assert!(matches!(Policy::load(&path), Err(PolicyError::NoKeys(_))));
        let (_folder, path) = file("require-digest = true", 0o644);
        assert!(Policy::load(&path).unwrap().require_digest);
    }
}
