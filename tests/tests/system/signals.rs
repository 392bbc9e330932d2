//! Signals to a command, with and without a terminal.

use cloister_tests::Call;
use rustix::process::Signal;

#[test]
fn ctrl_c_on_a_terminal_interrupts_the_command() {
    let mut terminal =
        Call::run().argument("-t").shell("echo ready; sleep 1000").in_terminal(24, 80);
    terminal.wait_for("ready");
    terminal.type_keys("\x03");
    let (code, shown) = terminal.finish();
    assert_eq!(code, Some(130), "{shown:?}");
}

#[test]
fn ctrl_c_on_a_terminal_can_be_caught() {
    let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 1; done";
    let mut terminal = Call::run().argument("-t").shell(script).in_terminal(24, 80);
    terminal.wait_for("ready");
    terminal.type_keys("\x03");
    let (code, shown) = terminal.finish();
    assert_eq!(code, Some(9), "{shown:?}");
    assert!(shown.contains("caught"), "{shown:?}");
}

#[test]
fn ctrl_c_without_a_guest_terminal_reaches_the_command_too() {
    // Then the host's terminal makes a signal of it, and cloister passes that on.
    let mut terminal = Call::run().shell("echo ready; sleep 1000").in_terminal(24, 80);
    terminal.wait_for("ready");
    terminal.type_keys("\x03");
    let (code, shown) = terminal.finish();
    assert_eq!(code, Some(130), "{shown:?}");
}

#[test]
fn signals_are_passed_to_the_command() {
    let script = "trap 'echo int' INT; trap 'echo term' TERM; trap 'echo usr1; exit 5' USR1
        echo ready; while :; do sleep 1; done";
    let mut running = Call::run().shell(script).spawn();
    running.wait_for("ready");
    running.signal(Signal::INT);
    running.wait_for("int");
    running.signal(Signal::TERM);
    running.wait_for("term");
    running.signal(Signal::USR1);
    running.finish().exits(5).prints("ready\nint\nterm\nusr1\n");
}

#[test]
fn a_command_that_ignores_signals_can_be_ended_by_three_of_them() {
    let script = "trap '' INT TERM; echo ready; while :; do sleep 1; done";
    let mut running = Call::run().shell(script).spawn();
    running.wait_for("ready");
    for _ in 0..3 {
        running.signal(Signal::INT);
        // Signals of one kind that come together count as one.
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    running.finish().exits(130);
}
