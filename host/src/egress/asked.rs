//! A host and a port as a person writes them.

use std::net::IpAddr;

use super::name::{Fault, normal};

/// Whom a person asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// A name in its one form, or an address.
    pub host: Host,
    /// The port.
    pub port: u16,
    /// The path of a URL, without its query; nothing if it is none.
    pub path: Option<String>,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// By its name.
    Name(String),
    /// By its address.
    Address(IpAddr),
}

impl Asked {
    /// Reads `HOST`, `HOST:PORT` or a URL.
    ///
    /// # Errors
    /// It is none of them.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        const WRITE: &str = "write api.example.com:443, 203.0.113.7:5432 or a URL";
        let (usual, rest) = match text.split_once("://") {
            Some(("https" | "wss", rest)) => (Some(443), rest),
            Some(("http" | "ws", rest)) => (Some(80), rest),
            Some(("ssh", rest)) => (Some(22), rest),
            Some((_, rest)) => (None, rest),
            None => (Some(443), text),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let path = text.contains("://").then(|| {
            let path = rest.get(authority.len()..).unwrap_or_default();
            let path = path.split(['?', '#']).next().unwrap_or_default();
            if path.is_empty() { "/".to_owned() } else { path.to_owned() }
        });
        if authority.contains('@') {
            return Err(("there is a user in it".to_owned(), WRITE));
        }
        if let Ok(address) = authority.parse::<IpAddr>() {
            let port = usual.ok_or_else(|| ("it has no port".to_owned(), WRITE))?;
            return Ok(Self { host: Host::Address(address.to_canonical()), port, path });
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => {
                let number = port.parse::<u16>().ok().filter(|port| *port != 0);
                let number = number.ok_or_else(|| (format!("`{port}` is no port"), WRITE))?;
                (host, number)
            }
            None => (authority, usual.ok_or_else(|| ("it has no port".to_owned(), WRITE))?),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = match bare.parse::<IpAddr>() {
            Ok(address) => Host::Address(address.to_canonical()),
            Err(_) => Host::Name(normal(bare).map_err(|(what, _)| (what, WRITE))?),
        };
        Ok(Self { host, port, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        let name = |text: &str| Host::Name(text.to_owned());
        let address = |text: &str| Host::Address(text.parse().unwrap());
        for (text, host, port, path) in [
            ("api.example.com", name("api.example.com"), 443, None),
            ("API.example.com.:8443", name("api.example.com"), 8443, None),
            ("https://api.example.com/v1?x=a:b@c#d", name("api.example.com"), 443, Some("/v1")),
            ("http://api.example.com", name("api.example.com"), 80, Some("/")),
            ("postgres://db:5432/x", name("db"), 5432, Some("/x")),
            ("203.0.113.7", address("203.0.113.7"), 443, None),
            ("203.0.113.7:22", address("203.0.113.7"), 22, None),
            ("[::1]:80", address("::1"), 80, None),
            ("::1", address("::1"), 443, None),
            ("[::ffff:10.0.0.1]:1", address("10.0.0.1"), 1, None),
        ] {
            let path = path.map(str::to_owned);
            assert_eq!(Asked::parse(text), Ok(Asked { host, port, path }), "{text}");
        }
        for text in [
            "",
            ":443",
            "a b",
            "a:0",
            "a:65536",
            "a:x",
            "ftp://a",
            "https://u@a",
            "*.a.b",
            "1.2.3:4",
        ] {
            assert!(Asked::parse(text).is_err(), "{text}");
        }
    }
}
