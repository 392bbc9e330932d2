//! Egress: what agents may reach outside, decided and done on the host.
//!
//! A stream comes from the guest with the number of its agent and where it shall go
//! ([`cloister_protocol::egress::Head`]). The [`policy::Policy`] of that agent decides; the
//! [`resolve::Resolver`] finds the addresses of a name, [`address`] tells those that no name may lead
//! to, [`connect`] makes the connection to one that was checked, [`hello`] holds a TLS client's first
//! message against the name, and [`relay`] moves the bytes.

pub mod limits;

pub mod name;

pub mod range;

pub mod credential;

pub mod rule;

pub mod path;

pub mod policy;

pub mod request;

pub mod address;

pub mod operator;

pub mod resolve;

pub mod connect;

pub mod hello;

pub mod relay;

pub mod totals;

mod counts;

pub mod quota;

pub mod gate;

mod carried;

pub mod authority;

pub(crate) mod java_store;

pub mod trust;

mod hidden;

mod percent;

mod sigv4;

pub mod token;

pub(crate) mod secrets;

pub(crate) mod http;

pub use http::Opener;

pub mod ask;

pub mod asked;

pub mod learn;
