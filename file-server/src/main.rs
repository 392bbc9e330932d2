//! `cloister-file-server`: serves a team's shared directories. Started by `cloister` in its jail, with a
//! control socket as descriptor 3, which brings everything else.

use std::process::ExitCode;

use cloister_file_server::process;

/// Exit status when it could not start or go on, or when it was called by hand.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    if let Some(argument) = std::env::args_os().nth(1) {
        return answer(&argument.to_string_lossy());
    }
    match process::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            process::complain(&error);
            ExitCode::from(FAILED)
        }
    }
}

/// There is nothing to configure by hand; a person who tries is told so.
fn answer(argument: &str) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    let text = format!("cloister-file-server {version}: started by `cloister`, takes no arguments");
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
