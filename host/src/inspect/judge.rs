//! Whether what the kernel says is what the jail promises: one line for each promise.

use serde::Serialize;

use super::process::{NAMESPACES, Process};

/// A promise, and whether it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Of which process.
    pub role: String,
    /// What is promised.
    pub promise: &'static str,
    /// Whether it is kept.
    pub kept: bool,
    /// What was seen.
    pub seen: String,
}

/// Most system calls that a vCPU thread may make, and the event loop's.
const MOST_CALLS: [(&str, usize); 2] = [("vcpu", 35), ("", 45)];

/// Holds a jailed process against what the jail promises.
#[must_use]
pub fn judge(process: &Process) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |promise, kept, seen: String| {
        findings.push(Finding { role: process.role.clone(), promise, kept, seen });
    };
    let shared: Vec<&str> = NAMESPACES
        .into_iter()
        .filter(|kind| process.namespaces.get(*kind).is_none_or(|namespace| !namespace.own))
        .collect();
    find(
        "namespaces of its own, all seven kinds",
        shared.is_empty(),
        if shared.is_empty() { "all".into() } else { format!("shared: {}", shared.join(" ")) },
    );
    let map = process.uid_map.join("; ");
    let one = process.uid_map.len() == 1 && map.ends_with(" 1");
    find("a user namespace that knows one user", one, map);
    find("no further groups", process.groups.len() <= 1, format!("{:?}", process.groups));
    let places: Vec<_> = process.mounts.iter().map(|mount| mount.place.as_str()).collect();
    let root = process.mounts.iter().find(|mount| mount.place == "/");
    let strict = root.is_some_and(|root| {
        ["ro", "nosuid", "nodev", "noexec"]
            .iter()
            .all(|option| root.options.iter().any(|o| o == option))
    });
    find(
        "an empty root, read-only, nosuid, nodev, noexec",
        strict && places == ["/"],
        places.join(" "),
    );
    let held: Vec<_> = process
        .capabilities
        .iter()
        .filter(|(_, set)| !set.trim_matches('0').is_empty())
        .map(|(name, set)| format!("{name}={set}"))
        .collect();
    find("no capability in any set", held.is_empty(), held.join(" "));
    find("no new privileges", process.no_new_privs, process.no_new_privs.to_string());
    let unfiltered: Vec<_> =
        process.threads.iter().filter(|one| one.seccomp != 2).map(|one| one.name.clone()).collect();
    find("every thread behind a filter", unfiltered.is_empty(), unfiltered.join(" "));
    for thread in &process.threads {
        let Some(calls) = &thread.calls else { continue };
        let count = calls.allowed.len() + calls.checked.len();
        let most = MOST_CALLS.iter().find(|(name, _)| thread.name.starts_with(name));
        if let (Some((_, most)), "vmm") = (most, process.role.as_str()) {
            find("few system calls", count <= *most, format!("{}: {count}", thread.name));
        }
        let opens: Vec<_> = calls
            .allowed
            .iter()
            .chain(&calls.checked)
            .filter(|call| FORBIDDEN.contains(&call.as_str()))
            .cloned()
            .collect();
        if process.role == "vmm" {
            find("no path, no socket, no execution", opens.is_empty(), opens.join(" "));
        }
    }
    let bounded =
        |file: &str| process.limits.get(file).is_some_and(|value| !value.starts_with("max"));
    for file in ["memory.max", "pids.max", "cpu.max"] {
        let seen = process.limits.get(file).cloned().unwrap_or_else(|| "none".into());
        find("a control group with limits", bounded(file), format!("{file} {seen}"));
    }
    let core = process.resources.get("Max core file size").cloned().unwrap_or_default();
    find("no core dump", core == "0", core);
    findings
}

/// Calls that open something, become something else or reach somebody.
const FORBIDDEN: [&str; 18] = [
    "open",
    "openat",
    "openat2",
    "creat",
    "socket",
    "connect",
    "bind",
    "execve",
    "execveat",
    "fork",
    "vfork",
    "ptrace",
    "mount",
    "unshare",
    "setns",
    "process_vm_writev",
    "bpf",
    "io_uring_setup",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_keeps_no_promise() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let process = Process::read("vmm", pid).unwrap();
        let findings = judge(&process);
        let kept =
            |promise: &str| findings.iter().find(|one| one.promise.contains(promise)).unwrap().kept;
        assert!(
            !kept("namespaces") && !kept("empty root") && !kept("filter") && !kept("privileges")
        );
    }
}
