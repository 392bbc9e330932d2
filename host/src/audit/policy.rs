//! What a team was started with and may do, as its audit log tells it.

use serde_json::{Value, json};

use super::record::{By, Entry};
use crate::images::digest::Digest;
use crate::team::plan::{Agent, Plan};

/// What a team may do, for the record: the team's entry, and one for each agent. Commands and values of
/// the environment are left out, as they can hold secrets.
#[must_use]
pub fn of_plan(plan: &Plan, bytes: &[u8]) -> Vec<Entry> {
    let digest = Digest::of(bytes).to_string();
    let by = By {
        uid: rustix::process::geteuid().as_raw(),
        pid: i32::try_from(std::os::unix::process::parent_id()).unwrap_or_default(),
    };
    let team = Entry::new("team-started", "")
        .with("plan", digest)
        .with("machine", plain(&plan.machine))
        .with("lifetime", plain(&plan.lifetime))
        .with("egress-mode", plain(&plan.egress_mode))
        .with("volumes", plain(&plan.volumes));
    let agents = plan.agents.iter().map(|agent| {
        let names: Vec<_> = agent.environment.iter().map(|(name, _)| name.as_str()).collect();
        Entry::new("policy", format!("image {}", agent.image.name.value))
            .of(&agent.name.value)
            .with("image", agent.image.digest.as_str())
            .with("environment", names)
            .with("user", plain(&agent.user))
            .with("limits", plain(&agent.limits))
            .with("root", plain(&agent.root))
            .with("mounts", plain(&agent.mounts))
            .with("egress", plain(&agent.egress))
            .with("egress-quota", plain(&agent.egress_quota))
            .with("outputs", plain(&agent.outputs))
            .with("executables", plain(&agent.executables))
            .with("writable-directories", plain(&agent.writable_directories))
            .with("restart", plain(&agent.restart))
            .with("after", plain(&agent.after))
    });
    std::iter::once(Entry { by: Some(by), ..team }).chain(agents).collect()
}

/// The egress rules of all agents and their quotas, by name, as the log has them.
#[must_use]
pub fn egress_of(plan: &Plan) -> Value {
    let of = |agent: &Agent| {
        let rules = plain(&agent.egress);
        json!({ "rules": rules, "quota": plain(&agent.egress_quota) })
    };
    let named = plan.agents.iter().map(|agent| (agent.name.value.clone(), of(agent)));
    Value::Object(named.collect())
}

/// A part of a plan without where its values come from and without positions of descriptors.
fn plain(part: &impl serde::Serialize) -> Value {
    strip(serde_json::to_value(part).unwrap_or_default())
}

fn strip(value: Value) -> Value {
    match value {
        Value::Object(mut map) if map.contains_key("value") && map.contains_key("from") => {
            strip(map.remove("value").unwrap_or_default())
        }
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(key, _)| key != "descriptor" && key != "directory");
            Value::Object(kept.map(|(key, value)| (key, strip(value))).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(strip).collect()),
        value => value,
    }
}
