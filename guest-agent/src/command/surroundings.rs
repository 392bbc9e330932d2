//! What commands share: the parts of the supervisor that they work with.

use std::collections::BTreeMap;

use cloister_protocol::message::Event;

use super::Groups;
use crate::agent::Agent;
use crate::egress::Egress;
use crate::host::Host;
use crate::log::Log;
use crate::poller::Poller;

/// What commands share.
pub(crate) struct Surroundings<'a> {
    pub(crate) host: &'a dyn Host,
    pub(crate) groups: &'a Groups,
    /// By their numbers.
    pub(crate) agents: BTreeMap<u32, Agent>,
    /// Their ways outside.
    pub(crate) egress: Egress,
    pub(crate) log: &'a Log,
    pub(crate) poller: Poller,
    /// Where bytes pass through; [`crate::stream::CHUNK`] of them.
    pub(crate) scratch: Vec<u8>,
    /// What the host will be told.
    pub(crate) events: Vec<Event>,
}
