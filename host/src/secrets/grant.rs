//! An OAuth 2.0 grant (RFC 6749) in place of a value: with what access tokens are asked for, and where.

use std::fmt;
use std::net::IpAddr;

use hyper::Uri;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use super::SecretError;
use super::value::Secret;
use crate::egress::name;

/// Longest address of a token server, in bytes.
pub const MAX_ENDPOINT: usize = 2048;
/// Longest name of a client, in bytes.
pub const MAX_CLIENT: usize = 512;
/// Longest scope, in bytes.
pub const MAX_SCOPE: usize = 2048;
/// Bytes of what tells two grants of one name apart.
const MARK_LEN: usize = 16;

/// What tells a grant from another that is set in its place.
pub type Mark = [u8; MARK_LEN];

/// What access tokens are asked for with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Random; it stays when the token server puts another refresh token in place of this one.
    pub mark: Mark,
    /// The address of the token server.
    pub endpoint: String,
    /// The client's name there.
    pub client: String,
    /// What the tokens are to be good for; empty: what the server gives.
    pub scope: String,
    /// The client's own secret, if it has one.
    pub client_secret: Option<Vec<u8>>,
    /// Whether the client's secret goes into the body of a request and not into its `Authorization`.
    pub in_body: bool,
    /// The refresh token (section 6); without it the client's own credentials are used (section 4.4).
    pub refresh_token: Option<Vec<u8>>,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.client_secret.zeroize();
        self.refresh_token.zeroize();
    }
}

impl Grant {
    /// What it is, for people, without what is secret of it.
    #[must_use]
    pub fn shown(&self) -> String {
        let kind = if self.refresh_token.is_some() { "refresh token" } else { "own credentials" };
        format!("oauth {}, client {}, {kind}", self.endpoint, self.client)
    }

    /// A new mark.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn new_mark() -> Result<Mark, SecretError> {
        let mut mark = Mark::default();
        SystemRandom::new().fill(&mut mark).map_err(|_unspecified| SecretError::Random)?;
        Ok(mark)
    }

    /// Looks at all of it, without showing what is secret.
    ///
    /// # Errors
    /// It can't be one.
    pub fn check(&self, name: &str) -> Result<(), SecretError> {
        let wrong = |(why, remedy)| SecretError::Unfit { name: name.to_owned(), why, remedy };
        Endpoint::parse(&self.endpoint).map_err(wrong)?;
        let printable = |text: &str| text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !(1..=MAX_CLIENT).contains(&self.client.len()) || !printable(&self.client) {
            let why = "the client's name is not 1 to 512 printable ASCII characters";
            return Err(wrong((why, "write it as the token server's owner gave it: --client ID")));
        }
        if self.scope.len() > MAX_SCOPE || !printable(&self.scope) {
            let why = "the scope is longer than 2 KiB, or not printable ASCII";
            return Err(wrong((why, "write words with spaces between: --scope \"read write\"")));
        }
        if self.refresh_token.is_none() && self.client_secret.is_none() {
            let why = "there is neither a refresh token nor a secret of the client";
            return Err(wrong((why, "give one of them on standard input")));
        }
        for value in [&self.refresh_token, &self.client_secret].into_iter().flatten() {
            Secret::check(name, value)?;
        }
        Ok(())
    }
}

/// Where a token server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it is reached over TLS; without it only on this host's loopback.
    pub tls: bool,
    /// Its host.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// Host and port as requests name them.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

/// A host of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// By its name in its one form.
    Name(String),
    /// By its address.
    Address(IpAddr),
}

impl Endpoint {
    /// Reads a URL.
    ///
    /// # Errors
    /// It is none, or one that nothing secret may be sent to: what is wrong, and what to do.
    pub fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        const WRITE: &str = "write it like https://auth.example.com/token";
        if text.len() > MAX_ENDPOINT {
            return Err(("the address of the token server is longer than 2 KiB", WRITE));
        }
        let wrong = ("the address of the token server is no URL", WRITE);
        let uri: Uri = text.parse().map_err(|_| wrong)?;
        let authority = uri.authority().ok_or(wrong)?;
        if text.contains('#') || authority.as_str().contains('@') {
            let what = "the address of the token server has a user or a fragment in it";
            return Err((what, "take it out; the client goes after --client"));
        }
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(("the address of the token server begins with no https://", WRITE)),
        };
        let bare = authority.host().trim_start_matches('[').trim_end_matches(']');
        let host = match bare.parse() {
            Ok(address) => Host::Address(address),
            Err(_) => Host::Name(name::normal(bare).map_err(|_| wrong)?),
        };
        let near = matches!(host, Host::Address(address) if address.is_loopback());
        if !tls && !near {
            let what = "without TLS everybody on the way would read what is sent to a token server";
            return Err((what, "write https://; http:// is for 127.0.0.1 and [::1] alone"));
        }
        // One that is written and can't be read is none of the two.
        let port = match authority.port() {
            Some(port) => port.as_str().parse().ok().filter(|port| *port > 0).ok_or(wrong)?,
            None if authority.as_str() != authority.host() => return Err(wrong),
            None if tls => 443,
            None => 80,
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { tls, host, port, authority: authority.as_str().to_owned(), path })
    }
}

#[cfg(test)]
#[path = "grant_test.rs"]
mod tests;
