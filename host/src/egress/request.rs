//! One request of an agent, held against its rules.

use super::credential::Credential;
use super::path::{Path, matches};
use super::policy::{OBSERVED, Policy};
use super::rule::{Action, Http, Rule};
use crate::team::setting::Setting;

/// What the rules look at.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// As it was written.
    pub method: &'a str,
    /// As it was written, without its query.
    pub path: &'a str,
    /// Whether it wants to become a WebSocket.
    pub websocket: bool,
}

/// What the rules say of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement<'a> {
    /// This one allows it, and none denies it.
    Allowed(&'a Setting<Rule>),
    /// This one denies it.
    Denied(&'a Setting<Rule>),
    /// None is about it, and it is let through, as the team observes.
    Observed,
    /// None is about it.
    NoRule,
    /// They can't tell: its path has no single meaning. Why, in words.
    Unclear(&'static str),
}

impl Judgement<'_> {
    /// In words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Allowed(rule) | Self::Denied(rule) => {
                format!("by the rule in {} ({})", rule.from, rule.value)
            }
            Self::Observed => OBSERVED.to_owned(),
            Self::NoRule => "no rule allows this request".to_owned(),
            Self::Unclear(why) => (*why).to_owned(),
        }
    }
}

impl Policy {
    /// Whether some rule about a name and a port looks at requests, so that its streams are looked into.
    #[must_use]
    pub fn inspects(&self, name: &str, port: u16) -> bool {
        self.about_name(name, port).any(|rule| rule.value.http.is_some())
    }

    /// Whether any rule does.
    #[must_use]
    pub fn inspects_any(&self) -> bool {
        self.rules().iter().any(|rule| rule.value.http.is_some())
    }

    /// What the rules about requests look at, of a name and a port: methods, and paths.
    #[must_use]
    pub fn looks_at(&self, name: &str, port: u16) -> (bool, bool) {
        let http = || self.about_name(name, port).filter_map(|rule| rule.value.http.as_ref());
        (http().any(|one| !one.methods.is_empty()), http().any(|one| !one.paths.is_empty()))
    }

    /// What the rules say of a request to a name and a port.
    #[must_use]
    pub fn judge<'a>(&'a self, name: &'a str, port: u16, asked: Asked<'_>) -> Judgement<'a> {
        let path = match self.path(name, port, asked) {
            Ok(path) => path,
            Err(why) => return Judgement::Unclear(why),
        };
        let about = |action| {
            self.about_name(name, port).find(|rule| {
                rule.value.action == action && is_about(&rule.value, asked, path.as_ref())
            })
        };
        // Where no rule allows anything, the operator was asked before the stream began.
        let is_asked =
            || self.about_name(name, port).all(|rule| rule.value.action != Action::Allow);
        let allowed = about(Action::Allow);
        let allowed = allowed.or_else(|| about(Action::Ask).filter(|_| is_asked()));
        match (about(Action::Deny), allowed) {
            (Some(rule), _) => Judgement::Denied(rule),
            (None, Some(rule)) => Judgement::Allowed(rule),
            (None, None) if self.observes() => Judgement::Observed,
            (None, None) => Judgement::NoRule,
        }
    }
}

impl Policy {
    /// The path of a request, if some rule about its host looks at paths.
    fn path(&self, name: &str, port: u16, asked: Asked<'_>) -> Result<Option<Path>, &'static str> {
        if self.looks_at(name, port).1 { Path::parse(asked.path).map(Some) } else { Ok(None) }
    }

    /// The secret that a request is given, if it is allowed: that of the first rule that allows it and has one.
    #[must_use]
    pub fn credential<'a>(
        &'a self,
        name: &'a str,
        port: u16,
        asked: Asked<'_>,
    ) -> Option<&'a Credential> {
        let path = self.path(name, port, asked).ok()?;
        self.about_name(name, port)
            .filter(|rule| rule.value.action == Action::Allow)
            .filter(|rule| is_about(&rule.value, asked, path.as_ref()))
            .find_map(|rule| rule.value.http.as_ref()?.credential.as_ref())
    }
}

fn is_about(rule: &Rule, asked: Asked<'_>, path: Option<&Path>) -> bool {
    let Some(Http { methods, paths, websocket, .. }) = &rule.http else { return true };
    let denies = rule.action == Action::Deny;
    let same = |method: &String| {
        // Some servers take `delete` for DELETE.
        if denies { method.eq_ignore_ascii_case(asked.method) } else { method == asked.method }
    };
    let of_path = |pattern: &String| path.is_some_and(|path| matches(pattern, path, denies));
    (methods.is_empty() || methods.iter().any(same))
        && (paths.is_empty() || paths.iter().any(of_path))
        && (denies || *websocket || !asked.websocket)
}

#[cfg(test)]
#[path = "request_test.rs"]
mod tests;
