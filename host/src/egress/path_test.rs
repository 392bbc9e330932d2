use proptest::prelude::*;

use super::*;

fn meets(pattern: &str, path: &str) -> bool {
    self::pattern(pattern).unwrap();
    matches(pattern, &Path::parse(path).unwrap(), false)
}

#[test]
fn patterns_mean_paths() {
    for (pattern, path, meant) in [
        ("/", "/", true),
        ("/", "/a", false),
        ("/a", "/a", true),
        ("/a", "/a/", false),
        ("/a", "/A", false),
        ("/a", "/%61", true),
        ("/%61", "/a", true),
        ("/caf%C3%A9", "/caf%c3%a9", true),
        ("/a%20b", "/a%20b", true),
        ("/v1/**", "/v1/x", true),
        ("/v1/**", "/v1/x/y/z", true),
        ("/v1/**", "/v1/", true),
        ("/v1/**", "/v1", false),
        ("/v1/**", "/v10/x", false),
        ("/v1/**", "/v2/x", false),
        ("/**", "/", true),
        ("/**", "/a/b", true),
        ("/*/b", "/a/b", true),
        ("/*/b", "/a/c/b", false),
        ("/**/b", "/b", true),
        ("/**/b", "/a/c/b", true),
        ("/a/**/z", "/a/z", true),
        ("/a/**/z", "/a/b/c/z", true),
        ("/a/**/z", "/a/b/c/zz", false),
        ("/x-*.json", "/x-1.json", true),
        ("/x-*.json", "/x-.json", true),
        ("/x-*.json", "/x.json", false),
        ("/a*b*c", "/abc", true),
        ("/a*b*c", "/aXbYbZc", true),
        ("/a*b*c", "/aXc", false),
        ("/a*a", "/a", false),
        ("/*", "/", true),
        ("/models/*:run", "/models/x:run", true),
    ] {
        assert_eq!(meets(pattern, path), meant, "{pattern} {path}");
    }
    assert!(matches("/Admin/**", &Path::parse("/aDMIN/x").unwrap(), true));
}

#[test]
fn what_servers_read_differently_is_refused() {
    for path in [
        "",
        "*",
        "a",
        "//",
        "/a//b",
        "//a",
        "/a/../b",
        "/..",
        "/.",
        "/a/.",
        "/a/..",
        "/%2e%2e/b",
        "/%2E./b",
        "/.%2e",
        "/a/%2e",
        "/a%2fb",
        "/a%2Fb",
        "/a\\b",
        "/a%5cb",
        "/a;b",
        "/..;/b",
        "/a%3bb",
        "/%252e%252e/b",
        "/a%252fb",
        "/%25%32e",
        "/a%00",
        "/a%0d%0a",
        "/a%7f",
        "/a%",
        "/a%2",
        "/a%zz",
        "/é",
        "/%c0%af",
        "/%e9",
        "http://a/b",
    ] {
        assert!(Path::parse(path).is_err(), "{path}");
    }
}

#[test]
fn what_is_no_pattern() {
    for text in [
        "",
        "v1",
        "v1/**",
        "https://a/b",
        "/a?b",
        "/a#b",
        "/a**",
        "/**a",
        "/***",
        "//",
        "/a//b",
        "/a/../b",
        "/./a",
        "/a%2fb",
        "/a;b",
        "/a\\b",
        "/a%",
        "/é",
        "/**/**/**",
        &format!("/{}", "a".repeat(MAX_PATTERN)),
    ] {
        assert!(pattern(text).is_err(), "{text}");
    }
}

/// The least that a path can be in a server: decoded once, then without dot segments and empty ones.
fn served(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (byte, digits.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(value)) => {
                bytes.push(value);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in bytes.split(|byte| matches!(byte, b'/' | b'\\')) {
        let name = part.split(|byte| *byte == b';').next().unwrap();
        match name {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join(&b'/')
}

proptest! {
    /// Whatever a hostile path looks like: if a rule for one folder takes it, a server that decodes, and
    /// one that decodes twice, finds it in that folder.
    #[test]
    fn what_a_folder_s_rule_takes_stays_in_the_folder(
        rest in "(/|\\.|\\.\\.|%2e|%2E|%2f|%5c|\\\\|;|%3b|%25|2e|2f|a|b|%61|%00|%){0,12}"
    ) {
        let path = format!("/v1/{rest}");
        if let Ok(parsed) = Path::parse(&path) && matches("/v1/**", &parsed, false) {
            let once = served(&path);
            prop_assert!(once == b"v1" || once.starts_with(b"v1/"), "{path}");
            let again = served(&String::from_utf8(once).unwrap());
            prop_assert!(again == b"v1" || again.starts_with(b"v1/"), "{path}");
        }
    }

    #[test]
    fn any_text_ends_in_an_answer(pattern in "[/a*%.;b0-9]{0,40}", path in "[/a%.;b0-9]{0,200}") {
        if self::pattern(&pattern).is_ok() && let Ok(path) = Path::parse(&path) {
            // What denies takes no less than what allows.
            prop_assert!(!matches(&pattern, &path, false) || matches(&pattern, &path, true));
        }
    }
}
