//! DNS messages (RFC 1035, section 4) as far as a name server needs them that knows addresses and
//! nothing else: one question in, its answer out. There is nothing to follow and nothing to allocate
//! but the name.

use std::net::Ipv4Addr;

use cloister_protocol::limits::{MAX_HOST_NAME, MAX_LABEL};

/// Longest query: what fits into a datagram without extensions. A question needs 272 bytes at most.
pub(super) const MAX_QUERY: usize = 512;
/// How long an answer may be kept, in seconds: it holds as long as the team.
const TIME_TO_LIVE: u32 = 300;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const CLASS_INTERNET: u16 = 1;
/// In the header's flags: an answer; what is to be done, 0 for a question; recursion wanted, and had.
const RESPONSE: u16 = 0x8000;
const OPERATION: u16 = 0x7800;
const WANTS_RECURSION: u16 = 0x0100;
const HAS_RECURSION: u16 = 0x0080;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// In lower case, without a dot at the end. What is in it is anybody's choice.
    pub(super) name: Vec<u8>,
    /// An address is asked for, and not something else of the name.
    pub(super) is_for_address: bool,
    /// As it came: name, type and class.
    bytes: Vec<u8>,
    id: [u8; 2],
    flags: u16,
}

/// What comes of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Query {
    /// Something is asked.
    Question(Question),
    /// It is answered by this, whatever is asked.
    Answered(Vec<u8>),
    /// It is no query, and not answered.
    Nothing,
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The name has this address.
    Address(Ipv4Addr),
    /// There is such a name, and nothing of what is asked.
    Empty,
    /// There is no such name.
    NoName,
    /// It can't be said now.
    Failure,
}

impl Answer {
    const fn code(self) -> u16 {
        match self {
            Self::Address(_) | Self::Empty => 0,
            Self::Failure => 2,
            Self::NoName => 3,
        }
    }
}

const MALFORMED: u16 = 1;
const REFUSED: u16 = 5;

/// Takes a query apart.
pub(super) fn parse(query: &[u8]) -> Query {
    let Some((header, rest)) = query.split_first_chunk::<HEADER>() else { return Query::Nothing };
    let [a, b, c, d, e, f, ..] = *header;
    let (id, flags) = ([a, b], u16::from_be_bytes([c, d]));
    // Whoever answers answers makes two name servers talk for ever.
    if flags & RESPONSE != 0 {
        return Query::Nothing;
    }
    let refused = |code| Query::Answered(head(id, flags, code, [0, 0]).to_vec());
    if flags & OPERATION != 0 {
        return refused(REFUSED);
    }
    if [e, f] != [0, 1] {
        return refused(MALFORMED);
    }
    let Some((name, after)) = name(rest) else { return refused(MALFORMED) };
    let Some((&[g, h, i, j], extra)) = after.split_first_chunk::<4>() else {
        return refused(MALFORMED);
    };
    if u16::from_be_bytes([i, j]) != CLASS_INTERNET {
        return refused(REFUSED);
    }
    let length = rest.len().saturating_sub(extra.len());
    Query::Question(Question {
        name,
        is_for_address: u16::from_be_bytes([g, h]) == TYPE_A,
        bytes: rest.get(..length).unwrap_or_default().to_vec(),
        id,
        flags,
    })
}

/// A name without compression, which has no place in a question; and what follows it.
fn name(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (mut name, mut rest) = (Vec::new(), bytes);
    loop {
        let (length, after) = rest.split_first()?;
        let length = usize::from(*length);
        if length == 0 {
            return (name.len() <= MAX_HOST_NAME).then_some((name, after));
        }
        let (label, after) = after.split_at_checked(length).filter(|_| length <= MAX_LABEL)?;
        // A dot within a label would make two of it here.
        if name.len() > MAX_HOST_NAME || label.contains(&b'.') {
            return None;
        }
        if !name.is_empty() {
            name.push(b'.');
        }
        name.extend(label.iter().map(u8::to_ascii_lowercase));
        rest = after;
    }
}

impl Question {
    /// The whole answer.
    pub(super) fn answer(&self, answer: Answer) -> Vec<u8> {
        let count = u8::from(matches!(answer, Answer::Address(_)));
        let mut bytes = head(self.id, self.flags, answer.code(), [1, count]).to_vec();
        bytes.extend_from_slice(&self.bytes);
        if let Answer::Address(address) = answer {
            // The name is the question's, which begins behind the header.
            bytes.extend_from_slice(&[0xc0, 12]);
            bytes.extend_from_slice(&TYPE_A.to_be_bytes());
            bytes.extend_from_slice(&CLASS_INTERNET.to_be_bytes());
            bytes.extend_from_slice(&TIME_TO_LIVE.to_be_bytes());
            bytes.extend_from_slice(&4_u16.to_be_bytes());
            bytes.extend_from_slice(&address.octets());
        }
        bytes
    }
}

/// The header of an answer, with so many questions and answers.
const fn head(id: [u8; 2], flags: u16, code: u16, [questions, answers]: [u8; 2]) -> [u8; HEADER] {
    let flags = RESPONSE | HAS_RECURSION | (flags & (OPERATION | WANTS_RECURSION)) | code;
    let [c, d] = flags.to_be_bytes();
    [id[0], id[1], c, d, 0, questions, 0, answers, 0, 0, 0, 0]
}

#[cfg(test)]
#[path = "dns_test.rs"]
mod tests;
