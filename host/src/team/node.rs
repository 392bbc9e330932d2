//! Values of a team file that have passed what [`super::keys`] says of them, each with its place.

use super::setting::{Origin, Setting};
use super::source::Place;

/// A value and where it is.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    /// In the unit of its kind: bytes, milliseconds, thousandths.
    Number(u64),
    Flag(bool),
    List(Vec<Node>),
    /// In the order of the file; with the place of each key.
    Table(Vec<(String, Place, Node)>),
    /// There is a mistake in it, which was told.
    Broken,
}

impl Node {
    /// A value with a mistake.
    pub(super) const fn broken(place: Place) -> Self {
        Self { place, value: Value::Broken }
    }

    /// The value of a key, if this is a table that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(name, ..)| name == key).map(|(.., node)| node)
    }

    /// The entries of a table; nothing of anything else.
    pub(super) fn entries(&self) -> &[(String, Place, Self)] {
        if let Value::Table(entries) = &self.value { entries } else { &[] }
    }

    /// The items of a list; nothing of anything else.
    pub(super) fn items(&self) -> &[Self] {
        if let Value::List(items) = &self.value { items } else { &[] }
    }

    /// The text, if it is one.
    pub(super) fn as_text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    /// The number, if it is one.
    pub(super) const fn as_number(&self) -> Option<u64> {
        if let Value::Number(number) = self.value { Some(number) } else { None }
    }

    /// Whether it is a list.
    pub(super) const fn is_list(&self) -> bool {
        matches!(self.value, Value::List(_))
    }

    /// A text under a key.
    pub(super) fn text(&self, key: &str) -> Option<Setting<String>> {
        let node = self.get(key)?;
        Some(node.setting(node.as_text()?.to_owned()))
    }

    /// A number under a key.
    pub(super) fn number(&self, key: &str) -> Option<Setting<u64>> {
        let node = self.get(key)?;
        if let Value::Number(number) = node.value { Some(node.setting(number)) } else { None }
    }

    /// Whether a flag is there and set.
    pub(super) fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some(Self { value: Value::Flag(true), .. }))
    }

    /// A list of texts under a key, each with its place; nothing if there is a mistake in it.
    pub(super) fn texts(&self, key: &str) -> Option<Vec<Setting<String>>> {
        let Value::List(items) = &self.get(key)?.value else { return None };
        items.iter().map(|item| Some(item.setting(item.as_text()?.to_owned()))).collect()
    }

    /// A value that this node's place is the origin of.
    pub(super) const fn setting<T>(&self, value: T) -> Setting<T> {
        Setting { value, from: Origin::File(self.place) }
    }
}
