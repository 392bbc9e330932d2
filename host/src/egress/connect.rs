//! Connections to addresses that were checked: a name is looked up once, each of its addresses is held
//! against the rules, and the connection goes to one of those and to nothing else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use cloister_protocol::egress::Target;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::limits::{ADDRESS_LIMIT, CONNECT_LIMIT};
use super::operator::Operator;
use super::policy::{Policy, Verdict};
use super::resolve::{ResolveError, Resolver};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// None of its addresses may be reached.
    #[error("{0}")]
    Denied(String),
    /// The name has no addresses.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// No address takes the connection.
    #[error("{address} does not take the connection")]
    Connect {
        /// The last that was tried.
        address: IpAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Makes connections.
#[derive(Debug)]
pub struct Connector {
    /// Finds addresses.
    pub resolver: Resolver,
    /// The operator's word.
    pub operator: Operator,
}

impl Connector {
    /// Connects to what the rules allowed already, or the operator `approved`: the stream, and the address that it goes to.
    ///
    /// # Errors
    /// No address may be reached, or none can be.
    pub async fn connect(
        &self,
        policy: &Policy,
        target: &Target,
        port: u16,
        approved: bool,
    ) -> Result<(TcpStream, IpAddr), ConnectError> {
        let addresses = match target {
            Target::Name(name) => self.resolver.addresses(name).await?,
            Target::Address(address) => vec![IpAddr::V4(*address)],
        };
        let mut denied = None;
        let mut admitted = Vec::new();
        for address in addresses {
            match self.admits(policy, target, address, port, approved) {
                Ok(()) => admitted.push(address),
                Err(words) => denied = denied.or(Some(words)),
            }
        }
        if admitted.is_empty() {
            let words = denied.unwrap_or_else(|| "it has no address".to_owned());
            return Err(ConnectError::Denied(words));
        }
        first_of(&admitted, port).await
    }

    pub(super) fn admits(
        &self,
        policy: &Policy,
        target: &Target,
        address: IpAddr,
        port: u16,
        approved: bool,
    ) -> Result<(), String> {
        // Who was asked about a name was not asked about the addresses that it has.
        let approved = approved && matches!(target, Target::Address(_));
        if approved {
            policy.admits_approved(address, port, &self.operator)?;
        } else {
            policy.admits(address, port, &self.operator)?;
        }
        let named = match policy.of_address(address, port) {
            Verdict::Allowed(_) => true,
            Verdict::Asked(_) => approved,
            Verdict::Denied(_) | Verdict::Observed | Verdict::NoRule => false,
        };
        if !named && is_own(address) {
            return Err(format!("{address} is this host's own, and no rule names that address"));
        }
        Ok(())
    }
}

/// Connects to the first that takes it; each has its time, and all together have theirs.
pub(super) async fn first_of(
    addresses: &[IpAddr],
    port: u16,
) -> Result<(TcpStream, IpAddr), ConnectError> {
    let end = Instant::now() + CONNECT_LIMIT;
    let mut last = None;
    for (index, address) in addresses.iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        let limit = if index + 1 < addresses.len() { left.min(ADDRESS_LIMIT) } else { left };
        if limit == Duration::ZERO {
            break;
        }
        let connected = timeout(limit, TcpStream::connect(SocketAddr::new(*address, port))).await;
        let source = match connected {
            Ok(Ok(stream)) => {
                // Whoever relays must not add delays of his own.
                stream.set_nodelay(true).ok();
                return Ok((stream, *address));
            }
            Ok(Err(error)) => error,
            Err(_) => std::io::ErrorKind::TimedOut.into(),
        };
        last = Some((*address, source));
    }
    let (address, source) = last.unwrap_or_else(|| {
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), std::io::ErrorKind::TimedOut.into())
    });
    Err(ConnectError::Connect { address, source })
}

/// Whether an address is one of this host's: what goes there comes from there. Nothing is sent.
fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Any port will do: no packet leaves. What can't be reached at all is nobody's.
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == address)
}

#[cfg(test)]
#[path = "connect_test.rs"]
pub(crate) mod tests;
