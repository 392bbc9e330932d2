//! What strings of a team file must be: names, paths, users, images.

use super::keys::Rule;
use super::limits::{MAX_ID, MAX_NAME, MAX_PATH, MAX_PATH_NAME, MAX_TEXT};
use crate::images::digest::Digest;
use crate::images::name::Name;

/// What is wrong with a string, and what to do.
pub(super) type Fault = (String, &'static str);

const NAME: &str =
    "write 1 to 32 lower-case letters, digits and dashes; the first is a letter or a digit";
const PATH: &str = "write an absolute path without `.` and `..`, like \"/data/in\"";
/// Where no mount, output or writable directory may be: what the supervisor mounts itself.
const RESERVED: [&str; 4] = ["/proc", "/sys", "/dev", "/run/cloister"];

impl Rule {
    /// What it wants, as an example to write.
    pub(super) const fn example(self) -> &'static str {
        match self {
            Self::Name => "\"scout\"",
            Self::Image => "\"python-tools\"",
            Self::Free => "\"text\"",
            Self::HostPath => "\"./docs\"",
            Self::Inside => "\"/work\"",
            Self::User => "\"1000:1000\"",
            Self::Variable => "KEY",
            Self::Host => "\"api.example.com\"",
            Self::Range => "\"203.0.113.0/24\"",
            Self::Method => "\"GET\"",
            Self::Path => "\"/v1/**\"",
            Self::Credential => "\"bearer\"",
        }
    }

    /// Looks at a string whose variables have been put in.
    pub(super) fn check(self, text: &str) -> Result<(), Fault> {
        if text.contains('\0') {
            return Err(("there is a NUL in it".to_owned(), "take it out"));
        }
        if text.len() > MAX_TEXT {
            let what = format!("it has {} bytes; at most {MAX_TEXT} are taken", text.len());
            return Err((what, "make it shorter, or put it into a file and mount that"));
        }
        if self != Self::Free && text.chars().any(char::is_control) {
            return Err((
                "there is a control character in it".to_owned(),
                "write it on one line, without tabs and escapes",
            ));
        }
        match self {
            Self::Free => Ok(()),
            Self::Name => name(text),
            Self::Image => image(text),
            Self::HostPath => host_path(text),
            Self::Inside => inside(text),
            Self::User => user(text),
            Self::Variable => variable(text),
            Self::Host => crate::egress::name::pattern(text).map(drop),
            Self::Range => crate::egress::range::range(text).map(drop),
            Self::Method => method(text),
            Self::Path => crate::egress::path::pattern(text),
            Self::Credential => crate::egress::credential::Place::parse(text).map(drop),
        }
    }

    /// The same as a regular expression of JSON Schema, as far as it can tell.
    pub(super) const fn pattern(self) -> Option<&'static str> {
        Some(match self {
            Self::Name => "^[a-z0-9][a-z0-9-]{0,31}$",
            Self::Inside => "^/",
            Self::Variable => "^[A-Za-z_][A-Za-z0-9_]{0,254}$",
            Self::Method => "^[A-Z]{1,32}$",
            Self::Path => "^/",
            Self::Credential => "^(bearer|basic|placeholder|header:.+|query:.+|aws-sigv4:.+/.+)$",
            Self::Image | Self::Free | Self::HostPath | Self::User | Self::Host | Self::Range => {
                return None;
            }
        })
    }
}

fn name(text: &str) -> Result<(), Fault> {
    let inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let begins = text.bytes().next().is_some_and(inner);
    if text.len() > MAX_NAME {
        let what = format!("a name of {} bytes; at most {MAX_NAME} are taken", text.len());
        return Err((what, NAME));
    }
    if !begins || !text.bytes().all(|byte| inner(byte) || byte == b'-') {
        return Err(("it is no name".to_owned(), NAME));
    }
    Ok(())
}

fn method(text: &str) -> Result<(), Fault> {
    const METHOD: &str = "write a method as requests have it, like \"GET\" or \"POST\"";
    if text == "CONNECT" {
        let what = "it asks a proxy for another connection, and there is none".to_owned();
        return Err((what, "write a rule for the host that the agent wants to reach"));
    }
    let letters = text.bytes().all(|byte| byte.is_ascii_uppercase());
    if letters && (1..=32).contains(&text.len()) {
        return Ok(());
    }
    let what = if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        "methods have capital letters"
    } else {
        "it is no method"
    };
    Err((what.to_owned(), METHOD))
}

fn image(text: &str) -> Result<(), Fault> {
    if text.starts_with("sha256:") {
        return text.parse::<Digest>().map(drop).map_err(|error| {
            (error.to_string(), "`cloister image ls` shows the images of the store")
        });
    }
    text.parse::<Name>().map(drop).map_err(|error| {
        let what = format!("it is no name of an image: {error}");
        (what, "`cloister image ls` shows the images of the store")
    })
}

fn host_path(text: &str) -> Result<(), Fault> {
    if text.is_empty() {
        return Err(("the path is empty".to_owned(), "write a path, like \"./docs\""));
    }
    if text.starts_with('~') {
        return Err((
            "`~` is no directory here: that is a word of shells".to_owned(),
            "write \"${HOME}/…\", or a path relative to the team file",
        ));
    }
    lengths(text)
}

fn inside(text: &str) -> Result<(), Fault> {
    if !text.starts_with('/') {
        return Err(("the path is not absolute".to_owned(), PATH));
    }
    if text != "/" && (text.ends_with('/') || text.contains("//")) {
        return Err(("there is a slash too many in the path".to_owned(), PATH));
    }
    if text.split('/').any(|part| part == "." || part == "..") {
        return Err(("there is `.` or `..` in the path".to_owned(), PATH));
    }
    lengths(text)
}

fn lengths(text: &str) -> Result<(), Fault> {
    const SHORTER: &str = "use a shorter path";
    if text.len() > MAX_PATH {
        return Err((format!("the path has more than {MAX_PATH} bytes"), SHORTER));
    }
    if text.split('/').any(|part| part.len() > MAX_PATH_NAME) {
        let what = format!("a name in the path has more than {MAX_PATH_NAME} bytes");
        return Err((what, SHORTER));
    }
    Ok(())
}

fn user(text: &str) -> Result<(), Fault> {
    const WRITE: &str = "write a number or a name, perhaps with a group after a colon, like \"1000:1000\" or \"www-data\"";
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    for part in [Some(user), group].into_iter().flatten() {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-$".contains(&byte);
        if part.is_empty() || part.len() > MAX_NAME || !part.bytes().all(plain) {
            return Err(("it is no user".to_owned(), WRITE));
        }
        let digits = part.bytes().all(|byte| byte.is_ascii_digit());
        if digits && part.parse::<u32>().map_or(true, |id| id > MAX_ID) {
            return Err((
                format!("the id {part} is too large"),
                "an agent's user namespace has the ids 0 to 65535",
            ));
        }
    }
    Ok(())
}

fn variable(text: &str) -> Result<(), Fault> {
    if is_variable(text) {
        return Ok(());
    }
    Err((
        "it is no name of a variable".to_owned(),
        "write letters, digits and underscores; the first is no digit",
    ))
}

/// Whether a text can be the name of a variable.
pub(super) fn is_variable(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let begins = text.bytes().next().is_some_and(|byte| word(byte) && !byte.is_ascii_digit());
    begins && text.len() <= MAX_PATH_NAME && text.bytes().all(word)
}

/// Whether a path is one of the directories that the supervisor mounts itself, or below one.
pub(super) fn reserved(path: &str) -> Option<&'static str> {
    RESERVED.into_iter().find(|reserved| is_at_or_below(path, reserved))
}

/// Whether a checked path is another one, or below it.
pub(super) fn is_at_or_below(path: &str, above: &str) -> bool {
    let Some(rest) = path.strip_prefix(above) else { return false };
    rest.is_empty() || rest.starts_with('/') || above == "/"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right() {
        for (rule, texts) in [
            (Rule::Name, &["a", "0", "a-b-9", "abcdefghijklmnopqrstuvwxyz012345"][..]),
            (
                Rule::Image,
                &[
                    "python-tools",
                    "host:5000/a/b:1",
                    "a@sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                    "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                ],
            ),
            (Rule::Free, &["", "a\nb\t\x1b", "ü"]),
            (Rule::HostPath, &["./docs", "/srv/a", "../x", "a b"]),
            (Rule::Inside, &["/", "/work", "/a/.b/..c"]),
            (Rule::User, &["0", "65535", "1000:1000", "www-data", "agent:staff", "1:staff"]),
            (Rule::Variable, &["A", "_a9"]),
        ] {
            for text in texts {
                assert_eq!(rule.check(text), Ok(()), "{rule:?} {text:?}");
            }
        }
    }

    #[test]
    fn what_is_wrong() {
        for (rule, texts) in [
            (
                Rule::Name,
                &["", "-a", "A", "a_b", "abcdefghijklmnopqrstuvwxyz0123456", "a/b", "ü"][..],
            ),
            (Rule::Image, &["", "A", "../x", "a@md5:1", "sha256:12", "a b"]),
            (Rule::Free, &["a\0b"]),
            (Rule::HostPath, &["", "~/x", "a\nb", "\0"]),
            (Rule::Inside, &["", "work", "./work", "/a/../b", "/a/./b", "/a/", "//a", "/a\tb"]),
            (Rule::User, &["", ":", "1:", ":1", "65536", "1:99999999999", "a b", "-1 ", "a:b:c"]),
            (Rule::Variable, &["", "1A", "A-B", "A=B", "ü"]),
        ] {
            for text in texts {
                assert!(rule.check(text).is_err(), "{rule:?} {text:?}");
            }
        }
        assert!(Rule::Free.check(&"x".repeat(MAX_TEXT + 1)).is_err());
        assert!(Rule::Inside.check(&format!("/{}", "x".repeat(256))).is_err());
        assert!(Rule::Inside.check(&"/x".repeat(2100)).is_err());
    }

    #[test]
    fn below() {
        assert!(is_at_or_below("/a/b", "/a") && is_at_or_below("/a", "/a"));
        assert!(is_at_or_below("/a", "/") && !is_at_or_below("/ab", "/a"));
        assert_eq!(reserved("/proc/self"), Some("/proc"));
        assert_eq!(reserved("/process"), None);
    }
}
