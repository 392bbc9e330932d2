//! The JSON Schema of team files, made of [`super::keys`]. What it accepts, the reader may still refuse:
//! a schema can't tell whether agents, mounts and amounts fit together. What it refuses, so does the
//! reader.

use serde_json::{Map, Value, json};

use super::keys::{Key, Kind, Rule, TEAM, Table};
use super::limits::{Bounds, MAX_TEXT};

/// Any text with a variable in it: only the reader knows what it becomes.
const WITH_VARIABLE: &str = r"\$\{";
const SIZE: &str = "^[0-9]{1,30} ?([KkMmGgTt]|[KkMmGgTt][Ii]?[Bb])$";
const TIME: &str = "^[0-9]{1,30} ?(ms|s|m|min|h|d)$";

/// The schema as a document with a line end.
#[must_use]
pub fn text() -> String {
    let mut schema = table(&TEAM);
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("Cloister team file"));
    // Strings, numbers, lists and tables: nothing in it can fail.
    serde_json::to_string_pretty(&Value::Object(schema)).unwrap_or_default() + "\n"
}

fn table(table: &Table) -> Map<String, Value> {
    let mut properties = Map::new();
    for key in table.keys {
        let mut schema = kind(&key.kind);
        schema.insert("description".to_owned(), json!(described(key)));
        if let Some(usual) = usual(&key.kind) {
            schema.insert("default".to_owned(), usual);
        }
        properties.insert(key.name.to_owned(), Value::Object(schema));
    }
    let required: Vec<&str> =
        table.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    object(json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    }))
}

fn kind(kind: &Kind) -> Map<String, Value> {
    object(match kind {
        Kind::Text(rule) => return text_of(*rule),
        Kind::Choice(words) => {
            json!({"anyOf": [{"enum": words}, {"type": "string", "pattern": WITH_VARIABLE}]})
        }
        Kind::Size(_) => json!({"type": "string", "anyOf": either(SIZE)}),
        Kind::Time(_) => json!({"type": "string", "anyOf": either(TIME)}),
        Kind::Count(Bounds { least, most, .. }) => {
            json!({"type": "integer", "minimum": least, "maximum": most})
        }
        Kind::Cpus(Bounds { least, most, .. }) => json!({
            "type": "number", "minimum": thousandth(*least), "maximum": thousandth(*most),
        }),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::List(of, most) => {
            json!({"type": "array", "items": self::kind(of), "maxItems": most})
        }
        Kind::Table(of) => return table(of),
        Kind::Map(rule, of, most) => json!({
            "type": "object",
            "propertyNames": {"pattern": rule.pattern()},
            "additionalProperties": self::kind(of),
            "maxProperties": most,
        }),
        Kind::Either(first, of) => json!({"anyOf": [self::kind(first), table(of)]}),
    })
}

fn text_of(rule: Rule) -> Map<String, Value> {
    let schema = json!({"type": "string", "maxLength": MAX_TEXT});
    let mut schema = object(schema);
    if let Some(pattern) = rule.pattern() {
        schema.insert("anyOf".to_owned(), either(pattern));
    }
    schema
}

fn either(pattern: &str) -> Value {
    json!([{"pattern": pattern}, {"pattern": WITH_VARIABLE}])
}

/// What a key does, and what it is without it.
fn described(key: &Key) -> String {
    let usual = key.usual.replace('`', "");
    match key.kind.limits() {
        _ if key.required => key.meaning.to_owned(),
        Some((least, most)) if usual.is_empty() => format!("{} {least} to {most}.", key.meaning),
        Some((least, most)) => {
            format!("{} {least} to {most}; without it: {usual}.", key.meaning)
        }
        None => format!("{} Without it: {usual}.", key.meaning),
    }
}

fn usual(kind: &Kind) -> Option<Value> {
    match kind {
        Kind::Count(bounds) => bounds.usual.map(|usual| json!(usual)),
        Kind::Cpus(bounds) => bounds.usual.map(|usual| json!(thousandth(usual))),
        Kind::Size(bounds) | Kind::Time(bounds) => {
            bounds.usual.map(|_| json!(kind.sample().trim_matches('"')))
        }
        _ => None,
    }
}

/// Exact for what can be written with three decimals.
fn thousandth(value: u64) -> f64 {
    u32::try_from(value).map_or(f64::MAX, |value| f64::from(value) / 1000.0)
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}

#[cfg(test)]
#[path = "schema_test.rs"]
mod tests;
