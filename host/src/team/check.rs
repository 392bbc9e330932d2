//! What must fit together in a team file: agents and what they wait for, mounts, memory, outputs.

use std::collections::{BTreeMap, BTreeSet};

use super::amount::{show_size, show_thousandths};
use super::file::{AgentFile, MountSource, TeamFile};
use super::limits::{MACHINE_MEMORY, MAX_SPEC_TEXT, MAX_TEAM_MOUNTS, machine_overhead};
use super::mistake::nearest;
use super::order;
use super::read::Reader;
use super::rules::{is_at_or_below, reserved};
use super::setting::Setting;
use super::spec::Root;

/// Notes everything that does not fit.
pub(super) fn check(reader: &Reader<'_>, team: &TeamFile) {
    machine(reader, team);
    dependencies(reader, team);
    descriptors(reader, team);
    let mut outputs = BTreeMap::new();
    for agent in &team.agents {
        resources(reader, team, agent);
        command(reader, agent);
        mounts(reader, team, agent);
        paths(reader, agent);
        super::egress::check(reader, agent, team.egress_mode.value.observes());
        for output in &agent.outputs {
            if let Some(first) = outputs.insert(&output.to.value, agent) {
                let what = format!(
                    "`to` is \"{}\", which agent `{}` writes already",
                    output.to.value, first.name.value
                );
                reader.add(output.to.from.place(), what, "give each output a name of its own");
            }
        }
    }
}

fn machine(reader: &Reader<'_>, team: &TeamFile) {
    let memory = team.memory;
    if !memory.value.is_multiple_of(1 << 20) {
        let what = "the machine's `memory` is no whole number of MiB";
        reader.add(memory.from.place(), what, "write it in MiB or GiB");
    }
    let agents: u64 = team.agents.iter().map(|agent| agent.limits.memory.value).sum();
    let needed = agents.saturating_add(machine_overhead(agents));
    if needed > memory.value.min(MACHINE_MEMORY.most) {
        let what = format!(
            "the agents may use {}, which with {} for the machine itself is more than its {}",
            show_size(agents),
            show_size(needed - agents),
            show_size(memory.value.min(MACHINE_MEMORY.most)),
        );
        let remedy = "give the machine more `memory`, or leave it out, or give the agents less";
        reader.add(memory.from.place(), what, remedy);
    }
}

fn descriptors(reader: &Reader<'_>, team: &TeamFile) {
    let counts = [
        ("mounts", team.agents.iter().map(|agent| agent.mounts.len()).sum::<usize>()),
        ("outputs", team.agents.iter().map(|agent| agent.outputs.len()).sum()),
    ];
    for (key, count) in counts.into_iter().filter(|(_, count)| *count > MAX_TEAM_MOUNTS) {
        let what = format!(
            "the team's agents have {count} {key} together; at most {MAX_TEAM_MOUNTS} are taken"
        );
        reader.add(team.name.from.place(), what, "share directories in place of single files");
    }
}

fn resources(reader: &Reader<'_>, team: &TeamFile, agent: &AgentFile) {
    let limits = &agent.limits;
    let share = limits.cpu_thousandths;
    if share.value > u32::from(team.cpus.value) * 1000 {
        let what = format!(
            "`cpus` is {}, and the machine has {}",
            show_thousandths(u64::from(share.value)),
            team.cpus.value
        );
        reader.add(share.from.place(), what, "give the machine more `cpus`, or the agent less");
    }
    let written = match agent.root.value {
        Root::Writable(size) => size,
        Root::ReadOnly => 0,
    };
    if limits.tmp.value.saturating_add(written) > limits.memory.value {
        let own = [limits.tmp.from, agent.root.from, limits.memory.from, agent.name.from];
        let place = own.into_iter().map(super::setting::Origin::place).max().unwrap_or_default();
        let what = format!(
            "`/tmp` ({}) and what can be written to the root ({}) do not fit into the agent's memory ({})",
            show_size(limits.tmp.value),
            show_size(written),
            show_size(limits.memory.value)
        );
        reader.add(place, what, "they lie in its memory: give it more `memory`, or them less");
    }
}

fn dependencies(reader: &Reader<'_>, team: &TeamFile) {
    let names = || team.agents.iter().map(|agent| agent.name.value.as_str());
    for agent in &team.agents {
        let mut seen = BTreeSet::new();
        for dependency in &agent.after {
            let (other, place) = (dependency.value.agent.as_str(), dependency.from.place());
            if !names().any(|name| name == other) {
                let remedy = near(other, names(), "the agents are");
                reader.add(place, format!("`after`: there is no agent `{other}`"), remedy);
            } else if !seen.insert(other) {
                let what = format!("`after` names the agent `{other}` twice");
                reader.add(place, what, "take one of the two out");
            }
        }
    }
    if let Err(cycle) = order::start_order(&team.agents) {
        let first = cycle.first().and_then(|index| team.agents.get(*index));
        let second = cycle.get(1).or(cycle.first()).and_then(|index| team.agents.get(*index));
        let dependency = first.zip(second).and_then(|(first, second)| {
            first.after.iter().find(|after| after.value.agent == second.name.value)
        });
        let place = dependency.map(|dependency| dependency.from.place()).unwrap_or_default();
        let names: Vec<&str> = cycle
            .iter()
            .chain(cycle.first())
            .filter_map(|index| Some(team.agents.get(*index)?.name.value.as_str()))
            .collect();
        let what = format!("`after` goes in a circle: {}", names.join(" waits for "));
        reader.add(place, what, "take one of them out of the circle: none of these could start");
    }
}

fn command(reader: &Reader<'_>, agent: &AgentFile) {
    if let Some(command) = &agent.command
        && command.value.first().is_none_or(String::is_empty)
    {
        let remedy =
            "write the program first, or leave `command` out to start what the image starts";
        reader.add(command.from.place(), "`command` names no program", remedy);
    }
    let words = [&agent.command, &agent.args].into_iter().flatten().flat_map(|list| &list.value);
    let variables = agent.environment.iter();
    let bytes: usize = words.map(|word| word.len() + 1).sum::<usize>()
        + variables.map(|(name, value)| name.len() + value.value.len() + 2).sum::<usize>();
    if bytes > MAX_SPEC_TEXT {
        let what = format!(
            "command, arguments and environment have {bytes} bytes; at most {MAX_SPEC_TEXT} are taken"
        );
        reader.add(agent.name.from.place(), what, "put some of it into a file and mount that");
    }
}

fn mounts(reader: &Reader<'_>, team: &TeamFile, agent: &AgentFile) {
    let mut targets = BTreeSet::new();
    for mount in &agent.mounts {
        let (target, place) = (mount.target.value.as_str(), mount.target.from.place());
        let elsewhere = "choose another target";
        if !targets.insert(target) {
            let what = format!("`target` is \"{target}\", where another mount is already");
            reader.add(place, what, elsewhere);
        }
        if target == "/" {
            let what = "`target` is \"/\", where the image is";
            reader.add(place, what, "choose a directory below it, like \"/work\"");
        } else if let Some(reserved) = reserved(target) {
            let what = format!("`target` is \"{target}\", and {reserved} is the supervisor's");
            reader.add(place, what, elsewhere);
        } else if target == "/tmp" {
            let what = "`target` is \"/tmp\", which every agent has for itself";
            reader.add(place, what, "choose a directory below it, or another one");
        }
        if let MountSource::Volume(volume) = &mount.source
            && !team.volumes.iter().any(|own| own.value == volume.value)
        {
            let names = team.volumes.iter().map(|own| own.value.as_str());
            let remedy = format!(
                "{}; or declare it: [volumes.{}]",
                near(&volume.value, names, "the volumes are"),
                volume.value
            );
            let what = format!("there is no volume `{}`", volume.value);
            reader.add(volume.from.place(), what, remedy);
        }
    }
}

/// Outputs, executables and writable directories.
fn paths(reader: &Reader<'_>, agent: &AgentFile) {
    for output in &agent.outputs {
        let path = &output.path;
        if let Some(reserved) = reserved(&path.value) {
            let what = format!("`path` is \"{}\": nothing of {reserved} is a file", path.value);
            reader.add(path.from.place(), what, "name a file that the agent writes");
        } else if path.value == "/" {
            let what = "`path` is \"/\", the whole root";
            reader.add(path.from.place(), what, "name a file or a directory that the agent writes");
        }
    }
    if let Some(executables) = &agent.executables
        && executables.is_empty()
    {
        let what = "`executables` is empty: nothing could be started";
        let remedy = "name programs, or leave it out to allow all";
        reader.add(agent.name.from.place(), what, remedy);
    }
    for directory in agent.writable_directories.iter().flatten() {
        let path = directory.value.as_str();
        if !writable(agent, directory) {
            let what = format!("nothing lets the agent write to \"{path}\"");
            let remedy = "`writable-directories` only narrows: add a mount with writable = true, or root = { writable = \"128MiB\" }";
            reader.add(directory.from.place(), what, remedy);
        }
    }
}

/// Whether something else lets the agent write there: `/tmp`, its root, or the mount that shows it.
fn writable(agent: &AgentFile, directory: &Setting<String>) -> bool {
    let path = directory.value.as_str();
    let above = agent.mounts.iter().filter(|mount| is_at_or_below(path, &mount.target.value));
    if let Some(mount) = above.max_by_key(|mount| mount.target.value.len()) {
        return mount.writable;
    }
    if reserved(path).is_some() {
        return false;
    }
    let below = agent
        .mounts
        .iter()
        .any(|mount| mount.writable && is_at_or_below(&mount.target.value, path));
    below || is_at_or_below(path, "/tmp") || matches!(agent.root.value, Root::Writable(_))
}

/// What somebody may have meant, or what there is.
fn near<'a>(word: &str, names: impl Iterator<Item = &'a str> + Clone, there: &str) -> String {
    /// More are no help.
    const MOST: usize = 10;
    if let Some(near) = nearest(word, names.clone()) {
        return format!("did you mean `{near}`?");
    }
    let list: Vec<String> = names.take(MOST).map(|name| format!("`{name}`")).collect();
    if list.is_empty() {
        "there are none".to_owned()
    } else {
        format!("{there} {}", list.join(", "))
    }
}
