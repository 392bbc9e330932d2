//! What is wrong in a file: where, what, and what to do. All of it is collected, and told at once.

use std::fmt;

use serde::Serialize;

use super::limits::MAX_MISTAKES;
use super::source::{Place, Source};

/// What is wrong, and what to do about it, before it has a place.
pub type Fault = (String, String);

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// The file.
    pub file: String,
    /// Where in it.
    pub place: Place,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    /// The line, and which characters of it.
    #[serde(skip)]
    line: Option<(String, usize, usize)>,
}

/// Everything that is wrong; at least one thing, by its file and its line.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes {
    list: Vec<Mistake>,
    more: usize,
}

impl Mistakes {
    /// Adds one.
    pub fn add(
        &mut self,
        source: &Source,
        place: Place,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add_hidden(source, place, what, remedy);
        if let Some(last) = self.list.last_mut().filter(|_| self.more == 0) {
            last.line = Some(source.excerpt(place));
        }
    }

    /// Adds one without showing its line, which may be secret.
    pub fn add_hidden(
        &mut self,
        source: &Source,
        place: Place,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if self.is_full() {
            self.more += 1;
            return;
        }
        self.list.push(Mistake {
            file: source.name().to_owned(),
            place,
            what: what.into(),
            remedy: remedy.into(),
            line: None,
        });
    }

    /// Takes over those of another file.
    pub fn append(&mut self, other: Self) {
        self.more += other.more;
        for mistake in other.list {
            if self.is_full() {
                self.more += 1;
            } else {
                self.list.push(mistake);
            }
        }
    }

    /// Whether further ones are only counted.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.list.len() >= MAX_MISTAKES
    }

    /// All that were kept, in the order of the file.
    #[must_use]
    pub fn list(&self) -> &[Mistake] {
        &self.list
    }

    /// How many there are, those included that were not kept.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.list.len() + self.more
    }

    /// Nothing, or these in the order of their lines.
    ///
    /// # Errors
    /// There are some.
    pub fn result(mut self) -> Result<(), Self> {
        if self.list.is_empty() {
            return Ok(());
        }
        self.list.sort_by(|a, b| (&a.file, a.place).cmp(&(&b.file, b.place)));
        self.list.dedup();
        Err(self)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.place.line.to_string();
        writeln!(f, "{}:{}:{}: {}", self.file, number, self.place.column, self.what)?;
        if let Some((line, before, length)) = &self.line {
            let margin = " ".repeat(number.len());
            writeln!(f, "  {number} | {line}")?;
            writeln!(f, "  {margin} | {}{}", " ".repeat(*before), "^".repeat(*length))?;
        }
        write!(f, "  What to do: {}", self.remedy)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.list {
            writeln!(f, "{mistake}\n")?;
        }
        if self.more > 0 {
            writeln!(f, "… and {} more\n", self.more)?;
        }
        match self.count() {
            1 => write!(f, "1 mistake; nothing was started"),
            count => write!(f, "{count} mistakes; nothing was started"),
        }
    }
}

/// What somebody may have meant: the nearest of some words, if it is near.
#[must_use]
pub fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// No word that is known here is longer.
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let word = word.to_lowercase().replace('_', "-");
    words
        .into_iter()
        .map(|other| (strsim::osa_distance(&word, &other.to_lowercase()), other))
        .filter(|(distance, other)| *distance <= (other.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_points_at_its_place() {
        let source = Source::new("team.toml", "name = \"a\"\nmemoyr = 3");
        let mut mistakes = Mistakes::default();
        mistakes.add(&source, source.place(11..17), "what", "do");
        assert_eq!(
            mistakes.to_string(),
            "team.toml:2:1: what\n  2 | memoyr = 3\n    | ^^^^^^\n  What to do: do\n\n\
             1 mistake; nothing was started"
        );
    }

    #[test]
    fn mistakes_are_in_the_order_of_the_file_and_bounded() {
        let source = Source::new("f", "one\ntwo\n");
        let mut mistakes = Mistakes::default();
        mistakes.add(&source, source.place(4..7), "second", "");
        for _ in 0..MAX_MISTAKES + 5 {
            mistakes.add(&source, source.place(0..3), "first", "");
        }
        assert_eq!(mistakes.count(), MAX_MISTAKES + 6);
        let sorted = mistakes.result().unwrap_err();
        assert_eq!(sorted.list()[0].what, "first");
        assert!(sorted.to_string().contains("… and 6 more"));
        assert!(Mistakes::default().result().is_ok());
    }

    #[test]
    fn near_words() {
        let words = ["memory", "mounts", "image"];
        assert_eq!(nearest("memoyr", words), Some("memory"));
        assert_eq!(nearest("Memory", words), Some("memory"));
        assert_eq!(nearest("mount", words), Some("mounts"));
        assert_eq!(nearest("colour", words), None);
        assert_eq!(nearest(&"m".repeat(10_000), words), None);
    }
}
