//! Rules: plain data that the team file decides alone.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::credential::Credential;

/// A rule about what an agent may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Whom it is about.
    pub peer: Peer,
    /// Which ports; none: every one, and only if it denies.
    pub ports: Vec<u16>,
    /// What it does.
    pub action: Action,
    /// Which requests alone it is about; nothing: whole streams, whatever is in them.
    #[serde(default)]
    pub http: Option<Http>,
}

/// Requests that a rule is about. The streams of its host are looked into, and opened if they are TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http {
    /// Their methods; none: every one.
    pub methods: Vec<String>,
    /// Patterns of their paths ([`super::path`]); none: every one.
    pub paths: Vec<String>,
    /// Whether they may become a WebSocket.
    pub websocket: bool,
    /// The secret that they are given.
    #[serde(default)]
    pub credential: Option<Credential>,
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// A host by its name in its one form, or all names below a name.
    Host(String),
    /// Addresses.
    Range(IpNet),
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// What it is about may be reached.
    Allow,
    /// Each connection waits for the operator's word, unless another rule allows or denies it.
    Ask,
    /// It may not, whatever allows it.
    Deny,
}

impl Rule {
    /// Whether it is about a port.
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.action {
            Action::Allow => "allow ",
            Action::Ask => "ask ",
            Action::Deny => "deny ",
        })?;
        match &self.peer {
            Peer::Host(pattern) => f.write_str(pattern)?,
            Peer::Range(range) if range.prefix_len() == range.max_prefix_len() => {
                write!(f, "{}", range.addr())?;
            }
            Peer::Range(range) => write!(f, "{range}")?,
        }
        match self.ports.as_slice() {
            [] => f.write_str(", every port")?,
            [port] => write!(f, ", port {port}")?,
            ports => {
                let list: Vec<String> = ports.iter().map(u16::to_string).collect();
                write!(f, ", ports {}", list.join(", "))?;
            }
        }
        let Some(Http { methods, paths, websocket, credential }) = &self.http else {
            return Ok(());
        };
        for list in [methods, paths] {
            if !list.is_empty() {
                write!(f, ", {}", list.join(" "))?;
            }
        }
        f.write_str(if *websocket { ", WebSocket" } else { "" })?;
        match credential {
            Some(Credential { secret, place }) => write!(f, ", secret {secret} as {place}"),
            None => Ok(()),
        }
    }
}
