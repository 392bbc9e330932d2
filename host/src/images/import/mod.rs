//! The import, as a recipe: what is in the source, its blobs into the store, its layers into a root,
//! and last the name.

pub mod error;

mod work;

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use super::archive::apply::Specials;
use super::archive::compression::{self, Compression};
use super::archive::pack::{PackError, pack};
use super::digest::{Digest, Digesting};
use super::limits::{Limits, MAX_BLOB_BYTES};
use super::manifest::Layer;
use super::name::Name;
use super::policy::{Checked, Policy};
use super::source::{self, Source};
use super::store::Store;
use super::store::roots::Facts;
use super::store::session::Session;
pub use error::ImportError;
use work::TARBALL;
pub(super) use work::{Origin, Work, check_blob};

/// How hard a packed directory is compressed: zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// Told what an import is at. A library has no terminal; the command has.
pub trait Progress {
    /// A new step, and how many bytes it has, if that is known.
    fn step(&self, what: &str, bytes: Option<u64>);
    /// So many more bytes of the step are done.
    fn advance(&self, bytes: u64);
}

/// What is to be imported, and how.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// What the image is to be called; else what the source calls it.
    pub name: Option<Name>,
    /// Which image of several.
    pub reference: Option<String>,
    /// What to do with devices and the like.
    pub specials: Specials,
    /// Bounds.
    pub limits: Limits,
    /// Which images may come in.
    pub policy: Policy,
}

/// An image that was imported.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The digest of its manifest.
    pub digest: Digest,
    /// What it is called.
    pub names: Vec<String>,
    /// What its root came to.
    pub facts: Facts,
    /// What kind of source it was.
    pub kind: &'static str,
    /// Whether a signature was verified.
    pub signed: bool,
}

/// Imports what a path names, or standard input for `-`.
///
/// # Errors
/// What is wrong, and where. The store is then as it was.
pub fn import(
    store: &Store,
    session: Session<'_>,
    path: &Path,
    request: &Request,
    progress: &dyn Progress,
) -> Result<Imported, ImportError> {
    let mut session = session;
    progress.step("looking at the source", None);
    let source = if path == Path::new("-") {
        source::of_stream(io::stdin().lock(), &mut session, &request.limits)?
    } else {
        source::open(path, &mut session, &request.limits)?
    };
    let file_name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let work = Work { store, request, progress };
    match source {
        Source::Layout(members) => work.layout(session, &members),
        Source::Docker(members) => work.docker(session, &members),
        Source::Directory(directory) => {
            request.policy.check(Checked { signed: false, pinned: false, name: "a directory" })?;
            progress.step("packing the directory", None);
            let (name, file) = session.scratch_file()?;
            let encoder =
                zstd::Encoder::new(Digesting::new(&file), ZSTD_LEVEL).map_err(PackError::Write)?;
            let (packed, skipped) = pack(
                directory.as_fd(),
                Digesting::new(encoder),
                &request.limits,
                request.specials,
            )?;
            let (encoder, diff, _) = packed.finish();
            let (_, digest, size) = encoder.finish().map_err(PackError::Write)?.finish();
            session.adopt(&name, &file, digest, size)?;
            let names = work.names(&[file_stem(file_name)])?;
            let origin = Origin { kind: "directory", names, signed: false, skipped };
            work.bare(session, Layer { digest, size, diff }, Compression::Zstd, origin)
        }
        Source::Tarball(file) => {
            request.policy.check(Checked { signed: false, pinned: false, name: "a tarball" })?;
            let size = file.metadata().map(|metadata| metadata.len()).ok();
            progress.step("copying", size);
            let (digest, size) = work.copy(&mut session, &file, MAX_BLOB_BYTES, file_name)?;
            progress.step("computing its digest", None);
            let mut unpacked = Digesting::new(
                compression::unpack(session.open_blob(digest)?, &request.limits)
                    .map_err(|error| work.unreadable(1, 1, error))?,
            );
            io::copy(&mut unpacked, &mut io::sink())
                .map_err(|error| work.unreadable(1, 1, error))?;
            let (unpacked, diff, _) = unpacked.finish();
            let found = unpacked.compression();
            let names = work.names(&[file_stem(file_name)])?;
            let origin = Origin { kind: TARBALL, names, signed: false, skipped: 0 };
            work.bare(session, Layer { digest, size, diff }, found, origin)
        }
    }
}

/// A file's name without what archives are called.
fn file_stem(name: &str) -> String {
    let endings = [".gz", ".tgz", ".zst", ".tar"];
    let stem = endings.iter().fold(name, |stem, ending| stem.strip_suffix(ending).unwrap_or(stem));
    stem.to_lowercase()
}
