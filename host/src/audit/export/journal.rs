//! Entries in the native protocol of systemd's journal: a datagram of fields.

use super::message::Message;
use super::syslog::{Facility, PROGRAM};

/// An entry.
#[must_use]
pub fn entry(message: &Message, facility: Facility) -> Vec<u8> {
    let (priority, facility) = (message.severity as u32, facility as u32);
    let who = if message.agent.is_empty() { &message.team } else { &message.agent };
    let mut entry = Vec::with_capacity(message.json.len().saturating_add(1024));
    field(&mut entry, "MESSAGE", &format!("{who} {}", message.words));
    field(&mut entry, "PRIORITY", &priority.to_string());
    field(&mut entry, "SYSLOG_IDENTIFIER", PROGRAM);
    field(&mut entry, "SYSLOG_FACILITY", &facility.to_string());
    field(&mut entry, "CLOISTER_TEAM", &message.team);
    field(&mut entry, "CLOISTER_AGENT", &message.agent);
    field(&mut entry, "CLOISTER_KIND", &message.kind);
    field(&mut entry, "CLOISTER_RECORD", &message.record.to_string());
    field(&mut entry, "CLOISTER_DIGEST", &message.digest);
    field(&mut entry, "CLOISTER_LOG", &message.log);
    field(&mut entry, "CLOISTER_TIME", message.time.as_deref().unwrap_or_default());
    field(&mut entry, "CLOISTER_EVENT", &message.json);
    entry
}

/// Always in the form with a length, in which no value can be more than a value.
fn field(entry: &mut Vec<u8>, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    entry.extend(name.as_bytes());
    entry.push(b'\n');
    entry.extend((value.len() as u64).to_le_bytes());
    entry.extend(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::export::severity::Severity;

    /// Reads an entry as the journal does.
    fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|byte| *byte == b'\n').unwrap();
            let name = String::from_utf8(entry[..end].to_vec()).unwrap();
            let (length, rest) = entry[end + 1..].split_at(8);
            let length = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
            assert_eq!(rest[length], b'\n');
            fields.push((name, String::from_utf8(rest[..length].to_vec()).unwrap()));
            entry = &rest[length + 1..];
        }
        fields
    }

    #[test]
    fn a_value_is_never_a_field() {
        let message = Message {
            team: "t".into(),
            agent: String::new(),
            kind: "exec".into(),
            record: 7,
            digest: "ab".into(),
            log: "cd".into(),
            time: None,
            severity: Severity::Notice,
            words: "exec a\nPRIORITY=0\n_UID=0".into(),
            json: "{}".into(),
        };
        let fields = fields(&entry(&message, Facility::Authpriv));
        let wanted = [
            ("MESSAGE", "t exec a\nPRIORITY=0\n_UID=0"),
            ("PRIORITY", "5"),
            ("SYSLOG_IDENTIFIER", "cloister"),
            ("SYSLOG_FACILITY", "10"),
            ("CLOISTER_TEAM", "t"),
            ("CLOISTER_KIND", "exec"),
            ("CLOISTER_RECORD", "7"),
            ("CLOISTER_DIGEST", "ab"),
            ("CLOISTER_LOG", "cd"),
            ("CLOISTER_EVENT", "{}"),
        ];
        assert_eq!(fields, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
