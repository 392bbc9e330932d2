//! Whether a machine goes on from a template: the words of team files and of the command line.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Whether a machine goes on from a template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// From one where one was ever built for a machine of its shape; else it boots.
    #[default]
    Auto,
    /// From one, which is built if there is none.
    Build,
    /// It boots.
    None,
}

impl Choice {
    /// All words, in the order in which they are told.
    pub const WORDS: &[&str] = &["auto", "build", "none"];

    /// As people write it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Build => "build",
            Self::None => "none",
        }
    }

    /// The choice of that word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Auto, Self::Build, Self::None].into_iter().find(|choice| choice.word() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_team_files_and_what_is_stored_have_the_same_words() {
        let choices: Vec<_> = Choice::WORDS.iter().map(|word| Choice::of_word(word)).collect();
        assert_eq!(choices, [Some(Choice::Auto), Some(Choice::Build), Some(Choice::None)]);
        assert_eq!(Choice::of_word("default"), None);
        for choice in choices.into_iter().flatten() {
            assert_eq!(serde_json::to_value(choice).unwrap(), choice.word());
            assert_eq!(Choice::from_str(choice.word(), false), Ok(choice));
        }
    }
}
