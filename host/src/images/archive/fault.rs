//! What can be wrong with a layer or one of its entries, in words that say what to do.

use std::io;

use super::compression::Overrun;
use crate::images::limits::{
    MAX_DEPTH, MAX_EXTENSION, MAX_NAME, MAX_PATH, MAX_PIECES, MAX_XATTR_VALUE, MAX_XATTRS,
};
use crate::text::printable_line;

/// Most characters of an entry's name in a message.
const MAX_SHOWN: usize = 200;

/// Why a layer can't be unpacked: the entry, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("entry {number} ({shown})")]
pub struct LayerError {
    /// Which entry of the layer, from 1; the one that was looked for, if there is none.
    pub number: u64,
    /// Its name, fit for a terminal.
    pub shown: String,
    /// What is wrong.
    #[source]
    pub fault: Fault,
}

impl LayerError {
    /// For the entry called `path`.
    #[must_use]
    pub fn new(number: u64, path: &[u8], fault: Fault) -> Self {
        let shown = if path.is_empty() {
            "its header".to_owned()
        } else {
            let text = printable_line(&String::from_utf8_lossy(path));
            let mut short: String = text.chars().take(MAX_SHOWN).collect();
            if short.len() < text.len() {
                short.push('…');
            }
            format!("{short:?}")
        };
        Self { number, shown, fault }
    }
}

/// What is wrong with an entry.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The stream can't be read, or a bound of unpacking was reached.
    #[error("the archive can't be read")]
    Read(#[source] io::Error),
    /// The archive ends too early.
    #[error("the archive is cut short")]
    Truncated,
    /// A header whose checksum is wrong.
    #[error("the header's checksum is wrong: this is no tar archive, or a damaged one")]
    Checksum,
    /// A number of a header is none.
    #[error("the header's field {0:?} is not a number in its range")]
    Number(&'static str),
    /// An extended header that can't be understood.
    #[error("the extended header is damaged")]
    Extension,
    /// An extended header that is too large.
    #[error("the extended header is larger than {MAX_EXTENSION} bytes")]
    ExtensionSize,
    /// A global extended header that would change all entries.
    #[error("a global header sets {0:?} for all entries after it")]
    Global(String),
    /// A map of a sparse file that makes no sense.
    #[error("the map of the sparse file makes no sense, or has more than {MAX_PIECES} pieces")]
    Sparse,
    /// A type of entry that is not known.
    #[error("an entry of the unknown type {0:?}")]
    Type(char),
    /// An absolute path.
    #[error("the path is absolute")]
    Absolute,
    /// A path with `..`.
    #[error("the path leaves the root by \"..\"")]
    Parent,
    /// A path with a NUL byte.
    #[error("the path has a NUL byte in it")]
    Nul,
    /// No path where one is needed.
    #[error("the path is empty")]
    Empty,
    /// A path that is too long.
    #[error(
        "the path has more than {MAX_PATH} bytes, {MAX_DEPTH} names, or {MAX_NAME} bytes in a name"
    )]
    Length,
    /// A path through a symbolic link.
    #[error("the path leads through a symbolic link or a file")]
    Through,
    /// The root itself is no directory.
    #[error("the root itself can only be a directory")]
    Root,
    /// A hard link to what is not there, to a directory or to itself.
    #[error("the hard link's target {0} is no file that came before it")]
    HardLink(String),
    /// A whiteout without a name to remove.
    #[error("the whiteout names nothing that could be removed")]
    Whiteout,
    /// A device, a FIFO or a socket.
    #[error("it is {0}")]
    Special(&'static str),
    /// An owner that no user namespace can map.
    #[error("the owner {uid}:{gid} is out of range")]
    Owner {
        /// The user id.
        uid: u64,
        /// The group id.
        gid: u64,
    },
    /// Too many entries.
    #[error("the image has more than {0} entries")]
    Entries(u64),
    /// Too many bytes.
    #[error("the image's files have more than {0} bytes together")]
    Bytes(u64),
    /// Whiteouts that cost too much.
    #[error("the layer's whiteouts look at the same files again and again")]
    Whiteouts,
    /// Too many or too large attributes.
    #[error(
        "more than {MAX_XATTRS} extended attributes, or one of more than {MAX_XATTR_VALUE} bytes"
    )]
    Xattrs,
    /// The store's file system refused it.
    #[error("can't {what} in the store")]
    Store {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Fault {
    /// For [`Result::map_err`]: the store's file system refused `what`.
    pub(crate) fn store<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Store { what, source: source.into() }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Read(error) => match Overrun::of(error) {
                Some(Overrun::Compression(_)) => {
                    "repack it with gzip or zstd, or without compression"
                }
                Some(_) => "nothing, if the image is not yours: it may be made to fill disks",
                None => "make or fetch the image again: it is damaged",
            },
            Self::Truncated | Self::Checksum | Self::Extension | Self::Number(_) | Self::Sparse => {
                "make or fetch the image again; if it was made so, repack it with GNU tar"
            }
            Self::Absolute | Self::Parent | Self::Nul | Self::Empty => {
                "repack it with paths relative to the image's root, as `tar -C ROOT -c .` does; \
                 distrust an image that is not yours"
            }
            Self::Through => {
                "repack it with the real path, or as one layer; distrust an image that is not yours"
            }
            Self::HardLink(_) => {
                "repack it so that the file comes before its links and is in the image"
            }
            Self::Whiteout | Self::Root | Self::Type(_) | Self::Global(_) => {
                "repack it with GNU tar, or build the image again with a current tool"
            }
            Self::Special(_) => {
                "leave such files out of the image (an agent gets its own /dev), or import it with \
                 --skip-special, which does"
            }
            Self::Owner { .. } => "give the file an owner and a group from 0 to 4294967294",
            Self::Entries(_)
            | Self::Bytes(_)
            | Self::Length
            | Self::ExtensionSize
            | Self::Xattrs
            | Self::Whiteouts => {
                "make the image smaller: these limits keep one image from using up the host"
            }
            Self::Store { source, .. } if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                "choose a store (--store) on a file system with user attributes: ext4, xfs or btrfs"
            }
            Self::Store { .. } => "check the space and the permissions of the store's file system",
        }
    }
}
