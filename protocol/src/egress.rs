//! What an agent may reach outside, as far as the supervisor has to know it, and the head of each
//! stream that goes there.
//!
//! The supervisor's copy of the rules is for quick answers. The host decides about each stream
//! again, by its own.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_HOST_NAME, MAX_LABEL};

/// The network that names get their addresses from, in every agent: it is for benchmarks
/// (RFC 2544) and never routed.
pub const NAMES: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 15);
/// Where an agent's name server is.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Longest head, in bytes, without the length in front: the longest name and the numbers.
pub const MAX_HEAD: usize = 280;
/// The host's answer to a head when it has connected. Without it, the stream ends.
pub const CONNECTED: u8 = 1;

/// Ports on which any name is listened for where a team observes, beside those of rules: ssh, HTTP, TLS, databases,
/// and what servers on trial use. Eight, so that 128 names fit into an agent's sockets.
pub const OBSERVED_PORTS: [u16; 8] = [22, 80, 443, 3306, 5432, 6379, 8080, 8443];

/// What an agent may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// By name.
    pub names: Vec<NameRule>,
    /// By address.
    pub ranges: Vec<RangeRule>,
    /// Whether every name that no rule forbids is let through, on [`OBSERVED_PORTS`] too.
    pub observes: bool,
}

/// A rule about names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRule {
    /// A host name as [`is_host_name`] wants it, perhaps with `*.` in front for all names below it.
    pub pattern: String,
    /// Which ports; none: every one, and only if it forbids.
    pub ports: Vec<u16>,
    /// Whether it allows or forbids; what forbids wins.
    pub allows: bool,
}

/// Addresses that may be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeRule {
    /// The first.
    pub address: Ipv4Addr,
    /// How many of its bits all have in common.
    pub prefix: u8,
    /// Which ports; at least one.
    pub ports: Vec<u16>,
}

/// The head of a stream to [`EGRESS_PORT`](crate::EGRESS_PORT).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Whose it is.
    pub agent: u32,
    /// Where it shall go.
    pub target: Target,
    /// To which port.
    pub port: u16,
}

/// Where a stream shall go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Target {
    /// To a host by its name.
    Name(String),
    /// To an address.
    Address(Ipv4Addr),
}

/// Why bytes are no head.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeadError {
    /// Empty, or over [`MAX_HEAD`].
    #[error("a head of {length} bytes is not within 1 and {MAX_HEAD}")]
    Length {
        /// The length in front.
        length: usize,
    },
    /// Not a head, or with something after it.
    #[error("it is not the head of a stream")]
    Malformed,
    /// Not a host name in its one form.
    #[error("the name in it is no host name")]
    Name,
    /// No connection goes to port 0.
    #[error("the port in it is 0")]
    Port,
}

impl Head {
    /// Its bytes, with their length in front.
    ///
    /// # Errors
    /// It breaks a rule.
    pub fn encode(&self) -> Result<Vec<u8>, HeadError> {
        self.validate()?;
        let mut bytes =
            postcard::to_extend(self, Vec::from([0; 2])).map_err(|_| HeadError::Malformed)?;
        let length = bytes.len().saturating_sub(2);
        let prefix = u16::try_from(length).map_err(|_| HeadError::Length { length })?;
        if let Some(place) = bytes.first_chunk_mut::<2>() {
            *place = prefix.to_le_bytes();
        }
        Ok(bytes)
    }

    /// How many bytes follow, by the two in front.
    ///
    /// # Errors
    /// More than any head has, or none.
    pub fn length(prefix: [u8; 2]) -> Result<usize, HeadError> {
        let length = usize::from(u16::from_le_bytes(prefix));
        if (1..=MAX_HEAD).contains(&length) {
            Ok(length)
        } else {
            Err(HeadError::Length { length })
        }
    }

    /// A head of the bytes that follow their length.
    ///
    /// # Errors
    /// They are none, or break a rule.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeadError> {
        let (head, rest): (Self, _) =
            postcard::take_from_bytes(bytes).map_err(|_| HeadError::Malformed)?;
        if !rest.is_empty() {
            return Err(HeadError::Malformed);
        }
        head.validate()?;
        Ok(head)
    }

    fn validate(&self) -> Result<(), HeadError> {
        match &self.target {
            Target::Name(name) if !is_host_name(name) => Err(HeadError::Name),
            _ if self.port == 0 => Err(HeadError::Port),
            _ => Ok(()),
        }
    }
}

/// Whether a text is a host name in its one form: labels of `a-z`, `0-9` and, within, `-`, with
/// dots between them and none at the end (RFC 1123, section 2.1), and no address in any notation.
#[must_use]
pub fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        let inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
        let ends = [label.bytes().next(), label.bytes().next_back()];
        label.len() <= MAX_LABEL
            && ends.into_iter().all(|end| end.is_some_and(inner))
            && label.bytes().all(|byte| inner(byte) || byte == b'-')
    };
    // What programs would take for an address (inet_aton): its last label is a number.
    let last = text.rsplit('.').next().unwrap_or_default();
    let number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    text.len() <= MAX_HOST_NAME && !number && text.split('.').all(label)
}

/// Whether a pattern means a name; both in their one form.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        // With at least one label in front.
        Some(domain) => name
            .strip_suffix(domain)
            .and_then(|front| front.strip_suffix('.'))
            .is_some_and(|front| !front.is_empty()),
        None => pattern == name,
    }
}

impl Egress {
    /// The ports of a name that may be reached; none if the name may not.
    #[must_use]
    pub fn ports(&self, name: &str) -> Vec<u16> {
        let meant = || self.names.iter().filter(|rule| matches(&rule.pattern, name));
        let forbids = |port: u16| {
            let mut forbidding = meant().filter(|rule| !rule.allows);
            forbidding.any(|rule| rule.ports.is_empty() || rule.ports.contains(&port))
        };
        let allowing = meant().filter(|rule| rule.allows);
        let mut ports: Vec<u16> = allowing.flat_map(|rule| rule.ports.iter().copied()).collect();
        if self.observes {
            ports.extend(OBSERVED_PORTS);
        }
        ports.sort_unstable();
        ports.dedup();
        ports.retain(|port| !forbids(*port));
        ports
    }
}

impl RangeRule {
    /// All its addresses; at most 256 in a rule that was checked.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let first = u32::from(self.address);
        let count = 1_u64 << 32_u8.saturating_sub(self.prefix).min(32);
        (0..count).filter_map(move |offset| {
            Some(Ipv4Addr::from(first.checked_add(u32::try_from(offset).ok()?)?))
        })
    }
}

/// Whether an address is in a network.
#[must_use]
pub fn contains((network, prefix): (Ipv4Addr, u8), address: Ipv4Addr) -> bool {
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0);
    (u32::from(network) ^ u32::from(address)) & mask == 0
}

#[cfg(test)]
#[path = "egress_test.rs"]
pub(crate) mod tests;
