//! `cloister-jailer`: makes a jail and executes a program in it. Started by `cloister` with five
//! descriptors and no argument; see [`cloister_jailer::spec`]. With the argument `share` it makes the mount
//! of a share instead; see [`cloister_jailer::share`].

use std::process::ExitCode;

use cloister_jailer::{outside, share};

/// Exit status when a step failed, or when it was called by hand.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    if let Some(argument) = std::env::args_os().nth(1) {
        if argument == share::ARGUMENT {
            return make_share();
        }
        return answer(&argument.to_string_lossy());
    }
    match outside::start() {
        Ok(()) => ExitCode::SUCCESS,
        // The host has been told, if there is one.
        Err(failure) => {
            let error = std::io::Error::from_raw_os_error(failure.errno);
            let text = format!("cloister-jailer: {failure}: {error}; it is started by `cloister`");
            write_line(std::io::stderr(), &text);
            ExitCode::from(FAILED)
        }
    }
}

/// Who asked has been told, if somebody has.
fn make_share() -> ExitCode {
    match share::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err((stage, errno)) => {
            let error = std::io::Error::from_raw_os_error(errno);
            let text = format!("cloister-jailer: a share: {stage}: {error}");
            write_line(std::io::stderr(), &text);
            ExitCode::from(FAILED)
        }
    }
}

/// There is nothing to configure by hand; a person who tries is told so.
fn answer(argument: &str) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    let text = format!("cloister-jailer {version}: started by `cloister`, takes no arguments");
    match argument {
        "--help" | "-h" | "--version" | "-V" => {
            write_line(std::io::stdout(), &text);
            ExitCode::SUCCESS
        }
        _ => {
            write_line(std::io::stderr(), &text);
            ExitCode::from(FAILED)
        }
    }
}

fn write_line(mut out: impl std::io::Write, text: &str) {
    // A closed stream is no reason to fail: the exit status says the same.
    writeln!(out, "{text}").ok();
}
