//! `cloister completion`: a completion script, made from the command line's own description.

use std::io::{self, Write as _};

use clap::CommandFactory as _;

use crate::cli::{Cli, CompletionArgs};
use crate::exit_codes;
use crate::report::tell_line;

/// Prints the script for one shell.
#[must_use]
pub fn completion(arguments: &CompletionArgs) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "cloister", &mut script);
    match io::stdout().write_all(&script) {
        Ok(()) => exit_codes::OK,
        Err(error) => {
            tell_line(format_args!("cloister: can't write standard output: {error}"));
            exit_codes::FAILED
        }
    }
}
