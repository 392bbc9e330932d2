//! Streams that no rule allows: names, addresses, where names lead, other agents' grants.

use super::ground::{Ground, OBSERVING};
use super::{Attack, Row, judge};
use crate::prove::report::Seen;

/// Names below `special.prove.test`, all of them allowed, and where they lead.
pub(super) const SPECIAL: [(&str, &str); 21] = [
    ("loopback", "127.0.0.2"),
    ("this-network", "0.0.0.0"),
    ("ten", "10.0.0.1"),
    ("one-seven-two", "172.16.0.1"),
    ("one-nine-two", "192.168.0.1"),
    ("provider", "100.64.0.1"),
    ("link-local", "169.254.1.1"),
    ("metadata", "169.254.169.254"),
    ("metadata-other", "100.100.100.200"),
    ("multicast", "224.0.0.1"),
    ("broadcast", "255.255.255.255"),
    ("names", "198.18.0.1"),
    ("six-loopback", "::1"),
    ("six-none", "::"),
    ("six-mapped", "::ffff:127.0.0.2"),
    ("six-mapped-metadata", "::ffff:169.254.169.254"),
    ("six-translated", "64:ff9b::a9fe:a9fe"),
    ("six-private", "fd00::1"),
    ("six-link-local", "fe80::1"),
    ("six-metadata", "fd00:ec2::254"),
    ("six-tunnel", "2002:7f00:1::"),
];

const NO_RULE: &str = "the warden has no rule for it, and no rule is no";
const LEADS: &str = "each address of an allowed name is checked, and this kind is reached only if a rule names it as an address";
const FORM: &str = "a name has one form, and what programs take for an address is none, even where a team observes";

const fn stream(name: &'static str, tries: &'static str, to: &'static str) -> Row {
    let attack = Attack::Stream(0, to, None);
    Row { name, tries, why: NO_RULE, by: "no rule allows it", attack }
}

const fn leads(name: &'static str, tries: &'static str, to: &'static str) -> Row {
    let attack = Attack::Stream(0, to, None);
    Row { name, tries, why: LEADS, by: "no rule names that address", attack }
}

const fn head(name: &'static str, tries: &'static str, to: &'static str) -> Row {
    Row { name, tries, why: FORM, by: "", attack: Attack::Head(to) }
}

pub(super) const ROWS: &[Row] = &[
    stream("address-public", "reaches a public address without a name", "93.184.215.14"),
    stream("address-private", "reaches a private address without a name", "10.0.0.1"),
    stream("address-metadata", "reaches the metadata service by its address", "169.254.169.254"),
    stream("address-beside", "reaches the address beside an allowed one", "127.0.0.2"),
    stream("name-other", "reaches a name that no rule has", "other.prove.test"),
    stream("name-below", "reaches a name below an allowed one", "x.a.prove.test"),
    stream("name-above", "reaches the name above allowed ones", "prove.test"),
    stream("name-wildcard-itself", "reaches a wildcard's own domain", "wild.prove.test"),
    stream("name-alike", "reaches a name that ends as an allowed one", "xa.prove.test"),
    stream(
        "dns-tunnel",
        "has a long name looked up that tells something to its name server",
        "mzxw6ytboi4dqnzr.mzxw6ytboi4dqnzr.mzxw6ytboi4dqnzr.tunnel.test",
    ),
    Row {
        name: "port-other",
        tries: "reaches another port of an allowed host",
        why: NO_RULE,
        by: "no rule allows it",
        attack: Attack::Stream(0, "a.prove.test", Some(22)),
    },
    Row {
        name: "port-of-address",
        tries: "reaches another port of an allowed address",
        why: NO_RULE,
        by: "no rule allows it",
        attack: Attack::Stream(0, "127.0.0.1", Some(22)),
    },
    Row {
        name: "denied",
        tries: "reaches a host that a rule denies, as an agent that observes",
        why: "what denies wins, also where what no rule is about is let through",
        by: "by the rule in",
        attack: Attack::Stream(OBSERVING, "denied.prove.test", None),
    },
    Row {
        name: "observe-private",
        tries: "reaches a private address, as an agent that observes",
        why: "observing opens no address that no name may lead to",
        by: "no rule names that address",
        attack: Attack::Stream(OBSERVING, "10.0.0.1", Some(80)),
    },
    Row {
        name: "observe-metadata",
        tries: "reaches the metadata service by a name, as an agent that observes",
        why: "observing opens no address that no name may lead to",
        by: "no rule names that address",
        attack: Attack::Stream(OBSERVING, "metadata.special.prove.test", Some(80)),
    },
    stream("neighbour", "reaches what only its neighbour may reach", "neighbour.prove.test"),
    Row {
        name: "no-rules",
        tries: "reaches what others may, as an agent without rules",
        why: NO_RULE,
        by: "no rule allows it",
        attack: Attack::Stream(3, "a.prove.test", None),
    },
    leads(
        "rebinding",
        "has an allowed name lead elsewhere at its second connection",
        "rebinding.special.prove.test",
    ),
    leads(
        "leads-loopback",
        "has an allowed name lead to the host's loopback",
        "loopback.special.prove.test",
    ),
    leads(
        "leads-this-network",
        "has an allowed name lead to 0.0.0.0",
        "this-network.special.prove.test",
    ),
    leads("leads-ten", "has an allowed name lead to 10.0.0.0/8", "ten.special.prove.test"),
    leads(
        "leads-one-seven-two",
        "has an allowed name lead to 172.16.0.0/12",
        "one-seven-two.special.prove.test",
    ),
    leads(
        "leads-one-nine-two",
        "has an allowed name lead to 192.168.0.0/16",
        "one-nine-two.special.prove.test",
    ),
    leads(
        "leads-provider",
        "has an allowed name lead into the provider's network",
        "provider.special.prove.test",
    ),
    leads(
        "leads-link-local",
        "has an allowed name lead to a link-local address",
        "link-local.special.prove.test",
    ),
    leads(
        "leads-metadata",
        "has an allowed name lead to the metadata service",
        "metadata.special.prove.test",
    ),
    leads(
        "leads-metadata-other",
        "has an allowed name lead to another cloud's one",
        "metadata-other.special.prove.test",
    ),
    leads(
        "leads-multicast",
        "has an allowed name lead to a multicast address",
        "multicast.special.prove.test",
    ),
    leads(
        "leads-broadcast",
        "has an allowed name lead to the broadcast address",
        "broadcast.special.prove.test",
    ),
    leads(
        "leads-names",
        "has an allowed name lead to where names get addresses",
        "names.special.prove.test",
    ),
    leads(
        "leads-six-loopback",
        "has an allowed name lead to ::1",
        "six-loopback.special.prove.test",
    ),
    leads("leads-six-none", "has an allowed name lead to ::", "six-none.special.prove.test"),
    leads(
        "leads-six-mapped",
        "has an allowed name lead to loopback, mapped into IPv6",
        "six-mapped.special.prove.test",
    ),
    leads(
        "leads-six-mapped-metadata",
        "has an allowed name lead to the metadata service, mapped into IPv6",
        "six-mapped-metadata.special.prove.test",
    ),
    leads(
        "leads-six-translated",
        "has an allowed name lead to the metadata service by a translator (NAT64)",
        "six-translated.special.prove.test",
    ),
    leads(
        "leads-six-private",
        "has an allowed name lead to a private IPv6 address",
        "six-private.special.prove.test",
    ),
    leads(
        "leads-six-link-local",
        "has an allowed name lead to a link-local IPv6 address",
        "six-link-local.special.prove.test",
    ),
    leads(
        "leads-six-metadata",
        "has an allowed name lead to the metadata service of IPv6",
        "six-metadata.special.prove.test",
    ),
    leads(
        "leads-six-tunnel",
        "has an allowed name lead to loopback by a tunnel (6to4)",
        "six-tunnel.special.prove.test",
    ),
    head("metadata-dotted", "names the metadata service as 169.254.169.254", "169.254.169.254"),
    head("metadata-dot", "names it with a dot at its end", "169.254.169.254."),
    head("metadata-hexadecimal", "names it as one hexadecimal number", "0xa9fea9fe"),
    head("metadata-decimal", "names it as one decimal number", "2852039166"),
    head("metadata-octal", "names it in octal numbers", "0251.0376.0251.0376"),
    head("metadata-two-parts", "names it in two parts", "169.16689662"),
    head("metadata-mixed", "names it in numbers of several kinds", "0xa9.254.0251.0xfe"),
    head("metadata-six", "names it mapped into IPv6", "[::ffff:a9fe:a9fe]"),
    head("metadata-wide", "names it in full-width digits", "１６９.254.169.254"),
    head(
        "name-capitals",
        "names a host in a form that is not the one that is compared",
        "DENIED.prove.test",
    ),
    head("name-line-end", "names a host with a line end in it", "a.prove.test\r\nx"),
];

pub(super) async fn stream_attack(
    row: &Row,
    ground: &Ground,
    agent: u32,
    to: &str,
    port: Option<u16>,
) -> Seen {
    let port = port.unwrap_or(ground.port);
    if to.starts_with("rebinding.") && ground.ask(agent, to, port).await.is_none() {
        return Seen::not_run("the first connection, which is allowed, was not made");
    }
    if ground.ask(agent, to, port).await.is_some() {
        return Seen::new(false, format!("connected: {}", ground.told().join("; ")));
    }
    if let Some(failed) = ground.told().iter().find(|told| told.starts_with("egress-failed")) {
        return Seen::new(
            false,
            format!("it was let through, and only the network refused: {failed}"),
        );
    }
    judge(row, ground)
}

/// A head with a name as it is, whatever it is.
pub(super) async fn head_attack(ground: &Ground, name: &str) -> Seen {
    // Agent, kind of target, length and text of the name, port 80.
    let agent = u8::try_from(OBSERVING).unwrap_or_default();
    let mut bytes = vec![agent, 0, u8::try_from(name.len()).unwrap_or_default()];
    bytes.extend(name.as_bytes());
    bytes.push(80);
    let mut head = u16::try_from(bytes.len()).unwrap_or_default().to_le_bytes().to_vec();
    head.extend(bytes);
    let stream = ground.stream(&head).await;
    match (stream, ground.told().as_slice()) {
        (None, []) => Seen::new(true, "the stream was closed before anything was decided"),
        (_, told) => Seen::new(false, format!("it was taken for a name: {}", told.join("; "))),
    }
}
