//! The command `cloister`. Everything is in the library: [`cloister::commands`].

use std::process::ExitCode;

use cloister::commands;
use cloister::launch::jail::LimitsWish;

fn main() -> ExitCode {
    commands::main(LimitsWish::Asked)
}
