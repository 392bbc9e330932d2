//! The agents' ways outside: a name server in each agent's network namespace, sockets that listen
//! there in place of the hosts that the agent may reach, and relays to the host.
//!
//! Every name that an agent may reach gets an address out of 198.18.0.0/15 when it is asked for, and
//! sockets on its ports; addresses that may be reached have theirs from the beginning. All are made in
//! the agent's namespace, where these addresses are local, so the kernel refuses whatever else the
//! agent tries, and its own loopback is its own. Nothing is decided here: the host decides about each
//! stream again.

mod dns;

mod names;

mod network;

mod relay;

mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use cloister_protocol::EGRESS_PORT;
use cloister_protocol::egress::{Egress as Rules, Head, NAME_SERVER, NAMES, Target};
use cloister_protocol::limits::{MAX_LISTENERS, MAX_STREAMS_AGENT, MAX_STREAMS_TEAM};
use rustix::io::{Errno, Result};
use rustix::net::SocketFlags;

use self::names::Names;
use self::relay::{Relay, reset};
use self::server::{Bucket, Conversation};
use crate::host::Host;
use crate::poller::{EgressPart, Owner, Poller};
use crate::stream::Turn;

/// Where the name server listens.
const DNS_PORT: u16 = 53;
/// Names that one agent can have addresses of: those of wildcards are its own choice.
const MAX_NAMES_AGENT: usize = 256;
/// Connections of an agent to its name server at once; the oldest goes for a new one.
const MAX_CONVERSATIONS: usize = 8;
/// Connections taken, and queries answered, of one socket in one turn.
const EACH_A_TURN: usize = 32;

/// A name that an agent asked for and may not reach: its number and the name.
pub(crate) type RefusedName = (u32, Vec<u8>);

/// All ways outside of all agents.
#[derive(Debug, Default)]
pub(crate) struct Egress {
    /// The supervisor's own network namespace.
    own: Option<OwnedFd>,
    names: Names,
    /// By their numbers.
    agents: BTreeMap<u32, AgentWays>,
    /// Everything that is watched, by serial number.
    parts: BTreeMap<u64, Part>,
    /// Parts that have more to do than one turn.
    unfinished: BTreeSet<u64>,
    serial: u64,
}

/// The ways of one agent.
#[derive(Debug)]
struct AgentWays {
    rules: Rules,
    /// Its init, which names its namespace.
    init: OwnedFd,
    /// Addresses that have sockets, and on which ports.
    listening: BTreeMap<Ipv4Addr, BTreeSet<u16>>,
    names: BTreeSet<Ipv4Addr>,
    queries: Bucket,
}

/// Something that is watched.
#[derive(Debug)]
enum Part {
    Listener { agent: u32, socket: OwnedFd, address: Ipv4Addr, target: Target, port: u16 },
    Names { agent: u32, socket: OwnedFd },
    NamesListener { agent: u32, socket: OwnedFd },
    Conversation(Conversation),
    Relay(Relay),
}

/// What the ways work with: parts of the supervisor.
pub(crate) struct Tools<'a> {
    pub(crate) host: &'a dyn Host,
    pub(crate) poller: &'a Poller,
    pub(crate) scratch: &'a mut [u8],
    pub(crate) refused: &'a mut Vec<RefusedName>,
}

impl Part {
    const fn agent(&self) -> u32 {
        match self {
            Self::Listener { agent, .. }
            | Self::Names { agent, .. }
            | Self::NamesListener { agent, .. } => *agent,
            Self::Conversation(conversation) => conversation.agent,
            Self::Relay(relay) => relay.agent_number(),
        }
    }
}

impl Egress {
    /// Opens an agent's ways; `init` names its namespaces. Without rules there is nothing to do.
    pub(crate) fn open(
        &mut self,
        agent: u32,
        rules: &Rules,
        init: &OwnedFd,
        poller: &Poller,
    ) -> Result<()> {
        let result = self.try_open(agent, rules, init, poller);
        if result.is_err() {
            self.close(agent);
        }
        result
    }

    fn try_open(
        &mut self,
        agent: u32,
        rules: &Rules,
        init: &OwnedFd,
        poller: &Poller,
    ) -> Result<()> {
        if self.own.is_none() {
            self.own = Some(network::own()?);
        }
        let own = self.own.as_ref().ok_or(Errno::BADF)?;
        let networks = rules.ranges.iter().map(|range| (range.address, range.prefix));
        let (datagrams, listener) = network::within(init.as_fd(), own.as_fd(), || {
            network::add_address(NAME_SERVER)?;
            for network in std::iter::once(NAMES).chain(networks) {
                network::make_local(network)?;
            }
            let datagrams = network::datagrams(NAME_SERVER, DNS_PORT)?;
            Ok((datagrams, network::listener(NAME_SERVER, DNS_PORT)?))
        })?;
        let ways = AgentWays {
            rules: rules.clone(),
            init: init.try_clone().map_err(|_| Errno::MFILE)?,
            listening: BTreeMap::new(),
            names: BTreeSet::new(),
            queries: Bucket::new(),
        };
        self.agents.insert(agent, ways);
        self.watch(Part::Names { agent, socket: datagrams }, poller)?;
        self.watch(Part::NamesListener { agent, socket: listener }, poller)?;
        self.listen_at_ranges(agent, rules, poller)
    }

    fn listen_at_ranges(&mut self, agent: u32, rules: &Rules, poller: &Poller) -> Result<()> {
        for (address, ports) in by_address(rules) {
            let ports: Vec<u16> = ports.into_iter().collect();
            self.listen(agent, address, &Target::Address(address), &ports, poller)?;
        }
        Ok(())
    }

    /// Puts other rules in place of an agent's. Sockets that they do not allow go; connections stay, as the host
    /// decides about those.
    pub(crate) fn change(&mut self, agent: u32, rules: &Rules, poller: &Poller) -> Result<()> {
        let own = self.own.as_ref().ok_or(Errno::BADF)?;
        let ways = self.agents.get_mut(&agent).ok_or(Errno::NOENT)?;
        ways.rules = rules.clone();
        let ranges = by_address(rules);
        let mut names: BTreeMap<Ipv4Addr, String> = BTreeMap::new();
        self.parts.retain(|_, part| {
            let Part::Listener { agent: whose, address, target, port, .. } = part else {
                return true;
            };
            if *whose != agent {
                return true;
            }
            let stays = match target {
                Target::Name(name) => {
                    names.insert(*address, name.clone());
                    rules.ports(name).contains(port)
                }
                Target::Address(address) => {
                    ranges.get(address).is_some_and(|ports| ports.contains(port))
                }
            };
            if !stays && let Some(ports) = ways.listening.get_mut(address) {
                ports.remove(port);
            }
            stays
        });
        let parts = &self.parts;
        self.unfinished.retain(|serial| parts.contains_key(serial));
        network::within(ways.init.as_fd(), own.as_fd(), || {
            let networks = rules.ranges.iter().map(|range| (range.address, range.prefix));
            // Those that are there already stay as they are.
            networks.into_iter().try_for_each(network::make_local)
        })?;
        self.listen_at_ranges(agent, rules, poller)?;
        for (address, name) in names {
            self.listen(agent, address, &Target::Name(name.clone()), &rules.ports(&name), poller)?;
        }
        Ok(())
    }

    /// Closes all ways of an agent.
    pub(crate) fn close(&mut self, agent: u32) {
        self.agents.remove(&agent);
        for part in self.parts.values() {
            if let Part::Relay(relay) = part
                && relay.agent_number() == agent
            {
                reset(relay.agent());
            }
        }
        self.parts.retain(|_, part| part.agent() != agent);
        let parts = &self.parts;
        self.unfinished.retain(|serial| parts.contains_key(serial));
    }

    /// Ends every connection to the outside: the streams to the host are none any more. Those that were being made
    /// when the machine was saved would never be told.
    pub(crate) fn cut(&mut self) {
        self.parts.retain(|_, part| {
            if let Part::Relay(relay) = part {
                reset(relay.agent());
            }
            !matches!(part, Part::Relay(_))
        });
        let parts = &self.parts;
        self.unfinished.retain(|serial| parts.contains_key(serial));
    }

    /// Whether something is left to do that no event will tell of.
    pub(crate) fn is_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Something has happened to a part; it is worked on in this turn.
    pub(crate) fn happened(&mut self, serial: u64) {
        // It may have gone in this very turn.
        if self.parts.contains_key(&serial) {
            self.unfinished.insert(serial);
        }
    }

    /// Works on all parts that have something to do.
    pub(crate) fn turn(&mut self, tools: &mut Tools<'_>) {
        for serial in std::mem::take(&mut self.unfinished) {
            // Taken out meanwhile, so that it can change everything else.
            let Some(mut part) = self.parts.remove(&serial) else { continue };
            let turn = match &mut part {
                Part::Listener { agent, socket, target, port, .. } => {
                    let head = Head { agent: *agent, target: target.clone(), port: *port };
                    self.take_connections(&head, socket, tools)
                }
                Part::Names { agent, socket } => self.take_datagrams(*agent, socket, tools),
                Part::NamesListener { agent, socket } => {
                    self.take_conversations(*agent, socket, tools)
                }
                Part::Conversation(conversation) => self.converse(conversation, tools),
                Part::Relay(relay) => relay.run(tools.scratch),
            };
            if turn != Turn::Done {
                self.parts.insert(serial, part);
            }
            if turn == Turn::Unfinished {
                self.unfinished.insert(serial);
            }
        }
    }

    fn watch(&mut self, part: Part, poller: &Poller) -> Result<u64> {
        self.serial = self.serial.saturating_add(1);
        let serial = self.serial;
        let watch = |fd: &OwnedFd, side| poller.watch(fd, Owner::Egress(serial, side));
        match &part {
            Part::Listener { socket, .. }
            | Part::Names { socket, .. }
            | Part::NamesListener { socket, .. } => watch(socket, EgressPart::Agent)?,
            Part::Conversation(conversation) => watch(&conversation.socket, EgressPart::Agent)?,
            Part::Relay(relay) => {
                watch(relay.agent(), EgressPart::Agent)?;
                watch(relay.host(), EgressPart::Host)?;
            }
        }
        self.parts.insert(serial, part);
        Ok(serial)
    }

    /// Makes sockets for a peer of an agent, if it has none yet.
    fn listen(
        &mut self,
        agent: u32,
        address: Ipv4Addr,
        target: &Target,
        ports: &[u16],
        poller: &Poller,
    ) -> Result<()> {
        let ways = self.agents.get_mut(&agent).ok_or(Errno::NOENT)?;
        let has = ways.listening.get(&address);
        let ports: Vec<u16> = ports
            .iter()
            .copied()
            .filter(|port| has.is_none_or(|has| !has.contains(port)))
            .collect();
        if ports.is_empty() {
            return Ok(());
        }
        let count: usize = ways.listening.values().map(BTreeSet::len).sum();
        if count.saturating_add(ports.len()) > MAX_LISTENERS {
            return Err(Errno::NOBUFS);
        }
        let own = self.own.as_ref().ok_or(Errno::BADF)?;
        let sockets: Vec<OwnedFd> = network::within(ways.init.as_fd(), own.as_fd(), || {
            ports.iter().map(|port| network::listener(address, *port)).collect()
        })?;
        ways.listening.entry(address).or_default().extend(&ports);
        for (socket, port) in sockets.into_iter().zip(ports) {
            let target = target.clone();
            self.watch(Part::Listener { agent, socket, address, target, port }, poller)?;
        }
        Ok(())
    }

    /// The address that stands for a name, with sockets on its ports.
    fn address_of(&mut self, agent: u32, name: &str, poller: &Poller) -> Result<Option<Ipv4Addr>> {
        let ways = self.agents.get_mut(&agent).ok_or(Errno::NOENT)?;
        let ports = ways.rules.ports(name);
        if ports.is_empty() {
            return Ok(None);
        }
        let address = self.names.address(name).ok_or(Errno::NOBUFS)?;
        if !ways.names.contains(&address) && ways.names.len() >= MAX_NAMES_AGENT {
            return Err(Errno::NOBUFS);
        }
        ways.names.insert(address);
        self.listen(agent, address, &Target::Name(name.to_owned()), &ports, poller)?;
        Ok(Some(address))
    }

    /// Takes connections of an agent to a peer, and begins a stream to the host for each.
    fn take_connections(&mut self, head: &Head, socket: &OwnedFd, tools: &Tools<'_>) -> Turn {
        let relays = |of: Option<u32>| {
            let relays = self.parts.values().filter(|part| matches!(part, Part::Relay(_)));
            relays.filter(|part| of.is_none_or(|agent| part.agent() == agent)).count()
        };
        let (mut own, mut all) = (relays(Some(head.agent)), relays(None));
        for _ in 0..EACH_A_TURN {
            let connection = match accept(socket) {
                Ok(connection) => connection,
                Err(turn) => return turn,
            };
            if own >= MAX_STREAMS_AGENT || all >= MAX_STREAMS_TEAM {
                reset(&connection);
                continue;
            }
            let relay = match tools.host.connect(EGRESS_PORT) {
                Ok(host) => Relay::new(head, connection, host),
                Err(error) => {
                    reset(&connection);
                    Err(error)
                }
            };
            if let Ok(serial) = relay.and_then(|relay| self.watch(Part::Relay(relay), tools.poller))
            {
                self.unfinished.insert(serial);
                (own, all) = (own + 1, all + 1);
            }
        }
        Turn::Unfinished
    }
}

/// The ports of each address of the ranges.
fn by_address(rules: &Rules) -> BTreeMap<Ipv4Addr, BTreeSet<u16>> {
    let mut addresses: BTreeMap<Ipv4Addr, BTreeSet<u16>> = BTreeMap::new();
    for range in &rules.ranges {
        for address in range.addresses() {
            addresses.entry(address).or_default().extend(&range.ports);
        }
    }
    addresses
}

/// A connection that waits; or how the turn ends without one.
fn accept(socket: &OwnedFd) -> std::result::Result<OwnedFd, Turn> {
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(socket, flags) {
            Ok(connection) => return Ok(connection),
            // One that its maker has ended meanwhile.
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            // For want of descriptors or memory it is tried again with the next one.
            Err(_) => return Err(Turn::Blocked),
        }
    }
}
