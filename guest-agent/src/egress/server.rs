//! The agents' name server: queries by datagram and by connection, bounded in rate and number.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use cloister_protocol::egress::is_host_name;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::dns::{Answer, MAX_QUERY, Query, parse};
use super::{EACH_A_TURN, Egress, MAX_CONVERSATIONS, Part, Tools, accept};
use crate::poller::Poller;
use crate::stream::{Turn, send};

/// Queries of an agent in each [`SECOND`]; the rest is dropped. Programs ask some for each connection.
const MAX_QUERIES: u32 = 500;
const SECOND: Duration = Duration::from_secs(1);

/// Counts queries.
#[derive(Debug)]
pub(super) struct Bucket {
    since: Instant,
    taken: u32,
}

impl Bucket {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), taken: 0 }
    }

    /// Whether there is one more to be had.
    fn take(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= SECOND {
            (self.since, self.taken) = (now, 0);
        }
        self.taken = self.taken.saturating_add(1);
        self.taken <= MAX_QUERIES
    }
}

/// A connection to the name server: queries with their lengths in front (RFC 1035, section 4.2.2).
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) agent: u32,
    pub(super) socket: OwnedFd,
    received: Vec<u8>,
}

impl Egress {
    /// Answers datagrams.
    pub(super) fn take_datagrams(
        &mut self,
        agent: u32,
        socket: &OwnedFd,
        tools: &mut Tools<'_>,
    ) -> Turn {
        for _ in 0..EACH_A_TURN {
            // One byte more, so that a longer one is seen as such.
            let mut query = [0; MAX_QUERY + 1];
            let (length, sender) =
                match rustix::net::recvfrom(socket, &mut query, RecvFlags::empty()) {
                    Ok((length, _, Some(sender))) => (length, sender),
                    Ok((_, _, None)) | Err(Errno::INTR) => continue,
                    Err(_) => return Turn::Blocked,
                };
            let query = query.get(..length).filter(|query| query.len() <= MAX_QUERY);
            if let Some(answer) = query.and_then(|query| self.answer(agent, query, tools)) {
                // An agent that takes no answer has none.
                let _full = rustix::net::sendto(socket, &answer, SendFlags::NOSIGNAL, &sender);
            }
        }
        Turn::Unfinished
    }

    /// Takes connections to the name server.
    pub(super) fn take_conversations(
        &mut self,
        agent: u32,
        socket: &OwnedFd,
        tools: &Tools<'_>,
    ) -> Turn {
        for _ in 0..EACH_A_TURN {
            let socket = match accept(socket) {
                Ok(socket) => socket,
                Err(turn) => return turn,
            };
            let own = self.parts.iter().filter_map(|(serial, part)| match part {
                Part::Conversation(one) if one.agent == agent => Some(*serial),
                _ => None,
            });
            // Serial numbers grow: the first is the oldest.
            let own: Vec<u64> = own.collect();
            if own.len() >= MAX_CONVERSATIONS
                && let Some(oldest) = own.first()
            {
                self.parts.remove(oldest);
            }
            let conversation = Conversation { agent, socket, received: Vec::new() };
            if let Ok(serial) = self.watch(Part::Conversation(conversation), tools.poller) {
                self.unfinished.insert(serial);
            }
        }
        Turn::Unfinished
    }

    /// Answers queries on a connection.
    pub(super) fn converse(&mut self, one: &mut Conversation, tools: &mut Tools<'_>) -> Turn {
        for _ in 0..EACH_A_TURN {
            let mut bytes = [0; MAX_QUERY + 2];
            match rustix::net::recv(&one.socket, &mut bytes, RecvFlags::empty()) {
                Err(Errno::AGAIN) => return Turn::Blocked,
                Err(Errno::INTR) => continue,
                Ok((0, _)) | Err(_) => return Turn::Done,
                Ok((length, _)) => {
                    one.received.extend_from_slice(bytes.get(..length).unwrap_or_default());
                }
            }
            while let Some((prefix, rest)) = one.received.split_first_chunk::<2>() {
                let length = usize::from(u16::from_be_bytes(*prefix));
                if length > MAX_QUERY {
                    return Turn::Done;
                }
                let Some(query) = rest.get(..length).map(<[u8]>::to_vec) else { break };
                one.received.drain(..length + 2);
                let Some(answer) = self.answer(one.agent, &query, tools) else {
                    return Turn::Done;
                };
                let mut framed = u16::try_from(answer.len()).unwrap_or(0).to_be_bytes().to_vec();
                framed.extend_from_slice(&answer);
                // An agent that does not read its answers is left.
                if send(&one.socket, &framed) != Ok(framed.len()) {
                    return Turn::Done;
                }
            }
        }
        Turn::Unfinished
    }

    /// The answer to a query, if there is one.
    fn answer(&mut self, agent: u32, query: &[u8], tools: &mut Tools<'_>) -> Option<Vec<u8>> {
        if !self.agents.get_mut(&agent)?.queries.take(Instant::now()) {
            return None;
        }
        let question = match parse(query) {
            Query::Question(question) => question,
            Query::Answered(answer) => return Some(answer),
            Query::Nothing => return None,
        };
        let answer = match self.look_up(agent, &question.name, tools.poller) {
            Ok(None) => {
                tools.refused.push((agent, question.name.clone()));
                Answer::NoName
            }
            Ok(Some(address)) if question.is_for_address => Answer::Address(address),
            Ok(Some(_)) => Answer::Empty,
            Err(_) => Answer::Failure,
        };
        Some(question.answer(answer))
    }

    fn look_up(
        &mut self,
        agent: u32,
        name: &[u8],
        poller: &Poller,
    ) -> rustix::io::Result<Option<Ipv4Addr>> {
        // Images without /etc/hosts have nobody else to ask (RFC 6761, section 6.3).
        if name == b"localhost" || name.ends_with(b".localhost") {
            return Ok(Some(Ipv4Addr::LOCALHOST));
        }
        match std::str::from_utf8(name).ok().filter(|name| is_host_name(name)) {
            Some(name) => self.address_of(agent, name, poller),
            None => Ok(None),
        }
    }
}
