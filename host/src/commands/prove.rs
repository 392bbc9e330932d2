//! `cloister prove`: the red-team suite, as a table, as JSON and as a page.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use cloister_prober::wire::Case;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::prove::ProveArgs;
use crate::commands::clean_up;
use crate::exit_codes;
use crate::launch::files::Files;
use crate::launch::jail::LimitsWish;
use crate::prove::report::{Report, Status, full_name};
use crate::prove::{self, ProveError, Wish, page};
use crate::report::{describe, tell_line};
use crate::signals::Signals;
use crate::warden;

/// A table is never wider: its lines would be hard to follow.
const WIDEST: u16 = 130;
/// A sign of life, how often it turns.
const TURN: Duration = Duration::from_millis(100);

/// Runs the suite, or lists it.
#[must_use]
pub fn prove(arguments: ProveArgs, limits: LimitsWish) -> u8 {
    // Each place takes as many descriptors as its program may have.
    warden::raise_open_files();
    let jail = arguments.jail.spec(limits);
    clean_up(&jail);
    for path in prove::folder::sweep() {
        tell_line(format_args!(
            "cloister: removed what a killed `cloister prove` had left: {}",
            path.display()
        ));
    }
    let files = match Files::find(arguments.guest.kernel, arguments.guest.rootfs) {
        Ok(files) => files,
        Err(error) => {
            tell_line(describe(&error, error.remedy()));
            return exit_codes::FAILED;
        }
    };
    let wish = Wish { files, jail, only: arguments.only };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell_line(format_args!("cloister: can't set up the runtime: {error}"));
            return exit_codes::FAILED;
        }
    };
    if arguments.list {
        return match runtime.block_on(prove::cases(&wish)) {
            Ok(cases) => print(&listed(&cases, arguments.json), exit_codes::OK),
            Err(error) => failed(&error),
        };
    }
    // Opened first: nobody waits for a minute to hear that it can't be.
    let html = match arguments.html.as_deref().map(create).transpose() {
        Ok(html) => html,
        Err(code) => return code,
    };
    let report = match runtime.block_on(run(&wish)) {
        Ok(Ok(report)) => report,
        Ok(Err(signal)) => return exit_codes::of_signal(signal),
        Err(error) => return failed(&error),
    };
    if let Some((mut file, path)) = html
        && let Err(error) = file.write_all(page::page(&report).as_bytes())
    {
        tell_line(format_args!("cloister: can't write {}: {error}", path.display()));
        return exit_codes::FAILED;
    }
    let good = report.succeeds(arguments.allow_skips);
    let code = if good { exit_codes::OK } else { exit_codes::NOT_PROVEN };
    print(&if arguments.json { json(&report) } else { table(&report) }, code)
}

fn failed(error: &ProveError) -> u8 {
    tell_line(describe(error, Some(error.remedy())));
    exit_codes::FAILED
}

fn create(path: &Path) -> Result<(File, &Path), u8> {
    File::create(path).map(|file| (file, path)).map_err(|error| {
        tell_line(format_args!("cloister: can't write {}: {error}", path.display()));
        exit_codes::FAILED
    })
}

/// The suite, unless a signal ends it; that leaves nothing behind either.
async fn run(wish: &Wish) -> Result<Result<Report, u8>, ProveError> {
    let Ok(mut signals) = Signals::listen() else { return Ok(Err(0)) };
    // Draws nothing where standard error is not a terminal.
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("cloister: {msg} {spinner} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TURN);
    let tell = |what: &str| bar.set_message(what.to_owned());
    let done = tokio::select! {
        report = prove::prove(wish, &tell) => report.map(Ok),
        signal = signals.end() => Ok(Err(signal)),
    };
    bar.finish_and_clear();
    done
}

fn print(text: &str, code: u8) -> u8 {
    match io::stdout().write_all(text.as_bytes()) {
        // Somebody who reads only the first lines has still got the exit code.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            tell_line(format_args!("cloister: can't write standard output: {error}"));
            exit_codes::FAILED
        }
        _ => code,
    }
}

fn json(report: &Report) -> String {
    // Strings, numbers and lists: there is nothing in it that could fail.
    serde_json::to_string_pretty(report).unwrap_or_default() + "\n"
}

fn listed(cases: &[Case], as_json: bool) -> String {
    if as_json {
        let rows = cases.iter().map(|case| {
            serde_json::json!({ "name": full_name(case), "tries": case.tries, "why": case.why })
        });
        let list = serde_json::json!({ "schema": 1, "cases": rows.collect::<Vec<_>>() });
        return format!("{list:#}\n");
    }
    let mut table = plain();
    for case in cases {
        table.add_row(vec![full_name(case), format!("{}\n→ {}", case.tries, case.why)]);
    }
    format!("{table}\n\n{} attacks.\n", cases.len())
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if table.width().is_none_or(|width| width > WIDEST) {
        table.set_width(WIDEST);
    }
    table
}

fn table(report: &Report) -> String {
    let mut table = plain();
    for one in &report.cases {
        let color = match one.status {
            Status::Held => Color::Green,
            Status::NotRun => Color::Yellow,
            Status::Unexpected | Status::Succeeded => Color::Red,
        };
        let status = Cell::new(one.status.word()).fg(color).add_attribute(Attribute::Bold);
        let mut text = one.seen.join("\n");
        if one.status != Status::Held {
            text = format!("tries: {}\nmust fail: {}\n{text}", one.tries, one.why);
        }
        table.add_row(vec![status, Cell::new(&one.name), Cell::new(text)]);
    }
    let mut sums = plain();
    sums.set_header(["", "attacks", "held", "succeeded", "unexpected", "not run"]);
    for sum in &report.summary {
        let numbers = [sum.cases, sum.held, sum.succeeded, sum.unexpected, sum.not_run];
        let words = numbers.iter().map(ToString::to_string);
        sums.add_row(std::iter::once(sum.group.word().to_owned()).chain(words));
    }
    format!("{table}\n\n{sums}\n\n{}\n", report.verdict())
}
