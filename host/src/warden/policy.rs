//! Other egress rules for a team that runs: taken as a whole or not at all.
//!
//! What can be wrong is found before anything changes. Then the supervisor gets its copies, and gets the old ones again if
//! one is not taken; the host's own rules, which alone decide, change last and at once.

use std::path::Path;

use cloister_protocol::egress::Egress;

use super::api::{Call, Reply};
use super::begin::MAX_PLAN;
use super::channel::{Channel, ChannelError};
use super::egress::{OBSERVING_FORBIDDEN, look_for_secrets};
use super::recipe::AgentRecipe;
use super::team::Team;
use crate::audit::policy::egress_of;
use crate::audit::record::{By, Entry};
use crate::egress::operator::{OPERATORS_FILE, Operator};
use crate::egress::policy::Policy;
use crate::images::digest::Digest;
use crate::report::{chain, describe};
use crate::team::difference::beside_egress;
use crate::team::plan::Plan;

/// Most differences that are named.
const MAX_NAMED: usize = 8;

/// Takes the parts of a plan, and puts its egress rules in place of the team's.
pub(super) async fn apply(
    team: &Team,
    by: By,
    bytes: u64,
    mut channel: Channel,
) -> Result<(), ChannelError> {
    let mut plan = Vec::new();
    while (plan.len() as u64) < bytes {
        match channel.receive().await? {
            Some(Call::Plan(part)) if plan.len().saturating_add(part.len()) <= MAX_PLAN => {
                plan.extend(part);
            }
            _ => return Err(ChannelError::Gone),
        }
    }
    // One after the other: each is held against what the one before has made.
    let _turn = team.applying.lock().await;
    let _calm = team.calm.read().await;
    let reply = match change(team, by, &plan).await {
        Ok(digest) => Reply::Applied { digest },
        Err(words) => {
            let entry = Entry::new("policy-refused", words.clone());
            team.audit.note(Entry { by: Some(by), ..entry });
            Reply::Refused { words }
        }
    };
    channel.send(&reply, &[]).await
}

async fn change(team: &Team, by: By, bytes: &[u8]) -> Result<String, String> {
    let plan: Plan = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let policies = check(team, &plan)?;
    let for_guest: Vec<Egress> =
        policies.iter().map(|policy| policy.for_guest().unwrap_or_default()).collect();
    let gate = team.gate.get().ok_or(NO_GATE)?;
    // Containers that are made from now on have the new ones.
    let old = team.egress.replace(for_guest.clone());
    if let Err(words) = tell_supervisor(team, &for_guest).await {
        team.egress.replace(old.clone());
        return Err(match tell_supervisor(team, &old).await {
            Ok(()) => words,
            // The host's own decide, so nothing is open that was not; some may be closed.
            Err(again) => format!("{words}; and its old rules are not in place again: {again}"),
        });
    }
    let (rules, mode) = (egress_of(&plan), plan.egress_mode.value);
    let digest = Digest::of(rules.to_string().as_bytes()).to_string();
    let entry = Entry::new("policy-applied", digest.clone())
        .with("digest", digest.clone())
        .with("egress-mode", mode.word())
        .with("egress", rules);
    team.audit.note(Entry { by: Some(by), ..entry });
    gate.replace(policies);
    team.plan.replace(plan);
    team.set_observes(mode.observes());
    Ok(digest)
}

const NO_GATE: &str = "no agent of the team had a way outside when it was started\n\
    restart the team, so that its containers are made with one";

/// Everything that can be wrong; the new rules, in the order of the team's agents.
fn check(team: &Team, plan: &Plan) -> Result<Vec<Policy>, String> {
    let differences = beside_egress(&team.plan.borrow(), plan);
    if !differences.is_empty() {
        let named: Vec<&str> = differences.iter().take(MAX_NAMED).map(String::as_str).collect();
        let more = if differences.len() > MAX_NAMED { " and more" } else { "" };
        return Err(format!(
            "the file differs from what runs in more than egress: {}{more}\n\
             restart the team with it, or change its egress rules alone",
            named.join(", ")
        ));
    }
    if team.gate.get().is_none() {
        return Err(NO_GATE.to_owned());
    }
    let observes = plan.egress_mode.value.observes();
    let operator = Operator::load(Path::new(OPERATORS_FILE))
        .map_err(|error| describe(&error, Some(error.remedy())))?;
    if observes && !operator.observe {
        return Err(OBSERVING_FORBIDDEN.to_owned());
    }
    let mut policies = Vec::new();
    for (recipe, now) in team.recipes.iter().zip(team.egress.borrow().iter()) {
        let agent = plan.agents.iter().find(|agent| agent.name.value == recipe.name);
        // Names were compared.
        let rules = agent.map(|agent| agent.egress.clone()).unwrap_or_default();
        let quota = agent.map(|agent| agent.egress_quota.value).unwrap_or_default();
        let policy = Policy::new(rules).observing(observes).bounded(quota);
        fits(recipe, &policy)?;
        look_for_secrets(&recipe.name, &policy, &team.secrets)?;
        let spec = cloister_protocol::agent::AgentSpec {
            egress: policy.for_guest().or_else(|| Some(now.clone())),
            ..recipe.spec.clone()
        };
        spec.validate().map_err(|broken| format!("{}: {broken}", recipe.name))?;
        policies.push(policy);
    }
    Ok(policies)
}

/// Whether an agent's container, which was made for other rules, can do with these.
fn fits(recipe: &AgentRecipe, policy: &Policy) -> Result<(), String> {
    let name = &recipe.name;
    if recipe.spec.egress.is_none() && !policy.is_empty() {
        return Err(format!(
            "{name} had no egress rules when the team was started, so its container has no name server\n\
             restart the team"
        ));
    }
    if recipe.trusted.is_none() && policy.inspects_any() {
        return Err(format!(
            "rules of {name} look at requests, and none did when the team was started: its container does not trust the team's certificates\n\
             restart the team"
        ));
    }
    Ok(())
}

/// Gives the supervisor its copies, of agents whose containers are there.
pub(super) async fn tell_supervisor(team: &Team, rules: &[Egress]) -> Result<(), String> {
    for (recipe, rules) in team.recipes.iter().zip(rules) {
        if recipe.spec.egress.is_none() {
            continue;
        }
        let set = team.machine.set_egress(recipe.spec.agent, rules.clone()).await;
        set.map_err(|error| format!("{}: {}", recipe.name, chain(&error)))?;
    }
    Ok(())
}
