//! `cloister policy learn`: the rules that an observed run would have needed, of its audit log.

use serde::Serialize;

use super::{TeamError, open, print};
use crate::audit::key::HostKey;
use crate::audit::verify::read_verified;
use crate::audit::{self, AuditError};
use crate::cli::policy::LearnArgs;
use crate::egress::learn::{Learned, Lessons};
use crate::exit_codes;
use crate::report::tell_line;

/// Raised when a key goes or changes its meaning.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Told<'a> {
    schema: u32,
    team: &'a str,
    /// When the run, or its rules, began.
    since: &'a str,
    agents: &'a [Learned],
}

pub(super) fn run(arguments: &LearnArgs) -> Result<u8, TeamError> {
    let state = open(&arguments.state)?;
    let team = &arguments.target.team;
    let folder = audit::folder(&state).join(team);
    let key = HostKey::find(&audit::folder(&state))?;
    let key = key.filter(|_| folder.is_dir()).ok_or_else(|| AuditError::None(team.clone()))?;
    let mut lessons = Lessons::default();
    let outcome = read_verified(&folder, &key.public(), &mut |record| lessons.take(&record))?;
    if let Some(finding) = outcome.findings.first() {
        // Rules are made of what happened, or not at all.
        let what = format!("{}: {}", finding.file, finding.what);
        return Err(AuditError::Changed { path: folder, what }.into());
    }
    if !lessons.observed() {
        return Err(TeamError::Told(format!(
            "cloister: team {team} did not observe in its last run, so there is nothing to learn\n\
             write `egress-mode = \"observe\"` at the top of its file, and let it do its work"
        )));
    }
    let learned = lessons.learned(arguments.target.agent.as_deref());
    if arguments.json {
        let told = Told { schema: SCHEMA, team, since: lessons.since(), agents: &learned };
        let text =
            serde_json::to_string_pretty(&told).map_err(|error| TeamError::Output(error.into()))?;
        print(&(text + "\n"))?;
    } else {
        print(&for_the_file(team, lessons.since(), &learned))?;
    }
    Ok(warn(&learned))
}

fn for_the_file(team: &str, since: &str, learned: &[Learned]) -> String {
    let since = since.get(..19).unwrap_or(since);
    let mut text = format!(
        "# What team {team} reached since {since}Z beyond its rules: to be added to its file.\n"
    );
    for Learned { agent, egress, .. } in learned {
        for rule in egress {
            text.push('\n');
            text.push_str(&rule.toml(agent));
        }
    }
    if learned.iter().all(|one| one.egress.is_empty()) {
        text.push_str("# Nothing: the rules that it has are enough.\n");
    }
    text
}

/// Tells what keeps the rules from being enough, or from being taken.
fn warn(learned: &[Learned]) -> u8 {
    let mut code = exit_codes::OK;
    for one in learned {
        let agent = &one.agent;
        if !one.complete {
            code = exit_codes::FAILED;
            tell_line(format_args!(
                "cloister: {agent} did more in 10 seconds than is recorded, so rules may be missing: learn once more"
            ));
        }
        if one.is_too_much() {
            code = exit_codes::FAILED;
            tell_line(format_args!(
                "cloister: {agent} would need {} rules, more than a file may have: draw hosts together with `*.`",
                one.egress.len()
            ));
        }
    }
    code
}
