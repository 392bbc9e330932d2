//! Tests of commands in terminals, with a whole supervisor.

use std::io::{Read, Write};
use std::net::Shutdown;

use cloister_protocol::message::{ExitStatus, Request, WindowSize};

use crate::test_bed::Bed;

#[test]
fn a_terminal_is_one_and_has_its_size() {
    let mut bed = Bed::start();
    let script = "test -t 0 && test -t 1 && test -t 2 && stty size; : > /dev/tty && echo mine";
    let exec = bed.shell_in_terminal(1, script);
    let streams = bed.exec(exec);
    bed.started(1);
    assert_eq!(streams.read_all().0, "24 80\r\nmine\r\n");
    assert_eq!(bed.exited(1), ExitStatus::Code(0));
}

#[test]
fn a_resize_is_told_to_the_command() {
    let mut bed = Bed::start();
    let script = "trap 'stty size; exit 3' WINCH; echo up; while :; do sleep 0.01; done";
    let exec = bed.shell_in_terminal(1, script);
    let mut streams = bed.exec(exec);
    bed.started(1);
    streams.read_until("up\r\n");
    bed.send(&Request::Resize { id: 1, size: WindowSize { rows: 50, columns: 132 } });
    assert_eq!(streams.read_until("132\r\n"), "50 132\r\n");
    assert_eq!(bed.exited(1), ExitStatus::Code(3));
}

#[test]
fn keys_are_echoed_and_control_c_interrupts() {
    let mut bed = Bed::start();
    let exec = bed.shell_in_terminal(1, "read line; echo got $line; exec sleep 1000");
    let mut streams = bed.exec(exec);
    bed.started(1);
    streams.stdout().write_all(b"word\n").unwrap();
    assert_eq!(streams.read_until("got word\r\n"), "word\r\ngot word\r\n");
    streams.stdout().write_all(&[3]).unwrap();
    assert_eq!(bed.exited(1), ExitStatus::Signal(2));
}

#[test]
fn signals_go_to_the_foreground_group() {
    let mut bed = Bed::start();
    // A shell with job control puts the sleeper into a group of its own, in the foreground.
    let exec = bed.shell_in_terminal(1, "set -m; echo up; sleep 1000; echo status $?");
    let mut streams = bed.exec(exec);
    bed.started(1);
    streams.read_until("up\r\n");
    let children = || {
        let pid = bed.supervisor().as_raw_nonzero();
        let shell = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let shell = shell.trim();
        let tpgid = std::fs::read_to_string(format!("/proc/{shell}/stat")).unwrap_or_default();
        tpgid.split_whitespace().nth(7).is_some_and(|group| group != shell)
    };
    crate::test_bed::eventually("the sleeper is in the foreground", children);
    bed.send(&Request::Signal { id: 1, signal: 15 });
    streams.read_until("status 143\r\n");
    assert_eq!(bed.exited(1), ExitStatus::Code(0));
}

#[test]
fn the_end_of_input_is_typed() {
    let mut bed = Bed::start();
    for (id, typed) in [(1, "whole line\n"), (2, "open line")] {
        let exec = bed.shell_in_terminal(id, "stty -echo; echo up; cat; echo; echo end");
        let mut streams = bed.exec(exec);
        bed.started(id);
        streams.read_until("up\r\n");
        streams.stdout().write_all(typed.as_bytes()).unwrap();
        streams.stdout().shutdown(Shutdown::Write).unwrap();
        let output = streams.read_until("end\r\n");
        assert!(output.starts_with(typed.trim_end()), "{output:?}");
        assert_eq!(bed.exited(id), ExitStatus::Code(0));
    }
}

#[test]
fn a_host_that_goes_away_hangs_up() {
    let mut bed = Bed::start();
    let exec = bed.shell_in_terminal(1, "echo up; while :; do echo more; sleep 0.01; done");
    let mut streams = bed.exec(exec);
    bed.started(1);
    streams.read_until("up\r\n");
    drop(streams);
    assert_eq!(bed.exited(1), ExitStatus::Signal(1));
}

#[test]
fn much_output_of_a_terminal_arrives_whole() {
    let mut bed = Bed::start();
    let exec = bed.shell_in_terminal(1, "stty -opost; head -c 1000000 /dev/zero | tr '\\0' x");
    let mut streams = bed.exec(exec);
    bed.started(1);
    let mut output = Vec::new();
    streams.stdout().read_to_end(&mut output).unwrap();
    assert_eq!(output.len(), 1_000_000);
    assert_eq!(bed.exited(1), ExitStatus::Code(0));
}
