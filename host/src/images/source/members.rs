//! The parts of an image as files of a folder or members of an archive, found by name.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use super::SourceError;
use crate::images::archive::entry::Kind;
use crate::images::archive::fault::{Fault, LayerError};
use crate::images::archive::path::Names;
use crate::images::archive::stream::TarStream;
use crate::images::digest::Digest;
use crate::images::files;
use crate::images::limits::{MAX_JSON, MAX_MEMBERS};

/// Most links that are followed from one member to another: old archives of `docker save` have one.
const MAX_LINKS: usize = 2;

/// The parts of an image.
#[derive(Debug)]
pub struct Members(Place);

#[derive(Debug)]
enum Place {
    Folder(OwnedFd),
    Archive { file: File, members: HashMap<String, Member> },
}

/// Where a member of an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// Its content.
    Content {
        /// Where it begins in the archive.
        offset: u64,
        /// Its length.
        size: u64,
    },
    /// It is another member.
    Link(String),
}

/// What the names in an archive say.
#[derive(Debug)]
pub enum Scan {
    /// Only parts of an image.
    Image(HashMap<String, Member>),
    /// Something else.
    Tarball,
}

impl Members {
    /// Of a directory.
    #[must_use]
    pub const fn folder(directory: OwnedFd) -> Self {
        Self(Place::Folder(directory))
    }

    /// Of an uncompressed archive, with where they are in it.
    #[must_use]
    pub const fn archive(file: File, members: HashMap<String, Member>) -> Self {
        Self(Place::Archive { file, members })
    }

    /// Opens a part.
    ///
    /// # Errors
    /// It is not there, or can't be read.
    pub fn open(&self, name: &str) -> Result<Box<dyn Read + '_>, SourceError> {
        match &self.0 {
            Place::Folder(folder) => match files::open_below(folder, name) {
                Ok(file) => Ok(Box::new(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Err(SourceError::Missing(name.to_owned()))
                }
                Err(source) => Err(SourceError::Read { what: name.to_owned(), source }),
            },
            Place::Archive { file, members } => {
                let mut found = members.get(name);
                for _ in 0..MAX_LINKS {
                    if let Some(Member::Link(target)) = found {
                        found = members.get(target);
                    }
                }
                match found {
                    Some(Member::Content { offset, size }) => {
                        Ok(Box::new(Section { file, at: *offset, left: *size }))
                    }
                    _ => Err(SourceError::Missing(name.to_owned())),
                }
            }
        }
    }

    /// Reads a small part.
    ///
    /// # Errors
    /// It is not there, can't be read, or is too large.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, SourceError> {
        let input = self.open(name)?;
        files::read_bounded(input, MAX_JSON).map_err(|source| match source.kind() {
            io::ErrorKind::FileTooLarge => {
                SourceError::Size { what: name.to_owned(), most: MAX_JSON }
            }
            _ => SourceError::Read { what: name.to_owned(), source },
        })
    }

    /// Reads a small blob of a layout, and checks that it is what its digest says.
    ///
    /// # Errors
    /// As [`Self::read`], or it is another one.
    pub fn read_blob(&self, digest: Digest) -> Result<Vec<u8>, SourceError> {
        let name = blob_path(digest);
        let bytes = self.read(&name)?;
        let found = Digest::of(&bytes);
        if found == digest {
            return Ok(bytes);
        }
        Err(SourceError::Digest { what: name, expected: digest, found })
    }
}

/// Where a layout keeps a blob.
#[must_use]
pub fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Looks through an archive for the parts of an image; ends at the first name that is none.
///
/// # Errors
/// The archive is damaged or has too many members.
pub fn scan(input: &mut impl Read, shown: &str) -> Result<Scan, SourceError> {
    let wrong = |source| SourceError::Archive { what: shown.to_owned(), source };
    let mut stream = TarStream::new(input);
    let mut members = HashMap::new();
    let mut number = 0;
    loop {
        number += 1;
        let entry = match stream.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err((path, fault)) => return Err(wrong(LayerError::new(number, &path, fault))),
        };
        let Some(name) = member_name(&entry.path) else { return Ok(Scan::Tarball) };
        if members.len() >= MAX_MEMBERS {
            return Err(SourceError::Members);
        }
        let member = match entry.kind {
            Kind::Directory => continue,
            Kind::File if entry.pieces.is_none() => {
                Member::Content { offset: stream.position(), size: entry.size }
            }
            Kind::Symlink => match relative(&name, &entry.link) {
                Some(target) => Member::Link(target),
                None => return Err(wrong(LayerError::new(number, &entry.path, Fault::Parent))),
            },
            Kind::HardLink => match member_name(&entry.link) {
                Some(target) => Member::Link(target),
                None => return Err(wrong(LayerError::new(number, &entry.path, Fault::Parent))),
            },
            Kind::File | Kind::Special(_) => return Ok(Scan::Tarball),
        };
        if members.insert(name.clone(), member).is_some() {
            return Err(SourceError::Twice(name));
        }
    }
    Ok(if members.is_empty() { Scan::Tarball } else { Scan::Image(members) })
}

/// The name of a part of an image, or nothing if no such part is called so.
fn member_name(path: &[u8]) -> Option<String> {
    let names = Names::parse(path).ok()?;
    let names: Vec<&str> =
        names.all().iter().map(|name| std::str::from_utf8(name).ok()).collect::<Option<_>>()?;
    let first = names.first()?;
    let digits =
        first.strip_suffix(".tar").or_else(|| first.strip_suffix(".json")).unwrap_or(first);
    let by_digest = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let known =
        ["blobs", "oci-layout", "index.json", "manifest.json", "repositories"].contains(first);
    (by_digest || known).then(|| names.join("/"))
}

/// The member that a symbolic link names, seen from the member that it is.
fn relative(link: &str, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok().filter(|target| !target.starts_with('/'))?;
    let mut names: Vec<&str> = link.split('/').collect();
    names.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                names.pop()?;
            }
            part => names.push(part),
        }
    }
    Some(names.join("/"))
}

/// A part of a file.
struct Section<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(part) = buffer.get_mut(..most).filter(|part| !part.is_empty()) else {
            return Ok(0);
        };
        let count = self.file.read_at(part, self.at)?;
        self.at = self.at.saturating_add(count as u64);
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_of_images_are_members() {
        let hex = "0123456789abcdef".repeat(4);
        for name in
            ["oci-layout", "./index.json", "blobs/sha256/x", &hex, &format!("{hex}/layer.tar")]
        {
            assert!(member_name(name.as_bytes()).is_some(), "{name}");
        }
        for name in ["etc/passwd", "../oci-layout", "/oci-layout", "bin", ""] {
            assert!(member_name(name.as_bytes()).is_none(), "{name}");
        }
    }

    #[test]
    fn links_lead_to_members() {
        assert_eq!(relative("a/layer.tar", b"../b/layer.tar").as_deref(), Some("b/layer.tar"));
        assert_eq!(relative("a/layer.tar", b"../../etc/passwd"), None);
        assert_eq!(relative("a", b"/etc/passwd"), None);
    }
}
