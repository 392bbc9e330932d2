use super::*;
use crate::egress::rule::Peer;

fn rule(action: Action, methods: &[&str], paths: &[&str], websocket: bool) -> Setting<Rule> {
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Setting::usual(Rule {
        peer: Peer::Host("a.example".to_owned()),
        ports: vec![443],
        action,
        http: Some(Http {
            methods: list(methods),
            paths: list(paths),
            websocket,
            credential: None,
        }),
    })
}

#[test]
fn rules_decide_about_requests() {
    let policy = Policy::new(vec![
        rule(Action::Allow, &["GET", "POST"], &["/v1/**"], false),
        rule(Action::Allow, &["GET"], &["/live"], true),
        rule(Action::Deny, &["POST"], &["/v1/admin/**"], false),
        rule(Action::Deny, &[], &["/v1/secret"], false),
    ]);
    for (method, path, websocket, allowed) in [
        ("GET", "/v1/x", false, true),
        ("POST", "/v1/x", false, true),
        ("get", "/v1/x", false, false),
        ("PUT", "/v1/x", false, false),
        ("GET", "/v2/x", false, false),
        ("GET", "/v1/../v2/x", false, false),
        ("GET", "/v1/%2e%2e/v2/x", false, false),
        ("GET", "/v1/admin/x", false, true),
        ("POST", "/v1/admin/x", false, false),
        ("POST", "/v1/Admin/x", false, false),
        ("GET", "/v1/secret", false, false),
        ("GET", "/v1/%73ecret", false, false),
        ("GET", "/v1/SECRET", false, false),
        ("GET", "/v1/x", true, false),
        ("GET", "/live", true, true),
        ("GET", "/live", false, true),
    ] {
        let judged = policy.judge("a.example", 443, Asked { method, path, websocket });
        let is_allowed = matches!(judged, Judgement::Allowed(_));
        assert_eq!(is_allowed, allowed, "{method} {path} {websocket}: {judged:?}");
    }
    assert!(policy.inspects("a.example", 443) && !policy.inspects("a.example", 80));
    assert!(!policy.inspects("b.example", 443));
}

#[test]
fn observing_lets_through_what_no_rule_is_about() {
    let rules = vec![
        rule(Action::Allow, &["GET"], &["/v1/**"], false),
        rule(Action::Deny, &["DELETE"], &[], false),
    ];
    let policy = Policy::new(rules).observing(true);
    let judge =
        |method, path| policy.judge("a.example", 443, Asked { method, path, websocket: false });
    assert!(matches!(judge("GET", "/v1/x"), Judgement::Allowed(_)));
    assert_eq!(judge("GET", "/v2/x"), Judgement::Observed);
    assert!(matches!(judge("DELETE", "/v1/x"), Judgement::Denied(_)));
    assert!(matches!(judge("GET", "/v2/../x"), Judgement::Unclear(_)));
}
