//! Names of entries: from the bytes of an archive to names that can't leave the root.

use super::fault::Fault;
use crate::images::limits::{MAX_DEPTH, MAX_NAME, MAX_PATH};

/// Marks a whiteout: what follows is removed from the layers below (OCI image specification,
/// "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// Marks a directory whose content in the layers below is removed.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that AUFS kept for itself; archives of its time have them.
const AUFS: &[u8] = b".wh..wh.";

/// The names of a path below the root, in order; none is empty, `.` or `..`, or has a `/` or NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Vec<Vec<u8>>);

impl Names {
    /// Takes a path of an archive apart. `.` and double slashes are left out; the root is no names.
    ///
    /// # Errors
    /// It is absolute, has `..` or NUL in it, or is too long.
    pub fn parse(path: &[u8]) -> Result<Self, Fault> {
        if path.is_empty() {
            return Err(Fault::Empty);
        }
        if path.len() > MAX_PATH {
            return Err(Fault::Length);
        }
        if path.starts_with(b"/") {
            return Err(Fault::Absolute);
        }
        if path.contains(&0) {
            return Err(Fault::Nul);
        }
        let mut names = Vec::new();
        for name in path.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return Err(Fault::Parent),
                _ if name.len() > MAX_NAME || names.len() == MAX_DEPTH => {
                    return Err(Fault::Length);
                }
                _ => names.push(name.to_vec()),
            }
        }
        Ok(Self(names))
    }

    /// The directory's names and the last one; nothing for the root.
    #[must_use]
    pub fn split(&self) -> Option<(&[Vec<u8>], &[u8])> {
        self.0.split_last().map(|(last, before)| (before, last.as_slice()))
    }

    /// All names.
    #[must_use]
    pub fn all(&self) -> &[Vec<u8>] {
        &self.0
    }
}

/// What the last name of an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// An entry like any other.
    Plain,
    /// Removes this name from the layers below.
    Remove(&'a [u8]),
    /// Removes everything in the directory from the layers below.
    Opaque,
    /// Nothing to anybody now.
    Ignored,
}

/// Reads the last name of an entry.
///
/// # Errors
/// A whiteout of nothing, of `.` or of `..`.
pub fn meaning(name: &[u8]) -> Result<Meaning<'_>, Fault> {
    let Some(removed) = name.strip_prefix(WHITEOUT) else { return Ok(Meaning::Plain) };
    if name == OPAQUE {
        return Ok(Meaning::Opaque);
    }
    if name.starts_with(AUFS) {
        return Ok(Meaning::Ignored);
    }
    match removed {
        b"" | b"." | b".." => Err(Fault::Whiteout),
        _ => Ok(Meaning::Remove(removed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
        Names::parse(path).map(|names| names.0)
    }

    #[test]
    fn paths_are_taken_apart() {
        assert_eq!(names(b"./a//b/./c/").unwrap(), [b"a", b"b", b"c"]);
        assert!(names(b"./").unwrap().is_empty());
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in [&b".."[..], b"../a", b"a/..", b"a/../../b", b"./..", b"a/b/.."] {
            assert!(matches!(names(path), Err(Fault::Parent)), "{path:?}");
        }
        assert!(matches!(names(b"/etc"), Err(Fault::Absolute)));
        assert!(matches!(names(b""), Err(Fault::Empty)));
        assert!(matches!(names(b"a\0b"), Err(Fault::Nul)));
        assert!(matches!(names(&[b'a'; 256]), Err(Fault::Length)));
        assert!(matches!(names(&b"a/".repeat(300)), Err(Fault::Length)));
        assert!(matches!(names(&b"a/".repeat(3000)), Err(Fault::Length)));
    }

    #[test]
    fn whiteouts_are_understood() {
        assert_eq!(meaning(b"a").unwrap(), Meaning::Plain);
        assert_eq!(meaning(b".wh.a").unwrap(), Meaning::Remove(b"a"));
        assert_eq!(meaning(b".wh..wh..opq").unwrap(), Meaning::Opaque);
        assert_eq!(meaning(b".wh..wh.plnk").unwrap(), Meaning::Ignored);
        for name in [&b".wh."[..], b".wh..", b".wh..."] {
            assert!(matches!(meaning(name), Err(Fault::Whiteout)), "{name:?}");
        }
    }
}
