use super::*;
use crate::prove::page::page;

fn case(name: &str, expected: Vec<Expected>) -> Case {
    Case {
        group: Group::Vmm,
        name: name.into(),
        tries: "tries <it>".into(),
        why: "a \"layer\" & a rule".into(),
        expected,
        alone: false,
        exits: vec![],
        goes_on: false,
        shares: false,
    }
}

fn report(seen: &[Seen]) -> Report {
    let outcomes = seen.iter().map(|seen| Outcome::new(case("a", vec![]), vec![seen.clone()]));
    let host = Facts { host_name: "<script>alert(1)</script>".into(), ..Facts::default() };
    Report::new(host, Duration::from_millis(1500), outcomes.collect())
}

#[test]
fn only_the_right_end_is_held() {
    let expected =
        Expected { stage: Stage::Bare, ends: vec![End::Errno(libc::EPERM), End::Nothing] };
    let status = |end| Seen::judged(&expected, end, "").status;
    assert_eq!(status(Some(End::Errno(libc::EPERM))), Status::Held);
    assert_eq!(status(Some(End::Nothing)), Status::Held);
    assert_eq!(status(Some(End::Errno(libc::EINVAL))), Status::Unexpected);
    assert_eq!(status(Some(End::Trapped)), Status::Unexpected);
    assert_eq!(status(Some(End::Killed(9))), Status::Unexpected);
    assert_eq!(status(None), Status::Succeeded);
}

#[test]
fn the_worst_that_was_seen_counts() {
    let held = Seen::new(true, "");
    for (other, status) in [
        (Seen::not_run(""), Status::NotRun),
        (Seen::unexpected(""), Status::Unexpected),
        (Seen::new(false, ""), Status::Succeeded),
    ] {
        let outcome = Outcome::new(case("a", vec![]), vec![held.clone(), other, held.clone()]);
        assert_eq!(outcome.status, status);
    }
    // Nothing seen is nothing proven.
    assert_eq!(Outcome::new(case("a", vec![]), vec![]).status, Status::NotRun);
}

#[test]
fn what_could_not_be_tried_fails_unless_allowed() {
    let (held, skipped) = (Seen::new(true, ""), Seen::not_run("no KVM"));
    assert!(report(std::slice::from_ref(&held)).succeeds(false));
    let with_skip = report(&[held.clone(), skipped]);
    assert!(!with_skip.ok && !with_skip.succeeds(false) && with_skip.succeeds(true));
    assert_eq!(with_skip.verdict(), "1 of 2 attacks were held, 1 could not be run.");
    for bad in [Seen::unexpected(""), Seen::new(false, "")] {
        let report = report(&[held.clone(), bad]);
        assert!(!report.succeeds(false) && !report.succeeds(true));
    }
}

#[test]
fn the_json_object_has_its_documented_keys() {
    let report = serde_json::to_value(report(&[Seen::new(true, "event loop: SIGSYS")])).unwrap();
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(keys(&report), ["cases", "duration_ms", "host", "ok", "schema", "summary"]);
    assert_eq!(report["schema"], 1);
    assert_eq!(keys(&report["cases"][0]), ["group", "name", "seen", "status", "tries", "why"]);
    assert_eq!(report["cases"][0]["name"], "vmm/a");
    assert_eq!(report["cases"][0]["status"], "held");
    let sum = &report["summary"][0];
    assert_eq!(keys(sum), ["cases", "group", "held", "not_run", "succeeded", "unexpected"]);
    let document = include_str!("../../../docs/prove.md");
    for key in keys(&report).iter().chain(&keys(&report["cases"][0])).chain(&keys(&report["host"]))
    {
        assert!(document.contains(&format!("`{key}`")), "{key} in docs/prove.md");
    }
}

#[test]
fn a_page_stands_alone_and_escapes_all_text() {
    let hostile = "\"><img src=x onerror=alert(1)>&amp;";
    let page = page(&report(&[Seen::new(true, hostile), Seen::new(false, "got </td>")]));
    assert!(page.starts_with("<!DOCTYPE html>"), "{page}");
    assert!(!page.contains("<img") && !page.contains("<script"), "{page}");
    assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;&amp;amp;"), "{page}");
    assert!(page.contains("got &lt;/td&gt;") && page.contains("tries &lt;it&gt;"), "{page}");
    for outside in ["http:", "https:", "src=\"", "href=", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("1 of 2 attacks were held, 1 succeeded."));
}

#[test]
fn errors_are_told_in_words() {
    assert_eq!(describe(End::Errno(libc::EPERM)), "refused: Operation not permitted (error 1)");
    assert_eq!(describe(End::Killed(libc::SIGSYS)), "killed by SIGSYS");
}
