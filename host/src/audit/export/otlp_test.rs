//! Spans as OTLP's JSON encoding asks for, out of records in their order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::audit::export::message::tests::HOSTILE;

/// A log, and when each of its records was written, in seconds.
struct Bed {
    traces: Traces,
    seq: u64,
}

impl Bed {
    fn new(only: Option<&str>) -> Self {
        Self { traces: Traces::new("t", only), seq: 0 }
    }

    fn take(&mut self, kind: &str, agent: &str, detail: &str, data: Value) -> Vec<Value> {
        self.seq += 1;
        let data: BTreeMap<String, Value> = serde_json::from_value(data).unwrap();
        let record = Record {
            log: "ab".repeat(16),
            seq: self.seq,
            prev: String::new(),
            time: format!("2026-01-02T03:04:{:02}.000000001Z", self.seq % 60),
            kind: kind.to_owned(),
            agent: agent.to_owned(),
            by: None,
            detail: detail.to_owned(),
            data,
            sig: String::new(),
        };
        let passed = Passed { record, line: Vec::new(), digest: String::new() };
        self.traces.take(&passed).iter().map(|line| checked(line)).collect()
    }
}

/// The span of a line that is as the encoding says.
fn checked(line: &str) -> Value {
    assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
    let whole: Value = serde_json::from_str(line).unwrap();
    let resource = &whole["resourceSpans"][0];
    assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "cloister");
    let span = &resource["scopeSpans"][0]["spans"][0];
    let is_id = |key: &str, digits| {
        let text = span[key].as_str().unwrap();
        let hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        hex && text.len() == digits && text.bytes().any(|byte| byte != b'0')
    };
    assert!(is_id("traceId", 32) && is_id("spanId", 16), "{line}");
    assert!(span.get("parentSpanId").is_none() || is_id("parentSpanId", 16), "{line}");
    let time = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
    assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"), "{line}");
    assert!(span["kind"].is_u64() && span["name"].is_string(), "{line}");
    for attribute in span["attributes"].as_array().unwrap() {
        let value = attribute["value"].as_object().unwrap();
        assert!(attribute["key"].is_string() && value.len() == 1, "{line}");
        assert!(value.get("intValue").is_none_or(Value::is_string), "{line}");
    }
    span.clone()
}

fn attribute_of<'a>(span: &'a Value, key: &str) -> &'a Value {
    let found = span["attributes"].as_array().unwrap().iter().find(|one| one["key"] == key);
    &found.unwrap()["value"]
}

#[test]
fn a_life_is_a_trace() {
    let mut bed = Bed::new(None);
    assert!(bed.take("team-started", "", "", json!({})).is_empty());
    assert!(bed.take("started", "a", "", json!({})).is_empty());
    let exec = bed.take("exec", "a", HOSTILE, json!({"arguments": ["x"]})).remove(0);
    let facts =
        json!({"host": "h.test", "port": 443, "sent": 1, "received": 2, "milliseconds": 1500});
    let stream = bed.take("egress-ended", "a", "h.test:443", facts).remove(0);
    let denied = bed.take("egress-denied", "a", "no", json!({})).remove(0);
    let agent = bed.take("exited", "a", "exit code 3", json!({})).remove(0);
    let team = bed.take("team-ended", "", "", json!({})).remove(0);
    assert_eq!(team["name"], "team t");
    assert!(team.get("parentSpanId").is_none() && team["status"] == json!({}));
    for span in [&exec, &stream, &denied, &agent] {
        assert_eq!(span["traceId"], team["traceId"]);
    }
    assert_eq!(agent["parentSpanId"], team["spanId"]);
    assert_eq!((&agent["name"], &agent["status"]["code"]), (&json!("agent a"), &json!(2)));
    // The second at which it started, and the one at which it ended.
    assert_eq!(agent["startTimeUnixNano"], "1767323042000000001");
    assert_eq!(agent["endTimeUnixNano"], "1767323046000000001");
    assert_eq!(exec["parentSpanId"], agent["spanId"]);
    assert_eq!(attribute_of(&exec, "cloister.detail")["stringValue"], HOSTILE);
    assert_eq!(stream["startTimeUnixNano"], "1767323042500000001");
    assert_eq!(stream["kind"], 3);
    assert_eq!(attribute_of(&stream, "server.port")["intValue"], "443");
    assert_eq!(denied["status"], json!({"code": 2, "message": "no"}));
    // Another life is another trace.
    bed.take("team-started", "", "", json!({}));
    let next = bed.take("team-failed", "", "why", json!({})).remove(0);
    assert_ne!(next["traceId"], team["traceId"]);
    assert_eq!(next["status"]["message"], "why");
}

#[test]
fn a_crash_ends_what_was_open() {
    let mut bed = Bed::new(None);
    bed.take("team-started", "", "", json!({}));
    bed.take("started", "a", "", json!({}));
    let before = bed.take("started", "a", "", json!({})).remove(0);
    let ended = bed.take("team-started", "", "", json!({}));
    let names: Vec<_> = ended.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["agent a", "team t"]);
    assert_eq!(ended[0]["status"]["message"], "its end is not on record");
    assert_eq!(
        (&ended[0]["traceId"], &ended[1]["traceId"]),
        (&before["traceId"], &before["traceId"])
    );
    // Alone, an agent's spans are in the same trace.
    let mut bed = Bed::new(Some("b"));
    bed.take("team-started", "", "", json!({}));
    bed.take("started", "a", "", json!({}));
    bed.take("started", "b", "", json!({}));
    let ended = bed.take("team-ended", "", "", json!({}));
    assert_eq!((ended.len(), &ended[0]["name"]), (1, &json!("agent b")));
}

proptest! {
    #[test]
    fn any_records_are_spans_or_none(records in proptest::collection::vec(
        (0_usize..16, any::<String>(), any::<String>(), any::<u64>()), 0..40,
    )) {
        let kinds = ["team-started", "team-ended", "team-failed", "started", "exited", "stopped",
            "failed", "container-gone", "exec", "copy", "order", "egress-ended", "egress-request",
            "egress-denied", "egress-failed", "of tomorrow"];
        let mut bed = Bed::new(None);
        for (kind, agent, detail, number) in records {
            let data = json!({"milliseconds": number, "port": number, "host": detail, "path": [1]});
            bed.take(kinds[kind], &agent, &detail, data);
        }
    }
}
