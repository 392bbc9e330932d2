//! Traces out of a log, as OpenTelemetry's collectors read them: one JSON object of OTLP a line, for each record that ends
//! a span.
//!
//! A life of a team is a trace. Its spans are the team's life, each life of an agent below it, and below that what
//! took place: streams and requests to the outside, and what operators asked for, whose end no record tells.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::message::ascii;
use super::source::Passed;
use crate::audit::record::Record;
use crate::images::digest::Digest;

/// Most agents whose spans are open at once: a changed log could name any number.
const MAX_OPEN: usize = 1024;
/// Hexadecimal digits of the name of a trace and of a span.
const TRACE_DIGITS: usize = 32;
const SPAN_DIGITS: usize = 16;
const NANOS_PER_MILLI: u64 = 1_000_000;
/// `SpanKind` and `StatusCode` of OTLP, which are written as numbers.
const INTERNAL: u8 = 1;
const CLIENT: u8 = 3;
const ERROR: u8 = 2;
/// Attributes of spans, by the names that OpenTelemetry has for them, of what records have for programs.
const ATTRIBUTES: [(&str, &str); 8] = [
    ("host", "server.address"),
    ("port", "server.port"),
    ("address", "network.peer.address"),
    ("method", "http.request.method"),
    ("path", "url.path"),
    ("status", "http.response.status_code"),
    ("sent", "cloister.sent"),
    ("received", "cloister.received"),
];

/// A life that has not ended.
#[derive(Debug)]
struct Open {
    id: String,
    start: u64,
}

/// What is open in a log, record by record.
#[derive(Debug)]
pub struct Traces {
    team: String,
    /// Whose spans are asked for; `None`: all.
    only: Option<String>,
    trace: String,
    life: Option<Open>,
    agents: BTreeMap<String, Open>,
    /// When the last record was written.
    last: u64,
}

/// What is known of a span when it ends.
struct Ended<'a> {
    id: String,
    parent: Option<String>,
    name: String,
    kind: u8,
    agent: &'a str,
    start: u64,
    end: u64,
    /// Why it is no success.
    error: Option<&'a str>,
    attributes: Vec<Value>,
}

impl Traces {
    /// Of a team's log; with `only` the spans of this agent.
    #[must_use]
    pub fn new(team: &str, only: Option<&str>) -> Self {
        Self {
            team: team.to_owned(),
            only: only.map(str::to_owned),
            trace: String::new(),
            life: None,
            agents: BTreeMap::new(),
            last: 0,
        }
    }

    /// Takes the next record: the lines of the spans that it ends.
    pub fn take(&mut self, passed: &Passed) -> Vec<String> {
        let record = &passed.record;
        let time = nanos(&record.time).unwrap_or(self.last);
        if self.trace.is_empty() {
            self.trace = name(&format!("trace {} {}", record.log, record.seq), TRACE_DIGITS);
        }
        let lines = match record.kind.as_str() {
            "team-started" => {
                let lines = self.end_all(self.last, Some("its end is not on record"));
                self.trace = name(&format!("trace {} {}", record.log, record.seq), TRACE_DIGITS);
                self.life = Some(Open { id: span(record), start: time });
                lines
            }
            "team-ended" => self.end_all(time, None),
            "team-failed" => self.end_all(time, Some(&record.detail)),
            "started" => {
                let lines = self.end_agent(&record.agent, time, None);
                if self.agents.len() < MAX_OPEN {
                    let open = Open { id: span(record), start: time };
                    self.agents.insert(record.agent.clone(), open);
                }
                lines
            }
            "exited" if record.detail == "exit code 0" => self.end_agent(&record.agent, time, None),
            "stopped" => self.end_agent(&record.agent, time, None),
            "exited" | "failed" | "container-gone" => {
                self.end_agent(&record.agent, time, Some(&record.detail))
            }
            "exec" | "copy" | "attach" | "order" | "answer" => {
                self.happened(record, time, INTERNAL, None)
            }
            "egress-ended" | "egress-request" => self.happened(record, time, CLIENT, None),
            "egress-denied" | "egress-failed" => {
                self.happened(record, time, CLIENT, Some(&record.detail))
            }
            _ => Vec::new(),
        };
        self.last = time;
        lines
    }

    fn end_all(&mut self, end: u64, error: Option<&str>) -> Vec<String> {
        let agents: Vec<_> = self.agents.keys().cloned().collect();
        let mut lines = Vec::new();
        for agent in agents {
            lines.extend(self.end_agent(&agent, end, error));
        }
        if let Some(Open { id, start }) = self.life.take() {
            let (name, attributes) = (format!("team {}", self.team), Vec::new());
            let (kind, agent, parent) = (INTERNAL, "", None);
            let ended = Ended { id, parent, name, kind, agent, start, end, error, attributes };
            lines.extend(self.line(&ended));
        }
        lines
    }

    fn end_agent(&mut self, agent: &str, end: u64, error: Option<&str>) -> Vec<String> {
        let Some(Open { id, start }) = self.agents.remove(agent) else { return Vec::new() };
        let parent = self.life.as_ref().map(|life| life.id.clone());
        let (name, attributes, kind) = (format!("agent {agent}"), Vec::new(), INTERNAL);
        let ended = Ended { id, parent, name, kind, agent, start, end, error, attributes };
        self.line(&ended).into_iter().collect()
    }

    /// Something that took no time, or as long as the record says.
    fn happened(&self, record: &Record, end: u64, kind: u8, error: Option<&str>) -> Vec<String> {
        let took = record.data.get("milliseconds").and_then(Value::as_u64).unwrap_or_default();
        let parent = self.agents.get(&record.agent).or(self.life.as_ref());
        let mut attributes = vec![
            attribute("cloister.record", &record.seq.into()),
            attribute("cloister.detail", &record.detail.as_str().into()),
        ];
        let known = ATTRIBUTES
            .iter()
            .filter_map(|(key, name)| record.data.get(*key).map(|value| attribute(name, value)));
        attributes.extend(known);
        let ended = Ended {
            id: span(record),
            parent: parent.map(|open| open.id.clone()),
            name: record.kind.clone(),
            kind,
            agent: &record.agent,
            start: end.saturating_sub(took.saturating_mul(NANOS_PER_MILLI)),
            end,
            error,
            attributes,
        };
        self.line(&ended).into_iter().collect()
    }

    fn line(&self, span: &Ended<'_>) -> Option<String> {
        if self.only.as_ref().is_some_and(|only| only != span.agent) {
            return None;
        }
        let mut attributes = span.attributes.clone();
        if !span.agent.is_empty() {
            attributes.push(attribute("cloister.agent", &span.agent.into()));
        }
        let mut object = json!({
            "traceId": self.trace,
            "spanId": span.id,
            "name": span.name,
            "kind": span.kind,
            "startTimeUnixNano": span.start.min(span.end).to_string(),
            "endTimeUnixNano": span.end.to_string(),
            "attributes": attributes,
            "status": span.error.map_or_else(
                || json!({}),
                |words| json!({ "code": ERROR, "message": words }),
            ),
        });
        if let (Some(parent), Some(object)) = (&span.parent, object.as_object_mut()) {
            object.insert("parentSpanId".to_owned(), parent.as_str().into());
        }
        let resource = [
            attribute("service.name", &"cloister".into()),
            attribute("service.version", &env!("CARGO_PKG_VERSION").into()),
            attribute("cloister.team", &self.team.as_str().into()),
        ];
        let whole = json!({ "resourceSpans": [{
            "resource": { "attributes": resource },
            "scopeSpans": [{ "scope": { "name": "cloister.audit" }, "spans": [object] }],
        }]});
        Some(ascii(&whole.to_string()))
    }
}

/// A value with its type; numbers of 64 bits are written as text.
fn attribute(key: &str, value: &Value) -> Value {
    let value = match value {
        Value::Bool(value) => json!({ "boolValue": value }),
        Value::Number(number) if number.is_u64() || number.is_i64() => {
            json!({ "intValue": number.to_string() })
        }
        Value::String(text) => json!({ "stringValue": text }),
        other => json!({ "stringValue": other.to_string() }),
    };
    json!({ "key": key, "value": value })
}

/// The span that a record begins, or is.
fn span(record: &Record) -> String {
    name(&format!("span {} {}", record.log, record.seq), SPAN_DIGITS)
}

/// The same for the same record whenever it is exported, so that a collector can tell what came twice.
fn name(of: &str, digits: usize) -> String {
    let mut name = Digest::of(of.as_bytes()).hex();
    name.truncate(digits);
    name
}

fn nanos(time: &str) -> Option<u64> {
    let time = chrono::DateTime::parse_from_rfc3339(time).ok()?;
    u64::try_from(time.timestamp_nanos_opt()?).ok()
}

#[cfg(test)]
#[path = "otlp_test.rs"]
mod tests;
