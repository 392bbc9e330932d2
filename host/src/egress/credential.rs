//! How a rule gives a secret to requests: plain data of the team file.

use std::fmt;

use memchr::memmem;
use serde::{Deserialize, Serialize};

use super::name::Fault;
use super::sigv4::Keys;
use crate::secrets::{Kept, SecretError};

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

/// Longest name of a service or a region of AWS, in bytes. Theirs have some 30.
const MAX_AWS_WORD: usize = 64;

/// A secret of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Its name.
    pub secret: String,
    /// Where it is put in.
    pub place: Place,
}

impl Credential {
    /// Whether what is kept can be what requests are signed with, as far as it can be told before it is read.
    ///
    /// # Errors
    /// It can't.
    pub fn suits(&self, kept: &Kept) -> Result<(), SecretError> {
        let Place::AwsSigv4 { .. } = self.place else { return Ok(()) };
        let wrong = |why, remedy| SecretError::Unfit { name: self.secret.clone(), why, remedy };
        match kept {
            Kept::Value(bytes) if Keys::read(bytes).is_none() => Err(wrong(
                "it is not ACCESS_KEY_ID:SECRET_ACCESS_KEY[:SESSION_TOKEN], with which its rule signs",
                "set it again so: cloister secret set NAME",
            )),
            Kept::OAuth(_) => Err(wrong(
                "it is for access tokens, and its rule signs with keys of AWS",
                "take `as` out of the rule, or name a secret with keys",
            )),
            _ => Ok(()),
        }
    }
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
    /// Nowhere: requests are signed with it, by AWS Signature Version 4.
    AwsSigv4 {
        /// The service, as signatures name it.
        service: String,
        /// The region.
        region: String,
    },
}

impl Place {
    /// Reads what a rule says.
    ///
    /// # Errors
    /// It is none; what is wrong, and what to do.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        const WRITE: &str = "write \"bearer\", \"basic\", \"header:X-Api-Key\", \"query:key\", \"placeholder\" or \"aws-sigv4:s3/eu-central-1\"";
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
            (_, Some(("aws-sigv4", scope))) => aws(scope),
            _ => Err(("there is no such place for a secret".to_owned(), WRITE)),
        }
    }
}

/// A service and a region of AWS.
fn aws(scope: &str) -> Result<Place, Fault> {
    const WRITE: &str =
        "write the service as signatures name it, and the region: \"aws-sigv4:s3/eu-central-1\"";
    let word = |text: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=MAX_AWS_WORD).contains(&text.len()) && text.bytes().all(inner)
    };
    match scope.split_once('/') {
        Some((service, region)) if word(service) && word(region) => {
            Ok(Place::AwsSigv4 { service: service.to_owned(), region: region.to_owned() })
        }
        _ => Err((format!("`{scope}` is no service and region of AWS"), WRITE)),
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
            Self::AwsSigv4 { service, region } => write!(f, "aws-sigv4:{service}/{region}"),
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
    let at = memmem::find(bytes, before)?;
    let rest = bytes.get(at + before.len()..).unwrap_or_default();
    let inner = |byte: &&u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || **byte == b'-';
    Some(rest.iter().take_while(inner).take(32).map(|byte| char::from(*byte)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_what_is_none() {
        for text in [
            "bearer",
            "basic",
            "header:x-api-key",
            "query:api_key",
            "placeholder",
            "aws-sigv4:execute-api/us-gov-west-1",
        ] {
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
            "aws-sigv4",
            "aws-sigv4:",
            "aws-sigv4:s3",
            "aws-sigv4:s3/",
            "aws-sigv4:/eu-central-1",
            "aws-sigv4:S3/eu-central-1",
            "aws-sigv4:s3/eu-central-1/x",
            "aws-sigv4:s3/eu central",
        ] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_signs_must_be_keys() {
        let credential = |place: &str| Credential {
            secret: "token".to_owned(),
            place: Place::parse(place).unwrap(),
        };
        let kept = |text: &str| Kept::Value(text.into());
        let signs = credential("aws-sigv4:s3/eu-central-1");
        signs.suits(&kept("AKID:key")).unwrap();
        signs.suits(&Kept::File("/run/keys/aws".into())).unwrap();
        credential("bearer").suits(&kept("t0ken")).unwrap();
        let error = signs.suits(&kept("t0ken")).unwrap_err();
        assert!(error.to_string().contains("ACCESS_KEY_ID") && error.remedy().contains("set"));
        assert!(!error.to_string().contains("t0ken"), "{error}");
    }

    #[test]
    fn placeholders_are_found() {
        let text = placeholder("git-hub");
        assert_eq!(find_placeholder(format!("a{text}b").as_bytes()), Some("git-hub".to_owned()));
        assert_eq!(find_placeholder(b"__cloister_secret_"), Some(String::new()));
        assert_eq!(find_placeholder(b"__cloister_secre"), None);
    }
}
