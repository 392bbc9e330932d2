//! Addresses that no name may lead to: those of this host, of networks around it, and of nothing.
//!
//! A name's owner chooses its addresses, so a name that is allowed could lead to the host's loopback or
//! to a cloud's metadata service. Such addresses are reached only if a rule names them as addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What an address is, if it is not one of the public Internet.
pub type Kind = &'static str;

/// What is told of the address of a metadata service.
pub const METADATA: Kind = "a cloud's metadata service";

const fn four(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn six(first: [u16; 4], prefix: u8) -> Ipv6Net {
    let [a, b, c, d] = first;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), prefix)
}

/// Metadata services: of nearly all clouds; Alibaba's; Oracle's; Azure's wire server. The first that fits.
const METADATA_FOUR: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];
/// Amazon's of IPv6, and Google's.
const METADATA_SIX: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// IANA's registry of special-purpose IPv4 addresses, and multicast.
const FOUR: [(Ipv4Net, Kind); 16] = [
    (four(0, 0, 0, 0, 8), "of this network"),
    (four(10, 0, 0, 0, 8), "private"),
    (four(100, 64, 0, 0, 10), "shared within a provider"),
    (four(127, 0, 0, 0, 8), "this host's loopback"),
    (four(169, 254, 0, 0, 16), "link-local"),
    (four(172, 16, 0, 0, 12), "private"),
    (four(192, 0, 0, 0, 24), "for protocols"),
    (four(192, 0, 2, 0, 24), "for documentation"),
    (four(192, 88, 99, 0, 24), "a relay of 6to4"),
    (four(192, 168, 0, 0, 16), "private"),
    (four(198, 18, 0, 0, 15), "for benchmarks"),
    (four(198, 51, 100, 0, 24), "for documentation"),
    (four(203, 0, 113, 0, 24), "for documentation"),
    (four(224, 0, 0, 0, 4), "multicast"),
    (four(255, 255, 255, 255, 32), "broadcast"),
    (four(240, 0, 0, 0, 4), "reserved"),
];

/// What is special within 2000::/3, of which alone public IPv6 addresses are.
const SIX: [(Ipv6Net, Kind); 5] = [
    (six([0x2001, 0, 0, 0], 32), "a Teredo tunnel's"),
    (six([0x2001, 0, 0, 0], 23), "for protocols"),
    (six([0x2001, 0xdb8, 0, 0], 32), "for documentation"),
    (six([0x2002, 0, 0, 0], 16), "a 6to4 tunnel's"),
    (six([0x3fff, 0, 0, 0], 20), "for documentation"),
];
const PUBLIC: Ipv6Net = six([0x2000, 0, 0, 0], 3);
/// Translation to IPv4 (RFC 6052): the last 32 bits are the IPv4 address.
const TRANSLATED: Ipv6Net = six([0x64, 0xff9b, 0, 0], 96);

/// Other names for what is outside of [`PUBLIC`].
const OUTSIDE: [(Ipv6Net, Kind); 6] = [
    (six([0x64, 0xff9b, 1, 0], 48), "a translation within this network"),
    (six([0xfc00, 0, 0, 0], 7), "private"),
    (six([0xfe80, 0, 0, 0], 10), "link-local"),
    (six([0xfec0, 0, 0, 0], 10), "site-local"),
    (six([0xff00, 0, 0, 0], 8), "multicast"),
    (six([0x100, 0, 0, 0], 64), "for discarding"),
];

/// The address that is meant: an IPv4 address in the form of IPv6 is IPv4.
#[must_use]
pub const fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// What an address is, if it is not one of the public Internet. Give it [`canonical`] ones.
#[must_use]
pub fn special(address: IpAddr) -> Option<Kind> {
    match address {
        IpAddr::V4(four) => special_four(four),
        IpAddr::V6(six) => special_six(six),
    }
}

fn special_four(address: Ipv4Addr) -> Option<Kind> {
    if METADATA_FOUR.contains(&address) {
        return Some(METADATA);
    }
    FOUR.iter().find(|(range, _)| range.contains(&address)).map(|(_, kind)| *kind)
}

fn special_six(address: Ipv6Addr) -> Option<Kind> {
    if METADATA_SIX.contains(&address) {
        return Some(METADATA);
    }
    if let Some(inner) = translated(address) {
        return special_four(inner);
    }
    let among = |list: &[(Ipv6Net, Kind)]| {
        list.iter().find(|(range, _)| range.contains(&address)).map(|(_, kind)| *kind)
    };
    if PUBLIC.contains(&address) {
        // Both forms of tunnel hold IPv4 addresses of anybody's choice.
        return among(&SIX);
    }
    let kind = match address {
        Ipv6Addr::UNSPECIFIED => "unspecified",
        Ipv6Addr::LOCALHOST => "this host's loopback",
        _ => among(&OUTSIDE).unwrap_or("reserved"),
    };
    Some(kind)
}

/// The IPv4 address that a translator would make of it.
fn translated(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., a, b, c, d] = address.octets();
    TRANSLATED.contains(&address).then(|| Ipv4Addr::new(a, b, c, d))
}

/// Every address that is reached by way of this one: itself, and what it is translated to. What is denied
/// for one is denied.
#[must_use]
pub fn meanings(address: IpAddr) -> Vec<IpAddr> {
    let inner = match address {
        IpAddr::V6(six) => translated(six).map(IpAddr::V4),
        IpAddr::V4(_) => None,
    };
    std::iter::once(address).chain(inner).collect()
}

/// Whether a range names an address well enough: that of a metadata service only by itself.
#[must_use]
pub fn names(range: &IpNet, address: IpAddr) -> bool {
    let alone = range.prefix_len() == range.max_prefix_len();
    range.contains(&address) && (alone || special(address) != Some(METADATA))
}

#[cfg(test)]
#[path = "address_test.rs"]
mod tests;
