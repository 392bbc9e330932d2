//! What can be imported: image layouts, image archives, directories and tarballs, told from what is
//! in them, not from how they are called.

pub mod members;

pub mod layout;

pub mod docker;

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, Mode, OFlags};

use super::archive::compression::{self, Compression};
use super::archive::fault::LayerError;
use super::digest::Digest;
use super::limits::{Limits, MAX_BLOB_BYTES};
use super::manifest::ManifestError;
use super::store::StoreError;
use super::store::session::Session;
use members::{Members, Scan};

/// What a path turned out to be.
#[derive(Debug)]
pub enum Source {
    /// An OCI image layout, as a directory or an archive.
    Layout(Members),
    /// An archive of `docker save`.
    Docker(Members),
    /// A root directory.
    Directory(OwnedFd),
    /// The archive of a root, packed or not.
    Tarball(File),
}

/// Why a source can't be imported.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It can't be read.
    #[error("can't read {what}")]
    Read {
        /// What.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Neither a file nor a directory.
    #[error("{} is neither a file nor a directory", .0.display())]
    Kind(PathBuf),
    /// The file is no archive.
    #[error("{what} is no archive of an image or of a root")]
    Archive {
        /// What was looked at.
        what: String,
        /// The entry that is wrong.
        #[source]
        source: LayerError,
    },
    /// A part that should be there is not.
    #[error("the image has no {0:?} in it")]
    Missing(String),
    /// A part is too large.
    #[error("{what} is larger than {most} bytes")]
    Size {
        /// What.
        what: String,
        /// The bound.
        most: u64,
    },
    /// A part is not what its name promises.
    #[error("{what} has the digest {found}, not {expected}: it is damaged or was changed")]
    Digest {
        /// What.
        what: String,
        /// What it should have.
        expected: Digest,
        /// What it has.
        found: Digest,
    },
    /// A part has another size than its descriptor says.
    #[error("{what} has {found} bytes, not {expected}: it is cut short or was changed")]
    Length {
        /// What.
        what: String,
        /// What it should have.
        expected: u64,
        /// What it has, or one more than it should.
        found: u64,
    },
    /// Several images are in it.
    #[error("there are several images in it: {0}")]
    Several(String),
    /// None is called so.
    #[error("there is no image {wanted:?} in it, only {there}")]
    NoSuch {
        /// What was asked for.
        wanted: String,
        /// What there is.
        there: String,
    },
    /// A list of Docker's that is wrong.
    #[error("its manifest.json is not that of `docker save`")]
    DockerList(#[source] serde_json::Error),
    /// Members of an archive that are out of bounds.
    #[error("the archive has more than {} members", super::limits::MAX_MEMBERS)]
    Members,
    /// Two members of one name.
    #[error("the archive has the member {0:?} twice")]
    Twice(String),
    /// A layout of another version.
    #[error("the layout's version is {0:?}; only 1.0.0 is read")]
    LayoutVersion(String),
    /// Indexes within indexes.
    #[error("its indexes are nested too deeply")]
    Nesting,
    /// A manifest or configuration of it.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SourceError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Read { .. } => "check the path and its permissions",
            Self::Kind(_) => "name an image layout, an archive, or a root directory",
            Self::Archive { source, .. } => source.fault.remedy(),
            Self::Missing(_) | Self::Digest { .. } | Self::Length { .. } | Self::Twice(_) => {
                "make, copy or fetch the image again"
            }
            Self::Several(_) | Self::NoSuch { .. } => "choose one with --ref",
            Self::DockerList(_) | Self::LayoutVersion(_) | Self::Nesting => {
                "make it again with a current tool: `skopeo copy` writes oci, oci-archive and docker-archive"
            }
            Self::Size { .. } | Self::Members => {
                "make it smaller: these limits keep one image from using up the host"
            }
            Self::Manifest(error) => error.remedy(),
            Self::Store(error) => error.remedy(),
        }
    }

    pub(super) fn read(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Read { what, source }
    }
}

/// Opens what a path names and tells what it is. Nothing of it is trusted.
///
/// # Errors
/// It can't be read, or is nothing that can be imported.
pub fn open(
    path: &Path,
    session: &mut Session<'_>,
    limits: &Limits,
) -> Result<Source, SourceError> {
    let shown = path.display().to_string();
    let read = |error: io::Error| SourceError::Read { what: shown.clone(), source: error };
    // Asked before opening: opening a FIFO would wait for its writer.
    let metadata = path.metadata().map_err(read)?;
    if metadata.is_dir() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            sys::open(path, flags, Mode::empty()).map_err(|error| read(error.into()))?;
        let has = |name: &str| super::files::open_below(&directory, name).is_ok();
        return Ok(if has("oci-layout") && has("index.json") {
            Source::Layout(Members::folder(directory))
        } else {
            Source::Directory(directory)
        });
    }
    if !metadata.is_file() {
        return Err(SourceError::Kind(path.to_owned()));
    }
    of_file(File::open(path).map_err(read)?, &shown, session, limits)
}

/// Copies a stream, as of standard input, and tells what it is.
///
/// # Errors
/// It can't be read, is too large, or is nothing that can be imported.
pub fn of_stream(
    input: impl io::Read,
    session: &mut Session<'_>,
    limits: &Limits,
) -> Result<Source, SourceError> {
    let what = "standard input";
    let (_, mut file) = session.scratch_file()?;
    let copied = io::copy(&mut input.take(MAX_BLOB_BYTES + 1), &mut file)
        .map_err(SourceError::read(what))?;
    if copied > MAX_BLOB_BYTES {
        return Err(SourceError::Size { what: what.to_owned(), most: MAX_BLOB_BYTES });
    }
    rewind(&mut file, what)?;
    of_file(file, what, session, limits)
}

fn of_file(
    mut file: File,
    shown: &str,
    session: &mut Session<'_>,
    limits: &Limits,
) -> Result<Source, SourceError> {
    let wrong = |source| SourceError::Archive { what: shown.to_owned(), source };
    let (scan, compression) = {
        let mut unpacked = compression::unpack(&file, limits).map_err(|error| {
            wrong(LayerError::new(1, b"", super::archive::fault::Fault::Read(error)))
        })?;
        let found = unpacked.compression();
        (members::scan(&mut unpacked, shown)?, found)
    };
    rewind(&mut file, shown)?;
    let Scan::Image(mut found) = scan else { return Ok(Source::Tarball(file)) };
    if compression != Compression::Plain {
        // Members are read in another order than they lie in: that needs them unpacked.
        let (_, mut plain) = session.scratch_file()?;
        let mut unpacked = compression::unpack(&file, limits).map_err(SourceError::read(shown))?;
        io::copy(&mut unpacked, &mut plain).map_err(SourceError::read(shown))?;
        drop(unpacked);
        rewind(&mut plain, shown)?;
        match members::scan(&mut &plain, shown)? {
            Scan::Image(again) => found = again,
            Scan::Tarball => return Err(SourceError::Missing("oci-layout".to_owned())),
        }
        file = plain;
    }
    Ok(if found.contains_key("oci-layout") && found.contains_key("index.json") {
        Source::Layout(Members::archive(file, found))
    } else if found.contains_key("manifest.json") {
        Source::Docker(Members::archive(file, found))
    } else {
        Source::Tarball(file)
    })
}

fn rewind(file: &mut File, what: &str) -> Result<(), SourceError> {
    file.seek(SeekFrom::Start(0)).map(|_| ()).map_err(SourceError::read(what))
}
