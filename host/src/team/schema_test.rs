use std::fmt::Write as _;

use super::*;
use crate::team::keys::TABLES;
use crate::team::words::OTHER_WORDS;

const PUBLISHED: &str = include_str!("../../../docs/team.schema.json");
const GUIDE: &str = include_str!("../../../docs/user-guide.md");

#[test]
fn the_published_schema_is_this_one() {
    assert_eq!(PUBLISHED, text(), "write it: cloister schema > docs/team.schema.json");
}

/// The tables of the user guide.
fn guide() -> String {
    let mut text = String::new();
    for (heading, table) in TABLES {
        write!(text, "#### {heading}\n\n| key | what | without it |\n| --- | --- | --- |\n")
            .unwrap();
        for key in table.keys {
            let limits = key.kind.limits().map(|(least, most)| format!(" {least} to {most}."));
            let without = match key.usual {
                _ if key.required => "an error".to_owned(),
                "" => format!("`{}`", key.kind.sample()),
                usual => usual.to_owned(),
            };
            let limits = limits.unwrap_or_default();
            writeln!(text, "| `{}` | {}{limits} | {without} |", key.name, key.meaning).unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_user_guide_has_every_key() {
    let text = guide();
    assert!(GUIDE.contains(&text), "docs/user-guide.md should contain:\n{text}");
}

#[test]
fn every_key_is_written_as_people_can_read_it() {
    for (heading, table) in TABLES {
        for key in table.keys {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
            assert!(key.name.bytes().all(plain), "{heading}: {}", key.name);
            assert!(key.meaning.ends_with('.'), "{heading}: {}", key.name);
            let has_default = usual(&key.kind).is_some();
            assert_eq!(key.usual.is_empty(), key.required || has_default, "{}", key.name);
            // A key that another tool's word would hide.
            let hidden = OTHER_WORDS.iter().any(|(other, _)| *other == key.name);
            assert!(!hidden || key.name == "path" || key.name == "volumes", "{}", key.name);
        }
    }
}
