use proptest::prelude::*;

use super::*;
use crate::audit::export::message::Form;
use crate::audit::export::message::tests::{HOSTILE, passed};
use crate::audit::export::severity::Severity;

fn message() -> Message {
    Message {
        team: "t".into(),
        agent: "a".into(),
        kind: "exec-denied".into(),
        record: 7,
        digest: "ab".into(),
        log: "cd".into(),
        time: Some("2026-01-02T03:04:05.123456Z".into()),
        severity: Severity::Warning,
        words: String::new(),
        json: "{\"a\":\"]\"}".into(),
    }
}

#[test]
fn a_message_of_the_network_is_that_of_the_standard() {
    let text = String::from_utf8(network(&message(), Facility::Authpriv, "h")).unwrap();
    assert_eq!(
        text,
        "<84>1 2026-01-02T03:04:05.123456Z h cloister - exec-denied \
         [cloister@32473 team=\"t\" agent=\"a\" kind=\"exec-denied\" record=\"7\" digest=\"ab\" log=\"cd\"] \
         {\"a\":\"]\"}"
    );
    assert_eq!(counted(text.as_bytes()), format!("{} {text}", text.len()).into_bytes());
    let empty = Message { time: None, kind: String::new(), agent: String::new(), ..message() };
    let text = String::from_utf8(network(&empty, Facility::Local7, "\u{1b} \n")).unwrap();
    assert!(
        text.starts_with("<188>1 - - cloister - - [cloister@32473 team=\"t\" record"),
        "{text}"
    );
}

#[test]
fn a_message_for_this_host_is_that_of_the_c_library() {
    let text = String::from_utf8(local(&message(), Facility::Auth)).unwrap();
    assert!(text.starts_with("<36>cloister: [cloister@32473 team=\"t\" agent=\"a\" "), "{text}");
    assert!(text.ends_with("] {\"a\":\"]\"}"), "{text}");
}

/// Splits a message as RFC 5424 says: the fields of its head, the values of its data, the rest.
fn parse(text: &str) -> (Vec<&str>, Vec<(String, String)>, &str) {
    let mut head = Vec::new();
    let mut rest = text;
    for _ in 0..6 {
        let (field, after) = rest.split_once(' ').unwrap();
        head.push(field);
        rest = after;
    }
    let mut rest = rest.strip_prefix("[cloister@32473").unwrap();
    let mut values = Vec::new();
    while let Some(after) = rest.strip_prefix(' ') {
        let (name, after) = after.split_once("=\"").unwrap();
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next().unwrap() {
                (_, '\\') => value.push(characters.next().unwrap().1),
                (end, '"') => break end,
                (_, ']') => unreachable!("an end without its escape"),
                (_, character) => value.push(character),
            }
        };
        values.push((name.to_owned(), value));
        rest = &after[end + 1..];
    }
    (head, values, rest.strip_prefix("] ").unwrap())
}

#[test]
fn hostile_values_stay_values() {
    let mut passed = passed(HOSTILE);
    passed.record.agent = HOSTILE.into();
    passed.record.kind = HOSTILE.into();
    passed.record.log = "x\" evil=\"1\"]\\".into();
    let message = Message::of_record("t", &passed, Form::Ocsf);
    let text = String::from_utf8(network(&message, Facility::Local0, HOSTILE)).unwrap();
    assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
    let (head, values, json) = parse(&text);
    assert_eq!(head.len(), 6);
    assert_eq!((head[0], head[3], head[4]), ("<133>1", "cloister", "-"));
    let names: Vec<_> = values.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["team", "agent", "kind", "record", "digest", "log"]);
    assert_eq!(values[5].1, "x\"?evil=\"1\"]\\");
    assert_eq!(json, message.json);
}

proptest! {
    #[test]
    fn any_record_is_one_message(agent in any::<String>(), kind in any::<String>(), text in any::<String>()) {
        let mut passed = passed(&text);
        (passed.record.agent, passed.record.kind) = (agent, kind);
        let message = Message::of_record("t", &passed, Form::Record);
        let text = String::from_utf8(network(&message, Facility::Authpriv, &text)).unwrap();
        let (head, values, json) = parse(&text);
        prop_assert_eq!(head[3], "cloister");
        prop_assert!(values.len() <= 6);
        prop_assert_eq!(json, message.json);
    }
}
