//! Standard streams: whole, apart, streamed, half-closed, slowed down, bounded.

use std::io::{Read as _, Write as _};
use std::process::{ChildStdin, ChildStdout};
use std::thread;
use std::time::Duration;

use cloister_tests::{Call, Running, census};
use rustix::process::{Signal, kill_process_group};

/// How much goes through a machine: enough to show that nothing holds it. Under emulation a gigabyte
/// takes minutes, so that is sent where the processor is real, and by `CLOISTER_TESTS=slow`.
fn volume() -> u64 {
    let emulated = std::env::var_os("LAB").is_some();
    let slow = std::env::var_os("CLOISTER_TESTS").is_some_and(|kind| kind == "slow");
    if emulated && !slow { 128 << 20 } else { 1 << 30 }
}

/// Most of a process's own memory (KiB) while that goes through: code, stacks, and buffers, which are
/// 256 KiB a stream at most. A process that kept what it passes on would be far above it.
const HOST_MEMORY_KIB: u64 = 16 << 10;
const VMM_MEMORY_KIB: u64 = 8 << 10;

fn write_zeros(mut stdin: ChildStdin, volume: u64) {
    std::io::copy(&mut std::io::repeat(0).take(volume), &mut stdin).unwrap();
}

fn count_zeros(mut stdout: ChildStdout) -> u64 {
    let (mut count, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        let read = stdout.read(&mut buffer).unwrap();
        if read == 0 {
            return count;
        }
        assert!(buffer[..read].iter().all(|byte| *byte == 0), "a byte was changed");
        count += u64::try_from(read).unwrap();
    }
}

/// Neither process keeps what it passes on.
fn assert_memory_is_bounded(running: &Running) {
    let host = running.pid().as_raw_pid().unsigned_abs();
    let vmm = census::child_named(host, "cloister-vmm").expect("the vmm runs");
    let most = census::memory_kib(host, "VmHWM").unwrap();
    assert!(most <= HOST_MEMORY_KIB, "cloister used {most} KiB");
    // Guest memory is shared memory and not counted here.
    let now = census::memory_kib(vmm, "RssAnon").unwrap();
    assert!(now <= VMM_MEMORY_KIB, "cloister-vmm uses {now} KiB");
}

#[test]
fn a_gigabyte_through_stdin_and_stdout_is_whole_and_held_by_nobody() {
    // The machine has far less memory than goes through it.
    let mut running = Call::run()
        .option("--memory", "64M")
        .shell("cat; echo all >&2; sleep 1000")
        .limit(Duration::from_secs(900))
        .spawn();
    let stdin = running.take_stdin().unwrap();
    let stdout = running.take_stdout().unwrap();
    let writer = thread::spawn(|| write_zeros(stdin, volume()));
    let reader = thread::spawn(|| count_zeros(stdout));
    running.wait_for_words("all");
    assert_memory_is_bounded(&running);
    running.signal(Signal::TERM);
    running.finish().exits(143);
    writer.join().unwrap();
    assert_eq!(reader.join().unwrap(), volume());
}

#[test]
fn every_byte_value_passes_unchanged() {
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let outcome = Call::run().command(["cat"]).stdin(bytes.clone()).output().exits(0);
    assert!(outcome.stdout == bytes, "{} bytes came back", outcome.stdout.len());
}

#[test]
fn stdout_and_stderr_stay_apart() {
    let outcome = Call::run().shell("echo out; echo err >&2; echo out again").output();
    let outcome = outcome.exits(0).prints("out\nout again\n");
    assert_eq!(outcome.stderr, "err\n");
}

#[test]
fn output_arrives_while_the_command_runs() {
    let mut running = Call::run().shell("echo one; read line; echo got $line").spawn();
    // The command goes on only after its first line has been seen here.
    running.wait_for("one");
    running.write("two\n");
    running.finish().exits(0).prints("one\ngot two\n").says_nothing();
}

#[test]
fn closed_stdin_is_an_end_of_file_and_output_goes_on() {
    let script = "cat; echo after; sleep 1; echo later";
    Call::run().shell(script).stdin("text\n").output().exits(0).prints("text\nafter\nlater\n");
}

#[test]
fn a_command_that_does_not_read_its_input_ends_all_the_same() {
    Call::run().command(["true"]).stdin(vec![0; 8 << 20]).output().exits(0).says_nothing();
}

#[test]
fn empty_input_is_an_end_of_file() {
    Call::run().command(["cat"]).output().exits(0).prints("").says_nothing();
}

#[test]
fn a_slow_reader_slows_the_command_down() {
    // Nobody reads standard output, so the command can't get rid of these 64 MiB.
    let script = "dd if=/dev/zero bs=64k count=1024 2>/dev/null; echo written >&2; sleep 1000";
    let mut running = Call::run().shell(script).limit(Duration::from_secs(300)).spawn();
    let early = running.says_within("written", Duration::from_secs(6));
    assert!(!early, "the command wrote 64 MiB that nobody read");
    assert_memory_is_bounded(&running);
    let reader = running.take_stdout().map(|stdout| thread::spawn(|| count_zeros(stdout)));
    running.wait_for_words("written");
    running.signal(Signal::TERM);
    running.finish().exits(143);
    assert_eq!(reader.unwrap().join().unwrap(), 64 << 20);
}

#[test]
fn a_reader_that_goes_away_ends_the_command() {
    let mut running = Call::run().command(["yes"]).spawn();
    let mut stdout = running.take_stdout().unwrap();
    stdout.read_exact(&mut [0; 2]).unwrap();
    drop(stdout);
    // As in a shell's pipeline: the signal PIPE ends the writer.
    running.finish().exits(141);
}

#[test]
fn a_closed_stderr_does_not_disturb_stdout() {
    let script = "exec 2>&-; echo fine";
    Call::run().shell(script).output().exits(0).prints("fine\n");
}

#[test]
fn the_streams_of_commands_under_way_are_theirs_when_the_caller_dies() {
    // The reader of a pipeline sees an end of file, and not a hang, when cloister is killed.
    let mut running = Call::run().shell("echo here; exec sleep 1000").spawn();
    running.wait_for("here");
    running.signal(Signal::KILL);
    running.finish().dies_of(9);
}

#[test]
fn a_pipeline_of_machines_works() {
    let mut first = Call::run().shell("seq 20000").spawn();
    let mut second = Call::run().shell("sort -rn | head -n 1").spawn();
    first.close_stdin();
    let (mut from, mut to) = (first.take_stdout().unwrap(), second.take_stdin().unwrap());
    let pump = thread::spawn(move || {
        std::io::copy(&mut from, &mut to).unwrap();
        to.flush().unwrap();
    });
    second.finish().exits(0).prints("20000\n");
    pump.join().unwrap();
    first.finish().exits(0);
}

#[test]
fn a_whole_process_group_can_be_interrupted() {
    // As a terminal does it to a pipeline's group; here the group is cloister's own.
    let mut running = Call::run()
        .through(&["setsid"])
        .shell("trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 1; done")
        .spawn();
    running.wait_for("ready");
    kill_process_group(running.pid(), Signal::INT).unwrap();
    running.finish().exits(9).prints("ready\ncaught\n");
}
