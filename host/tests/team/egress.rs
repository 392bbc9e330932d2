//! Rules about egress: those that are right, and those that are wrong, each with its place and what to do.

use cloister::egress::rule::{Action, Peer, Rule};

use super::bed::{agent, parse};

#[test]
fn rules_are_read_in_their_one_form() {
    let team = parse(&agent(
        r#"egress-quota = { sent = "100MiB" }
[[agents.a.egress]]
host = "API.Example.com."
ports = [443, 8443]
[[agents.a.egress]]
host = "*.bücher.example"
ports = [443]
action = "allow"
[[agents.a.egress]]
cidr = "203.0.113.0/24"
ports = [5432]
[[agents.a.egress]]
cidr = "::/0"
action = "deny"
[[agents.a.egress]]
host = "a.example"
ports = [443]
action = "ask"
[[agents.a.egress]]
cidr = "127.0.0.1"
ports = [11434]"#,
    ))
    .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let quota = team.agents[0].egress_quota.value;
    assert_eq!((quota.sent, quota.received), (Some(100 << 20), None));
    let rules: Vec<Rule> = team.agents[0].egress.iter().map(|rule| rule.value.clone()).collect();
    let host = |name: &str| Peer::Host(name.to_owned());
    let range = |text: &str| Peer::Range(text.parse().unwrap());
    assert_eq!(
        rules,
        [
            Rule {
                peer: host("api.example.com"),
                ports: vec![443, 8443],
                action: Action::Allow,
                http: None
            },
            Rule {
                peer: host("*.xn--bcher-kva.example"),
                ports: vec![443],
                action: Action::Allow,
                http: None
            },
            Rule {
                peer: range("203.0.113.0/24"),
                ports: vec![5432],
                action: Action::Allow,
                http: None
            },
            Rule { peer: range("::/0"), ports: vec![], action: Action::Deny, http: None },
            Rule { peer: host("a.example"), ports: vec![443], action: Action::Ask, http: None },
            Rule {
                peer: range("127.0.0.1/32"),
                ports: vec![11434],
                action: Action::Allow,
                http: None
            },
        ]
    );
    assert_eq!(team.agents[0].egress[1].from.place().line, 8);
    let inline = "egress = [{ host = \"${HOME}.example\", ports = [1] }]";
    assert!(parse(&agent(inline)).is_err(), "a variable's value is checked too");
}

const PORTS: &str = ", ports = [443]";

/// A host that is wrong: its value begins in column 22 of the line.
fn host(text: &str) -> String {
    format!("egress = [{{ host = {text}{PORTS} }}]")
}

fn cidr(text: &str) -> String {
    format!("egress = [{{ cidr = {text}{PORTS} }}]")
}

fn cases() -> Vec<(String, u32, &'static str, &'static str)> {
    let mut cases = Vec::new();
    for (text, what, remedy) in [
        ("\"\"", "the name is empty", "write a name"),
        ("\".\"", "empty", "write a name"),
        ("\"*\"", "every host", "name the hosts"),
        ("\"*.\"", "the name is empty", "write a name"),
        ("\"*.com\"", "every host below \"com\"", "two parts behind the star"),
        ("\"*.localhost\"", "every host below", "two parts"),
        ("\"a.*.com\"", "not the whole first part", "alone before the first dot"),
        ("\"*api.example.com\"", "not the whole first part", "alone before the first dot"),
        ("\"*.*.example.com\"", "more than one star", "alone before the first dot"),
        ("\"**.example.com\"", "not the whole first part", "alone before the first dot"),
        ("\"https://example.com\"", "a URL", "the host alone"),
        ("\"example.com/v1\"", "a URL", "the host alone"),
        ("\"example.com:443\"", "a port in it", "ports = [443]"),
        ("\"192.0.2.1\"", "an address", "cidr"),
        ("\"[::1]\"", "an address", "cidr"),
        ("\"::1\"", "an address", "cidr"),
        ("\"127.1\"", "a number", "cidr"),
        ("\"0x7f.0.0.0x1\"", "a number", "cidr"),
        ("\"2130706433\"", "a number", "cidr"),
        ("\"localhost\"", "the agent itself", "another name"),
        ("\"a.localhost\"", "the agent itself", "another name"),
        ("\"a..b\"", "no name of a host", "write a name"),
        ("\"-a.example\"", "no name of a host", "write a name"),
        ("\"a_b.example\"", "no name of a host", "write a name"),
        ("\"a b.example\"", "no name of a host", "write a name"),
        ("\"user@example.com\"", "no name of a host", "write a name"),
        ("\"xn--a.example\"", "no name of a host", "write a name"),
        ("\"a\\tb.example\"", "control character", "on one line"),
        ("\"${NOT_SET}\"", "NOT_SET", "set"),
        ("443", "is a number", "like host = "),
        ("[\"a.example\"]", "is a list", "like host = "),
    ] {
        cases.push((host(text), 20, what, remedy));
    }
    for (text, what, remedy) in [
        ("\"\"", "neither an address nor a range", "write an address"),
        ("\"api.example.com\"", "a name and no address", "host = "),
        ("\"203.0.113.0/33\"", "neither", "write an address"),
        (
            "\"203.0.113.7/24\"",
            "bits behind its prefix; the range is 203.0.113.0/24",
            "first address",
        ),
        ("\"203.0.113.1-9\"", "from end to end", "203.0.113.0/24"),
        ("\"010.0.0.1\"", "neither", "write an address"),
        ("\"::ffff:10.0.0.1\"", "in the form of IPv6", "write it as IPv4"),
        ("\"fe80::1%eth0\"", "neither", "write an address"),
        ("10", "is a number", "like cidr = "),
    ] {
        cases.push((cidr(text), 20, what, remedy));
    }
    for (text, what, remedy) in [
        ("\"10.0.0.0/8\"", "at most 256 can be allowed", "/24 to /32"),
        ("\"0.0.0.0/0\"", "at most 256", "/24 to /32"),
        ("\"198.18.4.0/24\"", "stand for names", "name the hosts"),
        ("\"224.0.0.1\"", "no connection goes", "allow addresses of hosts"),
        ("\"0.0.0.0\"", "no connection goes", "allow addresses of hosts"),
        ("\"255.255.255.255\"", "no connection goes", "allow addresses of hosts"),
        ("\"2001:db8::1\"", "IPv6 can't be allowed yet", "name the host"),
    ] {
        cases.push((cidr(text), 11, what, remedy));
    }
    let a = "host = \"a.example\"";
    for (rest, column, what, remedy) in [
        (String::new(), 11, "`ports` is missing", "add ports = [443]"),
        (format!("{a}, cidr = \"10.0.0.1\"{PORTS}"), 40, "both `host` and `cidr`", "write host"),
        ("ports = [443]".to_owned(), 11, "neither `host` nor `cidr`", "write host"),
        (format!("{a}, ports = []"), 41, "`ports` is empty", "name some"),
        (format!("{a}, ports = [443, 80, 443]"), 51, "stands there twice", "take one out"),
        (format!("{a}, ports = [0]"), 42, "it can be 1 to 65535", "whole number"),
        (format!("{a}, ports = [65536]"), 42, "it can be 1 to 65535", "whole number"),
        (format!("{a}, ports = [-1]"), 42, "it can be 1 to 65535", "whole number"),
        (format!("{a}, ports = [\"443\"]"), 42, "is a string", "like ports"),
        (format!("{a}, ports = 443"), 41, "is a number", "like ports"),
        (
            format!("{a}, ports = {:?}", (1..=17).collect::<Vec<u16>>()),
            41,
            "17 entries",
            "take some out",
        ),
        (
            format!("{a}{PORTS}, action = \"permit\""),
            57,
            "can be \"allow\" or \"ask\" or \"deny\"",
            "\"allow\"",
        ),
        (format!("{a}, action = \"ask\""), 11, "`ports` is missing", "add ports = [443]"),
        (
            format!("{a}{PORTS}, action = \"ask\", paths = [\"/v1\"]"),
            72,
            "can't look at requests",
            "a rule that allows",
        ),
        (
            format!("{a}{PORTS}, action = \"ask\", secret = \"x\""),
            73,
            "can't look at requests",
            "a rule that allows",
        ),
        (
            "cidr = \"10.0.0.0/16\", ports = [443], action = \"ask\"".to_owned(),
            11,
            "65534 addresses",
            "a range of /24",
        ),
        (format!("{a}{PORTS}, action = \"deyn\""), 57, "can be", "did you mean \"deny\"?"),
        (format!("{a}{PORTS}, secret = \"X y\""), 57, "no name", "lower-case"),
        (format!("{a}{PORTS}, secret = \"\""), 57, "no name", "lower-case"),
        (format!("{a}{PORTS}, secret = 1"), 57, "is a number", "like secret"),
        (format!("{a}{PORTS}, secret = \"{}\"", "x".repeat(33)), 57, "33 bytes", "1 to 32"),
        (format!("{a}{PORTS}, as = \"bearer\""), 53, "there is none", "add secret"),
        (
            format!("{a}{PORTS}, secret = \"x\", as = \"Bearer\""),
            67,
            "no such place",
            "write \"bearer\"",
        ),
        (
            format!("{a}{PORTS}, secret = \"x\", as = \"body\""),
            67,
            "no such place",
            "\"placeholder\"",
        ),
        (
            format!("{a}{PORTS}, secret = \"x\", as = \"header\""),
            67,
            "no such place",
            "header:X-Api-Key",
        ),
        (format!("{a}{PORTS}, secret = \"x\", as = \"header:\""), 67, "no field's name", "header:"),
        (
            format!("{a}{PORTS}, secret = \"x\", as = \"header:a b\""),
            67,
            "no field's name",
            "header:",
        ),
        (
            format!("{a}{PORTS}, secret = \"x\", as = \"header:Host\""),
            67,
            "how a request is read",
            "name the field",
        ),
        (
            format!("{a}{PORTS}, secret = \"x\", as = \"query:a=b\""),
            67,
            "no parameter's name",
            "query:key",
        ),
        (
            format!("{a}{PORTS}, secret = \"x\", as = \"aws-sigv4\""),
            67,
            "no such place",
            "aws-sigv4:s3/eu-central-1",
        ),
        (
            format!("{a}{PORTS}, secret = \"x\", as = \"aws-sigv4:s3\""),
            67,
            "`s3` is no service and region of AWS",
            "as signatures name it",
        ),
        (
            format!("{a}{PORTS}, secret = \"x\", as = \"aws-sigv4:S3/eu-central-1\""),
            67,
            "no service and region",
            "aws-sigv4:s3/eu-central-1",
        ),
        (
            format!("{a}{PORTS}, secret = \"x\", as = \"aws-sigv4:s3/*\""),
            67,
            "no service and region",
            "aws-sigv4:s3/eu-central-1",
        ),
        (
            format!("{a}{PORTS}, secret = \"x\", as = \"aws-sigv4:{}/r\"", "x".repeat(65)),
            67,
            "no service and region",
            "aws-sigv4:s3/eu-central-1",
        ),
        (
            format!("{a}, action = \"deny\", secret = \"x\""),
            59,
            "denies gives no secret",
            "take it out",
        ),
        (
            format!("host = \"*.b.example\"{PORTS}, secret = \"x\""),
            59,
            "this rule is about many",
            "name the host",
        ),
        (
            format!("{a}, ports = [443, 80], secret = \"x\""),
            61,
            "over TLS alone",
            "take port 80 out",
        ),
        (format!("{a}{PORTS}, methods = [\"get\"]"), 59, "capital letters", "like \"GET\""),
        (format!("{a}{PORTS}, methods = [\"CONNECT\"]"), 59, "asks a proxy", "a rule for the host"),
        (format!("{a}{PORTS}, methods = [\"GET /\"]"), 59, "no method", "like \"GET\""),
        (format!("{a}{PORTS}, methods = [\"\"]"), 59, "no method", "like \"GET\""),
        (format!("{a}{PORTS}, methods = []"), 58, "`methods` is empty", "name some"),
        (format!("{a}{PORTS}, methods = \"GET\""), 58, "is a string", "like methods"),
        (
            format!("{a}{PORTS}, methods = [\"GET\", \"GET\"]"),
            66,
            "GET stands there twice",
            "take one",
        ),
        (format!("{a}{PORTS}, paths = []"), 56, "`paths` is empty", "name some"),
        (format!("{a}{PORTS}, paths = [\"v1\"]"), 57, "begin with a slash", "\"/v1/**\""),
        (format!("{a}{PORTS}, paths = [\"https://a.example/v1\"]"), 57, "a URL", "write a path"),
        (format!("{a}{PORTS}, paths = [\"/v1?x=1\"]"), 57, "a query", "up to the question mark"),
        (format!("{a}{PORTS}, paths = [\"/v1/../v2\"]"), 57, "`.` or `..`", "write a path"),
        (format!("{a}{PORTS}, paths = [\"//v1\"]"), 57, "two slashes", "write a path"),
        (format!("{a}{PORTS}, paths = [\"/a%2fb\"]"), 57, "encoded slash", "write a path"),
        (format!("{a}{PORTS}, paths = [\"/a;b\"]"), 57, "semicolon", "write a path"),
        (format!("{a}{PORTS}, paths = [\"/a b%\"]"), 57, "two digits", "write a path"),
        (format!("{a}{PORTS}, paths = [\"/v1**\"]"), 57, "not a whole part", "between slashes"),
        (format!("{a}{PORTS}, paths = [\"/**/a/**/b/**\"]"), 57, "more than 2 `**`", "shorter"),
        (
            format!("{a}{PORTS}, paths = [\"/{}\"]", "a".repeat(512)),
            57,
            "at most 512",
            "write a path",
        ),
        (format!("{a}{PORTS}, websocket = \"yes\""), 60, "is a string", "websocket = true"),
        (
            format!("{a}{PORTS}, methods = [\"POST\"], websocket = true"),
            11,
            "begins with GET",
            "add \"GET\"",
        ),
        (
            format!("{a}, action = \"deny\", websocket = true"),
            62,
            "denies can't say `websocket`",
            "take it out",
        ),
        (
            format!("cidr = \"10.0.0.1\"{PORTS}, methods = [\"GET\"]"),
            57,
            "about addresses can't look at requests",
            "name the host",
        ),
        (format!("domain = \"a.example\"{PORTS}"), 13, "no key `domain`", "did you mean `host`?"),
    ] {
        let rest = if rest.is_empty() { a.to_owned() } else { rest };
        let mut text = format!("egress = [{{ {rest} }}]");
        // A mistake in the key leaves the rule without a host: two mistakes are too many here.
        if rest.starts_with("domain") {
            text = text.replace("domain", "host = \"b.example\", domain");
        }
        let column = if rest.starts_with("domain") { column + 20 } else { column };
        cases.push((text, column, what, remedy));
    }
    let b = format!("{{ {a}{PORTS} }}");
    cases.push((format!("egress = [{b}, {b}]"), 50, "what the one in line 4 says", "take one"));
    cases.push((
        format!("egress = [{}]", vec![b.as_str(); 65].join(", ")),
        10,
        "65 entries",
        "take some",
    ));
    cases.push(("egress = \"api.example.com\"".to_owned(), 10, "is a string", "like egress"));
    cases.push(("egress = { host = \"a\" }".to_owned(), 10, "is a table", "like egress"));
    cases.push(("egres = []".to_owned(), 1, "no key `egres`", "did you mean `egress`?"));
    let wide = "{ cidr = \"10.0.0.0/24\", ports = [1, 2, 3, 4, 5] }";
    cases.push((format!("egress = [{wide}]"), 11, "1280 pairs", "smaller ranges"));
    for (quota, column, what, remedy) in [
        ("{}", 1, "bounds nothing", "write sent = "),
        ("{ sent = \"1MiB\" }", 1, "no egress rule", "add [[agents.NAME.egress]]"),
        ("{ sent = \"1B\" }", 25, "`sent` is", "KiB"),
        ("{ received = 5 }", 29, "is a number", "received = "),
        ("\"1MiB\"", 16, "is a string", "egress-quota = "),
    ] {
        cases.push((format!("egress-quota = {quota}"), column, what, remedy));
    }
    cases
}

#[test]
fn fifty_and_more_that_are_wrong() {
    let mut complaints = Vec::new();
    let cases = cases();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    for (lines, column, what, remedy) in cases {
        let Err(mistakes) = parse(&agent(&lines)) else {
            complaints.push(format!("taken: {lines}"));
            continue;
        };
        let [mistake] = mistakes.list() else {
            complaints.push(format!("not one mistake: {lines}\n{mistakes}"));
            continue;
        };
        if (mistake.place.line, mistake.place.column) != (4, column)
            || !mistake.what.contains(what)
            || !mistake.remedy.contains(remedy)
        {
            complaints.push(format!("expected 4:{column} {what:?} {remedy:?}\n{mistakes}"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n----\n"));
}
