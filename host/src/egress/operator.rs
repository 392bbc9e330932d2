//! The operator's word on egress: which name servers are asked, and what no team may reach.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;

use super::limits::{MAX_NAME_SERVERS, MAX_OPERATORS_RANGES};
use crate::operator::{self, FileError};

/// The operator's file. No variable names another: a user could name one that denies less.
pub const OPERATORS_FILE: &str = "/etc/cloister/egress.toml";

/// What the operator says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Operator {
    /// Name servers, each an address with a port; none: the system's, and its `/etc/hosts`.
    #[serde(default)]
    pub name_servers: Vec<SocketAddr>,
    /// Addresses that no team reaches, whatever its rules say.
    #[serde(default)]
    pub deny: Vec<IpNet>,
    /// A file of further authorities (PEM) that hosts' certificates may come from, where streams are opened.
    #[serde(default)]
    pub certificates: Option<PathBuf>,
    /// Whether teams may observe: let through what no rule is about. With `false` none of those starts.
    #[serde(default = "may_observe")]
    pub observe: bool,
}

const fn may_observe() -> bool {
    true
}

impl Default for Operator {
    fn default() -> Self {
        let (name_servers, deny) = (Vec::new(), Vec::new());
        Self { name_servers, deny, certificates: None, observe: may_observe() }
    }
}

/// Why the operator's file is not used. No team with egress starts then.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// It is not to be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// There are too many entries in it.
    #[error("the operator's rules on egress {} have more than {MAX_NAME_SERVERS} name servers or {MAX_OPERATORS_RANGES} ranges", .0.display())]
    TooMany(PathBuf),
}

impl OperatorError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::File(error) => error.remedy(),
            Self::TooMany(_) => {
                "no team with egress can be started until root has put the file in order or removed it"
            }
        }
    }
}

impl Operator {
    /// Reads the operator's file; what holds without one if there is none.
    ///
    /// # Errors
    /// It can't be read or trusted: then nothing may be reached.
    pub fn load(path: &Path) -> Result<Self, OperatorError> {
        let Some(parsed) = operator::load::<Self>(path)? else { return Ok(Self::default()) };
        if parsed.name_servers.len() > MAX_NAME_SERVERS || parsed.deny.len() > MAX_OPERATORS_RANGES
        {
            return Err(OperatorError::TooMany(path.to_owned()));
        }
        Ok(parsed)
    }

    /// The range by which an address is denied.
    #[must_use]
    pub fn denies(&self, address: IpAddr) -> Option<IpNet> {
        self.deny.iter().find(|range| range.contains(&address)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_servers_and_ranges() {
        let text = b"name-servers = [\"127.0.0.53:53\", \"[::1]:5353\"]\ndeny = [\"10.0.0.0/8\"]\n";
        let operator: Operator = toml::from_slice(text).unwrap();
        assert_eq!(operator.name_servers.len(), 2);
        assert!(operator.denies("10.1.1.1".parse().unwrap()).is_some());
        assert!(operator.denies("11.1.1.1".parse().unwrap()).is_none());
        assert_eq!(toml::from_slice::<Operator>(b"").unwrap(), Operator::default());
        assert!(
            operator.observe && !toml::from_slice::<Operator>(b"observe = false").unwrap().observe
        );
    }

    #[test]
    fn a_mistake_is_an_error() {
        for text in
            ["resolver = 1", "name-servers = [\"127.0.0.53\"]", "deny = [\"10.0.0.0\"]", "deny = 1"]
        {
            assert!(toml::from_slice::<Operator>(text.as_bytes()).is_err(), "{text}");
        }
    }
}
