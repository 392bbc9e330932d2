//! What must be refused, with which words and which exit code. Nothing may be left of it; the tests
//! of that are in `tests/residue.rs` and call the same table.

use cloister_tests::{Call, image};

/// Bad options: what is given, and what the refusal must name.
const OPTIONS: &[(&[&str], &str)] = &[
    (&["--memory", "1M"], "48"),
    (&["--memory", "47M"], "48"),
    (&["--memory", "0"], "48"),
    (&["--memory", "9999T"], "memory"),
    (&["--memory", "lots"], "lots"),
    (&["--cpus", "0"], "1 to 32"),
    (&["--cpus", "33"], "1 to 32"),
    (&["--cpus", "1000"], "1 to 32"),
    (&["--cpus", "-1"], "-1"),
    (&["--timeout", "soon"], "soon"),
    (&["--workdir", "relative"], "absolute"),
    (&["--env", "NOVALUE"], "NOVALUE"),
    (&["--no-such-option"], "--no-such-option"),
    (&["--kernel", "/no/such/kernel"], "/no/such/kernel"),
    (&["--kernel", "/etc"], "/etc"),
    (&["--kernel", "/dev/null"], "/dev/null"),
    (&["--rootfs", "/no/such/root"], "/no/such/root"),
    (&["--rootfs", "/etc/passwd"], "/etc/passwd"),
];

#[test]
fn bad_options_are_refused_with_125_and_say_what_is_wrong() {
    for (options, named) in OPTIONS {
        let call = options.iter().fold(Call::run(), |call, option| call.argument(option));
        let outcome = call.command(["true"]).output().exits(125).prints("").says(named);
        assert!(outcome.stderr.len() < 2000, "too many words:\n{}", outcome.stderr);
    }
}

#[test]
fn no_command_is_refused() {
    Call::run().output().exits(125).prints("");
    Call::cloister(["no-such-verb"]).output().exits(125).says("no-such-verb");
}

#[test]
fn more_memory_than_the_host_has_is_refused() {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total: u64 =
        info.lines().next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    let beyond = format!("{}M", (total >> 10) + 1);
    Call::run().option("--memory", beyond).command(["true"]).output().exits(125).says("MiB");
}

#[test]
fn a_bad_kernel_is_refused_with_125_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = image::written(folder.path(), "text", b"this is no kernel\n");
    let empty = image::written(folder.path(), "empty", b"");
    let truncated = image::truncated_kernel(folder.path());
    let without_pvh = image::kernel_without_pvh(folder.path());
    for (kernel, words) in
        [(text, "ELF"), (empty, "empty"), (truncated, "truncated"), (without_pvh, "PVH")]
    {
        let name = kernel.display().to_string();
        let call = Call::run().option("--kernel", &kernel).command(["true"]);
        call.output().exits(125).prints("").says(words).says(&name);
    }
}

#[test]
fn a_missing_vmm_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let built = cloister_tests::prefix::Prefix::built();
    let alone = folder.path().join("cloister");
    std::fs::copy(built.program(), &alone).unwrap();
    let status = std::process::Command::new(&alone)
        .args(["run", "--kernel"])
        .arg(built.kernel())
        .arg("--rootfs")
        .arg(built.root())
        .args(["--", "true"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&status.stderr);
    assert_eq!(status.status.code(), Some(125), "{said}");
    assert!(said.contains("cloister-vmm"), "{said}");
}

#[test]
fn a_user_who_may_not_use_kvm_is_told_so() {
    let (_folder, prefix) = cloister_tests::prefix::Prefix::built().copied();
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    Call::run()
        .prefix(&prefix)
        .through(&nobody)
        .command(["true"])
        .output()
        .exits(125)
        .says("/dev/kvm");
}

#[test]
fn a_guest_that_panics_is_told_with_its_console() {
    let folder = tempfile::tempdir().unwrap();
    let root = image::root_with_init(folder.path(), "root", "exit 1");
    Call::run()
        .option("--rootfs", root)
        .command(["true"])
        .output()
        .exits(125)
        .says("the guest's kernel panicked")
        .says("Attempted to kill init");
}

#[test]
fn a_guest_that_never_becomes_ready_ends_at_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let root = image::root_with_init(folder.path(), "root", "while :; do sleep 1000; done");
    Call::run()
        .option("--rootfs", root)
        .option("--start-timeout", "5s")
        .command(["true"])
        .output()
        .exits(125)
        .says("not ready within 5 s");
}

#[test]
fn a_guest_that_powers_off_at_once_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let root = image::root_with_init(folder.path(), "root", "/bin/busybox poweroff -f");
    let call = Call::run().option("--rootfs", root).command(["true"]);
    call.output().exits(125).says("before it was ready");
}
