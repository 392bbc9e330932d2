//! `cloister inspect`: what the kernel says of a team's processes.

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::ps::mode_of;
use super::{TeamError, check_alive, finish, open, print, runtime};
use crate::cli::teams::InspectArgs;
use crate::exit_codes;
use crate::inspect::judge::{Finding, judge};
use crate::inspect::process::Process;
use crate::report::tell_line;
use crate::text::printable_line;
use crate::warden::api::{Call, Reply};
use crate::warden::channel::ChannelError;
use crate::warden::client::Connection;

/// Raised when a key goes or changes its meaning.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Inspected {
    schema: u32,
    team: String,
    egress_mode: &'static str,
    /// The kernel's Landlock version; what a process is denied is not told to others by any kernel.
    landlock_abi: i64,
    processes: Vec<Process>,
    findings: Vec<Finding>,
}

/// Shows a team's processes as the kernel has them.
#[must_use]
pub fn inspect(arguments: &InspectArgs) -> u8 {
    finish(run(arguments))
}

fn run(arguments: &InspectArgs) -> Result<u8, TeamError> {
    let state = open(&arguments.state)?;
    let team = &arguments.target.team;
    let mode = mode_of(&check_alive(&state, team, None)?);
    let roles = runtime()?.block_on(async {
        let mut connection = Connection::call(&state, team, &Call::Processes).await?;
        match connection.reply().await? {
            Reply::Processes(processes) => Ok(processes),
            _ => Err(TeamError::from(ChannelError::Gone)),
        }
    })?;
    let mut processes = Vec::new();
    for (role, pid) in roles {
        let process = Process::read(&role, pid).map_err(|source| TeamError::Read {
            path: format!("/proc/{pid} ({role})").into(),
            source,
        })?;
        processes.push(process);
    }
    let jailed = processes.iter().filter(|process| process.role != "warden");
    let findings: Vec<Finding> = jailed.flat_map(judge).collect();
    let broken = findings.iter().any(|finding| !finding.kept);
    let code = if broken && arguments.security { exit_codes::NOT_KEPT } else { exit_codes::OK };
    if arguments.json {
        let landlock_abi = crate::doctor::landlock_abi();
        let inspected = Inspected {
            schema: SCHEMA,
            team: team.clone(),
            egress_mode: mode.word(),
            landlock_abi,
            processes,
            findings,
        };
        let text = serde_json::to_string_pretty(&inspected)
            .map_err(|error| TeamError::Output(error.into()))?;
        print(&(text + "\n"))?;
        return Ok(code);
    }
    if mode.observes() {
        print("egress: observes; nothing is denied for want of a rule\n")?;
    }
    if arguments.security {
        print(&findings_table(&findings))?;
        if processes
            .iter()
            .flat_map(|one| &one.threads)
            .any(|one| one.seccomp == 2 && one.calls.is_none())
        {
            tell_line(
                "cloister: only root can ask the kernel which system calls a filter lets through",
            );
        }
    } else {
        for process in &processes {
            print(&describe(process))?;
        }
    }
    Ok(code)
}

fn findings_table(findings: &[Finding]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["PROCESS", "KEPT", "PROMISE", "SEEN"]);
    for finding in findings {
        let kept = if finding.kept { "yes" } else { "NO" };
        table.add_row([&finding.role, kept, finding.promise, &printable_line(&finding.seen)]);
    }
    format!("{table}\n")
}

fn describe(process: &Process) -> String {
    let mut lines = vec![format!("{} (process {})", process.role, process.pid)];
    let mut add = |name: &str, value: String| lines.push(format!("  {name:<13} {value}"));
    add("user", format!("{:?} group {:?}", process.uids.first(), process.gids.first()));
    let own = process.namespaces.iter().filter(|(_, one)| one.own).map(|(kind, _)| kind.as_str());
    add("namespaces", format!("of its own: {}", own.collect::<Vec<_>>().join(" ")));
    for mount in &process.mounts {
        if process.mounts.len() <= 8 {
            let options = mount.options.join(",");
            add("mount", format!("{} {} {options}", mount.place, mount.kind));
        }
    }
    let sets = process.capabilities.iter().map(|(name, set)| format!("{name} {set}"));
    add("capabilities", sets.collect::<Vec<_>>().join(", "));
    add("privileges", format!("no_new_privs {}", process.no_new_privs));
    for thread in &process.threads {
        let calls = thread.calls.as_ref().map_or_else(String::new, |calls| {
            format!(
                ": {} calls allowed, {} by their arguments: {}",
                calls.allowed.len(),
                calls.checked.len(),
                calls.allowed.iter().chain(&calls.checked).cloned().collect::<Vec<_>>().join(" ")
            )
        });
        let name = printable_line(&thread.name);
        add(
            "thread",
            format!("{name} seccomp {} filters {}{calls}", thread.seccomp, thread.filters),
        );
    }
    add("group", process.group.clone());
    for (file, value) in &process.limits {
        add("limit", format!("{file} {value}"));
    }
    for descriptor in &process.descriptors {
        let target = printable_line(&descriptor.target);
        add("descriptor", format!("{} {target}: {}", descriptor.number, descriptor.purpose));
    }
    lines.join("\n") + "\n"
}
