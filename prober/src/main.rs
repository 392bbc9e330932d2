//! `cloister-prober`: started by `cloister prove` where its attacks are made, and by `cloister bench files` in a
//! container. What it is to do there, it finds by the name under which it was executed, and by its arguments.

use std::io::Write as _;
use std::process::ExitCode;

use cloister_jailer::{outside, share};
use cloister_prober::wire::Case;
use cloister_prober::{container, files, guest, jail};

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let (first, second) = (arguments.next(), arguments.next());
    match (name.as_str(), first.as_deref(), second.as_deref()) {
        // The jailer's names for what it executes.
        ("cloister-vmm", None, None) => jail::vmm(),
        ("cloister-file-server", None, None) => jail::file_server(),
        // As a jailer that leaves out its last step.
        (_, None, None) => exit(outside::start_without_filter().is_ok()),
        (_, Some(share::ARGUMENT), None) => exit(share::run().is_ok()),
        (_, Some("list"), None) => list(),
        (_, Some("guest"), Some(case)) => match guest::kernel(case) {
            Some(kernel) => write(&kernel),
            None => usage(),
        },
        (_, Some("container"), None) => container::attack(),
        (_, Some("neighbour"), None) => container::be_neighbour(),
        (_, Some("files"), Some(order)) => files::work(order),
        (_, Some("stay"), None) => loop {
            std::thread::park();
        },
        _ => usage(),
    }
}

fn exit(done: bool) -> ExitCode {
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn list() -> ExitCode {
    let mut cases: Vec<Case> = jail::cases();
    cases.extend(guest::cases());
    cases.extend(container::cases());
    match serde_json::to_vec(&cases) {
        Ok(bytes) => write(&bytes),
        Err(_) => ExitCode::FAILURE,
    }
}

fn write(bytes: &[u8]) -> ExitCode {
    exit(std::io::stdout().write_all(bytes).is_ok())
}

fn usage() -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    let text = format!(
        "cloister-prober {version}: started by `cloister prove` and `cloister bench files`\n"
    );
    std::io::stderr().write_all(text.as_bytes()).ok();
    ExitCode::FAILURE
}
