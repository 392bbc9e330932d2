//! What agents chose stays inside of the values that it belongs to.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Everything that could end a line, a value or a field, or steer a terminal.
pub(crate) const HOSTILE: &str = "a\n<0>1 - evil\r\0\u{1b}[2J\u{7f}\u{9b}31m\u{85}\u{2028}\u{202e}\"] \\ é 漢 😀 MESSAGE=x\u{feff}";

pub(crate) fn passed(text: &str) -> Passed {
    let record = Record {
        log: "ab".repeat(16),
        seq: 7,
        prev: "0".repeat(64),
        time: "2026-01-02T03:04:05.123456789Z".into(),
        kind: "exec-denied".into(),
        agent: "a".into(),
        by: None,
        detail: text.to_owned(),
        data: BTreeMap::from([("path".to_owned(), text.into())]),
        sig: "ef".repeat(64),
    };
    let line = serde_json::to_vec(&record).unwrap();
    let digest = Digest::of(&line).hex();
    Passed { record, line, digest }
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// The escapes beyond ASCII turned back.
fn turned_back(json: &str) -> String {
    let mut units: Vec<u16> = Vec::new();
    let mut rest = json;
    while let Some(character) = rest.chars().next() {
        // A backslash that is escaped itself is no beginning of an escape.
        if let Some(after) = rest.strip_prefix("\\\\") {
            units.extend([0x5c, 0x5c]);
            rest = after;
            continue;
        }
        let unit =
            rest.strip_prefix("\\u").and_then(|rest| u16::from_str_radix(&rest[..4], 16).ok());
        match unit {
            Some(unit) if unit >= 0x7f => {
                units.push(unit);
                rest = &rest[6..];
            }
            _ => {
                units.push(u16::try_from(u32::from(character)).unwrap());
                rest = &rest[1..];
            }
        }
    }
    String::from_utf16(&units).unwrap()
}

#[test]
fn a_record_is_one_line_that_means_the_same() {
    let passed = passed(HOSTILE);
    let message = Message::of_record("t", &passed, Form::Record);
    assert!(is_printable(&message.json), "{}", message.json);
    assert_eq!(Record::read(message.json.as_bytes()).unwrap(), passed.record);
    assert_eq!(turned_back(&message.json).as_bytes(), passed.line);
    assert_eq!(message.time.as_deref(), Some("2026-01-02T03:04:05.123456Z"));
    assert_eq!((message.record, message.digest), (7, passed.digest.clone()));
    assert_eq!(message.severity, Severity::Warning);
    assert!(!message.words.contains(char::is_control), "{}", message.words);
    let event = Message::of_record("t", &passed, Form::Ocsf).json;
    assert!(is_printable(&event), "{event}");
    let event: Value = serde_json::from_str(&event).unwrap();
    assert_eq!((&event["message"], &event["unmapped"]["team"]), (&HOSTILE.into(), &"t".into()));
}

#[test]
fn hostile_names_are_plain_words() {
    let mut passed = passed("");
    passed.record.agent = format!("{HOSTILE}{}", "x".repeat(1 << 16));
    passed.record.kind = "k\"]\n é".into();
    passed.record.time = "2026-01-02 \"] now".into();
    let message = Message::of_record("t", &passed, Form::Ocsf);
    assert_eq!(message.kind, "k\"]???");
    assert_eq!(message.agent.len(), MAX_VALUE);
    assert!(is_printable(&message.agent) && !message.agent.contains(' '));
    assert_eq!(message.time, None);
    passed.record.time = "+12026-01-02T03:04:05Z".into();
    assert_eq!(Message::of_record("t", &passed, Form::Ocsf).time, None);
}

#[test]
fn what_is_too_long_says_what_it_was() {
    let message = Message::of_record("t", &passed(&"é\n".repeat(9000)), Form::Ocsf);
    assert!(message.words.chars().count() <= MAX_WORDS + " (cut)".len());
    let cut = message.cut();
    let json: Value = serde_json::from_str(&cut.json).unwrap();
    assert_eq!(json["bytes"], message.json.len());
    assert_eq!(json["digest"], Digest::of(message.json.as_bytes()).to_string());
    assert_eq!(Message { json: message.json.clone(), ..cut }, message);
}

#[test]
fn a_gap_is_a_message_of_its_own() {
    let gap = Gap { log: "ab".repeat(16), first: 5, last: 9, words: "dropped".into() };
    let now = "2026-01-02T03:04:05.000000000Z".to_owned();
    let message = Message::of_gap("t", &gap, now, Form::Record);
    assert_eq!((message.kind.as_str(), message.record), ("export-gap", 5));
    assert_eq!((message.severity, message.digest.as_str()), (Severity::Error, ""));
    let json: Value = serde_json::from_str(&message.json).unwrap();
    assert_eq!((&json["data"]["first"], &json["data"]["last"]), (&5.into(), &9.into()));
    assert!(json.get("sig").is_none());
}

proptest! {
    #[test]
    fn any_text_is_one_printable_line(text in any::<String>()) {
        let passed = passed(&text);
        for form in [Form::Ocsf, Form::Record] {
            let message = Message::of_record("t", &passed, form);
            prop_assert!(is_printable(&message.json));
            prop_assert!(!message.words.contains(char::is_control));
            prop_assert!(serde_json::from_str::<Value>(&message.json).is_ok());
        }
        let record = Message::of_record("t", &passed, Form::Record);
        prop_assert_eq!(turned_back(&record.json).into_bytes(), passed.line);
    }
}
