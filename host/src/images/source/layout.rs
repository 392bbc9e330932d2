//! OCI image layouts: from the index to one manifest for this host.

use serde::Deserialize;

use super::SourceError;
use super::members::Members;
use crate::images::digest::Digest;
use crate::images::limits::MAX_NESTING;
use crate::images::manifest::{self, ManifestError, Offer};

/// The one version of the layout.
const VERSION: &str = "1.0.0";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

/// A manifest that was found.
#[derive(Debug)]
pub struct Found {
    /// Its digest, which its bytes have.
    pub digest: Digest,
    /// The digest that the layout's list has: that of an index, if the manifest is in one. It is
    /// what is signed.
    pub listed: Digest,
    /// The manifest.
    pub bytes: Vec<u8>,
    /// What it is called in the layout.
    pub name: Option<String>,
}

/// Finds the image called `wanted`, or the only one.
///
/// # Errors
/// There is none, there are several, or something of it is wrong.
pub fn find(members: &Members, wanted: Option<&str>) -> Result<Found, SourceError> {
    let bytes = members.read("oci-layout")?;
    let layout: LayoutFile = serde_json::from_slice(&bytes)
        .map_err(|source| ManifestError::Json { what: "oci-layout", source })?;
    if layout.image_layout_version != VERSION {
        let version = crate::text::printable_line(&layout.image_layout_version);
        return Err(SourceError::LayoutVersion(version.chars().take(40).collect()));
    }
    let offers = manifest::index(&members.read("index.json")?)?;
    let mut chosen = choose(&offers, wanted)?;
    let (name, listed) = (chosen.name.clone(), chosen.blob.digest);
    for _ in 0..MAX_NESTING {
        let bytes = members.read_blob(chosen.blob.digest)?;
        check_length(&chosen, &bytes)?;
        if !chosen.is_index {
            return Ok(Found { digest: chosen.blob.digest, listed, bytes, name });
        }
        chosen = for_this_host(manifest::index(&bytes)?)?;
    }
    Err(SourceError::Nesting)
}

/// The manifest of a nested index that this host can run.
///
/// # Errors
/// None is for this host.
pub fn for_this_host(offers: Vec<Offer>) -> Result<Offer, SourceError> {
    let count = offers.len();
    let found = offers.into_iter().find(|offer| offer.fits);
    found.ok_or_else(|| ManifestError::NoPlatform(count).into())
}

/// The bytes of a further image of the layout, by its name: where signatures are.
///
/// # Errors
/// Something of the layout is wrong.
pub fn named(members: &Members, name: &str) -> Result<Option<Vec<u8>>, SourceError> {
    let offers = manifest::index(&members.read("index.json")?)?;
    let found = offers.iter().find(|offer| offer.name.as_deref() == Some(name));
    found.map(|offer| members.read_blob(offer.blob.digest)).transpose()
}

fn choose(offers: &[Offer], wanted: Option<&str>) -> Result<Offer, SourceError> {
    // Signatures lie beside what they sign.
    let images: Vec<&Offer> = offers
        .iter()
        .filter(|offer| !offer.name.as_deref().is_some_and(|name| name.ends_with(".sig")))
        .collect();
    let there = || {
        let names = images.iter().map(|offer| offer.name.as_deref().unwrap_or("(no name)"));
        names.take(20).collect::<Vec<_>>().join(", ")
    };
    let is_wanted = |offer: &&&Offer| {
        let name = offer.name.as_deref().unwrap_or_default();
        // A whole name, or its tag.
        wanted.is_some_and(|wanted| name == wanted || name.ends_with(&format!(":{wanted}")))
    };
    let candidates: Vec<&&Offer> = match wanted {
        Some(_) => images.iter().filter(is_wanted).collect(),
        None => images.iter().collect(),
    };
    let fitting: Vec<&&Offer> = candidates.iter().copied().filter(|offer| offer.fits).collect();
    match (fitting.as_slice(), candidates.len(), wanted) {
        ([one], ..) => Ok((**one).clone()),
        ([], 0, Some(wanted)) => {
            Err(SourceError::NoSuch { wanted: wanted.to_owned(), there: there() })
        }
        ([], count, _) => Err(ManifestError::NoPlatform(count).into()),
        _ => Err(SourceError::Several(there())),
    }
}

fn check_length(offer: &Offer, bytes: &[u8]) -> Result<(), SourceError> {
    let found = bytes.len() as u64;
    if found == offer.blob.size {
        return Ok(());
    }
    Err(SourceError::Length { what: "the manifest".to_owned(), expected: offer.blob.size, found })
}
