//! The command `cloister`: reads the command line, does what it says, and exits as documented.

use std::process::ExitCode;

use clap::Parser as _;
use cloister::cli::{Cli, Command};
use cloister::{commands, exit_codes};

fn main() -> ExitCode {
    let code = match Cli::try_parse() {
        Ok(cli) => match cli.command {
            Command::Run(arguments) => commands::run::run(arguments),
            Command::Doctor(arguments) => commands::doctor::doctor(arguments),
            Command::Bench(arguments) => commands::bench::bench(&arguments),
            Command::Image(arguments) => commands::image::image(arguments),
            Command::Completion(arguments) => commands::completion::completion(&arguments),
        },
        // Also how clap returns what --help and --version print.
        Err(message) => {
            // Nothing could be told to somebody whose terminal is gone.
            message.print().ok();
            if message.use_stderr() { exit_codes::FAILED } else { exit_codes::OK }
        }
    };
    ExitCode::from(code)
}
