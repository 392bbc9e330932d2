//! The red-team suite: attacks from every place where hostile code may run, each with what it tries, why that must
//! fail and what was seen.
//!
//! What an attack does is in the program `cloister-prober`, which is started where a vmm, a file server, a guest's
//! kernel or an agent would be. What it says is judged here.

mod bed;
mod containers;
mod egress;
mod facts;
pub mod folder;
mod guests;
mod jailer;
pub mod page;
mod place;
mod places;
pub mod report;
mod state;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cloister_prober::wire::{Case, GROUPS, Group, MAX_CASES};

use crate::doctor;
use crate::launch::files::Files;
use crate::launch::jail::JailSpec;
use bed::Bed;
use report::{Outcome, Report, Seen};

/// How long one start of a prober, or one guest, may take. Seconds are usual on an emulated host.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Programs and images.
    pub files: Files,
    /// Where jails are.
    pub jail: JailSpec,
    /// Only cases whose name, with its group, contains this.
    pub only: Option<String>,
}

impl Wish {
    fn wants(&self, case: &Case) -> bool {
        self.only.as_ref().is_none_or(|only| report::full_name(case).contains(only.as_str()))
    }

    fn prober(&self) -> PathBuf {
        self.files.prober()
    }
}

/// The suite could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The program with the attacks.
    #[error("can't run {}", path.display())]
    Prober {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It did not say what its attacks are.
    #[error("{} did not list its cases", .0.display())]
    List(PathBuf),
    /// No case has such a name.
    #[error("no case's name contains {0:?}")]
    NoCase(String),
    /// The directory for files of the attacks.
    #[error("can't make a directory for the attacks' files")]
    Bed(#[source] std::io::Error),
}

impl ProveError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Prober { .. } | Self::List(_) => {
                "`make build` makes programs that belong together, among them cloister-prober"
            }
            Self::NoCase(_) => "`cloister prove --list` lists their names",
            Self::Bed(_) => "set TMPDIR to a directory of yours with room",
        }
    }
}

/// Every case that is asked for, in the order of reports.
///
/// # Errors
/// The program with the attacks is not there, or no case has such a name.
pub async fn cases(wish: &Wish) -> Result<Vec<Case>, ProveError> {
    let prober = wish.prober();
    let bytes = bed::run_prober(&prober, &["list"])
        .await
        .map_err(|source| ProveError::Prober { path: prober.clone(), source })?;
    let mut cases: Vec<Case> =
        serde_json::from_slice(&bytes).map_err(|_| ProveError::List(prober.clone()))?;
    if cases.len() > MAX_CASES {
        return Err(ProveError::List(prober));
    }
    cases.extend(jailer::cases());
    cases.extend(state::cases());
    cases.extend(egress::cases());
    cases.retain(|case| wish.wants(case));
    cases.sort_by_key(|case| case.group);
    match (cases.is_empty(), &wish.only) {
        (true, Some(only)) => Err(ProveError::NoCase(only.clone())),
        _ => Ok(cases),
    }
}

/// Collects what is seen, and says how far it is.
pub(crate) struct Progress<'a> {
    outcomes: Vec<Outcome>,
    all: usize,
    tell: &'a dyn Fn(&str),
}

impl Progress<'_> {
    pub(crate) fn add(&mut self, case: &Case, seen: Vec<Seen>) {
        self.outcomes.push(Outcome::new(case.clone(), seen));
        let (done, all) = (self.outcomes.len(), self.all);
        (self.tell)(&format!("{done} of {all} attacks: {}", report::full_name(case)));
    }

    /// None of these could be tried.
    pub(crate) fn none<'c>(&mut self, cases: impl IntoIterator<Item = &'c Case>, why: &str) {
        for case in cases {
            self.add(case, vec![Seen::not_run(why)]);
        }
    }
}

/// Runs the suite. Dropped before its end, it leaves nothing behind.
///
/// # Errors
/// It could not begin.
pub async fn prove(wish: &Wish, tell: &dyn Fn(&str)) -> Result<Report, ProveError> {
    let begun = Instant::now();
    let cases = cases(wish).await?;
    tell("looking at the host");
    let host = doctor::examine(&wish.files, &wish.jail).await;
    let bed = Bed::new(wish).await?;
    let mut progress = Progress { outcomes: Vec::new(), all: cases.len(), tell };
    for group in GROUPS {
        let cases: Vec<Case> = cases.iter().filter(|case| case.group == group).cloned().collect();
        if cases.is_empty() {
            continue;
        }
        match group {
            Group::Vmm | Group::FileServer => {
                let (own, rest): (Vec<Case>, Vec<Case>) =
                    cases.into_iter().partition(jailer::is_own);
                let (state, rest): (Vec<Case>, Vec<Case>) =
                    rest.into_iter().partition(state::is_own);
                places::run(&bed, group, &rest, &mut progress).await;
                jailer::run(&bed, &own, &mut progress).await;
                state::run(&bed, &state, &mut progress).await;
            }
            Group::GuestKernel => guests::run(&bed, &cases, &mut progress).await,
            Group::Container => containers::run(&bed, &host, &cases, &mut progress).await,
            Group::Egress => egress::run(&bed, &cases, &mut progress).await,
        }
    }
    Ok(Report::new(facts::of(wish, &host), begun.elapsed(), progress.outcomes))
}
