//! Messages of syslog: RFC 5424 for collectors in the network, and what the C library's `syslog` writes for `/dev/log`.
//!
//! Neither rsyslog nor the journal reads RFC 5424 from `/dev/log`; both read a priority, a program and free text there,
//! and put their own time and host to it. So that is what goes there, with the same structured data at its beginning.

use super::message::Message;

/// The program, as collectors sort by it.
pub const PROGRAM: &str = "cloister";
/// The name of the structured data. Its number is the one that RFC 5612 keeps free for everybody's use.
const DATA: &str = "cloister@32473";
/// Longest name of a host and of a kind of message (RFC 5424, section 6).
const MAX_HOST: usize = 255;
const MAX_KIND: usize = 32;
/// What is not known is a dash.
const NOTHING: &str = "-";

/// Facility of a message, with the numbers of RFC 5424, section 6.2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Facility {
    /// Security and authorization.
    Auth = 4,
    /// The same, for few readers.
    Authpriv = 10,
    /// For local use.
    Local0 = 16,
    /// For local use.
    Local1 = 17,
    /// For local use.
    Local2 = 18,
    /// For local use.
    Local3 = 19,
    /// For local use.
    Local4 = 20,
    /// For local use.
    Local5 = 21,
    /// For local use.
    Local6 = 22,
    /// For local use.
    Local7 = 23,
}

/// A message of RFC 5424. The text behind the structured data has no byte order mark: it is ASCII.
#[must_use]
pub fn network(message: &Message, facility: Facility, host: &str) -> Vec<u8> {
    let time = message.time.as_deref().unwrap_or(NOTHING);
    let kind: String = message.kind.chars().take(MAX_KIND).collect();
    let kind = if kind.is_empty() { NOTHING } else { &kind };
    let (priority, host) = (priority(message, facility), self::host(host));
    let (data, json) = (data(message), &message.json);
    format!("<{priority}>1 {time} {host} {PROGRAM} {NOTHING} {kind} {data} {json}").into_bytes()
}

/// A message for `/dev/log`.
#[must_use]
pub fn local(message: &Message, facility: Facility) -> Vec<u8> {
    let (priority, data) = (priority(message, facility), data(message));
    format!("<{priority}>{PROGRAM}: {data} {}", message.json).into_bytes()
}

/// A message in a stream, behind its length (RFC 6587, section 3.4.1).
#[must_use]
pub fn counted(message: &[u8]) -> Vec<u8> {
    let mut frame = format!("{} ", message.len()).into_bytes();
    frame.extend(message);
    frame
}

fn priority(message: &Message, facility: Facility) -> u32 {
    // Both are numbers of RFC 5424, section 6.2.1, which counts so.
    facility as u32 * 8 + message.severity as u32
}

fn host(name: &str) -> String {
    let name: String = name.chars().filter(|c| matches!(c, '!'..='~')).take(MAX_HOST).collect();
    if name.is_empty() { NOTHING.to_owned() } else { name }
}

fn data(message: &Message) -> String {
    let record = message.record.to_string();
    let values = [
        ("team", &message.team),
        ("agent", &message.agent),
        ("kind", &message.kind),
        ("record", &record),
        ("digest", &message.digest),
        ("log", &message.log),
    ];
    let mut text = format!("[{DATA}");
    for (name, value) in values.into_iter().filter(|(_, value)| !value.is_empty()) {
        text.push(' ');
        text.push_str(name);
        text.push_str("=\"");
        for character in value.chars() {
            // Section 6.3.3.
            if matches!(character, '"' | '\\' | ']') {
                text.push('\\');
            }
            text.push(character);
        }
        text.push('"');
    }
    text.push(']');
    text
}

#[cfg(test)]
#[path = "syslog_test.rs"]
mod tests;
