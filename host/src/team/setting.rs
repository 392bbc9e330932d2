//! A value, and who decided it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::source::Place;

/// Who decided a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The team file, there.
    File(Place),
    /// The agent's image.
    Image,
    /// Cloister's default.
    Default,
    /// Other values of the team file.
    Derived,
    /// The operator of the host.
    Operator,
}

impl Origin {
    /// The line of the team file, if it is from there.
    #[must_use]
    pub const fn line(self) -> Option<u32> {
        if let Self::File(place) = self { Some(place.line) } else { None }
    }

    /// The place in the team file; its beginning for what is not from there.
    #[must_use]
    pub fn place(self) -> Place {
        match self {
            Self::File(place) => place,
            _ => Place { line: 1, column: 1, length: 1 },
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(place) => write!(f, "line {}", place.line),
            Self::Image => f.write_str("image"),
            Self::Default => f.write_str("default"),
            Self::Derived => f.write_str("derived"),
            Self::Operator => f.write_str("operator"),
        }
    }
}

/// A value and who decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting<T> {
    /// What it is.
    pub value: T,
    /// From whom.
    pub from: Origin,
}

impl<T> Setting<T> {
    /// A default.
    pub const fn usual(value: T) -> Self {
        Self { value, from: Origin::Default }
    }

    /// What follows from other values.
    pub const fn derived(value: T) -> Self {
        Self { value, from: Origin::Derived }
    }

    /// From an image.
    pub const fn of_image(value: T) -> Self {
        Self { value, from: Origin::Image }
    }

    /// Another value from the same origin.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Setting<U> {
        Setting { value: change(self.value), from: self.from }
    }
}
