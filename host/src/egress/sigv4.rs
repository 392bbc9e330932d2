//! Signatures of requests to AWS, version 4, by fields of the head: what is signed, and how.
//!
//! What is signed is the host, the type of the content and every field whose name begins with `x-amz-`, beside
//! method, path, query and the body's digest; so what proxies add or change is not.

use chrono::{DateTime, Utc};
use hyper::header::{
    AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, InvalidHeaderValue,
};
use hyper::http::request::Parts;
use ring::{digest, hmac};
use zeroize::Zeroizing;

use super::hidden;
use super::percent::{decoded, quoted, quoted_but};

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
const DIGEST: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const METHOD: &str = "AWS4-HMAC-SHA256";
/// Parameters of a query that signs by itself, in lower case; that of version 2 included.
const PRESIGNED: [&[u8]; 6] = [
    b"x-amz-algorithm",
    b"x-amz-credential",
    b"x-amz-signature",
    b"x-amz-signedheaders",
    b"x-amz-security-token",
    b"awsaccesskeyid",
];
/// Room for the method, which is short, the digest and line ends, in bytes.
const REST: usize = 256;
/// The service that takes bodies without a digest, and whose paths are encoded once.
const S3: &str = "s3";
/// In place of a body's digest, for S3 alone.
pub(super) const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// The same for a body in pieces, none of which is signed, with a checksum behind them: what AWS's own programs send
/// over TLS. The pieces are read by this word, so it has to stay.
pub(super) const UNSIGNED_PIECES: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";

/// What requests are signed for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) service: &'a str,
    pub(super) region: &'a str,
}

impl Scope<'_> {
    /// Whether bodies need no digest.
    pub(super) fn is_s3(self) -> bool {
        self.service == S3
    }
}

/// A secret as keys.
pub(super) struct Keys<'a> {
    id: &'a str,
    pub(super) secret: &'a [u8],
    pub(super) session: Option<&'a [u8]>,
}

impl<'a> Keys<'a> {
    /// Reads `ACCESS_KEY_ID:SECRET_ACCESS_KEY[:SESSION_TOKEN]`; nothing, if it is not that.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut parts = bytes.splitn(3, |byte| *byte == b':');
        let id = std::str::from_utf8(parts.next()?).ok()?;
        let (secret, session) = (parts.next()?, parts.next());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let whole = !id.is_empty() && id.bytes().all(plain) && !secret.is_empty();
        (whole && session.is_none_or(|session| !session.is_empty())).then_some(Self {
            id,
            secret,
            session,
        })
    }
}

/// Takes what the agent signed with out of a head, and what else is put in later: what it said of the body.
///
/// # Errors
/// It is signed by its query, which is the agent's own.
pub(super) fn clear(head: &mut Parts) -> Result<Option<HeaderValue>, Presigned> {
    let is_signed = |part: &str| {
        let key = part.split_once('=').map_or(part, |(key, _)| key);
        PRESIGNED.contains(&&*decoded(key).to_ascii_lowercase())
    };
    if head.uri.query().is_some_and(|query| query.split('&').any(is_signed)) {
        return Err(Presigned);
    }
    for name in [AUTHORIZATION, DATE, TOKEN] {
        head.headers.remove(name);
    }
    Ok(head.headers.remove(DIGEST))
}

/// A request is signed by its query.
#[derive(Debug)]
pub(super) struct Presigned;

/// The digest of a body as it is signed.
pub(super) fn digest_of(body: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, body).as_ref())
}

/// Signs a head from which what the agent signed with was taken.
///
/// # Errors
/// A key is nothing that a field can have.
pub(super) fn sign(
    head: &mut Parts,
    digest: &str,
    scope: Scope<'_>,
    keys: &Keys<'_>,
    now: DateTime<Utc>,
) -> Result<(), InvalidHeaderValue> {
    let time = now.format("%Y%m%dT%H%M%SZ").to_string();
    head.headers.insert(DATE, HeaderValue::from_str(&time)?);
    head.headers.insert(DIGEST, HeaderValue::from_str(digest)?);
    if let Some(session) = keys.session {
        let value = hidden::field(Zeroizing::new(session.to_vec()))?;
        head.headers.insert(TOKEN, value);
    }
    if let Some(authority) = head.uri.authority() {
        // In HTTP/2 the host is the authority's: one beside it could be another spelling.
        let host = HeaderValue::from_str(authority.as_str())?;
        head.headers.insert(HOST, host);
    }
    let signed = |name: &HeaderName| {
        name == HOST || name == CONTENT_TYPE || name.as_str().starts_with("x-amz-")
    };
    let value = authorization(head, digest, scope, keys, (&time, &signed));
    if head.uri.authority().is_some() {
        head.headers.remove(HOST);
    }
    let value = hidden::field(Zeroizing::new(value.into_bytes()))?;
    head.headers.insert(AUTHORIZATION, value);
    Ok(())
}

/// The field that signs a head, at a time as the date's field has it.
fn authorization(
    head: &Parts,
    digest: &str,
    scope: Scope<'_>,
    keys: &Keys<'_>,
    (time, signed): (&str, &dyn Fn(&HeaderName) -> bool),
) -> String {
    let Scope { service, region } = scope;
    let (request, names) = canonical(head, digest, scope, signed);
    let day = time.get(..8).unwrap_or_default();
    let range = format!("{day}/{region}/{service}/aws4_request");
    let text = format!("{METHOD}\n{time}\n{range}\n{}", digest_of(&request));
    let first = Zeroizing::new([b"AWS4", keys.secret].concat());
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, &first);
    for part in [day, region, service, "aws4_request"] {
        key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
    }
    let signature = hex(hmac::sign(&key, text.as_bytes()).as_ref());
    let id = keys.id;
    format!("{METHOD} Credential={id}/{range}, SignedHeaders={names}, Signature={signature}")
}

/// A request in the one form that is signed, and the names of its fields in it.
fn canonical(
    head: &Parts,
    digest: &str,
    scope: Scope<'_>,
    signed: &dyn Fn(&HeaderName) -> bool,
) -> (Zeroizing<Vec<u8>>, String) {
    let mut names: Vec<&HeaderName> = head.headers.keys().filter(|name| signed(name)).collect();
    names.sort_unstable_by_key(|name| name.as_str());
    let path = path(head.uri.path(), scope);
    let query = query(head.uri.query().unwrap_or_default());
    // Room for all of it from the beginning: the token of a session is among the fields, and growing would leave copies.
    let fields = head.headers.iter().map(|(name, value)| 2 * name.as_str().len() + value.len() + 3);
    let room = fields.sum::<usize>() + path.len() + query.len() + REST;
    let mut request = Zeroizing::new(Vec::with_capacity(room));
    for line in [head.method.as_str(), &path, &query] {
        request.extend_from_slice(line.as_bytes());
        request.push(b'\n');
    }
    for name in &names {
        request.extend_from_slice(name.as_str().as_bytes());
        for (index, value) in head.headers.get_all(*name).iter().enumerate() {
            request.push(if index == 0 { b':' } else { b',' });
            push_trimmed(&mut request, value.as_bytes());
        }
        request.push(b'\n');
    }
    let names = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(";");
    for line in ["\n", &names, "\n", digest] {
        request.extend_from_slice(line.as_bytes());
    }
    (request, names)
}

/// A path: of S3 as it is, encoded once; of others without what means nothing in it, and encoded once more.
fn path(path: &str, scope: Scope<'_>) -> String {
    if scope.is_s3() {
        return quoted_but(&decoded(path), b"/").to_string();
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    let end = if matches!(last, "" | "." | "..") && !parts.is_empty() { "/" } else { "" };
    quoted_but(format!("/{}{end}", parts.join("/")).as_bytes(), b"/").to_string()
}

/// A query: each key and value encoded in the one way, and all in their order.
fn query(query: &str) -> String {
    let one = |text: &str| quoted(&decoded(&text.replace('+', "%20"))).to_string();
    let parts = query.split('&').filter(|part| !part.is_empty());
    let mut pairs: Vec<(String, String)> = parts
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .map(|(key, value)| (one(key), one(value)))
        .collect();
    pairs.sort_unstable();
    let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join("&")
}

/// Adds a field's value without spaces around it, and with one in place of several.
fn push_trimmed(request: &mut Vec<u8>, value: &[u8]) {
    let words = value.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    for (index, word) in words.enumerate() {
        if index > 0 {
            request.push(b' ');
        }
        request.extend_from_slice(word);
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |digit: u8| char::from_digit(digit.into(), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
#[path = "sigv4_test.rs"]
mod tests;
