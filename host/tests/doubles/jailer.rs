//! The real jailer, made of its library.

use std::process::ExitCode;

use cloister_jailer::{outside, share};

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some(share::ARGUMENT) => share::run().is_ok(),
        _ => outside::start().is_ok(),
    };
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
