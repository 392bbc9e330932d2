//! How a rule gives a secret to requests: plain data of the team file.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::name::Fault;

/// What stands before the name in a secret's placeholder, and what behind it.
pub const PLACEHOLDER: (&str, &str) = ("__cloister_secret_", "__");
/// Fields that say how a request is read and whom it is for; none of them holds a secret.
const NEVER: [&str; 14] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "range",
];

/// A secret of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Its name.
    pub secret: String,
    /// Where it is put in.
    pub place: Place,
}

/// Where a secret is put in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// `Authorization: Bearer …` (RFC 6750).
    Bearer,
    /// `Authorization: Basic …`, of a user and a password with a colon between (RFC 7617).
    Basic,
    /// A field of this name, in lower case.
    Header(String),
    /// A parameter of the query.
    Query(String),
    /// Wherever the agent writes the secret's placeholder in a field or in the body.
    Placeholder,
}

impl Place {
    /// Reads what a rule says.
    ///
    /// # Errors
    /// It is none; what is wrong, and what to do.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        const WRITE: &str =
            "write \"bearer\", \"basic\", \"header:X-Api-Key\", \"query:key\" or \"placeholder\"";
        let token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        match (text, text.split_once(':')) {
            ("bearer", _) => Ok(Self::Bearer),
            ("basic", _) => Ok(Self::Basic),
            ("placeholder", _) => Ok(Self::Placeholder),
            (_, Some(("header", name))) => {
                if !(1..=64).contains(&name.len()) || !name.bytes().all(token) {
                    return Err((format!("`{name}` is no field's name"), WRITE));
                }
                let name = name.to_ascii_lowercase();
                if NEVER.contains(&&*name) || name.starts_with("sec-websocket") {
                    let what = format!("the field `{name}` says how a request is read");
                    return Err((what, "name the field that the host wants the secret in"));
                }
                Ok(Self::Header(name))
            }
            (_, Some(("query", name))) => {
                let plain = |byte: u8| token(byte) || byte == b'.' || byte == b'~';
                if !(1..=64).contains(&name.len()) || !name.bytes().all(plain) {
                    return Err((format!("`{name}` is no parameter's name"), WRITE));
                }
                Ok(Self::Query(name.to_owned()))
            }
            _ => Err(("there is no such place for a secret".to_owned(), WRITE)),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bearer => f.write_str("bearer"),
            Self::Basic => f.write_str("basic"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Placeholder => f.write_str("placeholder"),
        }
    }
}

/// A secret's placeholder.
#[must_use]
pub fn placeholder(name: &str) -> String {
    let (before, behind) = PLACEHOLDER;
    format!("{before}{name}{behind}")
}

/// The name in the first placeholder in some bytes; of one that is none the beginning of what follows.
#[must_use]
pub fn find_placeholder(bytes: &[u8]) -> Option<String> {
    let before = PLACEHOLDER.0.as_bytes();
    let at = bytes.windows(before.len()).position(|some| some == before)?;
    let rest = bytes.get(at + before.len()..).unwrap_or_default();
    let inner = |byte: &&u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || **byte == b'-';
    Some(rest.iter().take_while(inner).take(32).map(|byte| char::from(*byte)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_what_is_none() {
        for text in ["bearer", "basic", "header:x-api-key", "query:api_key", "placeholder"] {
            assert_eq!(Place::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Place::parse("header:X-Api-Key"), Ok(Place::Header("x-api-key".to_owned())));
        for text in [
            "",
            "Bearer",
            "header",
            "header:",
            "header:a b",
            "header:a:b",
            "header:a\r\nb",
            "header:Host",
            "header:Content-Length",
            "header:Sec-WebSocket-Key",
            "query:",
            "query:a=b",
            "query:a&b",
            "body",
        ] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn placeholders_are_found() {
        let text = placeholder("git-hub");
        assert_eq!(find_placeholder(format!("a{text}b").as_bytes()), Some("git-hub".to_owned()));
        assert_eq!(find_placeholder(b"__cloister_secret_"), Some(String::new()));
        assert_eq!(find_placeholder(b"__cloister_secre"), None);
    }
}
