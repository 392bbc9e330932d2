//! `cloister stats`: what agents use, anew every second until it is interrupted.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use cloister_protocol::agent::Usage;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::HumanBytes;
use serde::Serialize;

use super::{TeamError, check_running, finish, open, print, runtime};
use crate::cli::teams::StatsArgs;
use crate::exit_codes;
use crate::signals::Signals;
use crate::state::StateDir;
use crate::warden::api::{Call, Reply};
use crate::warden::channel::ChannelError;
use crate::warden::client::Connection;

/// How often it is shown anew.
const TURN: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Listed<'a> {
    agent: &'a str,
    memory_bytes: u64,
    memory_peak_bytes: u64,
    cpu_us: u64,
    cpu_percent: f64,
    throttled_us: u64,
    pids: u64,
    oom_kills: u64,
}

/// Shows what agents use.
#[must_use]
pub fn stats(arguments: &StatsArgs) -> u8 {
    finish(run(arguments))
}

fn run(arguments: &StatsArgs) -> Result<u8, TeamError> {
    let state = open(&arguments.state)?;
    let target = &arguments.target;
    check_running(&state, &target.team, target.agent.as_deref())?;
    runtime()?.block_on(async {
        let mut signals = Signals::listen()
            .map_err(|source| TeamError::Setup { what: "the signal handlers", source })?;
        let mut before: Option<(Instant, HashMap<String, u64>)> = None;
        loop {
            let mut usage = match ask(&state, &target.team).await {
                // The team ended while it was looked at.
                Err(TeamError::Channel(ChannelError::Connect(_) | ChannelError::Gone))
                    if before.is_some() =>
                {
                    return Ok(exit_codes::OK);
                }
                usage => usage?,
            };
            usage.retain(|(name, _)| target.agent.as_ref().is_none_or(|agent| agent == name));
            let now = Instant::now();
            // A share of time needs two looks.
            let first = before.is_none();
            show(arguments, &usage, before.as_ref(), now)?;
            before = Some((now, usage.into_iter().map(|(name, one)| (name, one.cpu_us)).collect()));
            if arguments.no_stream && !first {
                return Ok(exit_codes::OK);
            }
            tokio::select! {
                () = tokio::time::sleep(TURN) => {}
                signal = signals.end() => return Ok(exit_codes::of_signal(signal)),
            }
        }
    })
}

async fn ask(state: &StateDir, team: &str) -> Result<Vec<(String, Usage)>, TeamError> {
    let mut connection = Connection::call(state, team, &Call::Usage).await?;
    match connection.reply().await? {
        Reply::Usage(usage) => Ok(usage),
        Reply::Refused { words } => Err(TeamError::Refused(words)),
        _ => Err(ChannelError::Gone.into()),
    }
}

fn show(
    arguments: &StatsArgs,
    usage: &[(String, Usage)],
    before: Option<&(Instant, HashMap<String, u64>)>,
    now: Instant,
) -> Result<(), TeamError> {
    let Some((then, used)) = before else { return Ok(()) };
    let elapsed = now.duration_since(*then).as_secs_f64();
    let percent = |name: &str, cpu_us: u64| {
        let since = used.get(name).map_or(0, |before| cpu_us.saturating_sub(*before));
        // Microseconds of half a million years have an exact value.
        since as f64 / 10_000.0 / elapsed
    };
    if arguments.json {
        for (agent, one) in usage {
            let listed = Listed {
                agent,
                memory_bytes: one.memory_bytes,
                memory_peak_bytes: one.memory_peak_bytes,
                cpu_us: one.cpu_us,
                cpu_percent: percent(agent, one.cpu_us),
                throttled_us: one.throttled_us,
                pids: one.pids,
                oom_kills: one.oom_kills,
            };
            let line =
                serde_json::to_string(&listed).map_err(|error| TeamError::Output(error.into()))?;
            print(&(line + "\n"))?;
        }
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["AGENT", "CPU", "MEMORY", "PEAK", "PROCESSES", "THROTTLED", "OOM KILLS"]);
    for (name, one) in usage {
        table.add_row([
            name.clone(),
            format!("{:.1} %", percent(name, one.cpu_us)),
            HumanBytes(one.memory_bytes).to_string(),
            HumanBytes(one.memory_peak_bytes).to_string(),
            one.pids.to_string(),
            format!("{:.1} s", one.throttled_us as f64 / 1e6),
            one.oom_kills.to_string(),
        ]);
    }
    // ECMA-48: to the top, and everything below away.
    let clear =
        if io::stdout().is_terminal() && !arguments.no_stream { "\x1b[H\x1b[J" } else { "" };
    print(&format!("{clear}{table}\n"))
}
