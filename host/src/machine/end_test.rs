use super::*;
use crate::report::chain;

fn exit(code: ExitCode, detail: &str) -> MachineEnd {
    MachineEnd::Reported(Exit { code, detail: detail.to_owned() })
}

#[test]
fn a_report_is_one_harmless_line() {
    let end = exit(ExitCode::TripleFault, "rip 0x10\n\x1b[31mrsp 0x20\n");
    assert_eq!(
        end.to_string(),
        "the guest's processor gave up (triple fault): rip 0x10 | \\x1b[31mrsp 0x20"
    );
    assert_eq!(exit(ExitCode::Stopped, "").to_string(), "the machine powered off");
}

#[test]
fn only_power_off_and_reset_are_orderly() {
    assert!(exit(ExitCode::Stopped, "").is_orderly());
    assert!(exit(ExitCode::Reset, "").is_orderly());
    assert!(!exit(ExitCode::Panic, "").is_orderly());
    assert!(!MachineEnd::Killed.is_orderly());
}

#[test]
fn a_start_tells_how_far_it_came_and_why_it_ended() {
    let error = StartError::Ended {
        stage: Stage::Running,
        end: Arc::new(exit(ExitCode::Panic, "no init")),
    };
    assert_eq!(
        chain(&error),
        "the machine ended before it was ready (its kernel ran, and the supervisor had not connected \
         yet): the guest's kernel panicked: no init"
    );
    assert!(error.remedy().unwrap().contains("--memory"));
    let late = StartError::TimedOut { limit: Duration::from_millis(1500), stage: Stage::Connected };
    assert_eq!(
        late.to_string(),
        "the machine was not ready within 1.5 s (the supervisor had connected, and not said hello yet)"
    );
}

#[test]
fn a_guests_version_tells_what_to_build() {
    let end = MachineEnd::Guest(GuestError::Version { guest: 2, host: 1 });
    assert_eq!(
        chain(&end),
        "the machine was killed, because its supervisor broke the protocol: it speaks version 2 of the \
         protocol, and this program version 1"
    );
    assert!(end.remedy().unwrap().contains("make rootfs"));
}

#[test]
fn why_a_command_did_not_start() {
    let error = ExecError::Failed { reason: ExecFailure::NotFound, detail: "x".into() };
    assert_eq!(error.to_string(), "no such program in the guest: x");
    let error = ExecError::Failed { reason: ExecFailure::Resources, detail: String::new() };
    assert_eq!(error.to_string(), "the guest lacks the resources");
}
