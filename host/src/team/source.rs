//! The text of a file, and places in it: line and column, as a person counts them.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Most characters of a line that are shown.
const MAX_SHOWN: usize = 100;
/// How many of them stand before what is pointed at, if the line is longer.
const BEFORE: usize = 40;

/// Bytes between two marks.
const STRIDE: usize = 64;

/// Where in a file something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// How many characters of the line it covers; at least 1.
    pub length: u32,
}

/// A file's name and text.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    text: String,
    /// Where each line begins, in bytes.
    starts: Vec<usize>,
    /// How many characters begin before each [`STRIDE`]th byte: with them a place costs the same in a
    /// line of any length.
    marks: Vec<u32>,
}

impl Source {
    /// A text, and what its file is called in messages.
    #[must_use]
    pub fn new(name: &str, text: &str) -> Self {
        let after = text.match_indices('\n').map(|(at, _)| at + 1);
        let starts = std::iter::once(0).chain(after).collect();
        let mut marks = Vec::with_capacity(text.len() / STRIDE + 1);
        let mut count = 0;
        for piece in text.as_bytes().chunks(STRIDE) {
            marks.push(count);
            count += characters(piece);
        }
        // For a text that ends with a whole piece.
        marks.push(count);
        Self { name: shown(name), text: text.to_owned(), starts, marks }
    }

    /// What the file is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where bytes are; the first line of them, if they are several.
    #[must_use]
    pub fn place(&self, bytes: Range<usize>) -> Place {
        let index = self.starts.partition_point(|start| *start <= bytes.start).saturating_sub(1);
        let start = self.starts.get(index).copied().unwrap_or_default();
        let end = start + self.line(index).len();
        let before = self.count(start);
        let column = |byte: usize| self.count(byte.clamp(start, end)).saturating_sub(before);
        let (first, last) = (column(bytes.start), column(bytes.end));
        Place {
            line: number(index + 1),
            column: first.saturating_add(1),
            length: last.saturating_sub(first).max(1),
        }
    }

    /// The line of a place as it is shown, and how many characters of it stand before the place, and are
    /// of it.
    #[must_use]
    pub fn excerpt(&self, place: Place) -> (String, usize, usize) {
        let line = self.line((place.line as usize).saturating_sub(1));
        let before = (place.column as usize).saturating_sub(1);
        let count = line.chars().count();
        let skipped = if count > MAX_SHOWN { before.saturating_sub(BEFORE) } else { 0 };
        let mut text: String = line.chars().skip(skipped).take(MAX_SHOWN).map(harmless).collect();
        if skipped + MAX_SHOWN < count {
            text.push('…');
        }
        let room = MAX_SHOWN.saturating_sub(before - skipped).max(1);
        (text, before - skipped, (place.length as usize).clamp(1, room))
    }

    fn line(&self, index: usize) -> &str {
        let start = self.starts.get(index).copied().unwrap_or(self.text.len());
        let end = self.starts.get(index + 1).map_or(self.text.len(), |next| next - 1);
        self.text.get(start..end).unwrap_or_default().trim_end_matches('\r')
    }

    /// How many characters begin before a byte.
    fn count(&self, byte: usize) -> u32 {
        let byte = byte.min(self.text.len());
        let mark = self.marks.get(byte / STRIDE).copied().unwrap_or_default();
        let rest = self.text.as_bytes().get(byte - byte % STRIDE..byte).unwrap_or_default();
        mark + characters(rest)
    }
}

/// One character for one, so that what points at a column stays right.
fn harmless(character: char) -> char {
    let mut bytes = [0; 4];
    let plain = crate::text::printable(character.encode_utf8(&mut bytes).as_bytes());
    if character == '\t' {
        ' '
    } else if plain.starts_with(character) {
        character
    } else {
        '\u{fffd}'
    }
}

/// Text of a file or of this command's caller, for a message: on one line, and short.
#[must_use]
pub fn shown(text: &str) -> String {
    const MOST: usize = 120;
    let line = crate::text::printable_line(text.get(..floor(text, 4 * MOST)).unwrap_or_default());
    if line.chars().count() <= MOST && text.len() <= 4 * MOST {
        return line;
    }
    line.chars().take(MOST).chain(['…']).collect()
}

fn floor(text: &str, most: usize) -> usize {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

/// How many characters begin in some bytes of UTF-8: all but those that continue one.
fn characters(bytes: &[u8]) -> u32 {
    number(bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count())
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters() {
        let source = Source::new("f", "a = 1\nüü = \"x\"\r\nend");
        let place = |bytes| source.place(bytes);
        assert_eq!(place(0..1), Place { line: 1, column: 1, length: 1 });
        assert_eq!(place(6..10), Place { line: 2, column: 1, length: 2 });
        assert_eq!(place(13..16), Place { line: 2, column: 6, length: 3 });
        assert_eq!(place(13..30), Place { line: 2, column: 6, length: 3 });
        assert_eq!(place(21..21), Place { line: 3, column: 4, length: 1 });
        assert_eq!(place(900..901), Place { line: 3, column: 4, length: 1 });
        assert_eq!(source.excerpt(place(13..16)), ("üü = \"x\"".to_owned(), 5, 3));
    }

    #[test]
    fn marks_change_nothing() {
        for length in [0, 1, 63, 64, 65, 128, 300] {
            let text = "ü\nxyz".repeat(length).chars().take(length).collect::<String>() + "ü";
            let source = Source::new("f", &text);
            for (byte, _) in text.char_indices() {
                let line = text[..byte].rsplit('\n').next().unwrap();
                let expected = u32::try_from(line.chars().count() + 1).unwrap();
                assert_eq!(source.place(byte..byte).column, expected, "{length} {byte}");
            }
        }
    }

    #[test]
    fn a_long_line_is_cut_around_its_place() {
        let text = format!("{}HERE{}", "x".repeat(500), "y".repeat(500));
        let source = Source::new("f", &text);
        let (line, before, length) = source.excerpt(source.place(500..504));
        assert_eq!(&line[before..before + length], "HERE");
        assert_eq!(line.chars().count(), MAX_SHOWN + 1);
    }

    #[test]
    fn a_line_can_t_steer_a_terminal() {
        let source = Source::new("f", "\ta\x1b[2J\u{202e}b");
        assert_eq!(source.excerpt(Place::default()).0, " a\u{fffd}[2J\u{fffd}b");
    }
}
