//! What an agent may reach: its rules, and what they say of a name, an address and a port.
//!
//! No rule means no. What denies wins, wherever it stands. A name that is allowed may still lead to
//! addresses that are not: [`Policy::admits`] decides about each.

use std::net::IpAddr;

use cloister_protocol::egress::{Egress, NameRule, RangeRule, Target, matches};
use ipnet::IpNet;

use super::address::{meanings, names, special};
use super::operator::Operator;
use super::quota::Quota;
use super::rule::{Action, Peer, Rule};
use crate::team::setting::Setting;

/// The rules of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Setting<Rule>>,
    observes: bool,
    quota: Quota,
}

/// What the rules say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// This one allows it, and none denies it.
    Allowed(&'a Setting<Rule>),
    /// None allows or denies it, and this one asks the operator.
    Asked(&'a Setting<Rule>),
    /// This one denies it.
    Denied(&'a Setting<Rule>),
    /// None is about it, and it is let through, as the team observes.
    Observed,
    /// None is about it.
    NoRule,
}

/// Why something passes that no rule allows.
pub(super) const OBSERVED: &str = "no rule allows it; let through, as the team observes";

impl<'a> Verdict<'a> {
    /// Whether it may be reached, without anybody being asked.
    #[must_use]
    pub const fn is_allowed(self) -> bool {
        matches!(self, Self::Allowed(_) | Self::Observed)
    }

    /// In words.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Allowed(rule) | Self::Denied(rule) => {
                format!("by the rule in {} ({})", rule.from, rule.value)
            }
            Self::Asked(rule) => {
                format!("the operator is asked, by the rule in {} ({})", rule.from, rule.value)
            }
            Self::Observed => OBSERVED.to_owned(),
            Self::NoRule => "no rule allows it".to_owned(),
        }
    }

    /// The rule that says so, if one does.
    #[must_use]
    pub const fn rule(self) -> Option<&'a Setting<Rule>> {
        match self {
            Self::Allowed(rule) | Self::Asked(rule) | Self::Denied(rule) => Some(rule),
            Self::Observed | Self::NoRule => None,
        }
    }

    /// The rule's line in the team file, if it is from there.
    #[must_use]
    pub fn line(self) -> Option<u32> {
        self.rule()?.from.line()
    }
}

impl Policy {
    /// These rules, in the order of the file.
    #[must_use]
    pub fn new(rules: Vec<Setting<Rule>>) -> Self {
        Self { rules, ..Self::default() }
    }

    /// The same with a bound on what may pass.
    #[must_use]
    pub fn bounded(self, quota: Quota) -> Self {
        Self { quota, ..self }
    }

    /// How much may pass.
    #[must_use]
    pub const fn quota(&self) -> Quota {
        self.quota
    }

    /// The same, which lets through what no rule is about, if the team `observes`. What a rule denies, it denies.
    #[must_use]
    pub fn observing(self, observes: bool) -> Self {
        Self { observes, ..self }
    }

    /// Whether it lets through what no rule is about.
    #[must_use]
    pub const fn observes(&self) -> bool {
        self.observes
    }

    /// All rules, in the order of the file.
    #[must_use]
    pub fn rules(&self) -> &[Setting<Rule>] {
        &self.rules
    }

    /// Whether nothing may be reached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.observes && self.rules.iter().all(|rule| rule.value.action == Action::Deny)
    }

    /// What the rules say of a name or an address, and a port.
    #[must_use]
    pub fn decide(&self, target: &Target, port: u16) -> Verdict<'_> {
        let verdict = match target {
            Target::Name(name) => self.verdict(port, |peer| match peer {
                Peer::Host(pattern) => matches(pattern, name),
                Peer::Range(_) => false,
            }),
            Target::Address(address) => self.of_address((*address).into(), port),
        };
        match verdict {
            Verdict::NoRule if self.observes => Verdict::Observed,
            verdict => verdict,
        }
    }

    /// What the rules about addresses say of one; observing names none.
    #[must_use]
    pub fn of_address(&self, address: IpAddr, port: u16) -> Verdict<'_> {
        let meanings = meanings(address);
        let verdict = self.verdict(port, |peer| match peer {
            Peer::Range(range) => meanings.iter().any(|one| range.contains(one)),
            Peer::Host(_) => false,
        });
        // Of those that allow, or ask, one must name this very address well enough.
        let named = |action| {
            self.rules.iter().find(|rule| {
                rule.value.action == action
                    && rule.value.has_port(port)
                    && matches!(&rule.value.peer, Peer::Range(range) if names(range, address))
            })
        };
        let (allowed, asked) = (|| named(Action::Allow), || named(Action::Ask));
        match verdict {
            Verdict::Allowed(_) | Verdict::Asked(_) => allowed()
                .map(Verdict::Allowed)
                .or_else(|| asked().map(Verdict::Asked))
                .unwrap_or(Verdict::NoRule),
            other => other,
        }
    }

    /// Whether a connection may be made to an address that a name has, or that was asked for. It is
    /// [`canonical`](super::address::canonical). What only asks about addresses admits none that a name leads to: nobody was
    /// asked about those.
    ///
    /// # Errors
    /// It may not; why, in words.
    pub fn admits(&self, address: IpAddr, port: u16, operator: &Operator) -> Result<(), String> {
        is_denied_by(operator, address)?;
        match (self.of_address(address, port), special(address)) {
            (Verdict::Denied(rule), _) => {
                let Setting { value, from } = rule;
                Err(format!("{address} is denied by the rule in {from} ({value})"))
            }
            (Verdict::Allowed(_), _) => Ok(()),
            (Verdict::Asked(_) | Verdict::NoRule | Verdict::Observed, None) => Ok(()),
            (Verdict::Asked(_) | Verdict::NoRule | Verdict::Observed, Some(kind)) => {
                Err(format!("{address} is {kind}, and no rule names that address"))
            }
        }
    }

    /// The same of an address that the operator was asked about, and said yes: rules that allow could not say more.
    ///
    /// # Errors
    /// It may not; why, in words.
    pub fn admits_approved(
        &self,
        address: IpAddr,
        port: u16,
        operator: &Operator,
    ) -> Result<(), String> {
        match self.of_address(address, port) {
            Verdict::Asked(_) => is_denied_by(operator, address),
            _ => self.admits(address, port, operator),
        }
    }

    /// The rules about a name and a port, in the order of the file.
    pub(super) fn about_name<'a>(
        &'a self,
        name: &'a str,
        port: u16,
    ) -> impl Iterator<Item = &'a Setting<Rule>> {
        self.rules.iter().filter(move |rule| {
            let is_about = matches!(&rule.value.peer, Peer::Host(one) if matches(one, name));
            is_about && rule.value.has_port(port)
        })
    }

    fn verdict(&self, port: u16, is_about: impl Fn(&Peer) -> bool) -> Verdict<'_> {
        let about = || {
            let rules = self.rules.iter();
            rules.filter(|rule| rule.value.has_port(port) && is_about(&rule.value.peer))
        };
        // What denies some requests denies no stream.
        let whole = |rule: &Rule| rule.action != Action::Deny || rule.http.is_none();
        let first = |action| about().find(|rule| rule.value.action == action && whole(&rule.value));
        let denied = || first(Action::Deny).map(Verdict::Denied);
        let allowed = || first(Action::Allow).map(Verdict::Allowed);
        let asked = || first(Action::Ask).map(Verdict::Asked);
        denied().or_else(allowed).or_else(asked).unwrap_or(Verdict::NoRule)
    }

    /// The supervisor's copy; nothing if nothing may be reached. Addresses of an agent's own loopback
    /// are not in it: those are reached by a name alone.
    #[must_use]
    pub fn for_guest(&self) -> Option<Egress> {
        if self.is_empty() {
            return None;
        }
        let mut egress = Egress { observes: self.observes, ..Egress::default() };
        for Setting { value: Rule { peer, ports, action, http }, .. } in &self.rules {
            let (ports, allows) = (ports.clone(), *action != Action::Deny);
            if !allows && http.is_some() {
                // Only the host sees requests.
                continue;
            }
            match peer {
                Peer::Host(pattern) => {
                    egress.names.push(NameRule { pattern: pattern.clone(), ports, allows });
                }
                Peer::Range(IpNet::V4(range)) if allows && !range.network().is_loopback() => {
                    let (address, prefix) = (range.network(), range.prefix_len());
                    egress.ranges.push(RangeRule { address, prefix, ports });
                }
                Peer::Range(_) => {}
            }
        }
        Some(egress)
    }
}

fn is_denied_by(operator: &Operator, address: IpAddr) -> Result<(), String> {
    match meanings(address).iter().find_map(|one| operator.denies(*one)) {
        Some(range) => Err(format!("{address} is denied by the operator ({range})")),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "policy_test.rs"]
pub(crate) mod tests;
