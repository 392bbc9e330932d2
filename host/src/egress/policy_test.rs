use super::*;
use crate::egress::{name, range};

/// A rule of words: `allow HOST-OR-RANGE PORT,PORT`.
fn rule(text: &str) -> Setting<Rule> {
    let words: Vec<&str> = text.split(' ').collect();
    let peer = range::range(words[1])
        .map(Peer::Range)
        .or_else(|_| name::pattern(words[1]).map(Peer::Host))
        .unwrap();
    let ports = words
        .get(2)
        .map_or(Vec::new(), |list| list.split(',').map(|port| port.parse().unwrap()).collect());
    let action = match words[0] {
        "deny" => Action::Deny,
        "ask" => Action::Ask,
        _ => Action::Allow,
    };
    Setting::usual(Rule { peer, ports, action, http: None })
}

pub(crate) fn policy(rules: &[&str]) -> Policy {
    Policy::new(rules.iter().map(|text| rule(text)).collect())
}

fn target(text: &str) -> Target {
    text.parse().map_or_else(|_| Target::Name(text.to_owned()), Target::Address)
}

#[test]
fn no_rule_is_no() {
    let policy = Policy::default();
    assert_eq!(policy.decide(&target("a.example"), 443), Verdict::NoRule);
    assert_eq!(policy.decide(&target("1.1.1.1"), 443), Verdict::NoRule);
    assert!(policy.is_empty() && policy.for_guest().is_none());
    assert!(self::policy(&["deny a.example"]).for_guest().is_none());
}

#[test]
fn rules_decide() {
    let policy = policy(&[
        "allow api.example.com 443",
        "allow *.wild.example 443,8443",
        "deny bad.wild.example",
        "deny *.wild.example 8443",
        "allow 203.0.113.0/24 5432",
        "deny 203.0.113.66 5432",
        "allow 169.254.169.0/24 80",
        "allow 10.0.0.1 22",
    ]);
    for (to, port, allowed) in [
        ("api.example.com", 443, true),
        ("api.example.com", 80, false),
        ("x.api.example.com", 443, false),
        ("example.com", 443, false),
        ("a.wild.example", 443, true),
        ("a.b.wild.example", 443, true),
        ("a.wild.example", 8443, false),
        ("bad.wild.example", 443, false),
        ("x.bad.wild.example", 443, true),
        ("wild.example", 443, false),
        ("203.0.113.1", 5432, true),
        ("203.0.113.1", 443, false),
        ("203.0.113.66", 5432, false),
        ("203.0.114.1", 5432, false),
        ("10.0.0.1", 22, true),
        ("10.0.0.2", 22, false),
        ("169.254.169.253", 80, true),
        ("169.254.169.254", 80, false),
        ("93.184.216.34", 443, false),
    ] {
        assert_eq!(policy.decide(&target(to), port).is_allowed(), allowed, "{to}:{port}");
    }
}

#[test]
fn names_lead_only_to_public_or_named_addresses() {
    let policy = policy(&[
        "allow *.example.com 443",
        "allow 10.1.0.0/24 443",
        "allow 127.0.0.1 443",
        "allow 169.254.169.254 80",
        "deny 9.9.9.9",
        "deny 2a00::/16",
    ]);
    let operator = Operator::default();
    for (address, port, admitted) in [
        ("1.1.1.1", 443, true),
        ("9.9.9.9", 443, false),
        ("64:ff9b::9.9.9.9", 443, false),
        ("64:ff9b::1.1.1.1", 443, true),
        ("64:ff9b::10.1.0.1", 443, false),
        ("2606:4700::1111", 443, true),
        ("2a00:1450::1", 443, false),
        ("10.1.0.7", 443, true),
        ("10.1.0.7", 80, false),
        ("10.2.0.7", 443, false),
        ("127.0.0.1", 443, true),
        ("127.0.0.2", 443, false),
        ("::1", 443, false),
        ("169.254.169.254", 80, true),
        ("169.254.169.254", 443, false),
        ("100.100.100.200", 80, false),
    ] {
        let verdict = policy.admits(address.parse().unwrap(), port, &operator);
        assert_eq!(verdict.is_ok(), admitted, "{address}:{port} {verdict:?}");
    }
    let operator =
        toml::from_slice::<Operator>(b"deny = [\"10.1.0.0/16\", \"1.1.1.0/24\"]").unwrap();
    for address in ["10.1.0.7", "1.1.1.1", "64:ff9b::1.1.1.1"] {
        let words = policy.admits(address.parse().unwrap(), 443, &operator).unwrap_err();
        assert!(words.contains("operator"), "{words}");
    }
}

#[test]
fn the_guest_gets_what_it_can_use() {
    let policy = policy(&[
        "allow *.example.com 443",
        "deny x.example.com",
        "allow 10.0.0.0/24 5432",
        "allow 127.0.0.1 443",
        "deny 10.0.0.5",
        "deny ::/0",
    ]);
    let egress = policy.for_guest().unwrap();
    assert_eq!(egress.names.len(), 2);
    assert_eq!(egress.ranges.len(), 1);
    assert_eq!(egress.ports("a.example.com"), [443]);
    assert!(egress.ports("x.example.com").is_empty());
}

#[test]
fn decisions_have_words() {
    let policy = policy(&["allow a.example 443", "deny 10.0.0.0/8"]);
    let words = policy.decide(&target("a.example"), 443).words();
    assert_eq!(words, "by the rule in default (allow a.example, port 443)");
    let words = policy.decide(&target("10.0.0.1"), 1).words();
    assert_eq!(words, "by the rule in default (deny 10.0.0.0/8, every port)");
    let refused = policy.admits("192.168.0.1".parse().unwrap(), 443, &Operator::default());
    assert_eq!(refused.unwrap_err(), "192.168.0.1 is private, and no rule names that address");
}

#[test]
fn what_asks_is_behind_what_allows_and_denies() {
    let policy = policy(&[
        "ask *.example.com 443",
        "allow api.example.com 443",
        "deny bad.example.com",
        "ask 10.0.0.0/24 5432",
        "allow 10.0.0.7 5432",
        "deny 10.0.0.9",
        "allow 127.0.0.1 443",
    ]);
    let verdict = |to: &str, port| match policy.decide(&target(to), port) {
        Verdict::Allowed(_) => "allowed",
        Verdict::Asked(_) => "asked",
        Verdict::Denied(_) => "denied",
        Verdict::Observed | Verdict::NoRule => "none",
    };
    for (to, port, said) in [
        ("x.example.com", 443, "asked"),
        ("x.example.com", 80, "none"),
        ("api.example.com", 443, "allowed"),
        ("bad.example.com", 443, "denied"),
        ("10.0.0.1", 5432, "asked"),
        ("10.0.0.7", 5432, "allowed"),
        ("10.0.0.9", 5432, "denied"),
    ] {
        assert_eq!(verdict(to, port), said, "{to}:{port}");
    }
    let asked = policy.decide(&target("x.example.com"), 443);
    assert!(!asked.is_allowed() && asked.words().starts_with("the operator is asked, by"));
    let observing = policy.clone().observing(true);
    assert!(matches!(observing.decide(&target("x.example.com"), 443), Verdict::Asked(_)));
    // A private address is reached by who was asked about it, and not by a name that leads there.
    let operator = Operator::default();
    let of = |text: &str| text.parse().unwrap();
    assert!(policy.admits(of("10.0.0.1"), 5432, &operator).is_err());
    assert!(policy.admits_approved(of("10.0.0.1"), 5432, &operator).is_ok());
    for address in ["10.0.0.9", "10.0.1.1", "127.0.0.2"] {
        assert!(policy.admits_approved(of(address), 5432, &operator).is_err(), "{address}");
    }
    let operator = toml::from_slice::<Operator>(b"deny = [\"10.0.0.0/16\"]").unwrap();
    assert!(policy.admits_approved(of("10.0.0.1"), 5432, &operator).is_err());
    // The guest knows the way, and the host asks.
    let egress = policy.for_guest().unwrap();
    assert_eq!(egress.ports("x.example.com"), [443]);
    assert_eq!(egress.ranges.len(), 2);
    assert!(!self::policy(&["ask a.example 443"]).is_empty());
}
