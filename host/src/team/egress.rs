//! Rules about egress: from what is written to what is meant, and what must fit together.

use std::collections::{BTreeMap, BTreeSet};

use cloister_protocol::egress::NAMES;
use cloister_protocol::limits::{MAX_LISTENERS, MIN_EGRESS_PREFIX};
use ipnet::{IpNet, Ipv4Net};

use super::file::AgentFile;
use super::node::{Node, Value};
use super::read::Reader;
use super::setting::Setting;
use crate::egress::credential::{Credential, Place};
use crate::egress::quota::Quota;
use crate::egress::rule::{Action, Http, Peer, Rule};
use crate::egress::{name, range};

const ONE: &str = "write host = \"api.example.com\", or cidr = \"203.0.113.0/24\" for addresses";

/// One rule. What is wrong by itself was told already, and nothing comes of it.
pub(super) fn rule(reader: &Reader<'_>, node: &Node) -> Option<Setting<Rule>> {
    let peer = match (node.text("host"), node.text("cidr")) {
        (Some(host), None) => Peer::Host(name::pattern(&host.value).ok()?),
        (None, Some(cidr)) => Peer::Range(range::range(&cidr.value).ok()?),
        (Some(_), Some(cidr)) => {
            reader.add(cidr.from.place(), "the rule has both `host` and `cidr`", ONE);
            return None;
        }
        (None, None) if node.get("host").or_else(|| node.get("cidr")).is_some() => return None,
        (None, None) => {
            reader.add(node.place, "the rule has neither `host` nor `cidr`", ONE);
            return None;
        }
    };
    let action = match node.text("action").as_ref().map(|word| word.value.as_str()) {
        Some("deny") => Action::Deny,
        Some("ask") => Action::Ask,
        _ => Action::Allow,
    };
    let mut ports = Vec::new();
    for item in node.get("ports").map(Node::items).unwrap_or_default() {
        // A wrong one was told.
        let port = u16::try_from(item.as_number()?).ok()?;
        if ports.contains(&port) {
            reader.add(item.place, format!("port {port} stands there twice"), "take one out");
            return None;
        }
        ports.push(port);
    }
    match node.get("ports") {
        None if action == Action::Deny => {}
        None => {
            let remedy = "add ports = [443], or those that the agent needs";
            let what = "`ports` is missing: a rule that allows or asks must have it";
            reader.add(node.place, what, remedy);
            return None;
        }
        Some(list) if ports.is_empty() => {
            // One that is broken was told.
            if list.is_list() {
                reader.add(list.place, "`ports` is empty: the rule is about no port", "name some");
            }
            return None;
        }
        Some(_) => {}
    }
    let http = http(reader, node, &peer, action)?;
    Some(node.setting(Rule { peer, ports, action, http }))
}

/// How much may pass.
pub(super) fn quota(reader: &Reader<'_>, node: Option<&Node>) -> Setting<Quota> {
    let Some(node) = node else { return Setting::usual(Quota::default()) };
    let number = |key: &str| node.number(key).map(|number| number.value);
    let quota = Quota { sent: number("sent"), received: number("received") };
    // What is broken was told.
    if node.entries().is_empty() && matches!(node.value, Value::Table(_)) {
        let remedy = "write sent = \"100MiB\" or received = \"1GiB\", or take it out";
        reader.add(node.place, "`egress-quota` bounds nothing", remedy);
    }
    node.setting(quota)
}

/// What the rule says of requests; `None`: a mistake, which was told.
fn http(reader: &Reader<'_>, node: &Node, peer: &Peer, action: Action) -> Option<Option<Http>> {
    const KEYS: [&str; 5] = ["methods", "paths", "websocket", "secret", "as"];
    let Some(first) = KEYS.iter().find_map(|key| node.get(key)) else { return Some(None) };
    if let Peer::Range(_) = peer {
        let what = "a rule about addresses can't look at requests";
        reader.add(first.place, what, "name the host: host = \"api.example.com\"");
        return None;
    }
    if action == Action::Ask {
        let what = "a rule that asks is about connections, and can't look at requests";
        let remedy = "take it out, or write a rule that allows such requests";
        reader.add(first.place, what, remedy);
        return None;
    }
    let mut lists = Vec::new();
    for key in ["methods", "paths"] {
        let Some(list) = node.get(key) else {
            lists.push(Vec::new());
            continue;
        };
        let mut texts: Vec<String> = Vec::new();
        for item in list.items() {
            // A wrong one was told.
            let text = item.as_text()?;
            if texts.iter().any(|other| other == text) {
                let what = format!("{text} stands there twice");
                reader.add(item.place, what, "take one out");
                return None;
            }
            texts.push(text.to_owned());
        }
        if texts.is_empty() {
            // One that is broken was told.
            if list.is_list() {
                let what = format!("`{key}` is empty: the rule is about no request");
                reader.add(list.place, what, "name some, or leave the key out for all");
            }
            return None;
        }
        lists.push(texts);
    }
    let websocket = node.flag("websocket");
    if websocket && action == Action::Deny {
        let place = node.get("websocket").map_or(node.place, |flag| flag.place);
        let what = "a rule that denies can't say `websocket`";
        reader.add(place, what, "take it out: only what a rule allows becomes a WebSocket");
        return None;
    }
    let (paths, methods) = (lists.pop().unwrap_or_default(), lists.pop().unwrap_or_default());
    if websocket && !methods.is_empty() && !methods.iter().any(|method| method == "GET") {
        let what = "a WebSocket begins with GET, which `methods` does not have";
        reader.add(node.place, what, "add \"GET\", or take `websocket` out");
        return None;
    }
    let credential = credential(reader, node, peer, action)?;
    Some(Some(Http { methods, paths, websocket, credential }))
}

/// The secret that the rule gives; `None`: a mistake, which was told.
fn credential(
    reader: &Reader<'_>,
    node: &Node,
    peer: &Peer,
    action: Action,
) -> Option<Option<Credential>> {
    let place = match (node.get("as"), node.text("as")) {
        (None, _) => Place::Bearer,
        // What is broken was told.
        (Some(_), text) => Place::parse(&text?.value).ok()?,
    };
    let Some(secret) = node.get("secret") else {
        if let Some(place) = node.get("as") {
            let remedy = "add secret = \"NAME\", or take it out";
            reader.add(place.place, "`as` says where a secret goes, and there is none", remedy);
            return None;
        }
        return Some(None);
    };
    let name = secret.as_text()?.to_owned();
    let wrong = if action == Action::Deny {
        Some(("a rule that denies gives no secret", "take it out, or let the rule allow"))
    } else if matches!(peer, Peer::Host(pattern) if pattern.starts_with("*.")) {
        let remedy = "name the host: whoever can make a name below this one would get the secret";
        Some(("a secret is for one host, and this rule is about many", remedy))
    } else if node.get("ports")?.items().iter().any(|port| port.as_number() == Some(80)) {
        let remedy = "take port 80 out: what is sent there can be read on its way";
        Some(("a secret is sent over TLS alone, and port 80 is for HTTP without it", remedy))
    } else {
        None
    };
    if let Some((what, remedy)) = wrong {
        reader.add(secret.place, what, remedy);
        return None;
    }
    Some(Some(Credential { secret: name, place }))
}

/// What must fit together in an agent's rules.
pub(super) fn check(reader: &Reader<'_>, agent: &AgentFile, observes: bool) {
    // A team that observes has connections without rules.
    if agent.egress.is_empty() && !observes && agent.egress_quota.value != Quota::default() {
        let what = "`egress-quota` bounds nothing: the agent has no egress rule";
        let place = agent.egress_quota.from.place();
        reader.add(place, what, "add [[agents.NAME.egress]], or take it out");
    }
    let mut seen = BTreeMap::new();
    let mut sockets: u64 = 0;
    for rule in &agent.egress {
        let place = rule.from.place();
        let Rule { peer, ports, action, http } = &rule.value;
        if let Peer::Range(range) = peer
            && *action != Action::Deny
        {
            if let Err((what, remedy)) = allowed(range) {
                reader.add(place, what, remedy);
                continue;
            }
            let size = 1_u64 << u32::from(range.max_prefix_len() - range.prefix_len()).min(32);
            sockets = sockets.saturating_add(size.saturating_mul(ports.len() as u64));
        }
        let sorted: BTreeSet<u16> = ports.iter().copied().collect();
        let key = (format!("{peer:?} {http:?} {action:?}"), sorted);
        if let Some(first) = seen.insert(key, rule.from) {
            let what = format!("the rule says what the one in {first} says");
            reader.add(place, what, "take one of the two out");
        }
    }
    if sockets > MAX_LISTENERS as u64 {
        let what = format!(
            "the ranges that are allowed come to {sockets} pairs of address and port; at most {MAX_LISTENERS} are taken"
        );
        let place = agent.egress.first().map_or(agent.name.from, |rule| rule.from).place();
        reader.add(place, what, "allow smaller ranges or fewer ports, or name hosts");
    }
}

/// Whether a range can be allowed.
fn allowed(range: &IpNet) -> Result<(), (String, &'static str)> {
    let IpNet::V4(four) = range else {
        let what = "addresses of IPv6 can't be allowed yet".to_owned();
        return Err((what, "name the host, whose addresses may be of IPv6"));
    };
    if four.prefix_len() < MIN_EGRESS_PREFIX {
        let what = format!(
            "`cidr` is {range}, {} addresses; at most 256 can be allowed by one rule",
            four.hosts().size_hint().0
        );
        return Err((what, "allow a range of /24 to /32, or name hosts"));
    }
    let names = Ipv4Net::new(NAMES.0, NAMES.1).is_ok_and(|names| names.contains(four));
    if names {
        let what =
            format!("`cidr` is {range}, and within an agent those addresses stand for names");
        return Err((what, "name the hosts"));
    }
    let first = four.network();
    if first.is_multicast()
        || first.is_unspecified()
        || first.octets().first() == Some(&0)
        || four.contains(&std::net::Ipv4Addr::BROADCAST)
    {
        let what = format!("`cidr` is {range}, where no connection goes");
        return Err((what, "allow addresses of hosts"));
    }
    Ok(())
}
