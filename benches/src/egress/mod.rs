//! The gate of a team's egress, in turns with a direct connection to the same server and with plain proxies of the host.
//!
//! Four parties, each a process of its own: this one is the client, in the place of the guest's supervisor; the
//! [`server`]; the [`gate`], which is the product's own; and the [`proxies`]. [`comparison`] lets them take turns.

pub mod role;

pub mod body;

pub mod names;

pub mod server;

pub mod gate;

pub mod proxies;

pub mod client;

pub mod work;

pub mod processor;

pub mod comparison;

pub mod report;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

/// The server's name.
pub const HOST: &str = "bench.example";

/// What client and server speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// HTTP/1.1 by TCP alone.
    Tcp,
    /// HTTP/1.1 in TLS.
    Tls,
    /// HTTP/2 in TLS.
    Http2,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Tls, Self::Http2];

    /// For plots.
    #[must_use]
    pub const fn short(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Http2 => "HTTP/2",
        }
    }

    /// For tables.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Tcp => "HTTP/1.1 by TCP",
            Self::Tls => "HTTP/1.1 in TLS",
            Self::Http2 => "HTTP/2 in TLS",
        }
    }
}

/// Ways to the server: with no TLS, and with it.
#[derive(Clone, Debug)]
pub struct Place {
    /// For tables and files.
    pub name: &'static str,
    /// Whether it is the product's own.
    pub is_ours: bool,
    /// Whose processor time it takes; none: nobody's but client's and server's.
    pub processes: Vec<u32>,
    /// Without TLS.
    pub plain: Address,
    /// With it.
    pub tls: Address,
}

/// A way to a port of the server.
#[derive(Clone, Debug)]
pub struct Address {
    /// What the client connects to.
    pub way: Way,
    /// The port of the server.
    pub port: u16,
}

/// What a client connects to.
#[derive(Clone, Debug)]
pub enum Way {
    /// This listens, and needs no word.
    Tcp(SocketAddr),
    /// The gate's socket: each stream begins with a head.
    Gate(PathBuf),
}
