use serde_json::json;

use super::*;
use crate::egress::policy::Policy;
use crate::egress::request::{Asked, Judgement};
use crate::team::file::{Surroundings, TeamFile};
use crate::team::source::Source;

fn record(kind: &str, data: Value) -> Record {
    let data = serde_json::from_value(data).unwrap();
    let (log, prev, sig, detail) = Default::default();
    let (time, agent) = ("2026-01-02T03:04:05.600000000Z".to_owned(), "a".to_owned());
    Record { log, seq: 1, prev, time, kind: kind.to_owned(), agent, by: None, detail, data, sig }
}

fn observing() -> Lessons {
    let mut lessons = Lessons::default();
    lessons.take(&record("team-started", json!({"egress-mode": "observe"})));
    lessons
}

fn stream(host: &str, port: u16) -> Record {
    record(
        OBSERVED,
        json!({"host": host, "port": port, "address": "192.0.2.1", "looked_into": false}),
    )
}

fn request(method: &str, path: &str, observed: bool, websocket: bool) -> Record {
    let data = json!({"host": "b.test", "port": 443, "method": method, "path": path,
        "observed": observed, "websocket": websocket});
    record(REQUEST, data)
}

/// The rules as a team file, read again.
fn read(learned: &[Learned]) -> Policy {
    let mut text = "name = \"t\"\n[agents.a]\nimage = \"i\"\n".to_owned();
    for rule in learned.iter().flat_map(|one| &one.egress) {
        text.push_str(&rule.toml("a"));
    }
    let surroundings =
        Surroundings { environment: &|_| None, read: &|_| panic!("no file of variables") };
    let file = TeamFile::parse(Source::new("t.toml", &text), surroundings);
    let file = file.unwrap_or_else(|mistakes| panic!("{text}\n{mistakes}"));
    Policy::new(file.agents[0].egress.clone())
}

fn allows(policy: &Policy, method: &str, path: &str, websocket: bool) -> bool {
    let asked = Asked { method, path, websocket };
    matches!(policy.judge("b.test", 443, asked), Judgement::Allowed(_))
}

#[test]
fn streams_become_the_narrowest_rules_in_a_stable_order() {
    let mut lessons = observing();
    for (host, port) in [("z.test", 443), ("a.test", 8443), ("a.test", 443), ("a.test", 8443)] {
        lessons.take(&stream(host, port));
    }
    lessons.take(&record(OBSERVED, json!({"port": 22, "address": "192.0.2.1"})));
    let learned = lessons.learned(None);
    let text: String = learned[0].egress.iter().map(|rule| rule.toml("a")).collect();
    let rule = |lines: &str| format!("[[agents.a.egress]]\n{lines}\n");
    let wanted = [
        rule("cidr = \"192.0.2.1\"\nports = [22]"),
        rule("host = \"a.test\"\nports = [443, 8443]"),
        rule("host = \"z.test\"\nports = [443]"),
    ];
    assert_eq!(text, wanted.concat());
    assert!(lessons.learned(Some("b")).is_empty());
    let policy = read(&learned);
    let name = |name: &str| cloister_protocol::egress::Target::Name(name.to_owned());
    assert!(policy.decide(&name("a.test"), 8443).is_allowed());
    assert!(!policy.decide(&name("z.test"), 8443).is_allowed());
    assert!(!policy.decide(&name("b.test"), 443).is_allowed());
}

#[test]
fn requests_become_methods_and_paths_that_mean_them_alone() {
    let mut lessons = observing();
    let odd = "/a$%7Bb%7D/x*y/%22q\"/$${Z}";
    for (method, path, websocket) in [
        ("GET", "/v1/x", false),
        ("POST", "/v1/x", false),
        ("GET", "/", false),
        ("GET", "/ws", true),
        ("PUT", odd, false),
    ] {
        lessons.take(&request(method, path, true, websocket));
    }
    // Allowed by a rule that is there already.
    lessons.take(&request("GET", "/known", false, false));
    let policy = read(&lessons.learned(None));
    for (method, path, websocket, allowed) in [
        ("GET", "/v1/x", false, true),
        ("POST", "/v1/x", false, true),
        ("GET", "/", false, true),
        ("GET", "/ws", true, true),
        ("PUT", odd, false, true),
        ("PUT", "/a$%7Bb%7D/xAy/%22q\"/$${Z}", false, false),
        ("POST", "/", false, false),
        ("GET", "/v1/x", true, false),
        ("GET", "/v1/y", false, false),
        ("GET", "/known", false, false),
        ("DELETE", "/v1/x", false, false),
    ] {
        assert_eq!(allows(&policy, method, path, websocket), allowed, "{method} {path}");
    }
}

#[test]
fn what_no_pattern_or_method_means_leaves_them_all() {
    // A path that servers read differently, allowed before: with `paths` it would be refused.
    let mut lessons = observing();
    lessons.take(&request("GET", "/v1/x", true, false));
    lessons.take(&request("GET", "/v1//x", false, false));
    let rules = &lessons.learned(None)[0].egress;
    assert!(rules[0].paths.is_empty() && rules[0].methods == ["GET"]);
    // One that was cut, and a method that no rule has.
    let mut lessons = observing();
    let data = json!({"host": "b.test", "port": 443, "method": "M-SEARCH", "observed": true});
    lessons.take(&record(REQUEST, data));
    let rules = &lessons.learned(None)[0].egress;
    assert!(rules[0].paths.is_empty() && rules[0].methods.is_empty());
    assert!(allows(&read(&lessons.learned(None)), "M-SEARCH", "/v1//x", false));
}

#[test]
fn many_paths_are_drawn_together_and_stay_allowed() {
    for (make, shown) in [
        (&(|n: usize| format!("/v1/items/{n}")) as &dyn Fn(usize) -> String, "/v1/items/*"),
        (&|n: usize| format!("/v1/items/{n}/it"), "/v1/**"),
    ] {
        let mut lessons = observing();
        for number in 0..=MAX_PATTERNS {
            lessons.take(&request("GET", &make(number), true, false));
        }
        let learned = lessons.learned(None);
        assert_eq!(learned[0].egress[0].paths, [shown]);
        let policy = read(&learned);
        assert!((0..=MAX_PATTERNS).all(|n| allows(&policy, "GET", &make(n), false)));
        assert!(!allows(&policy, "GET", "/v2", false));
    }
    let mut lessons = observing();
    for number in 0..=MAX_PATHS {
        lessons.take(&request("GET", &format!("/{number}/x"), true, false));
    }
    assert!(lessons.learned(None)[0].egress[0].paths.is_empty());
}

#[test]
fn only_the_last_run_counts_and_gaps_are_told() {
    let mut lessons = observing();
    lessons.take(&stream("old.test", 1));
    lessons.take(&record("team-started", json!({"egress-mode": "enforce"})));
    assert!(!lessons.observed() && lessons.learned(None).is_empty());
    lessons.take(&record("policy-applied", json!({"egress-mode": "observe"})));
    lessons.take(&stream("new.test", 1));
    lessons.take(&record(LEFT_OUT, json!({})));
    let learned = lessons.learned(None);
    assert!(lessons.observed() && !learned[0].complete && learned[0].egress.len() == 1);
    // Hostile or foreign data is no rule.
    for data in [json!({}), json!({"host": 1, "port": 1}), json!({"host": "x", "port": 65536})] {
        lessons.take(&record(OBSERVED, data.clone()));
        lessons.take(&record(REQUEST, data));
    }
    assert_eq!(lessons.learned(None)[0].egress.len(), 1);
}
