//! The steps of an import, each done once whatever the source is.

use std::io::{self, Read};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::{ImportError, Imported, Progress, Request};
use crate::images::archive::apply::{Applier, Notes};
use crate::images::archive::compression::{self, Compression};
use crate::images::archive::fault::{Fault, LayerError};
use crate::images::digest::{Digest, Digesting};
use crate::images::limits::MAX_BLOB_BYTES;
use crate::images::manifest::{self, Image, Layer, Manifest, ManifestError};
use crate::images::name::Name;
use crate::images::policy::Checked;
use crate::images::signature;
use crate::images::source::members::{self, Members};
use crate::images::source::{SourceError, docker, layout};
use crate::images::store::Store;
use crate::images::store::names::Record;
use crate::images::store::roots::Facts;
use crate::images::store::session::Session;

/// The kind of a source that no digest shows to be whole.
pub(in crate::images) const TARBALL: &str = "tarball";

/// Where an image comes from, and what was found out about it on the way.
pub(in crate::images) struct Origin {
    /// What kind of source.
    pub(in crate::images) kind: &'static str,
    /// What it is to be called.
    pub(in crate::images) names: Vec<String>,
    /// Whether a signature was verified.
    pub(in crate::images) signed: bool,
    /// Special files that were left out before there was a layer.
    pub(in crate::images) skipped: u64,
}

/// What all steps of one import share.
pub(in crate::images) struct Work<'a> {
    pub(in crate::images) store: &'a Store,
    pub(in crate::images) request: &'a Request,
    pub(in crate::images) progress: &'a dyn Progress,
}

impl Work<'_> {
    pub(super) fn layout(
        &self,
        mut session: Session<'_>,
        members: &Members,
    ) -> Result<Imported, ImportError> {
        let found = layout::find(members, self.request.reference.as_deref())?;
        self.check_pin(&[found.digest, found.listed])?;
        let signed = self.check_signature(found.listed, |name| {
            Ok(match layout::named(members, name)? {
                Some(bytes) => Some(signature::read(&bytes, |digest| {
                    members.read_blob(digest).map_err(ImportError::from)
                })?),
                None => None,
            })
        })?;
        let parsed = manifest::manifest(&found.bytes)?;
        let configuration = members.read_blob(parsed.config.digest)?;
        let image = manifest::image(found.digest, &parsed, &configuration)?;
        let names = self.names(found.name.as_slice())?;
        self.put_small(&mut session, &found.bytes)?;
        self.put_small(&mut session, &configuration)?;
        for (index, layer) in image.layers.iter().enumerate() {
            if session.has_blob(layer.digest) {
                continue;
            }
            let what = format!("layer {} of {}", index + 1, image.layers.len());
            self.progress.step(&format!("copying {what}"), Some(layer.size));
            let input = members.open(&members::blob_path(layer.digest))?;
            let (digest, size) = self.copy(&mut session, input, layer.size, &what)?;
            check_blob(&what, layer, digest, size)?;
        }
        self.finish(session, &image, Origin { kind: "OCI layout", names, signed, skipped: 0 })
    }

    pub(super) fn docker(
        &self,
        mut session: Session<'_>,
        members: &Members,
    ) -> Result<Imported, ImportError> {
        let found = docker::find(members, self.request.reference.as_deref())?;
        self.request.policy.check(Checked {
            signed: false,
            pinned: false,
            name: "a Docker archive",
        })?;
        let (diffs, ..) = manifest::configured(&found.configuration)?;
        if diffs.len() != found.layers.len() {
            let counts = (found.layers.len(), diffs.len());
            return Err(
                ManifestError::Counts { manifest: counts.0, configuration: counts.1 }.into()
            );
        }
        let mut layers = Vec::new();
        for (index, (member, diff)) in found.layers.iter().zip(diffs).enumerate() {
            let what = format!("layer {} of {}", index + 1, found.layers.len());
            self.progress.step(&format!("copying {what}"), None);
            let input = members.open(member)?;
            let (digest, size) = self.copy(&mut session, input, MAX_BLOB_BYTES, &what)?;
            let start = session.open_blob(digest)?;
            let packed = compression::unpack(start, &self.request.limits)
                .map_err(|error| self.unreadable(index + 1, found.layers.len(), error))?
                .compression();
            layers.push((Layer { digest, size, diff }, packed));
        }
        let names = self.names(&found.names)?;
        let origin = Origin { kind: "Docker archive", names, signed: false, skipped: 0 };
        self.assembled(session, &found.configuration, &layers, origin)
    }

    /// An image of one layer that has no configuration of its own.
    pub(super) fn bare(
        &self,
        session: Session<'_>,
        layer: Layer,
        packed: Compression,
        origin: Origin,
    ) -> Result<Imported, ImportError> {
        let configuration = json!({
            "architecture": manifest::own_architecture(),
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": [layer.diff.to_string()] },
        });
        let bytes = configuration.to_string().into_bytes();
        self.assembled(session, &bytes, &[(layer, packed)], origin)
    }

    /// Makes the manifest that a source does not have.
    fn assembled(
        &self,
        mut session: Session<'_>,
        configuration: &[u8],
        layers: &[(Layer, Compression)],
        origin: Origin,
    ) -> Result<Imported, ImportError> {
        let config = Digest::of(configuration);
        let descriptors: Vec<_> = layers
            .iter()
            .map(|(layer, packed)| {
                let ending = match packed {
                    Compression::Plain => "",
                    Compression::Gzip => "+gzip",
                    Compression::Zstd => "+zstd",
                };
                json!({
                    "mediaType": format!("application/vnd.oci.image.layer.v1.tar{ending}"),
                    "digest": layer.digest.to_string(),
                    "size": layer.size,
                })
            })
            .collect();
        let bytes = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config.to_string(),
                "size": configuration.len(),
            },
            "layers": descriptors,
        });
        let bytes = bytes.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        let parsed: Manifest = manifest::manifest(&bytes)?;
        let image = manifest::image(digest, &parsed, configuration)?;
        self.put_small(&mut session, &bytes)?;
        self.put_small(&mut session, configuration)?;
        self.finish(session, &image, origin)
    }

    /// Unpacks the layers, unless the same root is there, and publishes everything.
    pub(in crate::images) fn finish(
        &self,
        session: Session<'_>,
        image: &Image,
        origin: Origin,
    ) -> Result<Imported, ImportError> {
        let Origin { kind, names, signed, skipped } = origin;
        let facts = match self.store.facts(image.chain())? {
            Some(facts) => facts,
            None => self.unpack(&session, image, skipped, kind == TARBALL)?,
        };
        self.progress.step("publishing", None);
        let imported =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let record = Record {
            manifest: image.digest.to_string(),
            imported,
            source: kind.to_owned(),
            signed,
        };
        session.publish(&names, &record)?;
        Ok(Imported { digest: image.digest, names, facts, kind, signed })
    }

    fn unpack(
        &self,
        session: &Session<'_>,
        image: &Image,
        skipped: u64,
        needs_mark: bool,
    ) -> Result<Facts, ImportError> {
        let count = image.layers.len();
        let root = session.new_root()?;
        let Request { limits, specials, .. } = *self.request;
        let mut applier = Applier::new(root, limits, specials);
        if needs_mark {
            applier.require_mark();
        }
        for (index, layer) in image.layers.iter().enumerate() {
            let number = index + 1;
            self.progress.step(&format!("unpacking layer {number} of {count}"), Some(layer.size));
            let input =
                Watched { inner: session.open_blob(layer.digest)?, progress: self.progress };
            let unpacked = compression::unpack(input, &limits)
                .map_err(|error| self.unreadable(number, count, error))?;
            let stream = applier
                .apply(Digesting::new(unpacked))
                .map_err(|source| ImportError::Layer { number, count, source })?;
            let (_, found, _) = stream.finish();
            if found != layer.diff {
                return Err(ImportError::Diff { number, expected: layer.diff, found });
            }
        }
        let mut notes: Notes = applier.notes();
        notes.skipped_specials += skipped;
        let mut owners = Vec::new();
        let extent = applier.finish(&mut owners).map_err(|fault| ImportError::Layer {
            number: count,
            count,
            source: LayerError::new(0, b"", fault),
        })?;
        let facts = Facts::new(extent, notes);
        self.progress.step("writing to the disk", None);
        session.publish_root(image.chain(), &facts, &owners)?;
        Ok(facts)
    }

    /// Copies a stream of at most `most` bytes into a blob.
    pub(super) fn copy(
        &self,
        session: &mut Session<'_>,
        input: impl Read,
        most: u64,
        what: &str,
    ) -> Result<(Digest, u64), ImportError> {
        let input = Watched { inner: input, progress: self.progress };
        let (digest, size) =
            session.put_blob(input, most)?.map_err(SourceError::read(what.to_owned()))?;
        if size > most && most == MAX_BLOB_BYTES {
            return Err(SourceError::Size { what: what.to_owned(), most }.into());
        }
        Ok((digest, size))
    }

    pub(in crate::images) fn put_small(
        &self,
        session: &mut Session<'_>,
        bytes: &[u8],
    ) -> Result<(), ImportError> {
        let digest = Digest::of(bytes);
        if !session.has_blob(digest) {
            self.copy(session, bytes, bytes.len() as u64, "a manifest")?;
        }
        Ok(())
    }

    /// The digest after `@` in the asked name is that of the image, or of the index it came from.
    pub(in crate::images) fn check_pin(&self, found: &[Digest]) -> Result<(), ImportError> {
        let expected = self.request.name.as_ref().and_then(|name| name.digest);
        match (expected, found.first()) {
            (Some(expected), Some(first)) if !found.contains(&expected) => {
                Err(ImportError::Pinned { expected, found: *first })
            }
            _ => Ok(()),
        }
    }

    /// Verifies the signatures that are required, and asks the policy.
    pub(in crate::images) fn check_signature(
        &self,
        digest: Digest,
        fetch: impl FnOnce(&str) -> Result<Option<Vec<signature::Signed>>, ImportError>,
    ) -> Result<bool, ImportError> {
        let policy = &self.request.policy;
        let signed = !policy.required.is_empty();
        if signed {
            let found = fetch(&signature::tag(digest))?.unwrap_or_default();
            for keys in &policy.required {
                signature::verify(&found, keys, digest)?;
            }
        }
        let pinned = self.request.name.as_ref().is_some_and(|name| name.digest.is_some());
        policy.check(Checked { signed, pinned, name: "the image" })?;
        Ok(signed)
    }

    /// What the image is called: as asked, else as the source says.
    pub(in crate::images) fn names(&self, offered: &[String]) -> Result<Vec<String>, ImportError> {
        if let Some(name) = &self.request.name {
            return Ok(vec![name.key()]);
        }
        let mut keys = Vec::new();
        for text in offered.iter().filter(|text| !text.is_empty()) {
            let name: Name = text.parse().map_err(|source| ImportError::Name {
                text: crate::text::printable_line(text).chars().take(200).collect(),
                source,
            })?;
            keys.push(name.key());
        }
        if keys.is_empty() { Err(ImportError::NoName) } else { Ok(keys) }
    }

    pub(super) fn unreadable(&self, number: usize, count: usize, error: io::Error) -> ImportError {
        ImportError::Layer { number, count, source: LayerError::new(1, b"", Fault::Read(error)) }
    }
}

/// Tells the progress of what is read.
struct Watched<'a, R> {
    inner: R,
    progress: &'a dyn Progress,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.progress.advance(count as u64);
        Ok(count)
    }
}

pub(in crate::images) fn check_blob(
    what: &str,
    layer: &Layer,
    digest: Digest,
    size: u64,
) -> Result<(), SourceError> {
    if size != layer.size {
        return Err(SourceError::Length {
            what: what.to_owned(),
            expected: layer.size,
            found: size,
        });
    }
    if digest != layer.digest {
        let expected = layer.digest;
        return Err(SourceError::Digest { what: what.to_owned(), expected, found: digest });
    }
    Ok(())
}
