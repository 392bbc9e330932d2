use cloister_vmm::exit::ExitCode;

use super::*;

const DOCUMENT: &str = include_str!("../../docs/exit-codes.md");

/// The first cells of the table under `heading`.
fn codes_under(heading: &str) -> Vec<String> {
    let (_, section) = DOCUMENT.split_once(heading).unwrap();
    let section = section.split("\n## ").next().unwrap();
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
        .filter(|cell| cell.chars().next().is_some_and(|first| first.is_ascii_digit()))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_documented_codes_of_run_are_these() {
    let own = [TIMED_OUT, FAILED, NOT_EXECUTABLE, NOT_FOUND].map(|code| code.to_string());
    let mut expected = vec!["0 to 255".to_owned()];
    expected.extend(own);
    expected.push(format!("{SIGNALLED} + n"));
    assert_eq!(codes_under("## `cloister run`"), expected);
}

#[test]
fn the_documented_codes_of_the_other_commands_are_these() {
    let expected = [OK, DOCTOR_FAILED, FAILED].map(|code| code.to_string());
    assert_eq!(codes_under("## Other commands"), expected);
}

#[test]
fn the_documented_codes_of_the_vmm_are_these() {
    let codes = [
        ExitCode::Stopped,
        ExitCode::Host,
        ExitCode::Spec,
        ExitCode::Image,
        ExitCode::Kvm,
        ExitCode::Snapshot,
        ExitCode::Reset,
        ExitCode::TripleFault,
        ExitCode::Halted,
        ExitCode::KvmInternal,
        ExitCode::Panic,
        ExitCode::GuestFault,
        ExitCode::HostGone,
        ExitCode::FilesGone,
    ];
    for code in codes {
        // Without a wildcard, so that a new code has to be put into the list above.
        match code {
            ExitCode::Stopped
            | ExitCode::Host
            | ExitCode::Spec
            | ExitCode::Image
            | ExitCode::Kvm
            | ExitCode::Snapshot
            | ExitCode::Reset
            | ExitCode::TripleFault
            | ExitCode::Halted
            | ExitCode::KvmInternal
            | ExitCode::Panic
            | ExitCode::GuestFault
            | ExitCode::HostGone
            | ExitCode::FilesGone => {}
        }
    }
    let expected = codes.map(|code| (code as u8).to_string());
    assert_eq!(codes_under("## `cloister-vmm`"), expected);
}

#[test]
fn ends_of_commands() {
    assert_eq!(of_status(ExitStatus::Code(7)), 7);
    assert_eq!(of_status(ExitStatus::Signal(9)), 137);
    assert_eq!(of_status(ExitStatus::Signal(64)), 192);
    assert_eq!(of_status(ExitStatus::TimedOut), TIMED_OUT);
}

#[test]
fn failures_to_start() {
    assert_eq!(of_failure(ExecFailure::NotFound), 127);
    assert_eq!(of_failure(ExecFailure::NotExecutable), 126);
    for reason in [ExecFailure::Directory, ExecFailure::BadRequest, ExecFailure::Resources] {
        assert_eq!(of_failure(reason), 125);
    }
}
