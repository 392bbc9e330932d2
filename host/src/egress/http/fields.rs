//! The fields of a request's head: what they must say, and which of them are between two neighbours and
//! are not passed on (RFC 9110, section 7.6.1).

use hyper::Version;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Method, http::uri::Authority};

/// Fields between neighbours, beside those that `Connection` names.
const BETWEEN: [HeaderName; 10] = [
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("http2-settings"),
];
/// Fields by which servers take another method than the request line's.
const OTHER_METHOD: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
/// Fields by which servers take another path than the request line's.
const OTHER_PATH: [&str; 2] = ["x-original-url", "x-rewrite-url"];

/// What a request wants to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Becomes {
    /// Nothing else; what else it offers to become is left out.
    Nothing,
    /// A WebSocket (RFC 6455, section 4.1).
    WebSocket,
}

/// Looks at the head of a request to a host's port.
///
/// # Errors
/// It is refused; why, in words.
pub(super) fn check(
    head: &Parts,
    (name, port): (&str, u16),
    (methods, paths): (bool, bool),
) -> Result<Becomes, &'static str> {
    if head.method == Method::CONNECT {
        return Err("CONNECT asks a proxy for another connection, and there is none");
    }
    let two = head.version == Version::HTTP_2;
    let hosts: Vec<&HeaderValue> = head.headers.get_all(HOST).iter().collect();
    if two {
        let authority = head.uri.authority().ok_or("the request names no host")?;
        is_host(authority.as_str(), name, port)?;
        if head.uri.scheme_str() != Some("https") {
            return Err("the request names another scheme than the stream has");
        }
    } else {
        if head.uri.authority().is_some() || head.uri.scheme().is_some() {
            return Err("the request is one to a proxy, with a whole URL, and there is none");
        }
        if hosts.is_empty() {
            return Err("the request names no host");
        }
    }
    if hosts.len() > 1 {
        return Err("the request names its host more than once");
    }
    for host in hosts {
        is_host(host.to_str().map_err(|_| OTHER_HOST)?, name, port)?;
    }
    let path = head.uri.path();
    let whole_server = path == "*" && head.method == Method::OPTIONS;
    if !path.starts_with('/') && !whole_server {
        return Err("its path does not begin with a slash");
    }
    let has = |names: &[&str]| names.iter().any(|name| head.headers.contains_key(*name));
    if methods && has(&OTHER_METHOD) {
        return Err("the request asks for another method than it has, and rules look at methods");
    }
    if paths && has(&OTHER_PATH) {
        return Err("the request asks for another path than it has, and rules look at paths");
    }
    becomes(head)
}

const OTHER_HOST: &str = "the request names another host than its stream goes to";

/// Whether a text is the host, perhaps with the port.
fn is_host(text: &str, name: &str, port: u16) -> Result<(), &'static str> {
    let authority: Authority = text.parse().map_err(|_| OTHER_HOST)?;
    if text.contains('@') || authority.port_u16().is_some_and(|other| other != port) {
        return Err(OTHER_HOST);
    }
    let host = authority.host();
    let whole = match authority.port() {
        Some(written) => text.len() == host.len() + 1 + written.as_str().len(),
        None => text == host,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if whole && host.eq_ignore_ascii_case(name) { Ok(()) } else { Err(OTHER_HOST) }
}

fn becomes(head: &Parts) -> Result<Becomes, &'static str> {
    let mut offered = words(&head.headers, &UPGRADE);
    if !offered.any(|word| word.eq_ignore_ascii_case("websocket")) {
        return Ok(Becomes::Nothing);
    }
    let asked = words(&head.headers, &CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"));
    let alone = words(&head.headers, &UPGRADE).count() == 1;
    if asked && alone && head.method == Method::GET && head.version == Version::HTTP_11 {
        Ok(Becomes::WebSocket)
    } else {
        Err("the request does not become a WebSocket in the one way there is")
    }
}

/// The words of a list that may stand in several fields.
fn words<'a>(fields: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = fields.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

/// Takes out what is between neighbours. `TE: trailers` stays: it says that the whole way can (gRPC wants it).
pub(super) fn strip(fields: &mut HeaderMap) {
    let trailers = words(fields, &TE).any(|word| word.eq_ignore_ascii_case("trailers"));
    let named: Vec<HeaderName> =
        words(fields, &CONNECTION).filter_map(|word| word.parse().ok()).collect();
    // What frames the message, or names whom it is for, is nobody's to take out.
    let kept = [CONTENT_LENGTH, HOST];
    for name in named.iter().filter(|name| !kept.contains(*name)).chain(&BETWEEN) {
        while fields.remove(name).is_some() {}
    }
    if trailers {
        fields.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Puts in what makes a WebSocket.
pub(super) fn make_websocket(fields: &mut HeaderMap) {
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
}
