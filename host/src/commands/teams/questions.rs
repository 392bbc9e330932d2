//! `cloister policy questions` and `answer`: connections that wait for the operator's word.

use chrono::{DateTime, Utc};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::{TeamError, check_alive, open, print, runtime};
use crate::cli::policy::{AnswerArgs, QuestionsArgs, Word};
use crate::egress::ask::Question;
use crate::egress::limits::ASK_LIMIT;
use crate::exit_codes;
use crate::state::StateDir;
use crate::text::printable_line;
use crate::warden::api::{Call, Reply};
use crate::warden::channel::ChannelError;
use crate::warden::client::Connection;

/// Raised when a key goes or changes its meaning.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Listing<'a> {
    schema: u32,
    team: &'a str,
    questions: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    number: u64,
    agent: String,
    to: String,
    rule: String,
    asked_ms: u64,
    connections: u64,
}

impl Listed {
    fn new((agent, question): (String, Question)) -> Self {
        let Question { number, to, rule, asked_ms, connections, .. } = question;
        Self { number, agent, to, rule, asked_ms, connections }
    }
}

/// Shows what is asked.
pub(super) fn list(arguments: &QuestionsArgs) -> Result<u8, TeamError> {
    let state = open(&arguments.state)?;
    let target = &arguments.target;
    check_alive(&state, &target.team, target.agent.as_deref())?;
    let questions = match call(&state, &target.team, &Call::Questions)? {
        Reply::Questions(questions) => questions,
        reply => return Err(unexpected(reply)),
    };
    let mut listed: Vec<Listed> = questions.into_iter().map(Listed::new).collect();
    listed.retain(|one| target.agent.as_ref().is_none_or(|agent| *agent == one.agent));
    if arguments.json {
        let listing = Listing { schema: SCHEMA, team: &target.team, questions: listed };
        let text = serde_json::to_string_pretty(&listing)
            .map_err(|error| TeamError::Output(error.into()))?;
        print(&(text + "\n"))?;
    } else {
        print(&table(&target.team, &listed))?;
    }
    Ok(exit_codes::OK)
}

fn table(team: &str, questions: &[Listed]) -> String {
    let Some(first) = questions.first() else {
        return format!("{team}: nobody waits for an answer\n");
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["QUESTION", "AGENT", "TO", "CONNECTIONS", "ASKED (UTC)", "RULE"]);
    for question in questions {
        let asked =
            i64::try_from(question.asked_ms).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
        table.add_row([
            question.number.to_string(),
            question.agent.clone(),
            question.to.clone(),
            question.connections.to_string(),
            asked.map_or_else(String::new, |time| time.format("%H:%M:%S").to_string()),
            printable_line(&question.rule),
        ]);
    }
    let (number, limit) = (first.number, ASK_LIMIT.as_secs());
    format!(
        "{table}\nEach connection waits {limit} s: cloister policy answer {team} {number} allow\n"
    )
}

/// Answers one.
pub(super) fn answer(arguments: &AnswerArgs) -> Result<u8, TeamError> {
    let target = &arguments.target;
    if target.agent.is_some() {
        return Err(TeamError::WholeTeam);
    }
    let state = open(&arguments.state)?;
    check_alive(&state, &target.team, None)?;
    let yes = arguments.word == Word::Allow;
    let said = Call::Answer { number: arguments.number, yes, keep: arguments.always };
    match call(&state, &target.team, &said)? {
        Reply::Answered(agent, question) => {
            let may = if yes { "may reach" } else { "may not reach" };
            let scope = match (arguments.always, question.connections) {
                (true, _) => "until the team ends or its rules change".to_owned(),
                (false, 1) => "this one time".to_owned(),
                (false, connections) => format!("with the {connections} connections that waited"),
            };
            print(&format!("{agent} {may} {}, {scope}\n", question.to))?;
            Ok(exit_codes::OK)
        }
        reply => Err(unexpected(reply)),
    }
}

fn call(state: &StateDir, team: &str, call: &Call) -> Result<Reply, TeamError> {
    runtime()?.block_on(async {
        let mut connection = Connection::call(state, team, call).await?;
        Ok(connection.reply().await?)
    })
}

fn unexpected(reply: Reply) -> TeamError {
    match reply {
        Reply::Refused { words } => TeamError::Refused(words),
        _ => ChannelError::Gone.into(),
    }
}
