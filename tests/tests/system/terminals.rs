//! Terminals: size, resize, modes.

use cloister_tests::Call;

#[test]
fn a_terminal_has_the_size_of_ours_and_follows_it() {
    let script = "stty size; trap 'stty size; exit' WINCH; echo ready; while :; do sleep 1; done";
    let mut terminal = Call::run().argument("-t").shell(script).in_terminal(33, 101);
    let shown = terminal.wait_for("ready");
    assert!(shown.contains("33 101"), "{shown:?}");
    terminal.resize(40, 120);
    terminal.wait_for("40 120");
    assert_eq!(terminal.finish().0, Some(0));
}

#[test]
fn a_shell_on_a_terminal_can_be_talked_to() {
    let mut terminal = Call::run().argument("-it").command(["sh"]).in_terminal(24, 80);
    terminal.wait_for("# ");
    terminal.type_keys("tty; echo $((6 * 7)); exit 3\r");
    let shown = terminal.wait_for("42");
    assert!(shown.contains("/dev/pts/"), "{shown:?}");
    assert_eq!(terminal.finish().0, Some(3));
}

#[test]
fn our_terminal_is_as_it_was_afterwards() {
    let mut terminal =
        Call::run().argument("-it").shell("echo ready; read line").in_terminal(24, 80);
    assert!(terminal.echoes());
    terminal.wait_for("ready");
    assert!(!terminal.echoes(), "keys belong to the command's terminal meanwhile");
    terminal.type_keys("x\r");
    assert!(terminal.ended());
    assert!(terminal.echoes());
    assert_eq!(terminal.finish().0, Some(0));
}

#[test]
fn without_a_terminal_there_is_none() {
    Call::run().shell("test -t 0 || test -t 1 || test -t 2").output().exits(1);
    Call::run().shell("tty").output().exits(1).prints("not a tty\n");
}
