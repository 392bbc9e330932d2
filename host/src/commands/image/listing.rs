//! What is in the store: as a table, and as JSON for programs.

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::progress::bytes;
use crate::images::digest::Digest;
use crate::images::manifest::{Image, Run};
use crate::images::store::names::Record;
use crate::images::store::roots::Facts;
use crate::images::store::{Store, StoreError};
use crate::text::printable_line;

/// Raised when a key goes or changes its meaning.
const SCHEMA: u32 = 1;
/// Longest command line in the table.
const MAX_COMMAND: usize = 60;

#[derive(Serialize)]
struct Listing {
    schema: u32,
    images: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    name: String,
    digest: String,
    source: String,
    imported: u64,
    signed: bool,
    /// Whether all of the image is there; if not, the rest is empty.
    usable: bool,
    bytes: u64,
    entries: u64,
    run: Run,
}

#[derive(Serialize)]
struct Inspected {
    schema: u32,
    names: Vec<String>,
    digest: String,
    config_digest: String,
    root_digest: String,
    created: Option<String>,
    layers: Vec<InspectedLayer>,
    root: Option<Facts>,
    run: Run,
}

#[derive(Serialize)]
struct InspectedLayer {
    digest: String,
    bytes: u64,
    unpacked_digest: String,
}

fn listed(store: &Store) -> Result<Vec<Listed>, StoreError> {
    let names = store.names()?;
    names.iter().map(|(name, digest, record)| one(store, name, digest, record)).collect()
}

/// A damaged image is listed all the same: so it can be seen and removed.
fn one(store: &Store, name: &str, digest: Digest, record: &Record) -> Result<Listed, StoreError> {
    let image: Option<Image> = match store.image(digest) {
        Ok(image) => Some(image),
        Err(StoreError::Lost(_) | StoreError::Damaged(_) | StoreError::Manifest { .. }) => None,
        Err(error) => return Err(error),
    };
    let facts = image.as_ref().map(|image| store.facts(image.chain())).transpose()?.flatten();
    Ok(Listed {
        name: name.to_owned(),
        digest: digest.to_string(),
        source: record.source.clone(),
        imported: record.imported,
        signed: record.signed,
        usable: facts.is_some(),
        bytes: facts.map_or(0, |facts| facts.bytes),
        entries: facts.map_or(0, |facts| facts.entries),
        run: image.map(|image| image.run).unwrap_or_default(),
    })
}

pub(super) fn json(store: &Store) -> Result<String, StoreError> {
    Ok(pretty(&Listing { schema: SCHEMA, images: listed(store)? }))
}

pub(super) fn table(store: &Store) -> Result<String, StoreError> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["NAME", "DIGEST", "SIZE", "RUNS"]);
    for image in listed(store)? {
        let digits: String = image.digest.chars().skip("sha256:".len()).take(12).collect();
        let runs = if image.usable { command(&image.run) } else { "damaged: remove it".to_owned() };
        table.add_row([printable_line(&image.name), digits, bytes(image.bytes), runs]);
    }
    Ok(format!("{table}\n"))
}

pub(super) fn inspect(store: &Store, text: &str) -> Result<String, StoreError> {
    let names = store.names()?;
    let (_, digest) = names.find(text)?;
    let image = store.image(digest)?;
    let own = names.iter().filter(|(_, of, _)| *of == digest).map(|(name, ..)| name.to_owned());
    let layer = |layer: &crate::images::manifest::Layer| InspectedLayer {
        digest: layer.digest.to_string(),
        bytes: layer.size,
        unpacked_digest: layer.diff.to_string(),
    };
    Ok(pretty(&Inspected {
        schema: SCHEMA,
        names: own.collect(),
        digest: digest.to_string(),
        config_digest: image.config_digest.to_string(),
        root_digest: image.chain().to_string(),
        created: image.created.clone(),
        layers: image.layers.iter().map(layer).collect(),
        root: store.facts(image.chain())?,
        run: image.run,
    }))
}

/// What an image would run, on one line, and as whom if not as root.
fn command(run: &Run) -> String {
    let words: Vec<String> = run.command.iter().map(|word| quoted(word)).collect();
    let mut line = words.join(" ");
    if line.is_empty() {
        line.push('-');
    }
    if line.chars().count() > MAX_COMMAND {
        line = line.chars().take(MAX_COMMAND - 1).chain(['…']).collect();
    }
    if !run.user.is_empty() {
        line.push_str(&format!(" (as {})", printable_line(&run.user)));
    }
    line
}

/// A word as a shell would read it.
fn quoted(word: &str) -> String {
    let word = printable_line(word);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-=:,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word;
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// JSON escapes what could steer a terminal, but for characters beyond ASCII.
fn pretty(value: &impl Serialize) -> String {
    match serde_json::to_string_pretty(value) {
        Ok(text) => text + "\n",
        // Strings, numbers and lists: there is nothing in it that could fail.
        Err(error) => format!("{{\"schema\": 0, \"error\": \"{error}\"}}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_a_shell_reads_it() {
        let run = |command: &[&str], user: &str| Run {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            user: user.to_owned(),
            ..Run::default()
        };
        assert_eq!(
            command(&run(&["/bin/sh", "-c", "echo 'a b'"], "")),
            r"/bin/sh -c 'echo '\''a b'\'''"
        );
        assert_eq!(command(&run(&[], "agent")), "- (as agent)");
        assert_eq!(command(&run(&["a\x1b[2J"], "")), r"'a\x1b[2J'");
        assert_eq!(command(&run(&["x"; 100], "")).chars().count(), MAX_COMMAND);
    }
}
