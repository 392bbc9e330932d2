//! The library, with the fake vmm: many commands at once, every request, and no leak.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::process::Command;
use std::time::Duration;

use super::harness::Installation;
use cloister::launch::LaunchSpec;
use cloister::launch::files::Files;
use cloister::launch::jail::{JailSpec, LimitsWish};
use cloister::machine::{ExecError, ExecSpec, Machine, MachineError, StdioSpec, Streams};
use cloister_protocol::check::Broken;
use cloister_protocol::limits::MAX_COMMANDS;
use cloister_protocol::message::{ExitStatus, WindowSize};
use cloister_vmm::exit::ExitCode;
use cloister_vmm::spec::VmSpec;

pub(crate) fn spec(installation: &Installation) -> LaunchSpec {
    let files = Files {
        vmm: installation.path("bin/cloister-vmm"),
        jailer: installation.path("bin/cloister-jailer"),
        kernel: installation.path("lib/cloister/vmlinux"),
        root: installation.path("lib/cloister/rootfs.cpio"),
        kvm: "/dev/null".into(),
    };
    let jail = JailSpec { limits: LimitsWish::NotAsked, ..JailSpec::default() };
    let vm = VmSpec { vcpus: 1, memory_mib: 64, extra_cmdline: String::new() };
    LaunchSpec { jail, ..LaunchSpec::new(files, vm) }
}

pub(crate) async fn start(installation: &Installation) -> Machine {
    Machine::start(spec(installation)).await.expect("a machine")
}

pub(crate) fn shell(script: &str) -> ExecSpec {
    ExecSpec::new(["sh", "-c", script])
}

#[tokio::test(flavor = "current_thread")]
async fn a_hundred_commands_at_once_end_right() {
    let installation = Installation::new("ordinary");
    let machine = start(&installation).await;
    let mut commands = Vec::new();
    for index in 0..100u8 {
        let script = format!("read line; echo $line {index}; exit {index}");
        commands.push(machine.exec(shell(&script)).await.expect("a command"));
    }
    for (index, mut command) in commands.into_iter().enumerate().rev() {
        let streams = command.take_streams();
        let Some(Streams::Pipes { stdin: Some(mut stdin), mut stdout, .. }) = streams else {
            panic!("{streams:?}")
        };
        stdin.write_all(b"line\n").expect("a line");
        let status = command.wait().await.expect("an end");
        assert_eq!(status, ExitStatus::Code(u8::try_from(index).expect("a byte")));
        let mut output = String::new();
        stdout.read_to_string(&mut output).expect("output");
        assert_eq!(output, format!("line {index}\n"));
    }
    let end = machine.stop().await;
    assert_eq!(end.exit_code(), Some(ExitCode::Stopped));
}

#[tokio::test(flavor = "current_thread")]
async fn more_commands_than_the_limit_are_refused() {
    let installation = Installation::new("ordinary");
    let machine = start(&installation).await;
    let mut commands = Vec::new();
    for _ in 0..MAX_COMMANDS {
        let stdio = StdioSpec::Pipes { stdin: false };
        let exec = ExecSpec { stdio, ..ExecSpec::new(["sleep", "1000"]) };
        commands.push(machine.exec(exec).await.expect("a command"));
    }
    let refused = machine.exec(shell("true")).await.expect_err("one too many");
    assert!(matches!(refused, ExecError::Machine(MachineError::TooMany { .. })), "{refused:?}");
    machine.stop().await;
}

#[tokio::test(flavor = "current_thread")]
async fn requests_are_answered() {
    let installation = Installation::new("ordinary");
    let machine = start(&installation).await;
    for _ in 0..3 {
        machine.ping().await.expect("a pong");
        machine.pause().await.expect("a pause");
        machine.resume().await.expect("a resume");
        machine.stats().await.expect("statistics");
    }
    let report = machine.start_report();
    assert!(report.begin_ns <= report.spawn_ns && report.spawn_ns <= report.sent_ns);
    assert!(report.sent_ns <= report.ready_ns);
    assert_eq!((report.supervisor_start_tsc, report.supervisor_ready_tsc), (1, 2));
    machine.stop().await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_guest_on_other_ports_is_refused_and_counted() {
    let installation = Installation::new("wrong-port");
    let machine = start(&installation).await;
    // Its second connection as supervisor.
    let before = machine.refused_connections();
    let mut command = machine.exec(shell("true")).await.expect("a command");
    assert_eq!(command.wait().await.expect("an end"), ExitStatus::Code(0));
    assert_eq!(command.wait().await.expect("the same again"), ExitStatus::Code(0));
    // A port that was never named, and one that had been used.
    assert_eq!(machine.refused_connections(), before + 2);
    machine.stop().await;
}

#[tokio::test(flavor = "current_thread")]
async fn the_host_can_connect_to_the_guest() {
    let installation = Installation::new("ordinary");
    let machine = start(&installation).await;
    let mut stream = machine.connect(5000).await.expect("somebody who listens");
    stream.write_all(b"echo").expect("bytes");
    stream.shutdown(Shutdown::Write).expect("an end");
    let mut back = String::new();
    stream.read_to_string(&mut back).expect("bytes");
    assert_eq!(back, "echo");
    let refused = machine.connect(5001).await.expect_err("nobody listens");
    assert!(matches!(refused, MachineError::Refused { port: 5001 }), "{refused:?}");
    machine.stop().await;
}

#[tokio::test(flavor = "current_thread")]
async fn signals_terminals_and_limits() {
    let installation = Installation::new("ordinary");
    let machine = start(&installation).await;
    let mut asleep = machine.exec(shell("sleep 1000")).await.expect("a command");
    asleep.signal(15).await.expect("a signal");
    assert_eq!(asleep.wait().await.expect("an end"), ExitStatus::Signal(15));

    let timeout = Some(Duration::from_millis(100));
    let mut late =
        machine.exec(ExecSpec { timeout, ..shell("sleep 1000") }).await.expect("a command");
    assert_eq!(late.wait().await.expect("an end"), ExitStatus::TimedOut);

    let stdio = StdioSpec::Terminal(WindowSize { rows: 10, columns: 20 });
    let size = "stty size; read line; stty size";
    let mut sized = machine.exec(ExecSpec { stdio, ..shell(size) }).await.expect("a command");
    let Some(Streams::Terminal(mut terminal)) = sized.take_streams() else { panic!("a terminal") };
    let mut seen = [0; 7];
    terminal.read_exact(&mut seen).expect("a size");
    assert_eq!(&seen, b"10 20\r\n");
    sized.resize(WindowSize { rows: 30, columns: 40 }).await.expect("a new size");
    // Answered after the resize.
    machine.ping().await.expect("a pong");
    terminal.write_all(b"\r").expect("a key");
    assert_eq!(sized.wait().await.expect("an end"), ExitStatus::Code(0));
    let mut rest = String::new();
    terminal.read_to_string(&mut rest).expect("the rest");
    assert!(rest.ends_with("30 40\r\n"), "{rest:?}");
    machine.stop().await;
}

#[tokio::test(flavor = "current_thread")]
async fn bad_commands_are_refused_before_they_are_sent() {
    let installation = Installation::new("ordinary");
    let machine = start(&installation).await;
    let relative = ExecSpec { directory: b"tmp".to_vec(), ..shell("true") };
    let refused = machine.exec(relative).await.expect_err("a relative directory");
    assert!(matches!(refused, ExecError::Invalid(Broken::RelativeDirectory)), "{refused:?}");
    let endless = ExecSpec { timeout: Some(Duration::MAX), ..shell("true") };
    let refused = machine.exec(endless).await.expect_err("too long a time");
    assert!(matches!(refused, ExecError::Invalid(Broken::Timeout { .. })), "{refused:?}");
    let long = ExecSpec::new(["x".repeat(1 << 20)]);
    let refused = machine.exec(long).await.expect_err("too long a command");
    assert!(matches!(refused, ExecError::TooLong(_)), "{refused:?}");
    machine.ping().await.expect("it still works");
    machine.stop().await;
}

#[tokio::test(flavor = "current_thread")]
async fn the_end_of_a_machine_reaches_everyone() {
    let installation = Installation::new("ordinary");
    let machine = start(&installation).await;
    let mut command = machine.exec(shell("sleep 1000")).await.expect("a command");
    machine.power_off().await.expect("a request");
    let end = command.wait().await.expect_err("an end before the command's");
    assert!(matches!(end, MachineError::Ended(_)), "{end:?}");
    assert_eq!(machine.ended().await.exit_code(), Some(ExitCode::Stopped));
    let late = machine.ping().await.expect_err("nobody is there");
    assert!(matches!(late, MachineError::Ended(_)), "{late:?}");
}

/// Whether this process is the one that the test below has made for itself.
const ALONE: &str = "CLOISTER_TEST_ALONE";

#[test]
fn two_hundred_machines_leave_nothing() {
    if std::env::var_os(ALONE).is_none() {
        // The descriptors of tests that run at the same time would be counted too.
        let own = std::env::current_exe().expect("this test");
        let name = "machine::two_hundred_machines_leave_nothing";
        let status = Command::new(own).args(["--exact", name]).env(ALONE, "1").status();
        assert!(status.expect("a test").success());
        return;
    }
    let installation = Installation::new("ordinary");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let round = || {
        runtime.block_on(async {
            let machine = start(&installation).await;
            let mut command = machine.exec(shell("echo out")).await.expect("a command");
            assert_eq!(command.wait().await.expect("an end"), ExitStatus::Code(0));
            machine.stop().await;
        });
    };
    round();
    let before = (descriptors(), children());
    for _ in 0..200 {
        round();
    }
    assert_eq!((descriptors(), children()), before);
}

/// Open descriptors of this process.
fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("descriptors").count()
}

fn children() -> usize {
    let own = fs::read_to_string("/proc/thread-self/children").expect("children");
    own.split_whitespace().count()
}
