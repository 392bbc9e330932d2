//! Names of images: `[HOST[:PORT]/]PATH[:TAG][@sha256:DIGEST]`, as registries write them.

use std::fmt;
use std::str::FromStr;

use super::digest::{Digest, DigestError};

/// Longest name without tag and digest (the distribution specification's own bound).
const MAX_REPOSITORY: usize = 255;
/// Longest tag (the same).
const MAX_TAG: usize = 128;
/// The tag that is meant when none is written.
const USUAL_TAG: &str = "latest";

/// A name that is in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Host and path, or a path alone.
    pub repository: String,
    /// The tag, if one was written.
    pub tag: Option<String>,
    /// The digest that the image must have, if one was written.
    pub digest: Option<Digest>,
}

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The part before tag and digest.
    #[error(
        "write the image's name like team/agent or host:5000/team/agent: lower-case letters, digits, single dots, dashes and underscores between slashes"
    )]
    Repository,
    /// The tag.
    #[error("write the tag with at most {MAX_TAG} letters, digits, dots, dashes and underscores")]
    Tag,
    /// The digest.
    #[error("the part after @ is {0}")]
    Digest(#[from] DigestError),
}

impl Name {
    /// What it is called in the store: with its tag, or with its digest if it has that alone.
    #[must_use]
    pub fn key(&self) -> String {
        match (&self.tag, self.digest) {
            (None, Some(digest)) => format!("{}@{digest}", self.repository),
            (tag, _) => {
                format!("{}:{}", self.repository, tag.as_deref().unwrap_or(USUAL_TAG))
            }
        }
    }

    /// The registry's host and the path there. The first part of a name is a host if it has a dot or
    /// a colon in it, or is `localhost`.
    #[must_use]
    pub fn registry(&self) -> Option<(&str, &str)> {
        let (host, path) = self.repository.split_once('/')?;
        let is_host = host.contains(['.', ':']) || host == "localhost";
        is_host.then_some((host, path))
    }

    /// The tag, or the usual one.
    #[must_use]
    pub fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or(USUAL_TAG)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon before a slash belongs to a port.
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (rest, None),
        };
        if !is_repository(repository) {
            return Err(NameError::Repository);
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(NameError::Tag);
        }
        Ok(Self { repository: repository.to_owned(), tag: tag.map(str::to_owned), digest })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

fn is_repository(text: &str) -> bool {
    if text.len() > MAX_REPOSITORY {
        return false;
    }
    text.split('/').enumerate().all(|(index, part)| {
        // Only the first part can be a host with a port.
        let (part, port) = match part.split_once(':') {
            Some((host, port)) if index == 0 && text.contains('/') => (host, Some(port)),
            _ => (part, None),
        };
        let port_is_good = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        port_is_good && is_part(part)
    })
}

fn is_part(part: &str) -> bool {
    let inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let bytes = part.as_bytes();
    let ends = bytes.first().is_some_and(|byte| inner(*byte))
        && bytes.last().is_some_and(|byte| inner(*byte));
    ends && !part.contains("..")
        && bytes.iter().all(|byte| inner(*byte) || matches!(byte, b'.' | b'-' | b'_'))
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_taken_apart() {
        let full = name(&format!("localhost:5000/team/agent:1.0@{}", Digest::of(b"")));
        assert_eq!(full.registry(), Some(("localhost:5000", "team/agent")));
        assert_eq!((full.tag(), full.digest), ("1.0", Some(Digest::of(b""))));
        assert_eq!(full.key(), "localhost:5000/team/agent:1.0");
        assert_eq!(name("agent").key(), "agent:latest");
        assert_eq!(name("team/agent").registry(), None);
        let pinned = format!("agent@{}", Digest::of(b""));
        assert_eq!(name(&pinned).key(), pinned);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in
            ["", "/a", "a/", "a//b", "A", "../a", "a/..", "a b", "a:b:c/d", "-a", "host:0/a", "ü"]
        {
            assert_eq!(text.parse::<Name>(), Err(NameError::Repository), "{text}");
        }
        for text in ["a:", "a:-b", "a:b c"] {
            assert_eq!(text.parse::<Name>(), Err(NameError::Tag), "{text}");
        }
        assert!(matches!("a@sha256:12".parse::<Name>(), Err(NameError::Digest(_))));
        assert!("a".repeat(256).parse::<Name>().is_err());
    }
}
