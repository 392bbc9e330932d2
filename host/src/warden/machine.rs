//! The start of a team's machine, and what those who wait for it are told meanwhile.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::mpsc;

use super::WardenError;
use super::api::Progress;
use super::channel::{Channel, ChannelError};
use crate::commands::template::{tell, words};
use crate::launch::LaunchSpec;
use crate::machine::Machine;
use crate::report::describe;
use crate::tail::Tail;
use crate::template::{self, Notice, Wish};
use crate::text::{printable, quoted};

/// Lines of the guest's console that are told when it does not start, and letters of each: a panic with its backtrace has
/// some thirty.
const MAX_CONSOLE_LINES: usize = 40;
const MAX_CONSOLE_LINE: usize = 160;

/// Starts the machine, for as long as the starter is there.
///
/// # Errors
/// It does not start, or the starter has gone.
pub(super) async fn start(
    launch: LaunchSpec,
    wish: &Wish,
    starter: &mut Channel,
) -> Result<Machine, WardenError> {
    doing(starter, "starting the machine").await?;
    let (told, mut news) = mpsc::unbounded_channel();
    let tell = move |notice: Notice<'_>| {
        tell(notice);
        // Whoever waits may have gone.
        told.send(words(notice)).ok();
    };
    let console = launch.console.clone();
    let mut started = pin!(template::start(launch, wish, tell));
    loop {
        tokio::select! {
            machine = &mut started => return machine
                .map_err(|error| WardenError::Team(describe(&error, error.remedy()) + &shown(&console))),
            Some(what) = news.recv() => doing(starter, &what).await?,
            gone = starter.receive::<Progress>() => return Err(WardenError::StarterGone(
                gone.err().unwrap_or(ChannelError::Gone),
            )),
        }
    }
}

/// The last that the guest wrote to its console, as the guest's words: a kernel that ended tells there why. Nothing else
/// keeps them when the start is taken back.
fn shown(console: &Tail) -> String {
    let text = printable(&console.bytes());
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.get(lines.len().saturating_sub(MAX_CONSOLE_LINES)..).unwrap_or_default();
    let cut = last.iter().map(|line| line.chars().take(MAX_CONSOLE_LINE).collect::<String>());
    let text: Vec<String> = cut.collect();
    if text.is_empty() {
        String::new()
    } else {
        format!("\n{}", quoted("  guest| ", &text.join("\n")))
    }
}

/// Tells whoever waits what is going on.
///
/// # Errors
/// It has gone.
pub(super) async fn doing(starter: &mut Channel, what: &str) -> Result<(), WardenError> {
    let progress = Progress::Doing(what.to_owned());
    starter.send(&progress, &[]).await.map_err(WardenError::StarterGone)
}

/// How the machine came to run, how long that took, and the guest's share of it.
pub(super) fn started_words(machine: &Machine, is_kept: bool) -> String {
    let report = machine.start_report();
    let since =
        |begin: u64, end: u64| Duration::from_nanos(end.saturating_sub(begin)).as_secs_f64();
    let whole = since(report.begin_ns, report.ready_ns) * 1000.0;
    let guest = since(report.vmm.run_ns, report.ready_ns) * 1000.0;
    let origin = match machine.is_fork() {
        _ if is_kept => "from the disk",
        true => "from a template",
        false => "booted",
    };
    format!("{origin}, ready after {whole:.1} ms, {guest:.1} ms of them in the guest")
}
