//! What of two plans of one team differs beside their egress, as names for people.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::plan::{Agent, Plan, Source};
use crate::egress::quota::Quota;

/// Where they differ: names of keys with dots between, in their order. Where values come from, what lies behind names of
/// images, and positions of descriptors are no differences: nothing is started.
#[must_use]
pub fn beside_egress(old: &Plan, new: &Plan) -> Vec<String> {
    let mut found = Vec::new();
    compare("", &comparable(old), &comparable(new), &mut found);
    found
}

/// Where a plan differs from that of a team that was kept, beside egress and the team's name: also by images, whose files
/// its agents have open.
#[must_use]
pub fn of_kept(kept: &Plan, now: &Plan) -> Vec<String> {
    let mut renamed = kept.clone();
    renamed.name = now.name.clone();
    let mut found = beside_egress(&renamed, now);
    for (old, new) in kept.agents.iter().zip(&now.agents) {
        let image = |agent: &Agent| (agent.image.digest.clone(), agent.image.chain.clone());
        let key = format!("agents.{}.image", new.name.value);
        if old.name.value == new.name.value && image(old) != image(new) && !found.contains(&key) {
            found.push(key);
        }
    }
    found
}

/// The plan without what is not compared, agents by their names.
fn comparable(plan: &Plan) -> Value {
    let mut plan = plan.clone();
    plan.egress_mode = super::setting::Setting::usual(super::spec::Mode::Enforce);
    if let Some(kernel) = &mut plan.machine.kernel {
        kernel.descriptor = 0;
    }
    for agent in &mut plan.agents {
        agent.egress.clear();
        agent.egress_quota = super::setting::Setting::usual(Quota::default());
        let image = &mut agent.image;
        (image.root, image.lock) = (0, 0);
        image.digest.clear();
        image.chain.clear();
        for mount in &mut agent.mounts {
            if let Source::Host { real, descriptor, .. } = &mut mount.source {
                *descriptor = 0;
                real.clear();
            }
        }
        for output in &mut agent.outputs {
            output.directory = 0;
        }
    }
    let named = plan.agents.iter().map(|agent| {
        let value = serde_json::to_value(agent).unwrap_or_default();
        (agent.name.value.clone(), bare(value))
    });
    let named: Map<String, Value> = named.collect();
    plan.agents.clear();
    let mut whole = bare(serde_json::to_value(plan).unwrap_or_default());
    if let Some(whole) = whole.as_object_mut() {
        whole.insert("agents".to_owned(), Value::Object(named));
    }
    whole
}

/// A value without where its parts come from.
fn bare(value: Value) -> Value {
    match value {
        Value::Object(mut map) if map.contains_key("value") && map.contains_key("from") => {
            bare(map.remove("value").unwrap_or_default())
        }
        Value::Object(map) => {
            // What allows a mount is the operator's to say.
            let kept = map.into_iter().filter(|(key, _)| key != "grant");
            Value::Object(kept.map(|(key, value)| (key, bare(value))).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(bare).collect()),
        value => value,
    }
}

fn compare(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    if old == new {
        return;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return found.push(path.to_owned());
    };
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (old.get(key), new.get(key)) {
            (Some(old), Some(new)) => compare(&path, old, new, found),
            _ => found.push(path),
        }
    }
}

#[cfg(test)]
#[path = "difference_test.rs"]
mod tests;
