//! Tests of what messages must keep to.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::{Broken, Place, printable_detail};
use crate::frame::tests::any_exec;
use crate::limits::{
    MAX_ARGUMENTS, MAX_COMMANDS, MAX_DETAIL, MAX_FRAME, MAX_TIMEOUT_MS, MAX_VARIABLES,
};
use crate::message::{Attached, Event, Exec, ExecFailure, ExitStatus, Request, Stdio, WindowSize};

fn good() -> Exec {
    Exec {
        id: 1,
        place: crate::agent::Place::Machine,
        arguments: vec![b"sh".to_vec(), b"-c".to_vec(), b"true".to_vec()],
        environment: vec![(b"PATH".to_vec(), b"/bin".to_vec()), (b"EMPTY".to_vec(), vec![])],
        directory: b"/".to_vec(),
        stdio: Stdio::Streams { stdin: Some(5), stdout: 3, stderr: 4 },
        timeout_ms: Some(1),
    }
}

/// What is said about `good()` after `change`.
fn broken_by(change: impl FnOnce(&mut Exec)) -> Broken {
    let mut exec = good();
    change(&mut exec);
    exec.validate().unwrap_err()
}

#[test]
fn a_good_command_passes() {
    assert_eq!(good().validate(), Ok(()));
    assert_eq!(Request::Exec(good()).validate(), Ok(()));
    let size = WindowSize { rows: 0, columns: 0 };
    let terminal = Exec { stdio: Stdio::Terminal { port: 3, size }, timeout_ms: None, ..good() };
    assert_eq!(terminal.validate(), Ok(()));
}

#[test]
fn arguments_are_checked() {
    assert_eq!(broken_by(|exec| exec.arguments.clear()), Broken::NoProgram);
    assert_eq!(broken_by(|exec| exec.arguments[0].clear()), Broken::NoProgram);
    assert_eq!(
        broken_by(|exec| exec.arguments[2].push(0)),
        Broken::Nul { place: Place::Argument(2) }
    );
    let count = MAX_ARGUMENTS + 1;
    assert_eq!(
        broken_by(|exec| exec.arguments = vec![b"a".to_vec(); count]),
        Broken::TooManyArguments { count }
    );
    let most = Exec { arguments: vec![b"a".to_vec(); MAX_ARGUMENTS], ..good() };
    assert_eq!(most.validate(), Ok(()));
}

#[test]
fn environment_is_checked() {
    let variable = |name: &[u8], value: &[u8]| vec![(name.to_vec(), value.to_vec())];
    let index = 0;
    assert_eq!(
        broken_by(|exec| exec.environment = variable(b"", b"x")),
        Broken::VariableName { index }
    );
    assert_eq!(
        broken_by(|exec| exec.environment = variable(b"A=B", b"x")),
        Broken::VariableName { index }
    );
    let place = Place::Variable(0);
    assert_eq!(broken_by(|exec| exec.environment = variable(b"A\0", b"x")), Broken::Nul { place });
    assert_eq!(broken_by(|exec| exec.environment = variable(b"A", b"\0")), Broken::Nul { place });
    let count = MAX_VARIABLES + 1;
    assert_eq!(
        broken_by(|exec| exec.environment = vec![(b"A".to_vec(), vec![]); count]),
        Broken::TooManyVariables { count }
    );
}

#[test]
fn directory_is_checked() {
    assert_eq!(broken_by(|exec| exec.directory.clear()), Broken::RelativeDirectory);
    assert_eq!(broken_by(|exec| exec.directory = b"tmp".to_vec()), Broken::RelativeDirectory);
    assert_eq!(
        broken_by(|exec| exec.directory = b"/tmp\0".to_vec()),
        Broken::Nul { place: Place::Directory }
    );
}

#[test]
fn ports_are_checked() {
    let streams = |stdin, stdout, stderr| Stdio::Streams { stdin, stdout, stderr };
    let size = WindowSize { rows: 1, columns: 1 };
    for (stdio, port) in [
        (streams(Some(0), 3, 4), 0),
        (streams(None, 1, 4), 1),
        (streams(None, 3, u32::MAX), u32::MAX),
        (streams(Some(3), 3, 4), 3),
        (streams(Some(4), 3, 4), 4),
        (streams(Some(5), 4, 4), 4),
        (streams(Some(2), 3, 4), 2),
        (Stdio::Terminal { port: 1, size }, 1),
    ] {
        assert_eq!(broken_by(|exec| exec.stdio = stdio), Broken::Port { port }, "{stdio:?}");
    }
}

#[test]
fn time_limit_is_checked() {
    for timeout_ms in [0, MAX_TIMEOUT_MS + 1, u64::MAX] {
        assert_eq!(
            broken_by(|exec| exec.timeout_ms = Some(timeout_ms)),
            Broken::Timeout { timeout_ms }
        );
    }
    assert_eq!(Exec { timeout_ms: Some(MAX_TIMEOUT_MS), ..good() }.validate(), Ok(()));
}

#[test]
fn signals_are_checked_both_ways() {
    for signal in [0, 65, 255] {
        assert_eq!(Request::Signal { id: 1, signal }.validate(), Err(Broken::Signal { signal }));
        let status = ExitStatus::Signal(signal);
        assert_eq!(Event::Exited { id: 1, status }.validate(), Err(Broken::Signal { signal }));
    }
    for signal in [1, 9, 64] {
        assert_eq!(Request::Signal { id: 1, signal }.validate(), Ok(()));
    }
    assert_eq!(Event::Exited { id: 1, status: ExitStatus::Code(0) }.validate(), Ok(()));
}

#[test]
fn lists_of_commands_are_bounded_and_name_each_once() {
    let most = u32::try_from(MAX_COMMANDS).unwrap();
    let detach = |commands: Vec<u32>| Request::Detach { commands }.validate();
    assert_eq!(detach(vec![]), Ok(()));
    assert_eq!(detach((0..most).collect()), Ok(()));
    let count = MAX_COMMANDS + 1;
    assert_eq!(detach((0..=most).collect()), Err(Broken::TooManyCommands { count }));
    assert_eq!(detach(vec![5, 6, 5]), Err(Broken::Repeated { id: 5 }));

    let attach = |commands: &[(u32, u32, u32)]| {
        let commands = commands.iter();
        let commands = commands.map(|&(id, stdout, stderr)| Attached { id, stdout, stderr });
        Request::Attach { commands: commands.collect() }.validate()
    };
    assert_eq!(attach(&[(1, 3, 4), (2, 5, 6)]), Ok(()));
    assert_eq!(attach(&[(1, 3, 4), (1, 5, 6)]), Err(Broken::Repeated { id: 1 }));
    for (one, other, port) in [
        ((1, 3, 3), (2, 5, 6), 3),
        ((1, 3, 4), (2, 4, 6), 4),
        ((1, 3, 4), (2, 5, 3), 3),
        ((1, 2, 4), (2, 5, 6), 2),
        ((1, 3, u32::MAX), (2, 5, 6), u32::MAX),
    ] {
        assert_eq!(attach(&[one, other]), Err(Broken::Port { port }), "{one:?} {other:?}");
    }
    let many: Vec<_> = (0..=most).map(|id| (id, 10 + 2 * id, 11 + 2 * id)).collect();
    assert_eq!(attach(&many), Err(Broken::TooManyCommands { count }));
}

#[test]
fn details_are_bounded() {
    let failed =
        |length| Event::Failed { id: 1, reason: ExecFailure::NotFound, detail: "x".repeat(length) };
    assert_eq!(failed(MAX_DETAIL).validate(), Ok(()));
    let length = MAX_DETAIL + 1;
    assert_eq!(failed(length).validate(), Err(Broken::Detail { length }));
}

#[test]
fn details_are_cut_between_characters() {
    let cut = printable_detail(&"ä".repeat(MAX_DETAIL));
    assert_eq!(cut.len(), MAX_DETAIL);
    let cut = printable_detail(&alloc::format!("x{}", "ä".repeat(MAX_DETAIL)));
    assert_eq!(cut.len(), MAX_DETAIL - 1);
    assert_eq!(printable_detail("not found"), "not found");
}

#[test]
fn details_can_not_steer_a_terminal() {
    let shown = printable_detail("a\x1b[2J\r\nb\u{9b}c\u{202e}d");
    assert_eq!(shown, "a\u{fffd}[2J\u{fffd}\u{fffd}b\u{fffd}c\u{fffd}d");
}

#[test]
fn rules_are_told_in_words() {
    for (broken, words) in [
        (Broken::NoProgram, "the command has no program"),
        (Broken::Nul { place: Place::Argument(3) }, "argument 3 has a NUL byte in it"),
        (Broken::Nul { place: Place::Directory }, "the working directory has a NUL byte in it"),
        (
            Broken::VariableName { index: 2 },
            "environment variable 2 has an empty name or one with '=' in it",
        ),
        (
            Broken::TooManyArguments { count: 5000 },
            "the command has 5000 arguments, the limit is 4096",
        ),
        (Broken::Port { port: 1 }, "port 1 can't be a stream's port, or is given twice"),
        (Broken::Timeout { timeout_ms: 0 }, "a time limit of 0 ms is not within 1 and 2592000000"),
        (Broken::Signal { signal: 99 }, "99 is not a signal (1 to 64)"),
        (Broken::TooManyCommands { count: 300 }, "300 commands are named, the limit is 256"),
        (Broken::Repeated { id: 7 }, "command 7 is named twice"),
        (Broken::Detail { length: 2000 }, "a detail text of 2000 bytes is over the limit of 1024"),
    ] {
        assert_eq!(broken.to_string(), words);
    }
}

#[test]
fn most_arguments_of_fair_length_fit_into_a_frame() {
    // 60 bytes each: what a compiler's command line has.
    let arguments: Vec<Vec<u8>> = vec![vec![b'a'; 60]; MAX_ARGUMENTS];
    let frame = crate::frame::encode(&Request::Exec(Exec { arguments, ..good() })).unwrap();
    assert!(frame.len() <= MAX_FRAME);
}

proptest! {
    #[test]
    fn checking_never_panics(exec in any_exec()) {
        let _unused = exec.validate();
    }

    #[test]
    fn details_are_always_valid(text in any::<String>()) {
        let detail = printable_detail(&text);
        prop_assert_eq!(&printable_detail(&detail), &detail);
        let event = Event::Failed { id: 1, reason: ExecFailure::NotFound, detail };
        prop_assert_eq!(event.validate(), Ok(()));
    }
}
