//! The first message of a TLS client: which server it names (RFC 8446, section 4.1.2; RFC 6066,
//! section 3).
//!
//! Read by own code: what is to be refused, an encrypted hello, the libraries at hand do not tell of.
//! It is strict, because a server that reads the same bytes in another way would make the check worth
//! nothing: what is there twice, too long or too short is refused.

use super::limits::MAX_HELLO;

/// What the bytes that have come so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// Too few to tell.
    Unfinished,
    /// Not TLS: their first byte is that of no handshake.
    Plain,
    /// A whole hello to this server, as it is written.
    To(String),
}

/// Why a hello is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Its lengths or types make no sense.
    #[error("the TLS client's first message makes no sense")]
    Malformed,
    /// Over [`MAX_HELLO`].
    #[error("the TLS client's first message has more than {MAX_HELLO} bytes")]
    TooLong,
    /// It names no server.
    #[error("the TLS client names no server (SNI)")]
    NoName,
    /// It names several, or one in a form that is no host name.
    #[error("the TLS client does not name one server by its host name")]
    Names,
    /// What it really wants is hidden from whoever passes it on. A client that only pretends (GREASE) can't be
    /// told from one that does, as that is its purpose.
    #[error(
        "the TLS client's hello is encrypted (ECH), or pretends to be: turn that off in the client"
    )]
    Encrypted,
}

/// Takes bytes off the front of others.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(HelloError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A big-endian number of so many bytes.
    fn number(&mut self, bytes: usize) -> Result<usize, HelloError> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| (number << 8) | usize::from(*byte)))
    }

    /// What follows a length of so many bytes.
    fn vector(&mut self, bytes: usize) -> Result<&'a [u8], HelloError> {
        let length = self.number(bytes)?;
        self.take(length)
    }
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: usize = 0;
/// Encrypted ClientHello (RFC 9849), and the names of servers that were encrypted before it.
const ENCRYPTED: [usize; 2] = [0xfe0d, 0xffce];
/// Longest content of a record (RFC 8446, section 5.1).
const MAX_RECORD: usize = 1 << 14;

/// Looks at what a client has sent so far.
///
/// # Errors
/// It is a hello that is refused.
pub fn examine(bytes: &[u8]) -> Result<Hello, HelloError> {
    match bytes.first() {
        None => return Ok(Hello::Unfinished),
        Some(&HANDSHAKE) => {}
        Some(_) => return Ok(Hello::Plain),
    }
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if let Some((head, body)) = message.split_first_chunk::<4>() {
            let [kind, a, b, c] = *head;
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if kind != CLIENT_HELLO {
                return Err(HelloError::Malformed);
            }
            if length > MAX_HELLO {
                return Err(HelloError::TooLong);
            }
            if body.len() >= length {
                // Nothing else may stand in its last record.
                let whole = body.get(..length).filter(|whole| whole.len() == body.len());
                return hello(whole.ok_or(HelloError::Malformed)?).map(Hello::To);
            }
        }
        let unfinished =
            if bytes.len() > MAX_HELLO { Err(HelloError::TooLong) } else { Ok(Hello::Unfinished) };
        let Some((&[kind, major, _, high, low], after)) = rest.split_first_chunk::<5>() else {
            return unfinished;
        };
        let length = usize::from(high) << 8 | usize::from(low);
        if kind != HANDSHAKE || major != 3 || length == 0 || length > MAX_RECORD {
            return Err(HelloError::Malformed);
        }
        let Some((content, after)) = after.split_at_checked(length) else { return unfinished };
        message.extend_from_slice(content);
        rest = after;
    }
}

/// The server that a whole hello names.
fn hello(bytes: &[u8]) -> Result<String, HelloError> {
    let mut reader = Reader(bytes);
    // Version and random.
    reader.take(2 + 32)?;
    let session = reader.vector(1)?;
    let ciphers = reader.vector(2)?;
    let compressions = reader.vector(1)?;
    if session.len() > 32 || ciphers.is_empty() || ciphers.len() % 2 != 0 || compressions.is_empty()
    {
        return Err(HelloError::Malformed);
    }
    if reader.0.is_empty() {
        return Err(HelloError::NoName);
    }
    let mut extensions = Reader(reader.vector(2)?);
    if !reader.0.is_empty() {
        return Err(HelloError::Malformed);
    }
    let (mut seen, mut name) = (Vec::new(), None);
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let content = extensions.vector(2)?;
        if seen.contains(&kind) {
            return Err(HelloError::Malformed);
        }
        seen.push(kind);
        if ENCRYPTED.contains(&kind) {
            return Err(HelloError::Encrypted);
        }
        if kind == SERVER_NAME {
            name = Some(server_name(content)?);
        }
    }
    name.ok_or(HelloError::NoName)
}

/// A list of names, of which there is one, and that a host's.
fn server_name(content: &[u8]) -> Result<String, HelloError> {
    let mut reader = Reader(content);
    let mut list = Reader(reader.vector(2)?);
    let kind = list.number(1)?;
    let name = list.vector(2)?;
    if !reader.0.is_empty() || !list.0.is_empty() || kind != 0 {
        return Err(HelloError::Names);
    }
    let text = std::str::from_utf8(name).map_err(|_| HelloError::Names)?;
    let lower = text.to_ascii_lowercase();
    if cloister_protocol::egress::is_host_name(&lower) { Ok(lower) } else { Err(HelloError::Names) }
}

#[cfg(test)]
#[path = "hello_test.rs"]
pub(crate) mod tests;
