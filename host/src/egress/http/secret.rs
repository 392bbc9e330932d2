//! Puts a rule's secret into a request that the rule allows, and stops placeholders that are for others.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use zeroize::Zeroizing;

use crate::egress::credential::{Credential, Place, find_placeholder, placeholder};
use crate::egress::hidden;
use crate::egress::percent::{decoded, quoted};
use crate::secrets::value::Secret;

/// Why a secret is not put in; without anything of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The request has the placeholder of a secret that is not for it.
    Placeholder(String),
    /// The value makes no field, or no query.
    Unfit,
}

impl Stopped {
    pub(super) fn words(&self) -> String {
        match self {
            Self::Placeholder(name) => {
                format!(
                    "it sends the placeholder of the secret \"{name}\", which is not for this request"
                )
            }
            Self::Unfit => "the secret's value can't be put into a request".to_owned(),
        }
    }
}

/// Whether the head has a placeholder, which is for nobody here.
pub(super) fn search(head: &Parts) -> Result<(), Stopped> {
    let path = head.uri.path_and_query().map(|path| path.as_str().as_bytes());
    let values = head.headers.values().map(HeaderValue::as_bytes);
    let names = head.headers.keys().map(|name| name.as_str().as_bytes());
    match path.into_iter().chain(values).chain(names).find_map(find_placeholder) {
        Some(name) => Err(Stopped::Placeholder(name)),
        None => Ok(()),
    }
}

/// A body with the secret in place of its placeholder; others stop it.
pub(super) fn put_in_body(
    body: &[u8],
    credential: &Credential,
    secret: &Secret,
) -> Result<Bytes, Stopped> {
    let mark = placeholder(&credential.secret);
    match find_placeholder(&replaced(body, &mark, b"")) {
        Some(name) => Err(Stopped::Placeholder(name)),
        None => Ok(hidden::bytes(replaced(body, &mark, secret.bytes()))),
    }
}

/// Puts a secret into a head, in place of what the agent has there. Placeholders of other secrets stop it.
pub(super) fn put_in(
    head: &mut Parts,
    credential: &Credential,
    secret: &Secret,
) -> Result<(), Stopped> {
    let field = |name: &HeaderName, head: &mut Parts, value: Zeroizing<Vec<u8>>| {
        head.headers.remove(name);
        search(head)?;
        head.headers.insert(name.clone(), hidden(value)?);
        Ok(())
    };
    match &credential.place {
        Place::Bearer => {
            field(&AUTHORIZATION, head, Zeroizing::new([b"Bearer ", secret.bytes()].concat()))
        }
        Place::Basic => {
            let code = Zeroizing::new(STANDARD.encode(secret.bytes()));
            field(&AUTHORIZATION, head, Zeroizing::new([b"Basic ", code.as_bytes()].concat()))
        }
        Place::Header(name) => {
            let name: HeaderName = name.parse().map_err(|_| Stopped::Unfit)?;
            field(&name, head, Zeroizing::new(secret.bytes().to_vec()))
        }
        Place::Query(name) => query(head, name, secret),
        Place::Placeholder => {
            replace_fields(&mut head.headers, &credential.secret, secret)?;
            search(head)
        }
        // Nothing of it is put in.
        Place::AwsSigv4 { .. } => search(head),
    }
}

/// A field's value that is overwritten when the last that holds it goes, and that nothing shows.
fn hidden(value: Zeroizing<Vec<u8>>) -> Result<HeaderValue, Stopped> {
    hidden::field(value).map_err(|_| Stopped::Unfit)
}

/// A parameter of the query, in place of the agent's of that name.
fn query(head: &mut Parts, name: &str, secret: &Secret) -> Result<(), Stopped> {
    let whole = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let (path, query) = whole.split_once('?').unwrap_or((whole, ""));
    let is_other = |part: &&str| {
        let key = part.split_once('=').map_or(*part, |(key, _)| key);
        !part.is_empty() && decoded(key) != name.as_bytes()
    };
    let kept: Vec<&str> = query.split('&').filter(is_other).collect();
    let rest = kept.iter().map(|part| format!("{part}&")).collect::<String>();
    if let Some(other) =
        find_placeholder(rest.as_bytes()).or_else(|| find_placeholder(path.as_bytes()))
    {
        return Err(Stopped::Placeholder(other));
    }
    if let Some(other) = head.headers.values().find_map(|value| find_placeholder(value.as_bytes()))
    {
        return Err(Stopped::Placeholder(other));
    }
    let mut whole = Zeroizing::new(String::with_capacity(
        path.len() + rest.len() + 3 * secret.bytes().len() + 80,
    ));
    for part in [path, "?", rest.as_str(), name, "="] {
        whole.push_str(part);
    }
    whole.push_str(&quoted(secret.bytes()));
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.path_and_query = Some(whole.parse().map_err(|_| Stopped::Unfit)?);
    head.uri = Uri::from_parts(parts).map_err(|_| Stopped::Unfit)?;
    Ok(())
}

fn replace_fields(fields: &mut HeaderMap, name: &str, secret: &Secret) -> Result<(), Stopped> {
    let mark = placeholder(name);
    for value in fields.values_mut() {
        if value.as_bytes().windows(mark.len()).any(|some| some == mark.as_bytes()) {
            *value = hidden(replaced(value.as_bytes(), &mark, secret.bytes()))?;
        }
    }
    Ok(())
}

/// Bytes with others in place of each placeholder.
fn replaced(bytes: &[u8], mark: &str, with: &[u8]) -> Zeroizing<Vec<u8>> {
    let mark = mark.as_bytes();
    let count = bytes.windows(mark.len()).filter(|some| *some == mark).count();
    // Room for all of it from the beginning: growing would leave copies behind.
    let room = bytes.len().saturating_add(count.saturating_mul(with.len()));
    let mut result = Zeroizing::new(Vec::with_capacity(room));
    let mut rest = bytes;
    while let Some(byte) = rest.first() {
        if let Some(after) = rest.strip_prefix(mark) {
            result.extend_from_slice(with);
            rest = after;
        } else {
            result.push(*byte);
            rest = rest.get(1..).unwrap_or_default();
        }
    }
    result
}

/// Whether a head of a host's answer has the value in it: as it is, as a query has it, or as `basic` does.
pub(super) fn is_told(fields: &HeaderMap, value: &[u8]) -> bool {
    let quoted = quoted(value);
    let code = Zeroizing::new(STANDARD.encode(value));
    fields.values().any(|field| {
        let has = |form: &[u8]| field.as_bytes().windows(form.len()).any(|some| some == form);
        has(value) || has(quoted.as_bytes()) || has(code.as_bytes())
    })
}
