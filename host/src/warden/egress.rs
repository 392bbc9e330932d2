//! The team's gate to the outside: made before the machine starts, open while it runs.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::rc::Rc;

use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::certificates;
use super::events::Event;
use super::recipe::Recipe;
use super::team::Team;
use crate::audit::record::Entry;
use crate::egress::authority::Authority;
use crate::egress::connect::Connector;
use crate::egress::gate::{Facts, Gate, REQUEST};
use crate::egress::http::Opener;
use crate::egress::operator::{OPERATORS_FILE, Operator};
use crate::egress::policy::Policy;
use crate::egress::resolve::Resolver;
use crate::egress::trust::Trust;
use crate::report::describe;
use crate::secrets::Store;
use crate::state::StateDir;

/// Streams that wait to be taken; the guest is refused more.
const QUEUE: usize = 64;

/// What a team is told that wants to observe where the operator forbids it.
pub(super) const OBSERVING_FORBIDDEN: &str = "cloister: the operator forbids observing (`observe = false` in /etc/cloister/egress.toml)\n\
    take `egress-mode` out of the team file, so that its rules are enforced";

/// What a team's gate is made of.
pub(super) struct Parts {
    connector: Connector,
    opener: Option<Opener>,
}

/// What makes connections for this team; nothing, if no agent may reach anything. Agents whose streams are
/// opened are given the certificate that they must trust, by way of the team's directory; of a team that was kept that
/// of its authority, which they trust already.
///
/// # Errors
/// The operator's file or the system's configuration can't be used; in words, with what to do.
pub(super) fn prepare(
    recipe: &mut Recipe,
    kept: Option<Authority>,
    state: &StateDir,
) -> Result<Option<Parts>, String> {
    // Agents that were kept go on trusting, whatever their rules are now.
    let trusts = recipe.agents.iter().any(|agent| agent.trusted.is_some());
    if recipe.agents.iter().all(|agent| agent.egress.is_empty()) && !trusts {
        return Ok(None);
    }
    let operator = Operator::load(Path::new(OPERATORS_FILE))
        .map_err(|error| describe(&error, Some(error.remedy())))?;
    if !operator.observe && recipe.agents.iter().any(|agent| agent.egress.observes()) {
        return Err(OBSERVING_FORBIDDEN.to_owned());
    }
    let resolver = Resolver::new(&operator).map_err(|error| {
        let remedy = "put /etc/resolv.conf in order, or name servers in /etc/cloister/egress.toml";
        describe(&error, Some(remedy))
    })?;
    let opener = if trusts {
        let secrets = Store::of(state);
        for agent in &recipe.agents {
            look_for_secrets(&agent.name, &agent.egress, &secrets)?;
        }
        let trust =
            Trust::load(&operator).map_err(|error| describe(&error, Some(error.remedy())))?;
        let authority = match kept {
            Some(authority) => authority,
            None => Authority::new(&recipe.name).map_err(|error| describe(&error, None))?,
        };
        certificates::install(recipe, &authority, &state.team(&recipe.name)).map_err(|error| {
            format!("can't write the certificates of the team's agents: {error}")
        })?;
        Some(Opener::new(authority, trust, secrets, &resolver))
    } else {
        None
    };
    Ok(Some(Parts { connector: Connector { resolver, operator }, opener }))
}

/// Every secret that a rule names must be there, open, and what the rule wants. What a reference leads to is not read yet.
pub(super) fn look_for_secrets(
    agent: &str,
    policy: &Policy,
    secrets: &Store,
) -> Result<(), String> {
    for rule in policy.rules() {
        let credential = rule.value.http.as_ref().and_then(|http| http.credential.as_ref());
        let Some(credential) = credential else { continue };
        let kept = secrets.find(&credential.secret);
        kept.and_then(|kept| credential.suits(&kept)).map_err(|error| {
            let words = describe(&error, Some(error.remedy()));
            format!("cloister: the egress rule of {agent} in {}: {words}", rule.from)
        })?;
    }
    Ok(())
}

/// Lets the machine's streams out, by the rules of the team's agents, as long as the machine runs. `used`: what they have
/// used of their quotas before.
pub(super) async fn open(team: Rc<Team>, parts: Parts, used: Vec<(u64, u64)>) {
    let policies = team.recipes.iter().map(|agent| agent.egress.clone()).collect();
    let teller = Rc::clone(&team);
    let tell = move |agent: usize, kind: &str, words: String, facts: Facts| {
        let event = Event::now(kind, words).of(&teller.recipes, agent);
        // Requests are too many for the events, which are for people.
        if kind != REQUEST {
            teller.note_for_people(&event);
        }
        teller.audit.note(Entry { data: facts, ..event.entry() });
    };
    let gate = Gate::new(policies, parts.connector, Box::new(tell)).with_opener(parts.opener);
    let gate = Rc::new(gate.having_used(&used));
    // Only here, and once.
    team.gate.set(Rc::clone(&gate)).ok();
    let (queue, mut streams) = mpsc::channel::<StdUnixStream>(QUEUE);
    if team.machine.let_out(queue).await.is_err() {
        return;
    }
    while let Some(stream) = streams.recv().await {
        let taken = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
        // One that can't be taken is closed: a reset for the agent.
        if let Ok(stream) = taken {
            tokio::task::spawn_local(Rc::clone(&gate).pass(stream));
        }
    }
}
