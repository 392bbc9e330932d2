//! A plan as tables for people, and as JSON for programs.

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::egress::quota::Quota;
use crate::team::amount::{show_size, show_thousandths, show_time};
use crate::team::mounts::policy::Grant;
use crate::team::plan::{Agent, Plan, Source};
use crate::team::setting::{Origin, Setting};
use crate::team::spec::{Condition, Lifetime, Restart, Root};
use crate::template::Choice;
use crate::text::printable_line;

/// One setting of an agent or of the machine.
#[derive(Serialize)]
struct Row {
    setting: String,
    value: String,
    from: String,
    /// In the team file, if it is from there.
    line: Option<u32>,
}

#[derive(Serialize)]
struct Explained {
    schema: u32,
    team: String,
    machine: Vec<Row>,
    agents: Vec<ExplainedAgent>,
}

#[derive(Serialize)]
struct ExplainedAgent {
    name: String,
    settings: Vec<Row>,
}

/// JSON escapes what could steer a terminal, but for characters beyond ASCII.
pub(super) fn pretty(value: &impl Serialize) -> String {
    match serde_json::to_string_pretty(value) {
        Ok(text) => text + "\n",
        // Strings, numbers and lists: there is nothing in it that could fail.
        Err(error) => format!("{{\"schema\": 0, \"error\": \"{error}\"}}\n"),
    }
}

/// The whole plan; positions of descriptors mean nothing to a reader, and are left as they are.
pub(super) fn plan_json(plan: &Plan) -> String {
    pretty(plan)
}

/// What would be started, in short.
pub(super) fn plan(plan: &Plan) -> String {
    let machine = &plan.machine;
    let mut text = format!(
        "team {}: a machine with {} vCPUs and {}, {}, {}\n",
        plan.name.value,
        machine.cpus.value,
        show_size(u64::from(machine.memory_mib.value) << 20),
        lifetime(plan.lifetime.value),
        origin(machine.template.value),
    );
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["", "AGENT", "IMAGE", "RUNS", "AS", "CPUS", "MEMORY", "SEES", "AFTER"]);
    for (index, agent) in plan.agents.iter().enumerate() {
        let mounts = agent.mounts.iter().map(|mount| {
            let access = if mount.writable { " (writable)" } else { "" };
            format!("{}{access}", mount.target.value)
        });
        let after = agent.after.iter().map(|after| after.value.agent.clone());
        table.add_row([
            (index + 1).to_string(),
            agent.name.value.clone(),
            format!("{} {}", agent.image.name.value, short(&agent.image.digest)),
            words(&agent.command.value),
            format!("{}:{}", agent.user.value.uid, agent.user.value.gid),
            show_thousandths(u64::from(agent.limits.cpu_thousandths.value)),
            show_size(agent.limits.memory.value),
            joined(mounts),
            joined(after),
        ]);
    }
    text.push_str(&format!("{table}\n"));
    for agent in &plan.agents {
        for output in &agent.outputs {
            text.push_str(&format!(
                "at the end of {}: {} becomes {}\n",
                agent.name.value,
                printable_line(&output.path.value),
                printable_line(&output.to.value)
            ));
        }
    }
    text
}

/// Every setting of every agent, with its origin.
pub(super) fn explain(plan: &Plan) -> String {
    let mut text = section(&format!("machine of team {}", plan.name.value), &machine(plan));
    for agent in &plan.agents {
        text.push('\n');
        text.push_str(&section(&format!("agent {}", agent.name.value), &settings(agent)));
    }
    text
}

/// The same for programs.
pub(super) fn explain_json(plan: &Plan) -> String {
    let agents = plan
        .agents
        .iter()
        .map(|agent| ExplainedAgent { name: agent.name.value.clone(), settings: settings(agent) });
    pretty(&Explained {
        schema: super::SCHEMA,
        team: plan.name.value.clone(),
        machine: machine(plan),
        agents: agents.collect(),
    })
}

fn section(heading: &str, rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["SETTING", "VALUE", "FROM"]);
    for row in rows {
        table.add_row([&row.setting, &row.value, &row.from]);
    }
    format!("{heading}\n{table}\n")
}

fn row<T>(setting: &str, of: &Setting<T>, value: impl AsRef<str>) -> Row {
    from(setting, of.from, value.as_ref())
}

fn from(setting: &str, from: Origin, value: &str) -> Row {
    let line = if let Origin::File(place) = from { Some(place.line) } else { None };
    let value = printable_line(value);
    Row { setting: printable_line(setting), value, from: from.to_string(), line }
}

fn machine(plan: &Plan) -> Vec<Row> {
    let machine = &plan.machine;
    let memory = show_size(u64::from(machine.memory_mib.value) << 20);
    let mut rows = vec![
        row("cpus", &machine.cpus, machine.cpus.value.to_string()),
        row("memory", &machine.memory_mib, memory),
        row("lifetime", &plan.lifetime, lifetime(plan.lifetime.value)),
        row("egress-mode", &plan.egress_mode, plan.egress_mode.value.word()),
    ];
    rows.push(match &machine.kernel {
        Some(kernel) => row("kernel", &kernel.path, &kernel.path.value),
        None => from("kernel", Origin::Default, "the one that Cloister comes with"),
    });
    rows.push(row("template", &machine.template, machine.template.value.word()));
    rows
}

fn settings(agent: &Agent) -> Vec<Row> {
    let image = &agent.image;
    let user = &agent.user;
    let groups = user.value.groups.iter().map(|group| format!(", {group}")).collect::<String>();
    let mut rows = vec![
        row("image", &image.name, format!("{} {}", image.name.value, image.digest)),
        row("command", &agent.command, words(&agent.command.value)),
        row("directory", &agent.directory, &agent.directory.value),
        row("user", user, format!("{}:{}{groups}", user.value.uid, user.value.gid)),
    ];
    for (name, value) in &agent.environment {
        rows.push(row(&format!("environment {name}"), value, &value.value));
    }
    rows.extend(limits(agent));
    rows.push(row(
        "root",
        &agent.root,
        match agent.root.value {
            Root::ReadOnly => "read-only".to_owned(),
            Root::Writable(size) => format!("writable, {}", show_size(size)),
        },
    ));
    for mount in &agent.mounts {
        let access = if mount.writable { "writable" } else { "read-only" };
        let (source, grant) = match &mount.source {
            Source::Host { real, grant, .. } => (real.clone(), format!("; {}", granted(*grant))),
            Source::Volume(name) => (format!("volume {name}"), String::new()),
        };
        let value = format!("{source}, {access}{grant}");
        rows.push(row(&format!("mount {}", mount.target.value), &mount.target, value));
    }
    for output in &agent.outputs {
        let value = format!("{}; {}", output.to.value, granted(output.grant));
        rows.push(row(&format!("output {}", output.path.value), &output.path, value));
    }
    let list = |paths: &Option<Vec<String>>, all: &str| match paths {
        None => all.to_owned(),
        Some(paths) if paths.is_empty() => "none".to_owned(),
        Some(paths) => paths.join(", "),
    };
    let executables = list(&agent.executables.value, "everything");
    rows.push(row("executables", &agent.executables, executables));
    let writable = list(&agent.writable_directories.value, "what root, /tmp and mounts allow");
    rows.push(row("writable-directories", &agent.writable_directories, writable));
    rows.push(row(
        "restart",
        &agent.restart,
        match agent.restart.value {
            Restart::Never => "never".to_owned(),
            Restart::OnFailure { times, back_off_ms } => {
                format!("on failure, {times} times, after {}", show_time(back_off_ms))
            }
        },
    ));
    for after in &agent.after {
        let condition = match after.value.condition {
            Condition::Started => "has started",
            Condition::Succeeded => "has succeeded",
        };
        rows.push(row("after", after, format!("{} {condition}", after.value.agent)));
    }
    for rule in &agent.egress {
        rows.push(row("egress", rule, rule.value.to_string()));
    }
    if agent.egress_quota.value != Quota::default() {
        rows.push(row("egress-quota", &agent.egress_quota, agent.egress_quota.value.to_string()));
    }
    if agent.egress.is_empty() {
        rows.push(from("egress", Origin::Default, "nothing"));
    }
    rows
}

fn limits(agent: &Agent) -> Vec<Row> {
    let limits = &agent.limits;
    let time = limits.time_limit_ms.value.map_or_else(|| "none".to_owned(), show_time);
    vec![
        row(
            "cpus",
            &limits.cpu_thousandths,
            show_thousandths(u64::from(limits.cpu_thousandths.value)),
        ),
        row("memory", &limits.memory, show_size(limits.memory.value)),
        row("pids", &limits.pids, limits.pids.value.to_string()),
        row("tmp", &limits.tmp, show_size(limits.tmp.value)),
        row("files", &limits.files, limits.files.value.to_string()),
        row("open-files", &limits.open_files, limits.open_files.value.to_string()),
        row("file-size", &limits.file_size, show_size(limits.file_size.value)),
        row("time-limit", &limits.time_limit_ms, time),
    ]
}

const fn lifetime(lifetime: Lifetime) -> &'static str {
    match lifetime {
        Lifetime::Ephemeral => "ephemeral",
        Lifetime::Persistent => "persistent",
    }
}

const fn origin(template: Choice) -> &'static str {
    match template {
        Choice::Auto => "from a template where one was built",
        Choice::Build => "from a template, built if there is none",
        Choice::None => "booted",
    }
}

const fn granted(grant: Grant) -> &'static str {
    match grant {
        Grant::TeamDirectory => "below the team file's directory",
        Grant::OwnHome => "below your home",
        Grant::Operator => "allowed by the operator",
    }
}

fn words(words: &[String]) -> String {
    printable_line(&words.join(" "))
}

fn joined(items: impl Iterator<Item = String>) -> String {
    let text = items.map(|item| printable_line(&item)).collect::<Vec<_>>().join(", ");
    if text.is_empty() { "-".to_owned() } else { text }
}

fn short(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(12).collect()
}
