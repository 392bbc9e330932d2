//! Rules that an observed run would have needed: made of what its audit log tells, as narrow as that allows.
//!
//! What rules allowed is left out, so these are added to those that were there. A path is a pattern of itself alone;
//! only where there are more than a rule takes, they are drawn together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use cloister_protocol::limits::{MAX_EGRESS_PORTS, MAX_EGRESS_RULES};
use serde::Serialize;
use serde_json::Value;

use super::gate::{LEFT_OUT, OBSERVED, REQUEST};
use super::limits::{MAX_METHODS, MAX_PATTERNS};
use super::path::{self, Path};
use crate::audit::record::Record;

/// Kinds of records with which other rules begin to hold.
const BEGINNINGS: [&str; 2] = ["team-started", "policy-applied"];
/// Paths of one host, port and method that are kept; with more, every path is meant. Stops an agent that makes up paths
/// from filling the memory of whoever learns.
const MAX_PATHS: usize = 4096;

/// What the records of a log have told so far.
#[derive(Debug, Default)]
pub struct Lessons {
    since: String,
    observes: bool,
    agents: BTreeMap<String, Seen>,
}

/// What one agent did.
#[derive(Debug, Default)]
struct Seen {
    hosts: BTreeMap<String, BTreeSet<u16>>,
    addresses: BTreeMap<IpAddr, BTreeSet<u16>>,
    requests: BTreeMap<(String, u16), Requests>,
    left_out: bool,
}

/// Requests to a host and a port.
#[derive(Debug, Default)]
struct Requests {
    /// Paths by method, and by whether they became a WebSocket.
    asked: BTreeMap<(String, bool), BTreeSet<String>>,
    /// One of them, allowed by a rule or not, had a path that no pattern means.
    any_path: bool,
}

/// What was learned of an agent.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Learned {
    /// Its name.
    pub agent: String,
    /// Whether every record is there that could have told more.
    pub complete: bool,
    /// Rules to add to its own.
    pub egress: Vec<LearnedRule>,
}

/// A rule, as the team file has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LearnedRule {
    /// A host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// An address, if no host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// Ports.
    pub ports: Vec<u16>,
    /// Methods; none: every one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Patterns of paths; none: every one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Whether a WebSocket began so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub websocket: bool,
}

impl Lessons {
    /// Takes a record in; those of an earlier run are forgotten when another begins.
    pub fn take(&mut self, record: &Record) {
        if BEGINNINGS.contains(&&*record.kind) {
            let observes = record.data.get("egress-mode").and_then(Value::as_str);
            let (since, agents) = (record.time.clone(), BTreeMap::new());
            *self = Self { since, observes: observes == Some("observe"), agents };
            return;
        }
        if ![LEFT_OUT, OBSERVED, REQUEST].contains(&&*record.kind) {
            return;
        }
        let seen = self.agents.entry(record.agent.clone()).or_default();
        match &*record.kind {
            LEFT_OUT => seen.left_out = true,
            OBSERVED => seen.stream(record),
            _ => seen.request(record),
        }
    }

    /// Whether the last run observed.
    #[must_use]
    pub const fn observed(&self) -> bool {
        self.observes
    }

    /// When the last run, or its rules as they were at its end, began.
    #[must_use]
    pub fn since(&self) -> &str {
        &self.since
    }

    /// The rules, by agent; of one alone if it is named.
    #[must_use]
    pub fn learned(&self, only: Option<&str>) -> Vec<Learned> {
        let wanted = self.agents.iter().filter(|(name, _)| only.is_none_or(|one| one == **name));
        wanted
            .map(|(name, seen)| Learned {
                agent: name.clone(),
                complete: !seen.left_out,
                egress: seen.rules(),
            })
            .filter(|learned| !learned.complete || !learned.egress.is_empty())
            .collect()
    }
}

fn port(record: &Record) -> Option<u16> {
    u16::try_from(record.data.get("port")?.as_u64()?).ok()
}

fn text<'a>(record: &'a Record, key: &str) -> Option<&'a str> {
    record.data.get(key)?.as_str()
}

fn flag(record: &Record, key: &str) -> bool {
    record.data.get(key).and_then(Value::as_bool).unwrap_or_default()
}

impl Seen {
    fn stream(&mut self, record: &Record) {
        let Some(port) = port(record) else { return };
        match (text(record, "host"), text(record, "address").map(str::parse)) {
            // Its requests tell more.
            (Some(_), _) if flag(record, "looked_into") => {}
            (Some(host), _) => {
                self.hosts.entry(host.to_owned()).or_default().insert(port);
            }
            (None, Some(Ok(address))) => {
                self.addresses.entry(address).or_default().insert(port);
            }
            (None, _) => {}
        }
    }

    fn request(&mut self, record: &Record) {
        let (Some(host), Some(port)) = (text(record, "host"), port(record)) else { return };
        let requests = self.requests.entry((host.to_owned(), port)).or_default();
        let path = text(record, "path").filter(|path| Path::parse(path).is_ok()).map(literal);
        let path = path.filter(|path| path::pattern(path).is_ok());
        requests.any_path |= path.is_none();
        if !flag(record, "observed") {
            return;
        }
        let method = text(record, "method").unwrap_or_default().to_owned();
        let paths = requests.asked.entry((method, flag(record, "websocket"))).or_default();
        paths.extend(path);
        if paths.len() > MAX_PATHS {
            paths.clear();
            requests.any_path = true;
        }
    }

    fn rules(&self) -> Vec<LearnedRule> {
        // Rules that differ by their ports alone are one.
        let mut ports: BTreeMap<LearnedRule, BTreeSet<u16>> = BTreeMap::new();
        let mut add = |rule: LearnedRule, some: &BTreeSet<u16>| {
            ports.entry(rule).or_default().extend(some);
        };
        for (address, some) in &self.addresses {
            add(LearnedRule::about(None, Some(address.to_string())), some);
        }
        for (host, some) in &self.hosts {
            add(LearnedRule::about(Some(host.clone()), None), some);
        }
        for ((host, port), requests) in &self.requests {
            for rule in requests.rules(host) {
                add(rule, &BTreeSet::from([*port]));
            }
        }
        let mut rules = Vec::new();
        for (rule, ports) in ports {
            let ports: Vec<u16> = ports.into_iter().collect();
            let parts = ports.chunks(MAX_EGRESS_PORTS);
            rules.extend(parts.map(|ports| LearnedRule { ports: ports.to_vec(), ..rule.clone() }));
        }
        rules
    }
}

impl Requests {
    fn rules(&self, host: &str) -> Vec<LearnedRule> {
        let mut methods: BTreeMap<(bool, Vec<String>), BTreeSet<&str>> = BTreeMap::new();
        for ((method, websocket), paths) in &self.asked {
            let paths = if self.any_path { Vec::new() } else { patterns(paths) };
            methods.entry((*websocket, paths)).or_default().insert(method);
        }
        let is_one = |method: &&str| {
            (1..=32).contains(&method.len()) && method.bytes().all(|byte| byte.is_ascii_uppercase())
        };
        let rules = methods.into_iter().map(|((websocket, paths), methods)| {
            // A method that no rule can name leaves them all.
            let named = methods.len() <= MAX_METHODS && methods.iter().all(is_one);
            let methods = if named { methods } else { BTreeSet::new() };
            let methods = methods.into_iter().map(str::to_owned).collect();
            let about = LearnedRule::about(Some(host.to_owned()), None);
            LearnedRule { methods, paths, websocket, ..about }
        });
        rules.collect()
    }
}

/// A path as the pattern of itself: without what patterns and the file's variables have a meaning for.
fn literal(path: &str) -> String {
    path.replace('*', "%2A").replace('$', "%24")
}

/// As few patterns as a rule takes: paths as they are, or all of a directory, or all below a first part, or every path.
fn patterns(paths: &BTreeSet<String>) -> Vec<String> {
    let few = |paths: BTreeSet<String>| {
        (paths.len() <= MAX_PATTERNS).then(|| paths.into_iter().collect::<Vec<_>>())
    };
    let directory = |path: &str| path.rsplit_once('/').map(|(front, _)| format!("{front}/*"));
    let mut in_one: BTreeMap<Option<String>, usize> = BTreeMap::new();
    for path in paths {
        *in_one.entry(directory(path)).or_default() += 1;
    }
    let together = |path: &String| {
        directory(path).filter(|one| in_one.get(&Some(one.clone())).is_some_and(|count| *count > 1))
    };
    let first = |path: &String| {
        let end = path.get(1..).and_then(|rest| rest.find('/'));
        end.and_then(|end| path.get(..=end)).map(|front| format!("{front}/**"))
    };
    let drawn = |draw: &dyn Fn(&String) -> Option<String>| {
        few(paths.iter().map(|path| draw(path).unwrap_or_else(|| path.clone())).collect())
    };
    few(paths.clone()).or_else(|| drawn(&together)).or_else(|| drawn(&first)).unwrap_or_default()
}

impl LearnedRule {
    fn about(host: Option<String>, cidr: Option<String>) -> Self {
        let (ports, methods, paths) = (Vec::new(), Vec::new(), Vec::new());
        Self { host, cidr, ports, methods, paths, websocket: false }
    }

    /// As the team file has it.
    #[must_use]
    pub fn toml(&self, agent: &str) -> String {
        let quoted = |text: &String| toml::Value::String(text.clone()).to_string();
        let list = |texts: &[String]| texts.iter().map(quoted).collect::<Vec<_>>().join(", ");
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        let mut text = format!("[[agents.{agent}.egress]]\n");
        let lines = [
            ("host", self.host.as_ref().map(quoted)),
            ("cidr", self.cidr.as_ref().map(quoted)),
            ("ports", Some(format!("[{}]", ports.join(", ")))),
            ("methods", (!self.methods.is_empty()).then(|| format!("[{}]", list(&self.methods)))),
            ("paths", (!self.paths.is_empty()).then(|| format!("[{}]", list(&self.paths)))),
            ("websocket", self.websocket.then(|| "true".to_owned())),
        ];
        for (key, value) in lines {
            if let Some(value) = value {
                // Writing to a text can't fail.
                writeln!(text, "{key} = {value}").ok();
            }
        }
        text
    }
}

impl Learned {
    /// Whether its rules alone are more than an agent may have.
    #[must_use]
    pub const fn is_too_much(&self) -> bool {
        self.egress.len() > MAX_EGRESS_RULES
    }
}

#[cfg(test)]
#[path = "learn_test.rs"]
mod tests;
