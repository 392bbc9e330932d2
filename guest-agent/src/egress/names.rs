//! Names and the addresses that stand for them: the same for all agents, as long as the team lives.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use cloister_protocol::egress::{NAME_SERVER, NAMES};

/// The first name's address; those before are the name server's and nobody's.
const FIRST: u32 = 0x100;
/// Most names of a team: bounds the memory that hostile queries can take, 64 agents with the most
/// names of an agent.
const MAX_NAMES: u32 = 16_384;

/// All names that were asked for and may be reached.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_name: BTreeMap<String, Ipv4Addr>,
    next: u32,
}

impl Names {
    /// The address that stands for a name; `None`: there is no room for one more.
    pub(super) fn address(&mut self, name: &str) -> Option<Ipv4Addr> {
        if let Some(address) = self.by_name.get(name) {
            return Some(*address);
        }
        if self.next >= MAX_NAMES {
            return None;
        }
        let offset = FIRST.checked_add(self.next)?;
        let address = Ipv4Addr::from(u32::from(NAMES.0).checked_add(offset)?);
        debug_assert!(address != NAME_SERVER, "the name server's is below the first");
        self.next += 1;
        self.by_name.insert(name.to_owned(), address);
        Some(address)
    }
}

#[cfg(test)]
mod tests {
    use cloister_protocol::egress::contains;

    use super::*;

    #[test]
    fn addresses_are_stable_apart_and_bounded() {
        let mut names = Names::default();
        let first = names.address("a.example").unwrap();
        assert_eq!(first, Ipv4Addr::new(198, 18, 1, 0));
        let mut last = first;
        for number in 1..MAX_NAMES {
            let address = names.address(&format!("{number}.example")).unwrap();
            assert!(address > last && contains(NAMES, address));
            last = address;
        }
        assert_eq!(names.address("one-more.example"), None);
        assert_eq!(names.address("a.example"), Some(first));
    }
}
