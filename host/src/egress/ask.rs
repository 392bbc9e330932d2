//! Questions to the operator: a connection that a rule with `action = "ask"` is about waits here for a word.
//!
//! A question is about one agent, one target and one port, however many connections wait for its answer. No answer in time is
//! a no, and so is a change of the rules; an answer counts for the connections that wait for it, or is kept until the rules
//! change or the team ends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use cloister_protocol::egress::Target;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use super::limits::{ASK_LIMIT, MAX_KEPT_ANSWERS, MAX_QUESTIONS_AGENT};

/// What a question is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    /// The agent's place.
    pub(super) agent: usize,
    pub(super) target: Target,
    pub(super) port: u16,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Name(name) => write!(f, "{name}:{}", self.port),
            Target::Address(address) => write!(f, "{}:{}", IpAddr::V4(*address), self.port),
        }
    }
}

/// A question that waits for its answer, for whoever answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Its number: the first of a team is 1, and none comes twice.
    pub number: u64,
    /// The agent's place among the team's.
    pub agent: usize,
    /// Host or address, and port.
    pub to: String,
    /// The rule that asks, and where it stands.
    pub rule: String,
    /// When it was asked first, in milliseconds since 1970.
    pub asked_ms: u64,
    /// Connections that wait for the answer.
    pub connections: u64,
}

/// What became of a question, for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    No,
    /// Nobody answered in time.
    None,
    /// The rules changed while it waited.
    OtherRules,
    /// As many of the agent's wait as may.
    TooMany,
}

impl Answer {
    /// Why there is no connection, in words; nothing for a yes.
    pub(super) const fn refusal(self) -> Option<&'static str> {
        match self {
            Self::Yes => None,
            Self::No => Some("the operator was asked, and said no"),
            Self::None => Some("the operator was asked, and did not answer in time"),
            Self::OtherRules => Some("the operator was asked, and the rules changed meanwhile"),
            Self::TooMany => Some("too many questions of this agent wait for the operator already"),
        }
    }
}

/// Why an answer is not taken.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AnswerError {
    /// No such question waits.
    #[error("no question {0} waits for an answer")]
    NoQuestion(u64),
    /// As many are kept as may be.
    #[error(
        "{MAX_KEPT_ANSWERS} answers are kept already: write a rule, or answer for this time alone"
    )]
    TooMany,
}

#[derive(Debug)]
struct Waiting {
    subject: Subject,
    rule: String,
    asked_ms: u64,
    connections: u64,
    answer: watch::Sender<Option<Answer>>,
}

/// All questions of a team.
#[derive(Debug, Default)]
pub(super) struct Questions {
    waiting: RefCell<BTreeMap<u64, Waiting>>,
    last: Cell<u64>,
    kept: RefCell<BTreeMap<Subject, bool>>,
}

/// A connection's place at a question; the question goes with the last.
struct Seat<'a> {
    questions: &'a Questions,
    number: u64,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut waiting = self.questions.waiting.borrow_mut();
        let Some(question) = waiting.get_mut(&self.number) else { return };
        question.connections = question.connections.saturating_sub(1);
        if question.connections == 0 {
            waiting.remove(&self.number);
        }
    }
}

impl Questions {
    /// Waits for the answer about a connection. `tell` gets the number of a question that was not there before.
    pub(super) async fn ask(
        &self,
        subject: Subject,
        rule: String,
        tell: impl FnOnce(u64),
    ) -> Answer {
        if let Some(yes) = self.kept.borrow().get(&subject) {
            return if *yes { Answer::Yes } else { Answer::No };
        }
        let Some((seat, mut answer, is_new)) = self.join(subject, rule) else {
            return Answer::TooMany;
        };
        if is_new {
            tell(seat.number);
        }
        match timeout(ASK_LIMIT, answer.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => (*answer).unwrap_or(Answer::None),
            Ok(Err(_)) | Err(_) => Answer::None,
        }
    }

    /// A seat at the question about this, and how its answer will come; whether the question is new.
    fn join(
        &self,
        subject: Subject,
        rule: String,
    ) -> Option<(Seat<'_>, watch::Receiver<Option<Answer>>, bool)> {
        let mut waiting = self.waiting.borrow_mut();
        let known = waiting.iter_mut().find(|(_, question)| question.subject == subject);
        if let Some((number, question)) = known {
            question.connections = question.connections.saturating_add(1);
            let seat = Seat { questions: self, number: *number };
            return Some((seat, question.answer.subscribe(), false));
        }
        let own = waiting.values().filter(|question| question.subject.agent == subject.agent);
        if own.count() >= MAX_QUESTIONS_AGENT {
            return None;
        }
        let number = self.last.get().saturating_add(1);
        self.last.set(number);
        let (answer, receiver) = watch::channel(None);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let asked_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        waiting.insert(number, Waiting { subject, rule, asked_ms, connections: 1, answer });
        Some((Seat { questions: self, number }, receiver, true))
    }

    /// Those that wait, in the order in which they were asked.
    pub(super) fn list(&self) -> Vec<Question> {
        let waiting = self.waiting.borrow();
        let question = |(number, question): (&u64, &Waiting)| Question {
            number: *number,
            agent: question.subject.agent,
            to: question.subject.to_string(),
            rule: question.rule.clone(),
            asked_ms: question.asked_ms,
            connections: question.connections,
        };
        waiting.iter().map(question).collect()
    }

    /// Answers a question, for the connections that wait or, if it is to be `kept`, for those to come too. What it was.
    ///
    /// # Errors
    /// It does not wait (any more), or too many answers are kept.
    pub(super) fn answer(
        &self,
        number: u64,
        yes: bool,
        keep: bool,
    ) -> Result<Question, AnswerError> {
        let question = self.list().into_iter().find(|question| question.number == number);
        let question = question.ok_or(AnswerError::NoQuestion(number))?;
        let mut waiting = self.waiting.borrow_mut();
        let subject = waiting.get(&number).map(|waiting| waiting.subject.clone());
        if let Some(subject) = subject.filter(|_| keep) {
            let mut kept = self.kept.borrow_mut();
            if kept.len() >= MAX_KEPT_ANSWERS {
                return Err(AnswerError::TooMany);
            }
            kept.insert(subject, yes);
        }
        // The next connection is a new question, unless the answer is kept.
        if let Some(waiting) = waiting.remove(&number) {
            waiting.answer.send_replace(Some(if yes { Answer::Yes } else { Answer::No }));
        }
        Ok(question)
    }

    /// Other rules hold: what was answered is forgotten, and what waits is refused.
    pub(super) fn clear(&self) {
        self.kept.take();
        for waiting in self.waiting.take().into_values() {
            waiting.answer.send_replace(Some(Answer::OtherRules));
        }
    }
}

#[cfg(test)]
#[path = "ask_test.rs"]
mod tests;
