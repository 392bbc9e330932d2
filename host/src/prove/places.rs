//! Attacks from the places of a vmm and of a file server: in each stage, all that one process can try, then those that
//! take a process of their own.

use std::collections::BTreeMap;

use cloister_prober::wire::{Act, Case, Expected, Group, Said, Stage};

use super::Progress;
use super::bed::{self, Bed};
use super::place::{Heard, Prober};
use super::report::Seen;
use crate::text::printable_line;

const STAGES: [Stage; 5] = [Stage::Loop, Stage::Vcpu, Stage::Serving, Stage::Setup, Stage::Bare];

/// What is known of each case, by its name.
type Found = BTreeMap<String, Vec<Seen>>;

pub(super) async fn run(bed: &Bed<'_>, group: Group, cases: &[Case], progress: &mut Progress<'_>) {
    let mut found = Found::new();
    // Everything that is started inherits it, so it is not open any longer than it must.
    let leaked = bed::leak();
    for stage in STAGES {
        let here: Vec<&Case> =
            cases.iter().filter(|case| expected(case, stage).is_some()).collect();
        let (alone, together): (Vec<&Case>, Vec<&Case>) =
            here.into_iter().partition(|case| case.alone);
        let mut left = together;
        // With one case alone there is no need to try all.
        if left.len() > 1 {
            attack(bed, group, stage, &left, None, &mut found).await;
            left.retain(|case| {
                let seen = found.get(&case.name).into_iter().flatten();
                !seen.into_iter().any(|seen| seen.words.starts_with(stage.word()))
            });
        }
        // What a process that ended early has not tried is tried by itself.
        for case in left.into_iter().chain(alone) {
            attack(bed, group, stage, &[case], Some(&case.name), &mut found).await;
        }
    }
    drop(leaked);
    for case in cases {
        progress.add(case, found.remove(&case.name).unwrap_or_default());
    }
}

fn expected(case: &Case, stage: Stage) -> Option<&Expected> {
    case.expected.iter().find(|expected| expected.stage == stage)
}

async fn attack(
    bed: &Bed<'_>,
    group: Group,
    stage: Stage,
    cases: &[&Case],
    only: Option<&str>,
    found: &mut Found,
) {
    let mut note = |name: &str, seen: &dyn Fn(&Expected) -> Seen| {
        let case = cases.iter().find(|case| case.name == name);
        if let Some(expected) = case.and_then(|case| expected(case, stage)) {
            found.entry(name.to_owned()).or_default().push(seen(expected));
        }
    };
    let mut prober = match Prober::start(bed, group, stage, only, Act::Attack).await {
        Ok(prober) => prober,
        Err(why) => {
            for case in cases {
                note(&case.name, &|_| Seen::at(stage, Seen::not_run(&printable_line(&why))));
            }
            return;
        }
    };
    let mut begun = only.map(str::to_owned);
    loop {
        match prober.hear().await {
            Heard::Said(Said::Begins(name)) => begun = Some(name),
            Heard::Said(Said::Saw { name, end, words }) => {
                begun = None;
                note(&name, &|expected| Seen::judged(expected, end, &printable_line(&words)));
            }
            Heard::Said(Said::Unable { words, .. }) => {
                for case in cases {
                    note(&case.name, &|_| Seen::at(stage, Seen::not_run(&printable_line(&words))));
                }
                return;
            }
            Heard::Said(Said::Done) => return,
            Heard::Ended { end, stderr } => {
                let Some(name) = begun else { return };
                note(&name, &|expected| match end {
                    Some(end) => Seen::judged(expected, Some(end), ""),
                    None => Seen::at(stage, Seen::unexpected(format!("it ended: {stderr}"))),
                });
                return;
            }
            Heard::Refused(error) => {
                let Some(name) = begun else { return };
                note(&name, &|_| Seen::at(stage, Seen::unexpected(error.to_string())));
                return;
            }
        }
    }
}
