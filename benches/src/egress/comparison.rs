//! The order of the comparison: for each protocol and kind of work every place in turn, round after round.

use std::io::Write as _;

use anyhow::Context as _;
use serde::Serialize;

use super::client::Clients;
use super::work::{Size, Work};
use super::{Place, Protocol, processor};
use crate::clock::settle;
use crate::rounds::Line;

/// What one measurement found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was spoken.
    pub protocol: Protocol,
    /// What was done; in JSON its name.
    #[serde(skip)]
    pub work: Work,
    /// How long it took.
    #[serde(flatten)]
    pub line: Line,
    /// What it took of the processors in who is between client and server; nothing if nobody is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processor_ns: Option<u64>,
}

/// A place with its findings.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Its name.
    pub name: &'static str,
    /// Whether it is the product's own.
    pub is_ours: bool,
    /// In order, one list a round.
    pub rounds: Vec<Vec<Finding>>,
}

/// Measures each place `count` times, after `warmup` rounds that are thrown away.
///
/// # Errors
/// The first measurement that fails: a comparison with holes in it is none.
pub fn compare(
    places: &[Place],
    clients: &Clients,
    size: &Size,
    (warmup, count): (u32, u32),
) -> anyhow::Result<Vec<Measured>> {
    let measured = |place: &Place| {
        let rounds = Vec::new();
        Measured { name: place.name, is_ours: place.is_ours, rounds }
    };
    let mut all: Vec<Measured> = places.iter().map(measured).collect();
    for round in 0..warmup.saturating_add(count) {
        // A closed stream is no reason to end.
        writeln!(std::io::stderr(), "bench-egress: round {round}").ok();
        let mut findings = vec![Vec::new(); places.len()];
        for case in size.cases() {
            for (place, findings) in places.iter().zip(&mut findings) {
                let finding = measure(place, clients, case, size, round);
                let (protocol, work) = (case.0.words(), case.1.name());
                let words = || format!("{}, {protocol}, {work}", place.name);
                findings.push(finding.with_context(words)?);
            }
        }
        if round >= warmup {
            all.iter_mut().zip(findings).for_each(|(one, findings)| one.rounds.push(findings));
        }
    }
    Ok(all)
}

fn measure(
    place: &Place,
    clients: &Clients,
    (protocol, work): (Protocol, Work),
    size: &Size,
    round: u32,
) -> anyhow::Result<Finding> {
    let client = clients.of(place, protocol)?;
    // One for each, so that no connection is left over from the last.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    settle(round.into());
    let before = used_ns(place)?;
    let line = runtime.block_on(work.run(&client, size))?;
    drop(runtime);
    // What is done after the last byte, such as closing and recording, is part of what it takes.
    settle(round.into());
    let processor_ns =
        used_ns(place)?.zip(before).map(|(after, before)| after.saturating_sub(before));
    Ok(Finding { protocol, work, line, processor_ns })
}

/// Nothing if nobody is between.
fn used_ns(place: &Place) -> anyhow::Result<Option<u64>> {
    if place.processes.is_empty() {
        return Ok(None);
    }
    let used = place.processes.iter().map(|process| processor::used_ns(*process));
    Ok(Some(used.sum::<anyhow::Result<u64>>()?))
}
