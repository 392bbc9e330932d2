//! Attacks of an agent on its own rules: streams, names, TLS and requests that the warden's gate must stop. The gate is the
//! real one; the hosts behind it, and the name server, are made here, on this host's loopback. No guest is needed.

mod ground;
mod hellos;
mod names;
mod requests;
mod secrets;

use std::time::Duration;

use cloister_prober::wire::{Case, Group};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::Progress;
use super::bed::Bed;
use super::report::Seen;
use crate::text::printable_line;
use ground::Ground;

/// How long one attack may take. The longest waits for the limit on a silent client, which is 15 s.
const ATTACK_LIMIT: Duration = Duration::from_secs(40);

/// An attack.
struct Row {
    name: &'static str,
    tries: &'static str,
    why: &'static str,
    /// What the gate's words must have in them: another refusal is not the one that keeps it.
    by: &'static str,
    attack: Attack,
}

/// What is done.
enum Attack {
    /// An agent (its number) asks for a stream to a name or an address, on the server's port if none is said.
    Stream(u32, &'static str, Option<u16>),
    /// A stream's head has a name in it that is none.
    Head(&'static str),
    /// A TLS client begins so, on a stream that is not looked into.
    Hello(hellos::Hello),
    /// A request on a stream that is looked into.
    Request(&'static str),
    /// A request within another one's body, framed so.
    Hidden(&'static str),
    /// A request in opened TLS, to a host that gets a secret.
    Secret(&'static str),
    /// The same, of a secret that breaks its line.
    BrokenSecret,
    /// The same, of a host that tells the secret back.
    ToldBack,
}

fn rows() -> impl Iterator<Item = &'static Row> {
    [names::ROWS, hellos::ROWS, requests::ROWS, secrets::ROWS].into_iter().flatten()
}

pub(super) fn cases() -> Vec<Case> {
    let case = |row: &Row| Case {
        group: Group::Egress,
        name: row.name.to_owned(),
        tries: row.tries.to_owned(),
        why: row.why.to_owned(),
        expected: Vec::new(),
        alone: true,
        exits: Vec::new(),
        goes_on: false,
        shares: false,
    };
    rows().map(case).collect()
}

pub(super) async fn run(bed: &Bed<'_>, cases: &[Case], progress: &mut Progress<'_>) {
    let attacks = async {
        for case in cases {
            let Some(row) = rows().find(|row| row.name == case.name) else { continue };
            let seen = match Ground::new(&bed.path("egress")).await {
                Ok(ground) => timeout(ATTACK_LIMIT, attack(row, &ground))
                    .await
                    .unwrap_or_else(|_| Seen::unexpected("it did not end in time")),
                Err(why) => Seen::not_run(&printable_line(&why)),
            };
            progress.add(case, vec![seen]);
        }
    };
    // The gate's tasks are of this thread.
    LocalSet::new().run_until(attacks).await;
}

async fn attack(row: &Row, ground: &Ground) -> Seen {
    match row.attack {
        Attack::Stream(agent, to, port) => names::stream_attack(row, ground, agent, to, port).await,
        Attack::Head(name) => names::head_attack(ground, name).await,
        Attack::Hello(hello) => hellos::attack(row, ground, hello).await,
        Attack::Request(request) => requests::attack(row, ground, request).await,
        Attack::Hidden(framing) => requests::hidden_attack(ground, framing).await,
        Attack::Secret(request) => secrets::attack(row, ground, request).await,
        Attack::BrokenSecret => secrets::broken(row, ground).await,
        Attack::ToldBack => secrets::told_back(row, ground).await,
    }
}

/// What the gate told, held against what it must: nothing may have come to the server.
fn judge(row: &Row, ground: &Ground) -> Seen {
    let heard = ground.heard();
    if !heard.is_empty() {
        let heard: String = heard.chars().take(200).collect();
        return Seen::new(false, format!("the server got {}", printable_line(&heard)));
    }
    by(row, ground)
}

/// Whether the gate told that it was stopped by what must stop it.
fn by(row: &Row, ground: &Ground) -> Seen {
    let told = ground.told();
    let shown = |told: &str| printable_line(&told.chars().take(400).collect::<String>());
    match told.iter().find(|one| one.contains(row.by)) {
        Some(one) => Seen::new(true, shown(one)),
        None if told.is_empty() => Seen::unexpected("it was stopped, and nothing was told"),
        None => Seen::unexpected(shown(&told.join("; "))),
    }
}

#[cfg(test)]
#[path = "egress_test.rs"]
mod tests;
