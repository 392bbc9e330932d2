//! The real jailer, made of its library.

use std::process::ExitCode;

fn main() -> ExitCode {
    match cloister_jailer::outside::start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
