//! Why an image can't be imported, in words that say what to do.

use crate::images::archive::fault::LayerError;
use crate::images::archive::pack::PackError;
use crate::images::digest::Digest;
use crate::images::manifest::ManifestError;
use crate::images::name::NameError;
use crate::images::policy::PolicyError;
use crate::images::signature::SignatureError;
use crate::images::source::SourceError;
use crate::images::store::StoreError;

/// Why an image can't be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source is wrong.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A layer is wrong.
    #[error("layer {number} of {count} can't be unpacked")]
    Layer {
        /// Which layer, from 1.
        number: usize,
        /// Of how many.
        count: usize,
        /// What is wrong with it.
        #[source]
        source: LayerError,
    },
    /// A layer's archive is not the one that the configuration names.
    #[error(
        "layer {number} unpacks to an archive with the digest {found}, and the configuration says {expected}"
    )]
    Diff {
        /// Which layer, from 1.
        number: usize,
        /// What it should have.
        expected: Digest,
        /// What it has.
        found: Digest,
    },
    /// The directory can't be made into a layer.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Nothing says what the image is to be called.
    #[error("nothing in the source tells what the image is to be called")]
    NoName,
    /// What the source calls it is no name.
    #[error("the source calls the image {text:?}")]
    Name {
        /// What it says.
        text: String,
        /// Why that is no name.
        #[source]
        source: NameError,
    },
    /// It is not the image that was asked for.
    #[error("the image has the digest {found}, not {expected}")]
    Pinned {
        /// What the name says.
        expected: Digest,
        /// What it has.
        found: Digest,
    },
    /// The signature is missing or wrong.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The operator's policy refuses it.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ManifestError> for ImportError {
    fn from(error: ManifestError) -> Self {
        Self::Source(error.into())
    }
}

impl ImportError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Source(error) => error.remedy(),
            Self::Layer { source, .. } => source.fault.remedy(),
            Self::Diff { .. } => "make or fetch the image again: it is damaged or was changed",
            Self::Pack(error) => error.remedy(),
            Self::NoName | Self::Name { .. } => "name it with --name, like --name team/agent:1.0",
            Self::Pinned { .. } => "check the digest with whoever made the image",
            Self::Signature(error) => error.remedy(),
            Self::Policy(error) => error.remedy(),
            Self::Store(error) => error.remedy(),
        }
    }
}
