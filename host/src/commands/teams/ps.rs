//! `cloister ps`: teams and their agents.

use chrono::{DateTime, Utc};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::{TeamError, finish, open_and_sweep, print, true_status};
use crate::cli::teams::PsArgs;
use crate::exit_codes;
use crate::state::StateDir;
use crate::state::db::{Db, now_ms};
use crate::state::rows::{AgentRow, TeamRow, TeamStatus};
use crate::team::spec::Mode;
use crate::text::printable_line;

/// Raised when a key goes or changes its meaning.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Listing {
    schema: u32,
    teams: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    name: String,
    status: &'static str,
    detail: String,
    file: String,
    egress_mode: &'static str,
    created_ms: i64,
    changed_ms: i64,
    agents: Vec<ListedAgent>,
}

#[derive(Serialize)]
struct ListedAgent {
    name: String,
    image: String,
    status: &'static str,
    code: Option<u8>,
    detail: String,
    restarts: u32,
    started_ms: Option<i64>,
    ended_ms: Option<i64>,
}

/// Lists teams.
#[must_use]
pub fn ps(arguments: &PsArgs) -> u8 {
    finish(run(arguments))
}

fn run(arguments: &PsArgs) -> Result<u8, TeamError> {
    let state = open_and_sweep(&arguments.state)?;
    let listed = list(&state, arguments)?;
    if arguments.json {
        let listing = Listing { schema: SCHEMA, teams: listed };
        let text = serde_json::to_string_pretty(&listing)
            .map_err(|error| TeamError::Output(error.into()))?;
        print(&(text + "\n"))?;
    } else {
        print(&table(&listed))?;
    }
    Ok(exit_codes::OK)
}

fn list(state: &StateDir, arguments: &PsArgs) -> Result<Vec<Listed>, TeamError> {
    let db = Db::open(state)?;
    let rows = match &arguments.team {
        Some(target) => vec![db.team(&target.team)?],
        None => db.teams()?,
    };
    let mut listed = Vec::new();
    for row in rows {
        let status = true_status(state, &row)?;
        // A crash is never hidden.
        if status == TeamStatus::Ended && !arguments.all && arguments.team.is_none() {
            continue;
        }
        let agents = db.agents(&row.name)?;
        listed.push(one(row, status, agents));
    }
    Ok(listed)
}

fn one(row: TeamRow, status: TeamStatus, agents: Vec<AgentRow>) -> Listed {
    let alive = status.is_alive();
    let agents = agents.into_iter().map(|agent| ListedAgent {
        name: agent.name,
        image: agent.image,
        // What a dead warden last said of a running agent is not so any more.
        status: match agent.status {
            said if alive || status == TeamStatus::Suspended || said.is_final() => said.word(),
            _ => "gone",
        },
        code: agent.code,
        detail: agent.detail,
        restarts: agent.restarts,
        started_ms: agent.started_ms,
        ended_ms: agent.ended_ms,
    });
    let egress_mode = mode_of(&row).word();
    let detail = match status {
        TeamStatus::Crashed => {
            "its warden was killed, or the host restarted: `cloister start` or `cloister rm`".into()
        }
        TeamStatus::Suspended if row.detail.is_empty() => {
            "on the disk: `cloister resume` lets it go on".into()
        }
        _ => row.detail,
    };
    Listed {
        name: row.name,
        status: status.word(),
        detail,
        file: row.origin.file.display().to_string(),
        egress_mode,
        created_ms: row.created_ms,
        changed_ms: row.changed_ms,
        agents: agents.collect(),
    }
}

/// What becomes of connections that no egress rule is about.
pub(super) const fn mode_of(row: &TeamRow) -> Mode {
    if row.origin.observes { Mode::Observe } else { Mode::Enforce }
}

fn table(teams: &[Listed]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["TEAM/AGENT", "IMAGE", "STATUS", "SINCE", "RESTARTS", "DETAIL"]);
    for team in teams {
        let mut detail = printable_line(team.detail.lines().next().unwrap_or_default());
        if team.egress_mode == Mode::Observe.word() {
            detail = format!("OBSERVES: no egress is denied for want of a rule. {detail}");
        }
        let since = ago(team.changed_ms);
        table.add_row([&team.name, "", team.status, &since, "", &detail]);
        for agent in &team.agents {
            let since = agent.ended_ms.max(agent.started_ms).map(ago).unwrap_or_default();
            let status = match agent.code {
                Some(code) if agent.ended_ms.is_some() => format!("{} ({code})", agent.status),
                _ => agent.status.to_owned(),
            };
            table.add_row([
                format!("{}/{}", team.name, agent.name),
                printable_line(&agent.image),
                status,
                since,
                agent.restarts.to_string(),
                printable_line(&agent.detail),
            ]);
        }
    }
    format!("{table}\n")
}

/// How long ago, in the largest unit; from a day on the date.
fn ago(time_ms: i64) -> String {
    let seconds = now_ms().saturating_sub(time_ms).max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => DateTime::<Utc>::from_timestamp_millis(time_ms)
            .map(|time| time.format("%Y-%m-%d").to_string())
            .unwrap_or_default(),
    }
}
