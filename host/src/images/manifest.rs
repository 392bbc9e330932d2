//! Manifests, indexes and configurations: parsed by `oci-spec`, then checked.

use oci_spec::image::{
    Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os,
};
use serde::Serialize;

use super::digest::{Digest, DigestError};
use super::limits::{MAX_BLOB_BYTES, MAX_INDEX, MAX_JSON, MAX_LAYERS};
use super::store::{Store, StoreError};
use crate::text::printable_line;

/// The layers that Docker's own manifests name, beside OCI's.
const DOCKER_LAYERS: [&str; 2] = [
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar",
];
/// Manifests and indexes of either family.
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What is asked of a registry.
pub const ACCEPTED: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX];

/// What is wrong with a manifest, an index or a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not the JSON that it should be.
    #[error("the {what} is not what it should be")]
    Json {
        /// Which of them.
        what: &'static str,
        /// Where, and why.
        #[source]
        source: serde_json::Error,
    },
    /// It is too large.
    #[error("the {what} has {size} bytes; at most {most} are taken")]
    Size {
        /// Which of them, or a layer.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The bound.
        most: u64,
    },
    /// Another version of the form.
    #[error("the {what} has the form {version}; only 2 is read")]
    Version {
        /// Which of them.
        what: &'static str,
        /// Its version.
        version: u32,
    },
    /// A digest that is none.
    #[error("the {what} has {text:?}")]
    Digest {
        /// What has it.
        what: &'static str,
        /// What it has.
        text: String,
        /// Why it is none.
        #[source]
        source: DigestError,
    },
    /// A layer of a kind that is not read.
    #[error("layer {number} is of the type {text:?}")]
    LayerType {
        /// Which layer, from 1.
        number: usize,
        /// Its type.
        text: String,
    },
    /// No layers, or too many.
    #[error("the image has {0} layers; 1 to {MAX_LAYERS} are taken")]
    Layers(usize),
    /// The configuration speaks of other layers.
    #[error("the manifest has {manifest} layers, its configuration {configuration}")]
    Counts {
        /// Layers of the manifest.
        manifest: usize,
        /// Layers of the configuration.
        configuration: usize,
    },
    /// For another system.
    #[error(
        "the image is for {os}/{architecture}, and this host runs linux/{}",
        own_architecture()
    )]
    Platform {
        /// Its system.
        os: String,
        /// Its processor.
        architecture: String,
    },
    /// No manifest of an index fits.
    #[error("none of the {0} manifests in the index is for linux/{own}", own = own_architecture())]
    NoPlatform(usize),
    /// Too many manifests.
    #[error("the index has {0} manifests; at most {MAX_INDEX} are taken")]
    Index(usize),
}

impl ManifestError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Json { .. } | Self::Digest { .. } | Self::Counts { .. } | Self::Layers(_) => {
                "make the image again with a current tool, or fetch it again"
            }
            Self::Size { .. } | Self::Index(_) => {
                "make it smaller: these limits keep one image from using up the host"
            }
            Self::Version { .. } => {
                "convert it: `skopeo copy --format oci` makes an image of the current form"
            }
            Self::LayerType { .. } => {
                "use an image whose layers are tar archives, plain or with gzip or zstd, and not encrypted"
            }
            Self::Platform { .. } | Self::NoPlatform(_) => {
                "use an image that was built for this host's processor"
            }
        }
    }
}

/// A layer as its manifest and its configuration describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Of the blob, packed as it is.
    pub digest: Digest,
    /// Of the blob, in bytes.
    pub size: u64,
    /// Of the archive, unpacked.
    pub diff: Digest,
}

/// What an image would run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Run {
    /// The program and its arguments: the image's entry point, then its command.
    pub command: Vec<String>,
    /// How many words of the command are the entry point's.
    #[serde(skip)]
    pub entry_point: usize,
    /// The environment, as `NAME=VALUE`.
    pub env: Vec<String>,
    /// The working directory, or nothing for `/`.
    pub workdir: String,
    /// The user, as a name or a number, perhaps with a group; nothing for root.
    pub user: String,
}

/// A checked image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Of the manifest.
    pub digest: Digest,
    /// Of the configuration.
    pub config_digest: Digest,
    /// From the lowest up.
    pub layers: Vec<Layer>,
    /// What it would run.
    pub run: Run,
    /// When it was made, as the image says.
    pub created: Option<String>,
}

impl Image {
    /// What the unpacked root is called in the store.
    #[must_use]
    pub fn chain(&self) -> Digest {
        chain(self.layers.iter().map(|layer| layer.diff))
    }
}

/// The digest of a chain of layers (OCI image specification, "Layer `ChainID`").
pub fn chain(mut diffs: impl Iterator<Item = Digest>) -> Digest {
    let first = diffs.next().unwrap_or_else(|| Digest::of(b""));
    diffs.fold(first, |below, diff| Digest::of(format!("{below} {diff}").as_bytes()))
}

/// A manifest, before its configuration is known.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Of the configuration.
    pub config: Blob,
    /// From the lowest up.
    pub layers: Vec<Blob>,
}

/// A blob that a manifest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// Reads a manifest.
///
/// # Errors
/// It is none, or out of bounds.
pub fn manifest(bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let parsed: ImageManifest = json("manifest", bytes)?;
    if parsed.schema_version() != 2 {
        return Err(ManifestError::Version { what: "manifest", version: parsed.schema_version() });
    }
    let count = parsed.layers().len();
    if !(1..=MAX_LAYERS).contains(&count) {
        return Err(ManifestError::Layers(count));
    }
    let config = blob("configuration", parsed.config(), MAX_JSON)?;
    let mut layers = Vec::with_capacity(count);
    for (index, layer) in parsed.layers().iter().enumerate() {
        if !is_layer(layer.media_type()) {
            let text = shown(layer.media_type().as_ref());
            return Err(ManifestError::LayerType { number: index + 1, text });
        }
        layers.push(blob("layer", layer, MAX_BLOB_BYTES)?);
    }
    Ok(Manifest { config, layers })
}

/// Reads the configuration of a manifest's image.
///
/// # Errors
/// It is none, is for another system, or does not fit the manifest.
pub fn image(
    digest: Digest,
    manifest: &Manifest,
    configuration: &[u8],
) -> Result<Image, ManifestError> {
    let (diffs, run, created) = configured(configuration)?;
    if diffs.len() != manifest.layers.len() {
        return Err(ManifestError::Counts {
            manifest: manifest.layers.len(),
            configuration: diffs.len(),
        });
    }
    let layers = manifest.layers.iter().zip(diffs);
    let layers = layers.map(|(blob, diff)| Layer { digest: blob.digest, size: blob.size, diff });
    let layers = layers.collect();
    Ok(Image { digest, config_digest: manifest.config.digest, layers, run, created })
}

/// The digests of unpacked layers, what is to be run, and when the image was made.
///
/// # Errors
/// It is no configuration, or is for another system.
pub fn configured(bytes: &[u8]) -> Result<(Vec<Digest>, Run, Option<String>), ManifestError> {
    let parsed: ImageConfiguration = json("configuration", bytes)?;
    if *parsed.os() != Os::Linux || *parsed.architecture() != own_arch() {
        return Err(ManifestError::Platform {
            os: shown(&parsed.os().to_string()),
            architecture: shown(&parsed.architecture().to_string()),
        });
    }
    let ids = parsed.rootfs().diff_ids();
    if ids.len() > MAX_LAYERS {
        return Err(ManifestError::Layers(ids.len()));
    }
    let diffs = ids.iter().map(|text| digest("configuration", text)).collect::<Result<_, _>>()?;
    let mut run = Run::default();
    if let Some(config) = parsed.config() {
        let words = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
        run.entry_point = config.entrypoint().as_ref().map_or(0, Vec::len);
        run.command = [words(config.entrypoint()), words(config.cmd())].concat();
        run.env = words(config.env());
        run.workdir = config.working_dir().clone().unwrap_or_default();
        run.user = config.user().clone().unwrap_or_default();
    }
    Ok((diffs, run, parsed.created().clone()))
}

/// What an index offers, in its order: the manifest's blob, and its annotation with a name.
///
/// # Errors
/// It is none, or out of bounds.
pub fn index(bytes: &[u8]) -> Result<Vec<Offer>, ManifestError> {
    let parsed: ImageIndex = json("index", bytes)?;
    if parsed.schema_version() != 2 {
        return Err(ManifestError::Version { what: "index", version: parsed.schema_version() });
    }
    if parsed.manifests().len() > MAX_INDEX {
        return Err(ManifestError::Index(parsed.manifests().len()));
    }
    let offer = |descriptor: &Descriptor| {
        let annotations = descriptor.annotations().as_ref();
        let name = |key| annotations.and_then(|all| all.get(key)).map(|name| shown(name));
        let fits = descriptor.platform().as_ref().is_none_or(|platform| {
            *platform.os() == Os::Linux && *platform.architecture() == own_arch()
        });
        Ok(Offer {
            blob: blob("index", descriptor, MAX_JSON)?,
            name: name("io.containerd.image.name")
                .or_else(|| name("org.opencontainers.image.ref.name")),
            fits,
            is_index: is_index(descriptor.media_type().as_ref()),
        })
    };
    parsed.manifests().iter().map(offer).collect()
}

/// A manifest or an index that an index offers.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The manifest.
    pub blob: Blob,
    /// What it is called there.
    pub name: Option<String>,
    /// Whether it is for this host, or does not say.
    pub fits: bool,
    /// Whether it is an index itself.
    pub is_index: bool,
}

/// Whether bytes of a registry are an index, by what they say of themselves.
///
/// # Errors
/// They are not JSON.
pub fn looks_like_index(bytes: &[u8]) -> Result<bool, ManifestError> {
    let value: serde_json::Value = json("manifest", bytes)?;
    let kind = value.get("mediaType").and_then(serde_json::Value::as_str);
    Ok(kind.map_or_else(|| value.get("manifests").is_some(), is_index))
}

fn is_index(kind: &str) -> bool {
    kind == OCI_INDEX || kind == DOCKER_INDEX
}

fn is_layer(kind: &MediaType) -> bool {
    match kind {
        MediaType::ImageLayer
        | MediaType::ImageLayerGzip
        | MediaType::ImageLayerZstd
        | MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => true,
        other => DOCKER_LAYERS.contains(&other.as_ref()),
    }
}

fn blob(what: &'static str, descriptor: &Descriptor, most: u64) -> Result<Blob, ManifestError> {
    let size = descriptor.size();
    if size > most {
        return Err(ManifestError::Size { what, size, most });
    }
    Ok(Blob { digest: digest(what, descriptor.digest().as_ref())?, size })
}

fn digest(what: &'static str, text: &str) -> Result<Digest, ManifestError> {
    text.parse().map_err(|source| ManifestError::Digest { what, text: shown(text), source })
}

fn json<T: serde::de::DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, ManifestError> {
    if bytes.len() as u64 > MAX_JSON {
        return Err(ManifestError::Size { what, size: bytes.len() as u64, most: MAX_JSON });
    }
    serde_json::from_slice(bytes).map_err(|source| ManifestError::Json { what, source })
}

fn shown(text: &str) -> String {
    printable_line(text).chars().take(200).collect()
}

/// This host's processor, as images call it.
#[must_use]
pub const fn own_architecture() -> &'static str {
    // The one that Cloister runs on.
    "amd64"
}

const fn own_arch() -> Arch {
    Arch::Amd64
}

impl Store {
    /// An image of the store, by the digest of its manifest.
    ///
    /// # Errors
    /// It is not there, or damaged.
    pub fn image(&self, digest: Digest) -> Result<Image, StoreError> {
        let wrong = |source| StoreError::Manifest { digest, source };
        let parsed = manifest(&self.read_blob(digest)?).map_err(wrong)?;
        let configuration = self.read_blob(parsed.config.digest)?;
        image(digest, &parsed, &configuration).map_err(wrong)
    }
}
