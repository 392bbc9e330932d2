//! The real file server, made of its library.

use std::process::ExitCode;

use cloister_file_server::process;

fn main() -> ExitCode {
    match process::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            process::complain(&error);
            ExitCode::FAILURE
        }
    }
}
