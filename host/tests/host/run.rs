//! `cloister run`: streams, signals, limits, terminal, and what is left behind.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::harness::{Installation, text};
use rustix::process::{Pid, Signal, kill_process};

fn ordinary() -> Installation {
    Installation::new("ordinary")
}

#[test]
fn output_and_exit_code_come_through() {
    let output = ordinary().run(&["--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(text(&output.stdout), "out\n");
    assert_eq!(text(&output.stderr), "err\n");
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn the_dashes_can_be_left_out() {
    let output = ordinary().run(&["sh", "-c", "echo $0 $1", "--cpus", "-t"]);
    assert_eq!(text(&output.stdout), "--cpus -t\n");
}

#[test]
fn a_signal_is_128_and_its_number() {
    assert_eq!(ordinary().run(&["--", "sh", "-c", "kill -9 $$"]).status.code(), Some(137));
}

#[test]
fn what_can_not_be_started_has_its_codes() {
    let installation = ordinary();
    let missing = installation.run(&["--", "no-such-program"]);
    assert_eq!(missing.status.code(), Some(127));
    assert!(text(&missing.stderr).starts_with("cloister: no such program in the guest: "));
    assert_eq!(installation.run(&["--", "/etc/passwd"]).status.code(), Some(126));
}

#[test]
fn environment_and_directory_are_what_was_asked_for() {
    let installation = ordinary();
    let output = installation.run(&["-e", "A=b=c", "--env", "HOME=/x", "-w", "/usr", "--", "sh"]);
    assert_eq!(output.status.code(), Some(0));
    let words = ["-e", "A=b=c", "--env", "HOME=/x", "-w", "/usr", "--", "sh", "-c", "env; pwd"];
    let mut command = installation.cloister();
    let output = command.env("SECRET", "host").arg("run").args(words).output().expect("a run");
    let lines = text(&output.stdout);
    for line in ["A=b=c", "HOME=/x", "TERM=dumb", "/usr"] {
        assert!(lines.lines().any(|other| other == line), "{line} in {lines}");
    }
    assert!(lines.contains("PATH=/usr/local/sbin:"));
    assert!(!lines.contains("SECRET"));
}

#[test]
fn standard_input_comes_whole_and_ends() {
    let installation = ordinary();
    let mut child = spawn(&installation, &["--", "sh", "-c", "cat; echo end"], Stdio::piped());
    let mut input = child.stdin.take().expect("a pipe");
    let bytes: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let sent = bytes.clone();
    let writer = thread::spawn(move || input.write_all(&sent).expect("everything written"));
    let output = child.wait_with_output().expect("an end");
    writer.join().expect("a writer");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == [bytes, b"end\n".to_vec()].concat());
}

#[test]
fn a_command_that_reads_nothing_does_not_hold_the_input() {
    let installation = ordinary();
    let mut child = spawn(&installation, &["--", "true"], Stdio::piped());
    // Kept open: nobody waits for its end.
    let _input = child.stdin.take();
    assert_eq!(wait(&mut child).code(), Some(0));
}

#[test]
fn a_gibibyte_passes_with_bounded_memory() {
    let installation = ordinary();
    let script = format!("head -c 1G /dev/zero | {} run -- cat | wc -c", installation.for_shell());
    let mut child =
        Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().expect("a shell");
    // Its memory while it works: the largest of what is seen.
    let mut peak_kib = 0;
    while child.try_wait().expect("a status").is_none() {
        peak_kib = peak_kib.max(largest_cloister_kib(&installation));
        thread::sleep(Duration::from_millis(20));
    }
    let mut count = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut count).expect("a count");
    assert_eq!(count.trim(), (1u64 << 30).to_string());
    assert!(peak_kib > 0 && peak_kib < 32 << 10, "{peak_kib} KiB");
}

#[test]
fn a_reader_that_leaves_ends_the_command_as_usual() {
    let installation = ordinary();
    let program = installation.for_shell();
    let script = format!("{program} run -- yes | head -n 1; echo ${{PIPESTATUS[0]}}");
    let output = Command::new("bash").args(["-c", &script]).output().expect("a shell");
    // SIGPIPE; but the fake's commands write to sockets, and there a write that already waits ends
    // without the signal (the kernel sends it only for one that begins), which `yes` makes a 1 of.
    let seen = text(&output.stdout);
    assert!(seen == "y\n141\n" || seen == "y\n1\n", "{seen}");
    assert!(!text(&output.stderr).contains("cloister"));
}

#[test]
fn output_that_can_not_be_written_is_an_error() {
    let installation = ordinary();
    let full = fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let output = installation
        .cloister()
        .args(["run", "--", "echo", "lost"])
        .stdout(full)
        .output()
        .expect("a run");
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("can't write standard output: No space left"));
}

#[test]
fn the_time_limit_is_124() {
    let start = Instant::now();
    let output = ordinary().run(&["--timeout", "300ms", "--", "sleep", "60"]);
    assert_eq!(output.status.code(), Some(124));
    assert!(start.elapsed() < Duration::from_secs(50));
}

#[test]
fn a_guest_that_ignores_the_time_limit_is_not_believed() {
    let output = Installation::new("no-limits").run(&["--timeout", "300ms", "--", "sleep", "60"]);
    assert_eq!(output.status.code(), Some(124));
    assert!(text(&output.stderr).contains("did not end the command at its time limit"));
}

#[test]
fn output_that_is_kept_open_is_not_waited_for() {
    let output = Installation::new("keeps-output").run(&["--", "echo", "all"]);
    assert_eq!(text(&output.stdout), "all\n");
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("the guest kept standard output open"));
}

#[test]
fn signals_reach_the_command() {
    for (name, signal) in
        [("INT", Signal::INT), ("TERM", Signal::TERM), ("HUP", Signal::HUP), ("USR1", Signal::USR1)]
    {
        let installation = ordinary();
        let trap =
            format!("trap 'echo got; exit 9' {name}; echo ready; while :; do sleep 0.1; done");
        let mut child = spawn(&installation, &["--", "sh", "-c", &trap], Stdio::null());
        let mut output = child.stdout.take().expect("a pipe");
        read_until(&mut output, "ready\n");
        send(&child, signal);
        read_until(&mut output, "got\n");
        assert_eq!(wait(&mut child).code(), Some(9), "{name}");
    }
}

#[test]
fn the_third_request_ends_the_machine() {
    let installation = ordinary();
    let deaf = ["--", "sh", "-c", "trap '' INT; echo ready; while :; do sleep 0.1; done"];
    let mut child = spawn(&installation, &deaf, Stdio::null());
    read_until(&mut child.stdout.take().expect("a pipe"), "ready\n");
    for _ in 0..3 {
        send(&child, Signal::INT);
        // Signals of one number that wait are one.
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(wait(&mut child).code(), Some(130));
}

#[test]
fn a_signal_ends_a_start() {
    let installation = Installation::new("running");
    let mut child = spawn(&installation, &["--", "true"], Stdio::null());
    wait_for_vmm(&child);
    send(&child, Signal::TERM);
    assert_eq!(wait(&mut child).code(), Some(143));
    assert_eq!(vmms_of(&installation), 0);
}

#[test]
fn a_signal_ends_the_wait_for_a_guest_that_does_not_start_the_command() {
    let installation = Installation::new("deaf-to-exec");
    let mut child = spawn(&installation, &["--verbose", "--", "true"], Stdio::null());
    read_until(&mut child.stderr.take().expect("a pipe"), "supervisor ready\n");
    send(&child, Signal::TERM);
    assert_eq!(wait(&mut child).code(), Some(143));
    assert_eq!(vmms_of(&installation), 0);
}

#[test]
fn nothing_is_left_when_it_is_killed() {
    let installation = ordinary();
    let mut child = spawn(&installation, &["--", "sleep", "1000"], Stdio::null());
    wait_for_vmm(&child);
    child.kill().expect("a kill");
    child.wait().expect("an end");
    // The kernel kills the vmm when its parent ends; the end of a process takes its time.
    let start = Instant::now();
    while vmms_of(&installation) > 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "the vmm still runs");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn nohup_is_respected() {
    let installation = ordinary();
    let script = format!(
        "trap '' HUP; exec {} run -- sh -c 'echo ready; sleep 1; echo whole'",
        installation.for_shell()
    );
    let mut child =
        Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().expect("a shell");
    let mut output = child.stdout.take().expect("a pipe");
    read_until(&mut output, "ready\n");
    send(&child, Signal::HUP);
    read_until(&mut output, "whole\n");
    assert_eq!(wait(&mut child).code(), Some(0));
}

#[test]
fn a_terminal_has_a_size_and_passes_keys() {
    let installation = ordinary();
    // `script` runs it on a terminal of its own.
    let program = installation.for_shell();
    let inner = format!(
        "stty rows 33 cols 101; {program} run -it -- sh -c 'stty size; read line; echo got $line'; \
         echo code $?; stty -a | grep -o -- ' -\\?icanon'"
    );
    let mut child = Command::new("script")
        .args(["-qec", &inner, "/dev/null"])
        .env("TERM", "vt100")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program script");
    let mut output = child.stdout.take().expect("a pipe");
    read_until(&mut output, "33 101\r\n");
    child.stdin.as_mut().expect("a pipe").write_all(b"words\r").expect("keys");
    let rest = read_until(&mut output, "icanon\r\n");
    assert!(rest.contains("got words\r\n"), "{rest}");
    assert!(rest.contains("code 0\r\n"), "{rest}");
    // The terminal is as it was.
    assert!(!rest.contains("-icanon"), "{rest}");
    drop(child.stdin.take());
    child.wait().expect("an end");
}

#[test]
fn a_terminal_follows_the_size_of_ours() {
    let installation = ordinary();
    let program = installation.for_shell();
    let inner = format!(
        "stty rows 33 cols 101; tty; {program} run -it -- sh -c \
         'trap \"stty size; exit 3\" WINCH; stty size; while :; do sleep 0.1; done'; echo code $?"
    );
    let mut child = Command::new("script")
        .args(["-qec", &inner, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program script");
    let mut output = child.stdout.take().expect("a pipe");
    let terminal = read_until(&mut output, "\r\n");
    read_until(&mut output, "33 101\r\n");
    let resized =
        Command::new("stty").args(["-F", terminal.trim(), "rows", "40", "cols", "90"]).status();
    assert!(resized.expect("the program stty").success());
    read_until(&mut output, "40 90\r\n");
    read_until(&mut output, "code 3\r\n");
    drop(child.stdin.take());
    child.wait().expect("an end");
}

#[test]
fn the_console_can_be_kept() {
    let installation = ordinary();
    let log = installation.path("console.log");
    let output = installation
        .cloister()
        .args(["run", "--log"])
        .arg(&log)
        .args(["--", "true"])
        .output()
        .expect("a run");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(fs::read(&log).expect("a log"), b"a console line\r\n");
}

#[test]
fn verbose_tells_times_and_the_console() {
    let output = ordinary().run(&["-v", "--", "true"]);
    let told = text(&output.stderr);
    assert!(told.contains("ms  supervisor ready"), "{told}");
    assert!(told.contains("  guest| a console line\n"), "{told}");
}

fn spawn(installation: &Installation, words: &[&str], stdin: Stdio) -> Child {
    let mut command = installation.cloister();
    command.arg("run").args(words).stdin(stdin);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a run")
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("a signal sent");
}

/// Waits for the end, and not for ever.
fn wait(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a status") {
            return status;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "it does not end");
        thread::sleep(Duration::from_millis(10));
    }
}

/// What was read, up to and with `mark`.
fn read_until(source: &mut impl std::io::Read, mark: &str) -> String {
    let mut seen = String::new();
    let mut byte = [0];
    while !seen.ends_with(mark) {
        assert_eq!(source.read(&mut byte).expect("a byte"), 1, "{mark:?} not in {seen:?}");
        seen.push(char::from(byte[0]));
    }
    seen
}

/// Waits until the vmm of `child` runs.
fn wait_for_vmm(child: &Child) {
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let start = Instant::now();
    while fs::read_to_string(&children).unwrap_or_default().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "no vmm");
        thread::sleep(Duration::from_millis(10));
    }
    // Between fork and exec it is not yet the vmm.
    thread::sleep(Duration::from_millis(200));
}

/// How many processes run this installation's vmm.
fn vmms_of(installation: &Installation) -> usize {
    processes_of(&installation.path("bin/cloister-vmm")).len()
}

fn processes_of(program: &std::path::Path) -> Vec<String> {
    let wanted = fs::canonicalize(program).expect("a program");
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|id| fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|path| path == wanted))
        .collect()
}

/// The largest resident size, so far, of this installation's `cloister` processes.
fn largest_cloister_kib(installation: &Installation) -> u64 {
    processes_of(&installation.path("bin/cloister"))
        .into_iter()
        .filter_map(|id| fs::read_to_string(format!("/proc/{id}/status")).ok())
        .filter_map(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().strip_suffix(" kB")?.parse().ok()
        })
        .max()
        .unwrap_or(0)
}
