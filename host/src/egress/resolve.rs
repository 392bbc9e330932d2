//! From a host's name to its addresses: by the operator's name servers, or the system's.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::time::timeout;

use super::limits::{MAX_ADDRESSES, MAX_ANSWERS, MAX_TTL, RESOLVE_LIMIT};
use super::operator::Operator;

/// How long one server may take for one answer, and how often it is asked.
const SERVER_LIMIT: Duration = Duration::from_secs(3);
const TRIES: usize = 2;

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The resolver can't be made: the system's configuration can't be read.
    #[error("can't read the system's resolver configuration")]
    Setup(#[source] Box<NetError>),
    /// The name servers say so, or do not answer.
    #[error("it has no address")]
    Lookup(#[source] Box<NetError>),
    /// It took too long.
    #[error("finding its addresses took more than {} s", RESOLVE_LIMIT.as_secs())]
    TimedOut,
}

/// Finds addresses, and keeps answers for their time.
#[derive(Clone)]
pub struct Resolver {
    inner: TokioResolver,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Resolver {
    /// With the operator's name servers alone; or the system's, and its `/etc/hosts`.
    ///
    /// # Errors
    /// The system's configuration can't be read.
    pub fn new(operator: &Operator) -> Result<Self, ResolveError> {
        let setup = |error| ResolveError::Setup(Box::new(error));
        let own = !operator.name_servers.is_empty();
        let mut builder = if own {
            let servers = operator.name_servers.iter().map(|server| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let connections = connections.map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                NameServerConfig::new(server.ip(), true, connections.to_vec())
            });
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        } else {
            TokioResolver::builder_tokio().map_err(setup)?
        };
        let options = builder.options_mut();
        options.timeout = SERVER_LIMIT;
        options.attempts = TRIES;
        options.cache_size = MAX_ANSWERS;
        options.positive_max_ttl = Some(MAX_TTL);
        options.negative_max_ttl = Some(MAX_TTL);
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = if own { ResolveHosts::Never } else { ResolveHosts::Always };
        Ok(Self { inner: builder.build().map_err(setup)? })
    }

    /// The addresses of a name in its one form; those of IPv4 first, at most [`MAX_ADDRESSES`].
    ///
    /// # Errors
    /// There is none, or it can't be found out in time.
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        // With a dot at its end: the host's search domains say nothing.
        let lookup = self.inner.lookup_ip(format!("{name}."));
        let found = timeout(RESOLVE_LIMIT, lookup).await.map_err(|_| ResolveError::TimedOut)?;
        let found = found.map_err(|error| ResolveError::Lookup(Box::new(error)))?;
        let mut addresses: Vec<IpAddr> =
            found.iter().take(MAX_ADDRESSES).map(super::address::canonical).collect();
        addresses.sort_by_key(IpAddr::is_ipv6);
        Ok(addresses)
    }
}
