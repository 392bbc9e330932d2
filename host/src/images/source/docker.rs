//! Archives of `docker save`: a list of images, each with its configuration and plain layers.

use serde::Deserialize;

use super::SourceError;
use super::members::Members;
use crate::images::digest::Digest;
use crate::images::limits::MAX_LAYERS;
use crate::images::manifest::ManifestError;

#[derive(Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image of such an archive.
#[derive(Debug)]
pub struct Found {
    /// The configuration.
    pub configuration: Vec<u8>,
    /// Members that hold the layers, from the lowest up.
    pub layers: Vec<String>,
    /// What it is called.
    pub names: Vec<String>,
}

/// Finds the image called `wanted`, or the only one.
///
/// # Errors
/// There is none, there are several, or something of it is wrong.
pub fn find(members: &Members, wanted: Option<&str>) -> Result<Found, SourceError> {
    let list: Vec<Listed> =
        serde_json::from_slice(&members.read("manifest.json")?).map_err(SourceError::DockerList)?;
    let there = || {
        let names = list.iter().flat_map(|image| image.repo_tags.iter().flatten());
        let names: Vec<&str> = names.take(20).map(String::as_str).collect();
        if names.is_empty() { "images without names".to_owned() } else { names.join(", ") }
    };
    let is_wanted = |image: &&Listed| {
        wanted.is_none_or(|wanted| image.repo_tags.iter().flatten().any(|name| name == wanted))
    };
    let mut found = list.iter().filter(is_wanted);
    let image = match (found.next(), found.next(), wanted) {
        (Some(image), None, _) => image,
        (None, _, Some(wanted)) => {
            return Err(SourceError::NoSuch { wanted: wanted.to_owned(), there: there() });
        }
        (None, ..) => return Err(SourceError::Missing("an image".to_owned())),
        _ => return Err(SourceError::Several(there())),
    };
    if !(1..=MAX_LAYERS).contains(&image.layers.len()) {
        return Err(ManifestError::Layers(image.layers.len()).into());
    }
    let configuration = members.read(&image.config)?;
    check_name(&image.config, &configuration)?;
    Ok(Found {
        configuration,
        layers: image.layers.clone(),
        names: image.repo_tags.clone().unwrap_or_default(),
    })
}

/// The configuration is called by its digest.
fn check_name(name: &str, bytes: &[u8]) -> Result<(), SourceError> {
    let digits = name.strip_suffix(".json").unwrap_or(name);
    let digits = digits.rsplit('/').next().unwrap_or(digits);
    let found = Digest::of(bytes);
    match Digest::from_hex(digits) {
        Ok(expected) if expected != found => {
            Err(SourceError::Digest { what: name.to_owned(), expected, found })
        }
        _ => Ok(()),
    }
}
