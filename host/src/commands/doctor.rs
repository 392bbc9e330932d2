//! `cloister doctor`: what this host can and can't, as a table or as JSON.

use std::io::{self, Write as _};

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};

use crate::cli::DoctorArgs;
use crate::commands::clean_up;
use crate::doctor::{Report, Status, examine};
use crate::exit_codes;
use crate::launch::files::Files;
use crate::launch::jail::LimitsWish;
use crate::report::{describe, tell_line};

/// A table is never wider: its lines would be hard to follow.
const WIDEST: u16 = 110;

/// Examines the host and prints what it found.
#[must_use]
pub fn doctor(arguments: DoctorArgs, limits: LimitsWish) -> u8 {
    let jail = arguments.jail.spec(limits);
    clean_up(&jail);
    let files = match Files::find(arguments.guest.kernel, arguments.guest.rootfs) {
        Ok(files) => files,
        Err(error) => {
            tell_line(describe(&error, error.remedy()));
            return exit_codes::FAILED;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let report = match runtime {
        Ok(runtime) => runtime.block_on(examine(&files, &jail)),
        Err(error) => {
            tell_line(format_args!("cloister: can't set up the runtime: {error}"));
            return exit_codes::FAILED;
        }
    };
    let text = if arguments.json { json(&report) } else { table(&report) };
    // Somebody who reads only the first lines has still got the exit code.
    if let Err(error) = io::stdout().write_all(text.as_bytes())
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        tell_line(format_args!("cloister: can't write standard output: {error}"));
        return exit_codes::FAILED;
    }
    if report.ok { exit_codes::OK } else { exit_codes::DOCTOR_FAILED }
}

fn json(report: &Report) -> String {
    match serde_json::to_string_pretty(report) {
        Ok(text) => text + "\n",
        // Strings, numbers and lists: there is nothing in it that could fail.
        Err(error) => format!("{{\"schema\": 0, \"error\": \"{error}\"}}\n"),
    }
}

fn table(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if table.width().is_none_or(|width| width > WIDEST) {
        table.set_width(WIDEST);
    }
    for check in &report.checks {
        let color = match check.status {
            Status::Ok => Color::Green,
            Status::Warn => Color::Yellow,
            Status::Fail => Color::Red,
        };
        let status = Cell::new(check.status.word()).fg(color).add_attribute(Attribute::Bold);
        let text = match &check.remedy {
            Some(remedy) => format!("{}\n→ {remedy}", check.found),
            None => check.found.clone(),
        };
        table.add_row(vec![status, Cell::new(check.name), Cell::new(text)]);
    }
    let verdict = if report.ok { "Machines can run here." } else { "Machines can't run here." };
    format!("{table}\n\n{verdict}\n")
}
