//! The command line of `cloister metrics`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use super::teams::StateArgs;

const EXAMPLES: &str = "\
Examples:
  cloister metrics                            Once, to standard output
  cloister metrics --listen 127.0.0.1:9464    For a Prometheus on this host
  cloister metrics --listen unix:/run/cloister-metrics.sock

Figures of all teams of this user: how they and their agents stand, what agents
use, and what their egress came to. Counters begin anew when a team starts. They
are served at /metrics over HTTP, to whoever can connect: for a Unix socket that
is this user, for a loopback address everybody on this host.

Exit codes: 0, or 125 when there are none and standard error says why; a server
ends with 128 and the number of the signal that ended it.";

/// What was typed after `metrics`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct MetricsArgs {
    /// Serve them there until interrupted: unix:/PATH, or a loopback address with a port.
    #[arg(long, value_name = "PLACE")]
    pub listen: Option<Listen>,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// Where metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket.
    Unix(PathBuf),
    /// An address that only this host reaches.
    Loopback(SocketAddr),
}

/// Not such a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Something else.
    #[error("write unix:/PATH, or a loopback address with a port, like 127.0.0.1:9464")]
    Place,
    /// An address that others reach.
    #[error("others can reach that address; take a loopback address, like 127.0.0.1:9464")]
    Open,
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(ListenError::Place)
            };
        }
        let address: SocketAddr = text.parse().map_err(|_| ListenError::Place)?;
        if address.ip().is_loopback() {
            Ok(Self::Loopback(address))
        } else {
            Err(ListenError::Open)
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Loopback(address) => write!(f, "http://{address}/metrics"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_places_of_this_host_are_taken() {
        let unix = "unix:/run/s".parse();
        assert_eq!(unix, Ok(Listen::Unix("/run/s".into())));
        for text in ["127.0.0.1:9464", "127.1.2.3:1", "[::1]:9464"] {
            assert!(matches!(text.parse(), Ok(Listen::Loopback(_))), "{text}");
        }
        for text in ["0.0.0.0:9464", "[::]:1", "192.168.1.1:80", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(text.parse::<Listen>(), Err(ListenError::Open), "{text}");
        }
        for text in ["", "unix:", "unix:s", "9464", "localhost:1", "127.0.0.1", "/run/s"] {
            assert_eq!(text.parse::<Listen>(), Err(ListenError::Place), "{text}");
        }
    }
}
