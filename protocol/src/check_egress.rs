//! What rules about the outside must keep to.

use core::net::Ipv4Addr;

use crate::check_agent::{AgentBroken, Item, check_count};
use crate::egress::{Egress, NAMES, NameRule, RangeRule, contains, is_host_name};
use crate::limits::{MAX_EGRESS_PORTS, MAX_EGRESS_RULES, MAX_LISTENERS, MIN_EGRESS_PREFIX};

/// Networks that no rule may allow: the agent's own loopback, that of names, and what no connection goes to.
const NEVER: [(Ipv4Addr, u8); 5] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    NAMES,
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(255, 255, 255, 255), 32),
];

impl Egress {
    pub(crate) fn validate(&self) -> Result<(), AgentBroken> {
        check_count(self.names.len(), MAX_EGRESS_RULES, Item::NameRule)?;
        check_count(self.ranges.len(), MAX_EGRESS_RULES, Item::RangeRule)?;
        for (index, rule) in self.names.iter().enumerate() {
            if !rule.holds() {
                return Err(AgentBroken::Egress { item: Item::NameRule(index) });
            }
        }
        let mut sockets = 0;
        for (index, rule) in self.ranges.iter().enumerate() {
            if !rule.holds() {
                return Err(AgentBroken::Egress { item: Item::RangeRule(index) });
            }
            sockets += rule.addresses().count().saturating_mul(rule.ports.len());
        }
        if sockets > MAX_LISTENERS {
            let item = Item::RangeRule(0);
            return Err(AgentBroken::TooMany { item, count: sockets, limit: MAX_LISTENERS });
        }
        Ok(())
    }
}

impl NameRule {
    fn holds(&self) -> bool {
        let name = self.pattern.strip_prefix("*.").unwrap_or(&self.pattern);
        is_host_name(name) && (!self.allows || !self.ports.is_empty()) && are_ports(&self.ports)
    }
}

impl RangeRule {
    fn holds(&self) -> bool {
        let mask = u32::MAX.checked_shl(32_u32.saturating_sub(self.prefix.into())).unwrap_or(0);
        (MIN_EGRESS_PREFIX..=32).contains(&self.prefix)
            && u32::from(self.address) & !mask == 0
            && !NEVER.iter().any(|network| contains(*network, self.address))
            && !self.ports.is_empty()
            && are_ports(&self.ports)
    }
}

fn are_ports(ports: &[u16]) -> bool {
    ports.len() <= MAX_EGRESS_PORTS && !ports.contains(&0)
}

#[cfg(test)]
mod tests {
    use alloc::borrow::ToOwned;
    use alloc::vec;

    use super::*;

    fn name(pattern: &str, ports: &[u16], allows: bool) -> Egress {
        let rule = NameRule { pattern: pattern.to_owned(), ports: ports.to_vec(), allows };
        Egress { names: vec![rule], ..Egress::default() }
    }

    fn range(address: [u8; 4], prefix: u8, ports: &[u16]) -> Egress {
        let rule = RangeRule { address: address.into(), prefix, ports: ports.to_vec() };
        Egress { ranges: vec![rule], ..Egress::default() }
    }

    #[test]
    fn good_rules_pass() {
        for good in [
            Egress::default(),
            name("a.example", &[443], true),
            name("*.a.example", &[1; MAX_EGRESS_PORTS], true),
            name("a.example", &[], false),
            range([10, 0, 0, 1], 32, &[5432]),
            range([203, 0, 113, 0], 24, &[1, 2, 3, 4]),
            range([255, 255, 255, 0], 25, &[1]),
        ] {
            assert_eq!(good.validate(), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn bad_rules_are_refused() {
        for bad in [
            name("A.example", &[443], true),
            name("*", &[443], true),
            name("*.*.example", &[443], true),
            name("1.2.3.4", &[443], true),
            name("a.example", &[], true),
            name("a.example", &[0], true),
            name("a.example", &[1; MAX_EGRESS_PORTS + 1], true),
            range([10, 0, 0, 0], 23, &[1]),
            range([10, 0, 0, 0], 33, &[1]),
            range([10, 0, 0, 1], 24, &[1]),
            range([10, 0, 0, 0], 24, &[]),
            range([10, 0, 0, 0], 24, &[0]),
            range([10, 0, 0, 0], 24, &[1, 2, 3, 4, 5]),
            range([127, 0, 0, 1], 32, &[1]),
            range([198, 19, 0, 0], 24, &[1]),
            range([224, 0, 0, 1], 32, &[1]),
            range([0, 0, 0, 0], 32, &[1]),
            range([255, 255, 255, 255], 32, &[1]),
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
        let many = vec![name("a.example", &[1], true).names.remove(0); MAX_EGRESS_RULES + 1];
        assert!(Egress { names: many, ..Egress::default() }.validate().is_err());
    }
}
