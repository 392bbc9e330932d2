//! A team's gate: takes the guest's streams to the outside, decides about each, carries it out, and tells.
//!
//! What comes from the guest is hostile: whose stream it is, is the supervisor's word, so a machine that
//! was taken over reaches what any agent of its team may, and nothing else.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cloister_protocol::egress::{CONNECTED, Head, Target};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::ask::{AnswerError, Question, Questions, Subject};
use super::connect::{ConnectError, Connector};
use super::counts::Counts;
use super::http::{self, OpenError, Opener, Way};
use super::limits::HEAD_LIMIT;
use super::policy::{Policy, Verdict};
use super::quota::Used;
use super::relay::{Traffic, relay};
use super::totals::Totals;
use crate::report::chain;

/// What is told for programs, beside the words for people.
pub type Facts = BTreeMap<&'static str, Value>;

/// Who is told what happens: the agent's place, the kind of event, words, and facts.
pub type Tell = dyn Fn(usize, &str, String, Facts);

/// The kind of what is told of a request that was answered: a record, and no event.
pub const REQUEST: &str = "egress-request";
/// The kind of what tells how much was not told.
pub const LEFT_OUT: &str = "egress-left-out";
/// The kind of what is told once when an agent has used up its quota.
pub const QUOTA: &str = "egress-quota";
/// The kind of what is told of a question to the operator.
pub const ASKED: &str = "egress-asked";
/// The kind of what is told of a stream that no rule allows, and that is let through as the team observes.
pub const OBSERVED: &str = "egress-observed";

/// A team's gate.
pub struct Gate {
    policies: RefCell<Vec<Rc<Policy>>>,
    connector: Connector,
    pub(super) opener: Option<Opener>,
    tell: Box<Tell>,
    counts: RefCell<Counts>,
    totals: RefCell<Vec<Totals>>,
    questions: Questions,
    /// Of each agent's quota.
    pub(super) used: Vec<Rc<Used>>,
    /// How often the rules have changed.
    changes: watch::Sender<u64>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("policies", &self.policies).finish_non_exhaustive()
    }
}

/// A place among the streams that are open; given back when it is dropped.
struct Place<'a> {
    gate: &'a Gate,
    agent: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.gate.counts.borrow_mut().leave(self.agent);
    }
}

impl Gate {
    /// A gate for agents with these rules, in the order of their numbers.
    #[must_use]
    pub fn new(policies: Vec<Policy>, connector: Connector, tell: Box<Tell>) -> Self {
        let totals = RefCell::new(vec![Totals::default(); policies.len()]);
        let counts = RefCell::new(Counts::new(policies.len()));
        let used = policies.iter().map(|policy| Rc::new(Used::new(policy.quota()))).collect();
        let policies = RefCell::new(policies.into_iter().map(Rc::new).collect());
        let (changes, _) = watch::channel(0);
        let questions = Questions::default();
        Self { policies, connector, opener: None, tell, counts, totals, questions, used, changes }
    }

    /// The same, which can open streams.
    #[must_use]
    pub fn with_opener(self, opener: Option<Opener>) -> Self {
        Self { opener, ..self }
    }

    /// Puts other rules in place of all agents', in the same order, at once. Streams that they do not allow are cut.
    pub fn replace(&self, policies: Vec<Policy>) {
        for (used, policy) in self.used.iter().zip(&policies) {
            used.allow(policy.quota());
        }
        self.policies.replace(policies.into_iter().map(Rc::new).collect());
        self.questions.clear();
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// What the operator is asked.
    #[must_use]
    pub fn questions(&self) -> Vec<Question> {
        self.questions.list()
    }

    /// Answers a question, for the connections that wait or, if it is to be kept, for later ones too. What it was.
    ///
    /// # Errors
    /// It does not wait, or too many answers are kept.
    pub fn answer(&self, number: u64, yes: bool, keep: bool) -> Result<Question, AnswerError> {
        self.questions.answer(number, yes, keep)
    }

    /// What each agent's egress came to, in the order of their numbers.
    #[must_use]
    pub fn totals(&self) -> Vec<Totals> {
        let (mut totals, counts) = (self.totals.borrow().clone(), self.counts.borrow());
        for (totals, open) in totals.iter_mut().zip(counts.open()) {
            totals.open = open;
        }
        totals
    }

    fn total(&self, agent: usize, add: impl FnOnce(&mut Totals)) {
        if let Some(totals) = self.totals.borrow_mut().get_mut(agent) {
            add(totals);
        }
    }

    /// What streams are opened with.
    pub(super) const fn opener(&self) -> Option<&Opener> {
        self.opener.as_ref()
    }

    /// The rules of an agent, as they are now.
    pub(super) fn policy(&self, agent: usize) -> Option<Rc<Policy>> {
        self.policies.borrow().get(agent).map(Rc::clone)
    }

    /// Carries one stream of the guest to its end.
    pub async fn pass(self: Rc<Self>, mut stream: UnixStream) {
        // A guest that says nothing, or nonsense, is nobody's: there is nothing to be told of it.
        let Ok(Some(head)) = timeout(HEAD_LIMIT, read_head(&mut stream)).await else { return };
        let Ok(agent) = usize::try_from(head.agent) else { return };
        let Some((policy, used)) = self.policy(agent).zip(self.used.get(agent).cloned()) else {
            return;
        };
        let to = shown(&head);
        let _place = match self.enter(agent) {
            Ok(place) => place,
            Err(why) => return self.tell(agent, "egress-denied", format!("{to}: {why}")),
        };
        if let Some(why) = used.refusal() {
            return self.tell(agent, "egress-denied", format!("{to}: {why}"));
        }
        let verdict = policy.decide(&head.target, head.port);
        let approved = match self.permits(agent, &head, verdict, &mut stream).await {
            Ok(approved) => approved,
            Err(why) => return self.tell(agent, "egress-denied", format!("{to}: {why}")),
        };
        let begin = Instant::now();
        let connected = self.connector.connect(&policy, &head.target, head.port, approved).await;
        let (outside, address) = match connected {
            Ok(connected) => {
                self.total(agent, |totals| totals.connected(begin.elapsed()));
                connected
            }
            Err(ConnectError::Denied(why)) => {
                return self.tell(agent, "egress-denied", format!("{to}: {why}"));
            }
            Err(error) => {
                return self.tell(agent, "egress-failed", format!("{to}: {}", chain(&error)));
            }
        };
        let kind = if verdict == Verdict::Observed { OBSERVED } else { "egress-allowed" };
        let facts = facts(&head, address, &policy);
        self.tell_facts(agent, kind, allowed(&to, &head.target, address, verdict), facts.clone());
        let begin = Instant::now();
        let traffic = Rc::new(Traffic::new(Rc::clone(&used)));
        let (result, denied) = tokio::select! {
            // What is dropped here is reset for both sides.
            () = self.until_denied(&head, address, &policy, approved) => (Err(NO_LONGER.to_owned()), true),
            why = used.until_over() => (Err(why), true),
            carried = self.carry(&head, &policy, (stream, outside), &traffic) => carried,
        };
        if let Some(why) = used.refusal().filter(|why| used.is_news(why)) {
            self.tell(agent, QUOTA, why);
        }
        let (sent, received) = (traffic.sent.get(), traffic.received.get());
        self.total(agent, |totals| totals.moved(sent, received));
        let took = begin.elapsed();
        let seconds = took.as_secs_f64();
        let mut words = format!("{to}: {sent} bytes sent, {received} received in {seconds:.1} s");
        if let Err(error) = result {
            // Writing to a text can't fail.
            write!(words, "; {error}").ok();
        }
        let kind = if denied { "egress-denied" } else { "egress-ended" };
        self.tell_facts(agent, kind, words, came_to(facts, sent, received, took));
    }

    /// Carries a stream that is connected: how it ended, and whether a rule ended it.
    async fn carry(
        self: &Rc<Self>,
        head: &Head,
        policy: &Policy,
        (mut stream, mut outside): (UnixStream, TcpStream),
        traffic: &Rc<Traffic>,
    ) -> (Result<(), String>, bool) {
        match (&head.target, usize::try_from(head.agent)) {
            (Target::Name(name), Ok(agent)) if policy.inspects(name, head.port) => {
                let (gate, traffic) = (Rc::clone(self), Rc::clone(traffic));
                let way = Way { gate, agent, name: name.clone(), port: head.port, traffic };
                let result = http::serve(way, stream, outside).await;
                let denied = result.as_ref().is_err_and(OpenError::is_denial);
                (result.map_err(|error| chain(&error)), denied)
            }
            (target, _) => {
                let name = match target {
                    Target::Name(name) => Some((name.as_str(), head.port)),
                    Target::Address(_) => None,
                };
                let result = match stream.write_all(&[CONNECTED]).await {
                    Ok(()) => relay(&mut stream, &mut outside, name, traffic).await,
                    Err(error) => Err(error.into()),
                };
                let denied = result.as_ref().is_err_and(super::relay::RelayError::is_denial);
                (result.map_err(|error| chain(&error)), denied)
            }
        }
    }

    /// Waits until a stream, which `old` rules allowed, is not allowed any more, or would be carried otherwise.
    async fn until_denied(&self, head: &Head, address: IpAddr, old: &Policy, approved: bool) {
        let mut changes = self.changes.subscribe();
        loop {
            let policy = usize::try_from(head.agent).ok().and_then(|agent| self.policy(agent));
            let stays = policy.is_some_and(|new| {
                let verdict = new.decide(&head.target, head.port);
                let Head { target, port, .. } = head;
                (verdict.is_allowed() || approved && matches!(verdict, Verdict::Asked(_)))
                    && self.connector.admits(&new, target, address, *port, approved).is_ok()
                    && is_carried_alike(&head.target, head.port, old, &new)
            });
            if !stays {
                return;
            }
            if changes.changed().await.is_err() {
                // The sender is in `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether a stream may be connected, asking the operator where the rules say so: whether the operator said it.
    ///
    /// # Errors
    /// It may not; why, in words.
    async fn permits(
        &self,
        agent: usize,
        head: &Head,
        verdict: Verdict<'_>,
        stream: &mut UnixStream,
    ) -> Result<bool, String> {
        let rule = match verdict {
            Verdict::Asked(rule) => rule,
            verdict if verdict.is_allowed() => return Ok(false),
            verdict => return Err(verdict.words()),
        };
        let subject = Subject { agent, target: head.target.clone(), port: head.port };
        let words = format!("{}, by the rule in {} ({})", shown(head), rule.from, rule.value);
        let rule = format!("{} ({})", rule.from, rule.value);
        let answer = self.questions.ask(subject, rule, |number| {
            let facts = Facts::from([("question", number.into())]);
            self.tell_facts(agent, ASKED, format!("question {number}: {words}"), facts);
        });
        let mut early = [0];
        let answer = tokio::select! {
            answer = answer => answer,
            // Nothing is due before it is connected, so this is its end.
            _ = stream.read(&mut early) => return Err("the agent did not wait for the answer".to_owned()),
        };
        answer.refusal().map_or(Ok(true), |why| Err(why.to_owned()))
    }

    /// A place for one more stream of an agent.
    fn enter(&self, agent: usize) -> Result<Place<'_>, &'static str> {
        self.counts.borrow_mut().enter(agent)?;
        Ok(Place { gate: self, agent })
    }

    /// Tells an event, as long as there are not too many.
    pub(super) fn tell(&self, agent: usize, kind: &str, words: String) {
        self.tell_facts(agent, kind, words, Facts::new());
    }

    /// The same, with facts.
    pub(super) fn tell_facts(&self, agent: usize, kind: &str, words: String, facts: Facts) {
        self.total(agent, |totals| totals.event(kind));
        // Rules are learned from both: as few as can be are left out.
        let frequent = [REQUEST, OBSERVED].contains(&kind);
        let left_out = self.counts.borrow_mut().event(agent, frequent);
        let Some(left_out) = left_out else { return };
        if left_out > 0 {
            let words = format!("{left_out} events about egress left out, as there were too many");
            (self.tell)(agent, LEFT_OUT, words, Facts::new());
        }
        (self.tell)(agent, kind, words, facts);
    }
}

const NO_LONGER: &str =
    "the rules that hold now do not allow it, or say something else of its requests";

/// Whether a stream that is looked into is so by the same rules: requests that are under way, and what became of one, were
/// allowed by those.
fn is_carried_alike(target: &Target, port: u16, old: &Policy, new: &Policy) -> bool {
    let Target::Name(name) = target else { return true };
    if !old.inspects(name, port) && !new.inspects(name, port) {
        return true;
    }
    let about = |policy: &Policy| {
        policy.about_name(name, port).map(|rule| rule.value.clone()).collect::<Vec<_>>()
    };
    about(old) == about(new) && old.observes() == new.observes()
}

async fn read_head(stream: &mut UnixStream) -> Option<Head> {
    let mut prefix = [0; 2];
    stream.read_exact(&mut prefix).await.ok()?;
    let mut bytes = vec![0; Head::length(prefix).ok()?];
    stream.read_exact(&mut bytes).await.ok()?;
    Head::decode(&bytes).ok()
}

/// Where it goes, for people. Names have their one form, so they can't steer a terminal.
fn shown(head: &Head) -> String {
    match &head.target {
        Target::Name(name) => format!("{name}:{}", head.port),
        Target::Address(address) => format!("{address}:{}", head.port),
    }
}

/// Where a stream goes, for programs; `looked_into`: its requests are told one by one.
fn facts(head: &Head, address: IpAddr, policy: &Policy) -> Facts {
    let mut facts =
        Facts::from([("address", address.to_string().into()), ("port", head.port.into())]);
    if let Target::Name(name) = &head.target {
        facts.insert("looked_into", policy.inspects(name, head.port).into());
        facts.insert("host", name.as_str().into());
    }
    facts
}

/// The same with what a stream or a request came to: bytes, and how long it took.
pub(super) fn came_to(mut facts: Facts, sent: u64, received: u64, took: Duration) -> Facts {
    let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    facts.extend([
        ("sent", sent.into()),
        ("received", received.into()),
        ("milliseconds", milliseconds.into()),
    ]);
    facts
}

fn allowed(to: &str, target: &Target, address: IpAddr, verdict: Verdict<'_>) -> String {
    match target {
        Target::Name(_) => format!("{to} at {address}, {}", verdict.words()),
        Target::Address(_) => format!("{to}, {}", verdict.words()),
    }
}

#[cfg(test)]
#[path = "gate_test.rs"]
mod tests;
