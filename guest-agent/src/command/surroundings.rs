//! What commands share: the parts of the supervisor that they work with.

use std::collections::BTreeMap;

use cloister_protocol::message::Event;
use rustix::io::Result;

use super::{Group, Groups};
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
    /// Nothing of an agent or command runs, nor does what is started.
    pub(crate) is_frozen: bool,
    /// Their ways outside.
    pub(crate) egress: Egress,
    pub(crate) log: &'a Log,
    pub(crate) poller: Poller,
    /// Where bytes pass through; [`crate::stream::CHUNK`] of them.
    pub(crate) scratch: Vec<u8>,
    /// What the host will be told.
    pub(crate) events: Vec<Event>,
}

impl Surroundings<'_> {
    /// The group of a command of the machine. Those of agents' commands are in their agents'.
    pub(super) fn new_group(&self, id: u32) -> Result<Group> {
        let group = self.groups.create(id)?;
        if self.is_frozen {
            group.freeze()?;
        }
        Ok(group)
    }
}
