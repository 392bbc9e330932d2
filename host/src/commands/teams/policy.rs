//! `cloister policy`: what rules say, without doing anything (`check`), and what is done about them.

use std::path::{Path, PathBuf};

use cloister_protocol::egress::Target;
use serde::Serialize;

use super::{TeamError, apply, check, finish, learn, open, print, questions};
use crate::cli::policy::{CheckArgs, PolicyArgs, PolicyCommand};
use crate::egress::asked::{Asked, Host};
use crate::egress::operator::{OPERATORS_FILE, Operator};
use crate::egress::policy::{Policy, Verdict};
use crate::egress::request::{Asked as Request, Judgement};
use crate::exit_codes;
use crate::images::store::Store;
use crate::report::describe;
use crate::team::load::load_for_me;
use crate::team::plan;
use crate::team::spec::Mode;
use crate::text::printable_line;

/// Raised when a key goes or changes its meaning.
const SCHEMA: u32 = 1;

/// What was found.
#[derive(Debug, Serialize)]
struct Found {
    schema: u32,
    team: String,
    agent: String,
    host: String,
    port: u16,
    /// The request that was asked about, if rules look at requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    allowed: bool,
    /// Whether the operator would be asked.
    asks: bool,
    /// The rule that decided, if one did.
    rule: Option<String>,
    /// Its line in the team file.
    line: Option<u32>,
    /// In words.
    reason: String,
}

/// Answers a question about rules.
#[must_use]
pub fn policy(arguments: &PolicyArgs) -> u8 {
    finish(match &arguments.command {
        PolicyCommand::Check(arguments) => run(arguments),
        PolicyCommand::Apply(arguments) => apply::run(arguments),
        PolicyCommand::Learn(arguments) => learn::run(arguments),
        PolicyCommand::Questions(arguments) => questions::list(arguments),
        PolicyCommand::Answer(arguments) => questions::answer(arguments),
    })
}

fn run(arguments: &CheckArgs) -> Result<u8, TeamError> {
    let asked = Asked::parse(&arguments.target).map_err(|(what, remedy)| {
        TeamError::Told(format!("cloister: {:?}: {what}\n{remedy}", arguments.target))
    })?;
    let file = file(arguments)?;
    let store = match &arguments.store.store {
        Some(path) => path.clone(),
        None => Store::usual_path()
            .map_err(|error| TeamError::Told(describe(&error, Some(error.remedy()))))?,
    };
    let loaded = load_for_me(&file, &store).map_err(|error| match error {
        plan::TeamError::Mistakes(mistakes) => TeamError::Told(mistakes.to_string()),
        error => TeamError::Told(describe(&error, error.remedy())),
    })?;
    let team = loaded.file.name.value.clone();
    let agent = loaded.file.agents.iter().find(|one| one.name.value == arguments.agent);
    let agent = agent
        .ok_or_else(|| TeamError::NoAgent { team: team.clone(), agent: arguments.agent.clone() })?;
    let operator = Operator::load(Path::new(OPERATORS_FILE))
        .map_err(|error| TeamError::Told(describe(&error, Some(error.remedy()))))?;
    let policy =
        Policy::new(agent.egress.clone()).observing(loaded.file.egress_mode.value == Mode::Observe);
    let found = judge(&policy, &operator, &asked);
    let found = of_request(found, &policy, &asked, arguments.method.as_deref());
    let found = Found { team, agent: arguments.agent.clone(), ..found };
    let allowed = found.allowed;
    if arguments.json {
        let text = serde_json::to_string_pretty(&found)
            .map_err(|error| TeamError::Told(error.to_string()))?;
        print(&format!("{text}\n"))?;
    } else {
        let Found { agent, host, port, request, reason, asks, .. } = &found;
        let may = match (allowed, asks) {
            (true, _) => "may reach",
            (false, true) => "may perhaps reach",
            (false, false) => "may not reach",
        };
        let asks = request.as_ref().map(|request| format!(" for {request}")).unwrap_or_default();
        print(&format!("{agent} {may} {host}:{port}{asks}: {reason}\n"))?;
    }
    Ok(if allowed { exit_codes::OK } else { exit_codes::POLICY_DENIES })
}

/// A team file's path, or that of a team in the state.
fn file(arguments: &CheckArgs) -> Result<PathBuf, TeamError> {
    let path = PathBuf::from(&arguments.team);
    if path.exists() || arguments.team.contains(['/', '.']) {
        return Ok(path);
    }
    Ok(check(&open(&arguments.state)?, &arguments.team, None)?.origin.file)
}

fn judge(policy: &Policy, operator: &Operator, asked: &Asked) -> Found {
    let port = asked.port;
    let (host, verdict, refused) = match &asked.host {
        Host::Name(name) => (name.clone(), policy.decide(&Target::Name(name.clone()), port), None),
        Host::Address(address) => {
            let verdict = policy.of_address(*address, port);
            let refused = policy.admits(*address, port, operator).err();
            (address.to_string(), verdict, refused.filter(|_| verdict.is_allowed()))
        }
    };
    let rule = verdict.rule().map(|rule| rule.value.to_string());
    let asks = matches!(verdict, Verdict::Asked(_));
    let allowed = verdict.is_allowed() && refused.is_none();
    let reason = match (&refused, &asked.host) {
        (Some(words), _) => words.clone(),
        (None, Host::Name(_)) if allowed => {
            format!("{}; its addresses are judged when it connects", verdict.words())
        }
        (None, _) => verdict.words(),
    };
    let (team, agent) = (String::new(), String::new());
    let line = verdict.line();
    let (schema, request) = (SCHEMA, None);
    Found { schema, team, agent, host, port, request, allowed, asks, rule, line, reason }
}

/// The same of a request, where rules look at requests.
fn of_request(found: Found, policy: &Policy, asked: &Asked, method: Option<&str>) -> Found {
    let Host::Name(name) = &asked.host else { return found };
    if !found.allowed || !policy.inspects(name, asked.port) {
        return found;
    }
    if method.is_none() && asked.path.is_none() {
        let more = "each request is decided by itself: ask about a URL, with --method";
        return Found { reason: format!("{}; {more}", found.reason), ..found };
    }
    let (method, path) = (method.unwrap_or("GET"), asked.path.as_deref().unwrap_or("/"));
    let judged = policy.judge(name, asked.port, Request { method, path, websocket: false });
    let rule = match judged {
        Judgement::Allowed(rule) | Judgement::Denied(rule) => Some(rule),
        Judgement::Observed | Judgement::NoRule | Judgement::Unclear(_) => None,
    };
    Found {
        request: Some(printable_line(&format!("{method} {path}"))),
        allowed: matches!(judged, Judgement::Allowed(_) | Judgement::Observed),
        rule: rule.map(|rule| rule.value.to_string()),
        line: rule.and_then(|rule| rule.from.line()),
        reason: judged.words(),
        ..found
    }
}
