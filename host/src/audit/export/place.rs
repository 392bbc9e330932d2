//! Where a collector is, as it is written on the command line.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where the C library's `syslog` writes to.
const DEV_LOG: &str = "/dev/log";
/// Where systemd's journal takes its native protocol.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Longest name of a host in the DNS, in bytes.
const MAX_NAME: usize = 253;

/// A collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CollectorPlace {
    /// A syslog on this host, by its socket of datagrams.
    Local(PathBuf),
    /// A syslog that is reached by UDP.
    Udp(Target),
    /// A syslog that is reached by TCP.
    Tcp(Target),
    /// The journal, by its socket.
    Journal(PathBuf),
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By its address.
    Address(SocketAddr),
    /// By its name, in lower case, which is looked up for each connection.
    Name(String, u16),
}

/// Not a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write syslog, syslog:unix:/PATH, syslog:udp:HOST:PORT, syslog:tcp:HOST:PORT, journald or journald:unix:/PATH"
)]
pub struct PlaceError;

impl FromStr for CollectorPlace {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let path = |path: &str| {
            let fits = path.starts_with('/') && !path.contains('\0');
            fits.then(|| PathBuf::from(path)).ok_or(PlaceError)
        };
        let (kind, rest) = match text.split_once(':') {
            Some((kind, rest)) => (kind, rest.split_once(':').ok_or(PlaceError).map(Some)?),
            None => (text, None),
        };
        match (kind, rest) {
            ("syslog", None) => Ok(Self::Local(DEV_LOG.into())),
            ("syslog", Some(("unix", rest))) => path(rest).map(Self::Local),
            ("syslog", Some(("udp", rest))) => rest.parse().map(Self::Udp),
            ("syslog", Some(("tcp", rest))) => rest.parse().map(Self::Tcp),
            ("journald", None) => Ok(Self::Journal(JOURNAL.into())),
            ("journald", Some(("unix", rest))) => path(rest).map(Self::Journal),
            _ => Err(PlaceError),
        }
    }
}

impl FromStr for Target {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(PlaceError) } else { Ok(Self::Address(address)) };
        }
        let (name, port) = text.rsplit_once(':').ok_or(PlaceError)?;
        let port: u16 = port.parse().map_err(|_| PlaceError)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        let fits = !name.is_empty()
            && name.len() <= MAX_NAME
            && name.bytes().all(plain)
            && !name.starts_with(['-', '.'])
            && !name.ends_with('.')
            && port != 0
            // An address that is written wrongly is no name.
            && name.rsplit('.').next().is_some_and(|last| last.parse::<u64>().is_err())
            && name.parse::<IpAddr>().is_err();
        if fits { Ok(Self::Name(name.to_ascii_lowercase(), port)) } else { Err(PlaceError) }
    }
}

impl fmt::Display for CollectorPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "syslog:unix:{}", path.display()),
            Self::Udp(target) => write!(f, "syslog:udp:{target}"),
            Self::Tcp(target) => write!(f, "syslog:tcp:{target}"),
            Self::Journal(path) => write!(f, "journald:unix:{}", path.display()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written_alike() {
        for (text, whole) in [
            ("syslog", "syslog:unix:/dev/log"),
            ("journald", "journald:unix:/run/systemd/journal/socket"),
            ("syslog:unix:/run/a:b", "syslog:unix:/run/a:b"),
            ("syslog:udp:127.0.0.1:514", "syslog:udp:127.0.0.1:514"),
            ("syslog:tcp:[::1]:601", "syslog:tcp:[::1]:601"),
            ("syslog:tcp:Logs.Example.org:601", "syslog:tcp:logs.example.org:601"),
            ("syslog:tcp:localhost:1", "syslog:tcp:localhost:1"),
            (
                "journald:unix:/run/systemd/journal.x/socket",
                "journald:unix:/run/systemd/journal.x/socket",
            ),
        ] {
            let place: CollectorPlace = text.parse().unwrap();
            assert_eq!(place.to_string(), whole);
            assert_eq!(whole.parse(), Ok(place));
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        let long = format!("syslog:tcp:{}:1", "a".repeat(254));
        for text in [
            "",
            ":",
            "syslog:",
            "syslog:unix",
            "syslog:unix:",
            "syslog:unix:log",
            "syslog:tls:h:1",
            "syslog:tcp",
            "syslog:tcp:",
            "syslog:tcp:h",
            "syslog:tcp:h:",
            "syslog:tcp:h:0",
            "syslog:tcp:127.0.0.1:0",
            "syslog:tcp:h:65536",
            "syslog:tcp::1",
            "syslog:tcp:256.0.0.1:1",
            "syslog:tcp:::1:1",
            "syslog:tcp:a b:1",
            "syslog:tcp:a\u{0}:1",
            "syslog:udp:-a:1",
            "journald:tcp:h:1",
            "Journald",
            "file:/x",
            &long,
        ] {
            assert_eq!(text.parse::<CollectorPlace>(), Err(PlaceError), "{text}");
        }
    }
}
