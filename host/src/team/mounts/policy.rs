//! Which files of the host a team may see: what the operator's file says, or what holds without one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::person::{Guarded, Person, is_private_name};
use crate::operator::{self, FileError};
use crate::team::limits::MAX_PLACES;

/// The operator's file. No variable names another: a user could name one that allows more.
pub const OPERATORS_FILE: &str = "/etc/cloister/mounts.toml";

/// Where sources of mounts may lie.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Policy {
    /// Directories and files of the operator's choice.
    #[serde(default)]
    pub allow: Vec<Allowed>,
    /// What is not shared whatever allows it.
    #[serde(default)]
    pub deny: Vec<PathBuf>,
    /// Whether what is below the user's own home may be shared.
    #[serde(default)]
    pub own_home: bool,
    /// Whether what is below the team file's directory may be shared.
    #[serde(default)]
    pub team_directory: bool,
}

/// A place of the operator's choice.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// The directory or file, absolute.
    pub path: PathBuf,
    /// Whether it may be shared writable.
    #[serde(default)]
    pub writable: bool,
}

/// What let a source be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grant {
    /// It is below the team file's directory.
    TeamDirectory,
    /// It is below the user's own home.
    OwnHome,
    /// The operator's list.
    Operator,
}

/// Why the operator's file is not used. Nothing is shared then.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It is not to be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A path in it is relative, or there are too many.
    #[error("the operator's list of mounts {} must have absolute paths, at most {MAX_PLACES}", .0.display())]
    Paths(PathBuf),
}

impl PolicyError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::File(error) => error.remedy(),
            Self::Paths(_) => {
                "no team can be started until root has put the file in order or removed it"
            }
        }
    }
}

/// Why something is not shared: what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is in the way.
    pub what: String,
    /// What to do about it.
    pub remedy: &'static str,
}

impl Default for Policy {
    /// What holds without the operator's file.
    fn default() -> Self {
        Self { allow: Vec::new(), deny: Vec::new(), own_home: true, team_directory: true }
    }
}

impl Policy {
    /// Reads the operator's file; what holds without one if there is none.
    ///
    /// # Errors
    /// It can't be read or trusted: then nothing may be shared.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        operator::load::<Self>(path)?
            .map_or_else(|| Ok(Self::default()), |policy| policy.checked(path))
    }

    fn checked(self, path: &Path) -> Result<Self, PolicyError> {
        let mut paths = self.allow.iter().map(|allowed| &allowed.path).chain(&self.deny);
        let count = self.allow.len() + self.deny.len();
        if count > MAX_PLACES || !paths.all(|path| path.is_absolute()) {
            return Err(PolicyError::Paths(path.to_owned()));
        }
        Ok(self)
    }

    /// Whether what is at a real path may be shared, and what allows it. `team` is the real path of the
    /// team file's directory.
    ///
    /// # Errors
    /// It may not be shared.
    pub fn check(
        &self,
        person: &Person,
        team: &Path,
        path: &Path,
        writable: bool,
    ) -> Result<Grant, Refusal> {
        const ELSEWHERE: &str = "share a directory that has none of this in it";
        let refuse = |what: String, remedy| Err(Refusal { what, remedy });
        if is_private_name(path) {
            return refuse(shown(path, "is where keys and credentials are kept"), ELSEWHERE);
        }
        for denied in &self.deny {
            if path.starts_with(denied) || denied.starts_with(path) {
                return refuse(
                    shown(path, "is or contains what the operator keeps back"),
                    ELSEWHERE,
                );
            }
        }
        let of_operator = self.operators(path);
        for guarded in &person.guarded {
            let lifted = guarded.operator_may_allow
                && of_operator.is_some_and(|allowed| allowed.path.starts_with(&guarded.path));
            if path.starts_with(&guarded.path) && !lifted {
                let below = format!("is in {}, {}", guarded.path.display(), guarded.what);
                return refuse(shown(path, &below), ELSEWHERE);
            }
            if guarded.path.starts_with(path) && path != guarded.path {
                let above = format!("contains {}, {}", guarded.path.display(), guarded.what);
                return refuse(shown(path, &above), ELSEWHERE);
            }
        }
        if let Some(allowed) = of_operator {
            if writable && !allowed.writable {
                let what = shown(path, "may be shared read-only, by the operator's list");
                return refuse(what, "take writable = true out, or ask the operator");
            }
            return Ok(Grant::Operator);
        }
        if person.in_another_home(path) {
            return refuse(shown(path, "is in another user's home"), ELSEWHERE);
        }
        if self.team_directory && path.starts_with(team) && !person.is_wide(team) {
            return Ok(Grant::TeamDirectory);
        }
        if self.own_home && person.home.as_ref().is_some_and(|home| path.starts_with(home)) {
            return Ok(Grant::OwnHome);
        }
        refuse(
            shown(path, "is in no place that may be shared"),
            "share what is below the team file's directory or your home, or ask the operator to list it in /etc/cloister/mounts.toml",
        )
    }

    /// The nearest entry of the operator's list.
    fn operators(&self, path: &Path) -> Option<&Allowed> {
        let above = self.allow.iter().filter(|allowed| path.starts_with(&allowed.path));
        above.max_by_key(|allowed| allowed.path.components().count())
    }
}

impl Person {
    /// Whether a directory holds the host's own things or other people's homes: a team file in `/` or
    /// `/home` does not open all of it.
    fn is_wide(&self, directory: &Path) -> bool {
        let holds =
            |guarded: &Guarded| guarded.operator_may_allow && guarded.path.starts_with(directory);
        directory == Path::new("/home") || self.guarded.iter().any(holds)
    }
}

fn shown(path: &Path, what: &str) -> String {
    format!("{} {what}", crate::team::source::shown(&path.to_string_lossy()))
}

#[cfg(test)]
#[path = "policy_test.rs"]
mod tests;
