//! The order of a comparison: every subject in turn, again and again, so that whatever changes on the
//! machine meanwhile meets all of them alike.

use anyhow::Context;

use crate::clock::settle;
use crate::subject::{Job, Run, Subject};

/// A subject with its measurements.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What was measured.
    pub subject: Subject,
    /// What was found, in order.
    pub runs: Vec<Run>,
}

/// Measures each subject `count` times, after `warmup` rounds that are thrown away.
///
/// # Errors
/// The first measurement that fails: a comparison with holes in it is none.
pub fn compare(
    subjects: &[Subject],
    job: &Job,
    warmup: u32,
    count: u32,
) -> anyhow::Result<Vec<Measured>> {
    let mut measured: Vec<_> = subjects
        .iter()
        .map(|subject| Measured { subject: subject.clone(), runs: vec![] })
        .collect();
    let rounds = warmup.saturating_add(count);
    for round in 0..rounds {
        for entry in &mut measured {
            let prepared = entry.subject.prepare(job)?;
            settle(round.into());
            let run = prepared
                .run(&job.marker)
                .with_context(|| format!("{}, round {round}", entry.subject.name()))?;
            if round >= warmup {
                entry.runs.push(run);
            }
        }
    }
    Ok(measured)
}
