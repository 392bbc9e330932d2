//! Commands: exit codes, arguments, environment, directory, time limit.

use std::time::Duration;

use cloister_tests::Call;

#[test]
fn the_exit_code_is_the_commands() {
    Call::run().command(["sh", "-c", "exit 7"]).output().exits(7).says_nothing();
    Call::run().command(["true"]).output().exits(0).prints("").says_nothing();
    Call::run().shell("exit 255").output().exits(255);
}

#[test]
fn a_command_that_a_signal_ends_gives_128_and_its_number() {
    Call::run().shell("kill -9 $$").output().exits(137);
    Call::run().shell("kill -SEGV $$").output().exits(139);
}

#[test]
fn a_program_that_is_not_there_gives_127() {
    Call::run().command(["no-such-program"]).output().exits(127).says("no-such-program");
    Call::run().command(["/bin/no-such-program"]).output().exits(127).says("/bin/no-such-program");
}

#[test]
fn a_file_that_is_no_program_gives_126() {
    Call::run().command(["/etc/passwd"]).output().exits(126).says("/etc/passwd");
    Call::run().command(["/etc"]).output().exits(126).says("/etc");
}

#[test]
fn a_working_directory_is_entered_or_refused() {
    Call::run().option("--workdir", "/usr/bin").command(["pwd"]).output().exits(0).prints(
        // /usr/bin is a link to /bin in the root image, and the kernel tells the real name.
        "/bin\n",
    );
    Call::run()
        .option("--workdir", "/no/such")
        .command(["pwd"])
        .output()
        .exits(125)
        .says("/no/such");
}

#[test]
fn the_environment_is_what_was_asked_for_and_nothing_else() {
    let outcome = Call::run()
        .variable("SECRET_OF_THE_HOST", "1")
        .option("--env", "A=1")
        .option("--env", "B=two words = \n two lines")
        .option("--env", "A=3")
        .command(["env", "-0"])
        .output()
        .exits(0);
    let text = outcome.text();
    let mut variables: Vec<&str> = text.split_terminator('\0').collect();
    variables.sort_unstable();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(variables, ["A=3", "B=two words = \n two lines", "HOME=/root", path, "TERM=dumb"]);
}

#[test]
fn arguments_arrive_as_they_are() {
    let odd = ["", "two words", "$HOME", "a\nb", "--", "-x", "\u{fc}\u{2026}"];
    let printed: String = odd.iter().map(|word| format!("<{word}>")).collect();
    let command = ["printf", "<%s>"].into_iter().chain(odd);
    Call::run().command(command).output().exits(0).prints(&printed);
}

#[test]
fn a_command_gets_three_descriptors_and_no_more() {
    Call::run().shell("ls /proc/self/fd | wc -l").output().exits(0).prints(
        // The fourth is ls's own, on the directory.
        "4\n",
    );
}

#[test]
fn the_time_limit_ends_a_command_with_124() {
    // It ignores what can be ignored, and its child holds the streams.
    let script = "trap '' TERM INT HUP; echo begun; sleep 1000 & wait; sleep 1000";
    let outcome = Call::run().option("--timeout", "2s").shell(script).output();
    let outcome = outcome.exits(124).prints("begun\n");
    assert!(outcome.time >= Duration::from_secs(2), "ended too early, after {:?}", outcome.time);
}

#[test]
fn what_a_command_leaves_running_ends_with_it() {
    // Without that, the streams would stay open and this would wait for 1000 seconds.
    Call::run()
        .shell("sleep 1000 & setsid sleep 1000 & echo done")
        .output()
        .exits(0)
        .prints("done\n");
}

#[test]
fn a_command_that_powers_the_machine_off_is_told() {
    Call::run()
        .shell("poweroff -f; sleep 1000")
        .output()
        .exits(125)
        .says("powered the machine off");
}
