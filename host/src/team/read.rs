//! From TOML to [`Node`]s: every value is held against its kind, and every mistake is noted.

use std::cell::RefCell;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::amount::{show_size, show_thousandths, show_time, size, thousandths, time};
use super::keys::{Key, Kind, Rule, Table};
use super::limits::Bounds;
use super::mistake::{Mistakes, nearest};
use super::node::{Node, Value};
use super::source::{Place, Source, shown};
use super::variables::Variables;
use super::words::OTHER_WORDS;

/// One file that is being read.
pub(super) struct Reader<'a> {
    pub(super) source: &'a Source,
    pub(super) variables: Variables<'a>,
    pub(super) mistakes: RefCell<Mistakes>,
}

impl Reader<'_> {
    /// Notes a mistake.
    pub(super) fn add(&self, place: Place, what: impl Into<String>, remedy: impl Into<String>) {
        self.mistakes.borrow_mut().add(self.source, place, what, remedy);
    }

    /// A table; `place` is where its name stands.
    pub(super) fn table(&self, table: &'static Table, toml: &DeTable<'_>, place: Place) -> Node {
        let mut entries = Vec::with_capacity(toml.len());
        for (name, value) in toml {
            let at = self.source.place(name.span());
            match table.key(name.get_ref()) {
                Some(key) => {
                    let node = self.value(&key.kind, key.name, value, at);
                    entries.push((
                        key.name.to_owned(),
                        at,
                        node.unwrap_or_else(|| Node::broken(at)),
                    ));
                }
                None => self.unknown(table, name.get_ref(), at),
            }
        }
        for key in table.keys.iter().filter(|key| key.required) {
            if !toml.iter().any(|(name, _)| name.get_ref() == key.name) {
                let what = format!("`{}` is missing: {} must have it", key.name, table.what);
                self.add(place, what, format!("add {}", written(key)));
            }
        }
        entries.sort_by_key(|(_, at, _)| *at);
        Node { place, value: Value::Table(entries) }
    }

    fn unknown(&self, table: &Table, name: &str, place: Place) {
        // Looking for what was meant is the dear part, and nobody would read it.
        if self.mistakes.borrow().is_full() {
            return self.add(place, "", "");
        }
        let names = || table.keys.iter().map(|key| key.name);
        let other = OTHER_WORDS.iter().find(|(other, _)| *other == name);
        let near = other
            .map(|(_, ours)| *ours)
            .filter(|ours| table.key(ours).is_some())
            .or_else(|| nearest(name, names()));
        let list: Vec<String> = names().map(|name| format!("`{name}`")).collect();
        let remedy = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None if list.is_empty() => format!("take it out; {} has no keys", table.what),
            None => format!("take it out; {} has the keys {}", table.what, list.join(", ")),
        };
        self.add(place, format!("{} has no key `{}`", table.what, shown(name)), remedy);
    }

    /// A value of a kind; `name` and `key` are what it is called, and where that stands.
    fn value(
        &self,
        kind: &'static Kind,
        name: &str,
        value: &Spanned<DeValue<'_>>,
        key: Place,
    ) -> Option<Node> {
        let place = self.source.place(value.span());
        let node = |value| Some(Node { place, value });
        match (kind, value.get_ref()) {
            (Kind::Text(rule), DeValue::String(text)) => {
                node(Value::Text(self.text(*rule, name, text, place)?))
            }
            (Kind::Choice(words), DeValue::String(text)) => {
                node(Value::Text(self.choice(words, name, text, place)?))
            }
            (Kind::Size(_) | Kind::Time(_), DeValue::String(text)) => {
                node(Value::Number(self.amount(kind, name, text, place)?))
            }
            (Kind::Count(bounds), DeValue::Integer(number)) => {
                let parsed = i128::from_str_radix(number.as_str(), number.radix());
                let parsed = parsed.unwrap_or(i128::MAX);
                // What is below zero or too large is out of every bounds.
                let count = u64::try_from(parsed).ok().filter(|count| bounds.hold(*count));
                if count.is_none() {
                    self.out_of_bounds(kind, name, number.as_str(), place);
                }
                node(Value::Number(count?))
            }
            (Kind::Cpus(_), DeValue::Integer(number)) if number.radix() == 10 => {
                node(Value::Number(self.share(kind, name, number.as_str(), place)?))
            }
            (Kind::Cpus(_), DeValue::Float(number)) => {
                node(Value::Number(self.share(kind, name, number.as_str(), place)?))
            }
            (Kind::Flag, DeValue::Boolean(flag)) => node(Value::Flag(*flag)),
            (Kind::List(of, most), DeValue::Array(items)) => {
                self.bounded(name, items.len(), *most, place)?;
                let items = items.iter().map(|item| {
                    let place = self.source.place(item.span());
                    self.value(of, name, item, place).unwrap_or_else(|| Node::broken(place))
                });
                node(Value::List(items.collect()))
            }
            (Kind::Table(table) | Kind::Either(_, table), DeValue::Table(entries)) => {
                Some(self.table(table, entries, key))
            }
            (Kind::Map(rule, of, most), DeValue::Table(entries)) => {
                self.map((*rule, of, *most), name, entries, key)
            }
            (Kind::Either(first, _), DeValue::String(_)) => self.value(first, name, value, key),
            (_, other) => {
                let what = format!("`{name}` is {}, and must be {}", other.article(), kind.noun());
                self.add(place, what, format!("write it like {}", kind.example(name)));
                None
            }
        }
    }

    fn map(
        &self,
        (rule, of, most): (Rule, &'static Kind, usize),
        name: &str,
        entries: &DeTable<'_>,
        place: Place,
    ) -> Option<Node> {
        self.bounded(name, entries.len(), most, place)?;
        let mut nodes = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let at = self.source.place(key.span());
            let text: &DeString<'_> = key.get_ref();
            if let Err((what, remedy)) = rule.check(text) {
                self.add(at, format!("`{}` in `{name}`: {what}", shown(text)), remedy);
                nodes.push((text.to_string(), at, Node::broken(at)));
                continue;
            }
            let node = self.value(of, text, value, at).unwrap_or_else(|| Node::broken(at));
            nodes.push((text.to_string(), at, node));
        }
        nodes.sort_by_key(|(_, at, _)| *at);
        Some(Node { place, value: Value::Table(nodes) })
    }

    fn bounded(&self, name: &str, count: usize, most: usize, place: Place) -> Option<()> {
        if count <= most {
            return Some(());
        }
        let what = format!("`{name}` has {count} entries; at most {most} are taken");
        self.add(place, what, "take some out");
        None
    }

    fn text(&self, rule: Rule, name: &str, text: &str, place: Place) -> Option<String> {
        let text = self.expanded(name, text, place)?;
        match rule.check(&text) {
            Ok(()) => Some(text),
            Err((what, remedy)) => {
                self.add(place, format!("`{name}` is \"{}\": {what}", shown(&text)), remedy);
                None
            }
        }
    }

    fn expanded(&self, name: &str, text: &str, place: Place) -> Option<String> {
        match self.variables.expand(text) {
            Ok(text) => Some(text),
            Err((what, remedy)) => {
                self.add(place, format!("`{name}`: {what}"), remedy);
                None
            }
        }
    }

    fn choice(&self, words: &[&str], name: &str, text: &str, place: Place) -> Option<String> {
        let text = self.expanded(name, text, place)?;
        if words.contains(&text.as_str()) {
            return Some(text);
        }
        let list: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
        let remedy = match nearest(&text, words.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("write {}", list.join(" or ")),
        };
        let what = format!("`{name}` is \"{}\"; it can be {}", shown(&text), list.join(" or "));
        self.add(place, what, remedy);
        None
    }

    fn amount(&self, kind: &Kind, name: &str, text: &str, place: Place) -> Option<u64> {
        let text = self.expanded(name, text, place)?;
        let (amount, bounds) = match kind {
            Kind::Time(bounds) => (time(&text), bounds),
            Kind::Size(bounds) => (size(&text), bounds),
            _ => return None,
        };
        let Some(amount) = amount else {
            let what = format!("`{name}` is \"{}\", which is no {}", shown(&text), kind.word());
            self.add(place, what, format!("write {}", kind.form()));
            return None;
        };
        if !bounds.hold(amount) {
            self.out_of_bounds(kind, name, &text, place);
            return None;
        }
        Some(amount)
    }

    fn share(&self, kind: &Kind, name: &str, text: &str, place: Place) -> Option<u64> {
        let Kind::Cpus(bounds) = kind else { return None };
        let share = thousandths(text).filter(|share| bounds.hold(*share));
        if share.is_none() {
            self.out_of_bounds(kind, name, text, place);
        }
        share
    }

    fn out_of_bounds(&self, kind: &Kind, name: &str, text: &str, place: Place) {
        let Some((least, most)) = kind.limits() else { return };
        let what = format!("`{name}` is {}; it can be {least} to {most}", shown(text));
        self.add(place, what, format!("write {}", kind.form()));
    }
}

/// A key as it could be added.
fn written(key: &Key) -> String {
    match &key.kind {
        Kind::Map(_, Kind::Table(_), _) => format!("[{}.NAME]", key.name),
        kind => kind.example(key.name),
    }
}

trait Article {
    fn article(&self) -> &'static str;
}

impl Article for DeValue<'_> {
    fn article(&self) -> &'static str {
        match self {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }
}

impl Kind {
    /// What it is called in a message.
    fn noun(&self) -> String {
        match self {
            Self::Text(_) | Self::Choice(_) => "a string".to_owned(),
            Self::Size(_) => "a size in quotes".to_owned(),
            Self::Time(_) => "a time in quotes".to_owned(),
            Self::Count(_) => "a whole number".to_owned(),
            Self::Cpus(_) => "a number of CPUs".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::List(..) => "a list".to_owned(),
            Self::Table(_) | Self::Map(..) => "a table".to_owned(),
            Self::Either(first, _) => format!("{} or a table", first.noun()),
        }
    }

    const fn word(&self) -> &'static str {
        if matches!(self, Self::Time(_)) { "time" } else { "size" }
    }

    /// How a number of it is written.
    const fn form(&self) -> &'static str {
        match self {
            Self::Time(_) => "a whole number and a unit, like \"500ms\", \"30s\", \"5m\" or \"2h\"",
            Self::Size(_) => "a whole number and a unit, like \"64KiB\", \"256MiB\" or \"1GiB\"",
            Self::Cpus(_) => "a number of CPUs between them, with at most three decimals, like 0.5",
            _ => "a whole number between them",
        }
    }

    /// The least and the most, in words.
    pub(super) fn limits(&self) -> Option<(String, String)> {
        let (show, bounds): (fn(u64) -> String, &Bounds) = match self {
            Self::Size(bounds) => (show_size, bounds),
            Self::Time(bounds) => (show_time, bounds),
            Self::Count(bounds) => (|count| count.to_string(), bounds),
            Self::Cpus(bounds) => (show_thousandths, bounds),
            _ => return None,
        };
        Some((show(bounds.least), show(bounds.most)))
    }

    /// A line with this key that is right.
    fn example(&self, name: &str) -> String {
        format!("{name} = {}", self.sample())
    }

    /// A value that is right, for a message.
    pub(super) fn sample(&self) -> String {
        match self {
            Self::Text(rule) => rule.example().to_owned(),
            Self::Choice(words) => format!("\"{}\"", words.first().copied().unwrap_or_default()),
            Self::Size(bounds) => {
                format!("\"{}\"", show_size(bounds.usual.unwrap_or(bounds.least)))
            }
            Self::Time(bounds) => {
                format!("\"{}\"", show_time(bounds.usual.unwrap_or(bounds.least)))
            }
            Self::Count(bounds) => bounds.usual.unwrap_or(bounds.least).to_string(),
            Self::Cpus(bounds) => show_thousandths(bounds.usual.unwrap_or(bounds.least)),
            Self::Flag => "true".to_owned(),
            Self::List(of, _) => format!("[{}]", of.sample()),
            Self::Table(table) => {
                let keys = table.keys.iter().enumerate();
                let keys = keys.filter(|(index, key)| *index == 0 || key.required);
                let keys: Vec<String> = keys.map(|(_, key)| key.kind.example(key.name)).collect();
                if keys.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", keys.join(", ")) }
            }
            Self::Map(rule, of, _) => {
                format!("{{ {} = {} }}", rule.example().trim_matches('"'), of.sample())
            }
            Self::Either(first, _) => first.sample(),
        }
    }
}
