//! `cloister`, but for the limits of control groups: the machine on which the tests run may have no
//! controllers. Everything else is as ever.

use std::process::ExitCode;

use cloister::commands;
use cloister::launch::jail::LimitsWish;

fn main() -> ExitCode {
    commands::main(LimitsWish::NotAsked)
}
