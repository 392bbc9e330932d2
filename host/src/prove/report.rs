//! What was seen, judged: as JSON for programs; the table and the page are made of the same.

use std::time::Duration;

use cloister_prober::wire::{Case, End, Expected, GROUPS, Group, Stage};
use rustix::io::Errno;
use serde::Serialize;

use super::facts::Facts;

/// The version of the JSON object's layout; a key that goes or changes its meaning raises it.
pub const SCHEMA: u32 = 1;

/// How a case came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The attack failed as it must.
    Held,
    /// It could not be tried here.
    NotRun,
    /// It failed, but not in the way that the layer which keeps it makes it fail.
    Unexpected,
    /// It succeeded.
    Succeeded,
}

impl Status {
    /// In one word, for a table.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::NotRun => "not run",
            Self::Unexpected => "UNEXPECTED",
            Self::Succeeded => "SUCCEEDED",
        }
    }
}

/// What was seen once: from a jail, in one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) status: Status,
    pub(crate) words: String,
}

impl Seen {
    pub(crate) fn new(held: bool, words: impl Into<String>) -> Self {
        let status = if held { Status::Held } else { Status::Succeeded };
        Self { status, words: words.into() }
    }

    pub(crate) fn not_run(why: &str) -> Self {
        Self { status: Status::NotRun, words: why.to_owned() }
    }

    pub(crate) fn unexpected(words: impl Into<String>) -> Self {
        Self { status: Status::Unexpected, words: words.into() }
    }

    /// Of an attack in a jail: how it ended (nothing: it succeeded), held against what must be.
    pub(crate) fn judged(expected: &Expected, end: Option<End>, words: &str) -> Self {
        let stage = expected.stage.word();
        let Some(end) = end else {
            return Self::new(false, format!("{stage}: succeeded: {words}"));
        };
        let words = format!("{stage}: {}", describe(end));
        if expected.ends.contains(&end) { Self::new(true, words) } else { Self::unexpected(words) }
    }

    pub(crate) fn at(stage: Stage, mut seen: Self) -> Self {
        seen.words = format!("{}: {}", stage.word(), seen.words);
        seen
    }
}

/// An end in words.
pub(crate) fn describe(end: End) -> String {
    match end {
        End::Trapped => "refused by the filter (SIGSYS)".to_owned(),
        End::Nothing => "nothing to be had".to_owned(),
        End::Errno(errno) => {
            let name = format!("{:?}", Errno::from_raw_os_error(errno));
            let error = std::io::Error::from_raw_os_error(errno).to_string();
            let text = error.split(" (os error").next().unwrap_or_default().to_owned();
            if name.chars().all(|letter| letter.is_ascii_uppercase()) {
                format!("refused: {text} (E{})", name.trim_start_matches('E'))
            } else {
                format!("refused: {text} (error {errno})")
            }
        }
        End::Killed(libc::SIGSYS) => "killed by SIGSYS".to_owned(),
        End::Killed(libc::SIGKILL) => "killed (SIGKILL)".to_owned(),
        End::Killed(signal) => format!("killed by signal {signal}"),
    }
}

/// A case and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Group and name.
    pub name: String,
    /// The group.
    pub group: Group,
    /// What it tries.
    pub tries: String,
    /// Why that must fail.
    pub why: String,
    /// How it came out: the worst of what was seen.
    pub status: Status,
    /// What was seen, in each stage.
    pub seen: Vec<String>,
}

/// A case's name with its group.
#[must_use]
pub fn full_name(case: &Case) -> String {
    format!("{}/{}", case.group.word(), case.name)
}

impl Outcome {
    pub(crate) fn new(case: Case, seen: Vec<Seen>) -> Self {
        let status = seen.iter().map(|seen| seen.status).max().unwrap_or(Status::NotRun);
        let name = full_name(&case);
        let seen = seen.into_iter().map(|seen| seen.words).collect();
        Self { name, group: case.group, tries: case.tries, why: case.why, status, seen }
    }
}

/// A group's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// The group.
    pub group: Group,
    /// Its cases.
    pub cases: usize,
    /// Failed as they must.
    pub held: usize,
    /// Succeeded.
    pub succeeded: usize,
    /// Failed otherwise.
    pub unexpected: usize,
    /// Not run.
    pub not_run: usize,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Every case was run, and held.
    pub ok: bool,
    /// The host, and as whom it was run.
    pub host: Facts,
    /// How long it took.
    pub duration_ms: u64,
    /// By group.
    pub summary: Vec<Sum>,
    /// Every case.
    pub cases: Vec<Outcome>,
}

impl Report {
    pub(crate) fn new(host: Facts, duration: Duration, cases: Vec<Outcome>) -> Self {
        let sum = |group: Group| {
            let of = |status| {
                cases.iter().filter(|one| one.group == group && one.status == status).count()
            };
            let (held, succeeded) = (of(Status::Held), of(Status::Succeeded));
            let (unexpected, not_run) = (of(Status::Unexpected), of(Status::NotRun));
            let cases = held + succeeded + unexpected + not_run;
            Sum { group, cases, held, succeeded, unexpected, not_run }
        };
        let summary: Vec<Sum> = GROUPS.into_iter().map(sum).filter(|sum| sum.cases > 0).collect();
        let ok = cases.iter().all(|one| one.status == Status::Held);
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self { schema: SCHEMA, ok, host, duration_ms, summary, cases }
    }

    /// Whether this is a success; cases that could not be run are one only if that is allowed.
    #[must_use]
    pub fn succeeds(&self, allow_skips: bool) -> bool {
        let fine = |one: &Outcome| match one.status {
            Status::Held => true,
            Status::NotRun => allow_skips,
            Status::Unexpected | Status::Succeeded => false,
        };
        self.cases.iter().all(fine)
    }

    /// The whole, in one sentence.
    #[must_use]
    pub fn verdict(&self) -> String {
        let count = |status| self.cases.iter().filter(|one| one.status == status).count();
        let (held, not_run) = (count(Status::Held), count(Status::NotRun));
        let (succeeded, unexpected) = (count(Status::Succeeded), count(Status::Unexpected));
        let all = self.cases.len();
        let mut text = format!("{held} of {all} attacks were held");
        for (count, words) in [
            (succeeded, "succeeded"),
            (unexpected, "failed otherwise than they must"),
            (not_run, "could not be run"),
        ] {
            if count > 0 {
                text.push_str(&format!(", {count} {words}"));
            }
        }
        text + "."
    }
}

#[cfg(test)]
#[path = "report_test.rs"]
mod tests;
