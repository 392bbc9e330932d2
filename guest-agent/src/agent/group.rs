//! An agent's control group: its limits, what it uses, and what the kernel counts there.

use std::os::fd::{AsFd, OwnedFd};

use cloister_protocol::agent::{AgentLimits, Usage};
use rustix::io::{Errno, Result};

use crate::command::{Group, Groups};

/// The group that agents' groups are in.
const PARENT: &str = "agents";
/// What agents' groups bound.
const CONTROLLERS: &str = "+cpu +memory +pids";
/// The period of the processor's bound, in microseconds: the kernel's usual one.
const CPU_PERIOD_US: u64 = 100_000;
/// Longest file of a group that is read.
const MAX_TEXT: usize = 4096;

/// Whether this hierarchy has controllers. A machine's has; a test's may not, and its agents then
/// have no bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bounds {
    /// A bound that can't be set fails the agent.
    Kept,
    /// For tests of all the rest.
    #[cfg(test)]
    Absent,
}

/// An agent's group.
#[derive(Debug)]
pub(super) struct AgentGroup {
    pub(super) group: Group,
    /// Where the groups of its commands are.
    pub(super) commands: Groups,
    bounds: Bounds,
}

impl AgentGroup {
    /// Makes it with its bounds; nothing runs in it yet.
    pub(super) fn make(
        groups: &Groups,
        agent: u32,
        limits: &AgentLimits,
        bounds: Bounds,
    ) -> Result<Self> {
        let parent = groups.enter_or_make(PARENT)?;
        if bounds == Bounds::Kept {
            parent.set("cgroup.subtree_control", CONTROLLERS)?;
        }
        let group = parent.create_named(agent.to_string())?;
        let commands = group.inside();
        let this = Self { group, commands, bounds };
        if bounds == Bounds::Kept
            && let Err(error) = this.bound(limits)
        {
            let _left_behind = this.group.remove();
            return Err(error);
        }
        Ok(this)
    }

    fn bound(&self, limits: &AgentLimits) -> Result<()> {
        let quota = u64::from(limits.cpu_millis) * (CPU_PERIOD_US / 1000);
        self.group.set("memory.max", &limits.memory_bytes.to_string())?;
        match self.group.set("memory.swap.max", "0") {
            // This kernel has no swap at all.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        self.group.set("cpu.max", &format!("{quota} {CPU_PERIOD_US}"))?;
        self.group.set("pids.max", &limits.pids.to_string())?;
        // For the commands' groups: what the kernel kills for want of memory dies as a whole.
        self.group.set("cgroup.subtree_control", "+memory")
    }

    /// The group of its init.
    pub(super) fn init(&self) -> Result<Group> {
        self.commands.create_named("init".into())
    }

    /// The group of a command of it.
    pub(crate) fn command(&self, id: u32) -> Result<Group> {
        let group = self.commands.create(id)?;
        if self.bounds == Bounds::Kept {
            group.set("memory.oom.group", "1")?;
        }
        Ok(group)
    }

    /// The file with counts of what its memory's bound did; it has an event when they change.
    pub(super) fn memory_events(&self) -> Result<Option<OwnedFd>> {
        self.events("memory.events")
    }

    /// The same of the bound of processes.
    pub(super) fn pids_events(&self) -> Result<Option<OwnedFd>> {
        self.events("pids.events")
    }

    fn events(&self, name: &str) -> Result<Option<OwnedFd>> {
        match self.bounds {
            Bounds::Kept => self.group.file(name).map(Some),
            #[cfg(test)]
            Bounds::Absent => Ok(None),
        }
    }

    /// What it uses, as far as this kernel counts it.
    pub(super) fn usage(&self) -> Usage {
        let read =
            |name: &str| self.group.file(name).and_then(|file| text(&file)).unwrap_or_default();
        let number = |name: &str| read(name).trim().parse().unwrap_or(0);
        let cpu = read("cpu.stat");
        Usage {
            memory_bytes: number("memory.current"),
            memory_peak_bytes: number("memory.peak"),
            cpu_us: field(&cpu, "usage_usec"),
            throttled_us: field(&cpu, "throttled_usec"),
            pids: number("pids.current"),
            oom_kills: field(&read("memory.events"), "oom_kill"),
        }
    }
}

/// A count from a group's file, whose changes are told from now on.
pub(super) fn count(file: impl AsFd, name: &str) -> u64 {
    text(file).map_or(0, |text| field(&text, name))
}

fn text(file: impl AsFd) -> Result<String> {
    let mut bytes = vec![0; MAX_TEXT];
    let count = rustix::io::pread(file, &mut bytes, 0)?;
    bytes.truncate(count);
    String::from_utf8(bytes).map_err(|_| Errno::ILSEQ)
}

/// Of lines with a name and a number.
fn field(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn fields_are_found_by_their_whole_names() {
        let text = "oom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!((field(text, "oom_kill"), field(text, "oom"), field(text, "none")), (2, 3, 0));
    }
}
