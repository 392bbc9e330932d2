//! What `cloister run` says and exits with when something is wrong: before a start, during it and after.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;
use std::time::{Duration, Instant};

use super::harness::{Installation, kernel, text};

/// Runs `true` in a machine that does as `script` says; the exit code is 125, and what was said.
fn fails(script: &str, arguments: &[&str]) -> String {
    let output = Installation::new(script).run(&[arguments, &["--", "true"]].concat());
    said(&output)
}

fn said(output: &Output) -> String {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert_eq!(text(&output.stdout), "");
    assert!(!said.contains('\x1b'), "{said:?}");
    said
}

#[test]
fn wrong_calls_are_125_and_teach() {
    for (words, hint) in [
        (&["run"][..], "COMMAND"),
        (&["run", "--cpus", "0", "--", "true"], "a machine has 1 to 32 CPUs"),
        (&["run", "--cpus", "1000", "--", "true"], "a machine has 1 to 32 CPUs"),
        (&["run", "--memory", "1M", "--", "true"], "a machine has 48M to 4T of memory"),
        (&["run", "--memory", "much", "--", "true"], "like 512M, 2G or 1T"),
        (&["run", "--timeout", "soon", "--", "true"], "like 500ms, 30s"),
        (&["run", "--timeout", "0", "--", "true"], "1ms to 30d"),
        (&["run", "-e", "NAME", "--", "true"], "like LANG=C"),
        (&["run", "-w", "tmp", "--", "true"], "absolute path"),
        (&["run", "--cmdline", "ä", "--", "true"], "printable ASCII"),
        (&["run", "--no-such-flag", "--", "true"], "--no-such-flag"),
        (&["dance"], "dance"),
        (&[], "Usage"),
    ] {
        let output = Installation::new("ordinary").cloister().args(words).output().expect("a run");
        let said = said(&output);
        assert!(said.contains(hint), "{words:?}: {said}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for words in [&["--help"][..], &["run", "--help"], &["--version"], &["doctor", "--help"]] {
        let output = Installation::new("ordinary").cloister().args(words).output().expect("a run");
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn memory_beyond_the_host_is_refused() {
    let said = fails("ordinary", &["--memory", "4T"]);
    assert!(said.contains("4194304 MiB of memory: this"), "{said}");
    assert!(said.contains("What to do: give the machine less, with --memory"), "{said}");
}

#[test]
fn bad_files_are_named() {
    let installation = Installation::new("ordinary");
    let path = |name: &str| installation.path(name);
    let write = |name: &str, bytes: &[u8]| fs::write(path(name), bytes).expect("a file");
    write("no-elf", b"#!/bin/sh\n");
    write("empty", b"");
    write("cut", &kernel()[..100]);
    let mut without_note = kernel();
    without_note[132] = b'Y';
    write("no-note", &without_note);
    for (file, hint) in [
        ("missing", "No such file or directory"),
        ("no-elf", "it is not an ELF file"),
        ("empty", "it is not an ELF file"),
        ("cut", "it is cut short"),
        ("no-note", "without a PVH entry note"),
        ("bin", "is not a regular file"),
    ] {
        let kernel = path(file);
        let said = said(&installation.run(&["--kernel", kernel.to_str().expect("a path"), "true"]));
        assert!(said.contains(hint) && said.contains(file), "{said}");
        assert!(said.contains("What to do: "), "{said}");
    }
    write("gzip", &[0x1f, 0x8b, 8, 0, 0, 0]);
    for (file, hint) in [("gzip", "compressed (gzip)"), ("no-elf", "not a cpio archive")] {
        let root = path(file);
        let said = said(&installation.run(&["--rootfs", root.to_str().expect("a path"), "true"]));
        assert!(said.contains(hint), "{said}");
    }
}

#[test]
fn a_vmm_that_is_no_program_is_named() {
    let installation = Installation::new("ordinary");
    let vmm = installation.path("bin/cloister-vmm");
    fs::remove_file(&vmm).expect("a vmm");
    let missing = said(&installation.run(&["--", "true"]));
    assert!(missing.contains("can't open the program cloister-vmm"), "{missing}");
    fs::write(&vmm, "#!/no/such/interpreter\n").expect("a file");
    let no_program = said(&installation.run(&["--", "true"]));
    assert!(no_program.contains("Permission denied"), "{no_program}");
    fs::set_permissions(&vmm, fs::Permissions::from_mode(0o755)).expect("a mode");
    let not_started = said(&installation.run(&["--", "true"]));
    assert!(not_started.contains("can't start"), "{not_started}");
}

#[test]
fn every_report_of_the_vmm_is_told() {
    for (code, hint) in [
        (0, "the machine powered off"),
        (1, "a system call of cloister-vmm failed"),
        (2, "refused the machine's description"),
        (3, "could not load the kernel or the root"),
        (4, "this host's KVM lacks something"),
        (10, "the machine reset itself"),
        (11, "triple fault"),
        (12, "halted for ever"),
        (13, "KVM could not go on"),
        (14, "the guest's kernel panicked"),
        (15, "no correct guest does"),
        (16, "lost its control socket"),
    ] {
        let said = fails(&format!("exit {code}"), &[]);
        assert!(said.contains(hint), "{code}: {said}");
        assert!(said.contains("detail \\x1b[1m | of two lines"), "{said}");
    }
}

#[test]
fn a_panic_shows_the_console_harmless_and_marked() {
    let said = fails("panic", &[]);
    let line = "  guest| Kernel panic - not syncing: \\x1b[31mred\n";
    assert!(said.contains(line), "{said}");
}

#[test]
fn a_vmm_that_just_ends_is_told_with_its_last_words() {
    let said = fails("dies", &[]);
    assert!(said.contains("cloister-vmm ended without a report (exit status: 3)"), "{said}");
    assert!(said.contains("  vmm| boom \\x1b[2J\n"), "{said}");
    let killed = fails("killed", &[]);
    assert!(killed.contains("signal: 6"), "{killed}");
}

#[test]
fn a_vmm_that_breaks_the_protocol_is_killed() {
    for (script, hint) in [
        ("garbage", "that is not a message"),
        ("long", "a packet of more than 8192 bytes"),
        ("trailing", "bytes after a message"),
        ("descriptor", "sent descriptors"),
        ("unexpected", "an event that nothing called for"),
        ("flood", "does not read its commands"),
    ] {
        let said = fails(script, &[]);
        assert!(said.contains("cloister-vmm was killed"), "{script}: {said}");
        assert!(said.contains(hint), "{script}: {said}");
    }
}

#[test]
fn a_supervisor_that_breaks_the_protocol_is_killed() {
    let ours = cloister_protocol::VERSION;
    let theirs = ours + 1;
    let version =
        format!("speaks version {theirs} of the protocol, and this program version {ours}");
    for (script, hint) in [
        ("old-version", version.as_str()),
        ("guest-garbage", "not a message"),
        ("hello-twice", "came twice"),
        ("unknown-command", "an event for command 99"),
        ("hangs-up", "closed the connection"),
    ] {
        let said = fails(script, &[]);
        assert!(
            said.contains("the machine was killed, because its supervisor"),
            "{script}: {said}"
        );
        assert!(said.contains(hint), "{script}: {said}");
    }
}

#[test]
fn the_start_has_a_time_limit_at_each_stage() {
    for (script, stage) in [
        ("silent", "cloister-vmm had not built it yet"),
        ("running", "the supervisor had not connected yet"),
        ("mute", "not said hello yet"),
    ] {
        let start = Instant::now();
        let said = fails(script, &["--start-timeout", "3s"]);
        assert!(said.contains("the machine was not ready within 3 s"), "{said}");
        assert!(said.contains(stage), "{said}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn a_machine_that_ends_before_its_command_is_told() {
    let said = fails("panics-on-exec", &[]);
    assert!(said.contains("the machine ended before the command"), "{said}");
    assert!(said.contains("the guest's kernel panicked"), "{said}");
}

#[test]
fn a_guest_on_unexpected_ports_is_refused_and_the_rest_works() {
    let output = Installation::new("wrong-port").run(&["--", "echo", "right"]);
    assert_eq!(text(&output.stdout), "right\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_guests_words_are_made_harmless() {
    let said = fails("rude-failure", &[]);
    assert!(said.contains("the guest lacks the resources: no"), "{said}");
}

#[test]
fn a_log_that_can_not_be_written_is_found_out_first() {
    let said = fails("ordinary", &["--log", "/no/such/folder/log"]);
    assert!(said.contains("can't write the guest's console to /no/such/folder/log"), "{said}");
}
