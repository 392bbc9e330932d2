//! The real jail around the fake vmm: it works, its failures are told, and nothing is left of it.

use std::fs;
use std::path::PathBuf;

use super::harness::{Installation, text};

#[test]
fn a_vmm_in_its_jail_is_heard() {
    for (script, hint) in [
        ("exit 14", "the guest's kernel panicked"),
        ("dies", "cloister-vmm ended without a report (exit status: 3)"),
        ("garbage", "that is not a message"),
        ("flood", "does not read its commands"),
        // The first process of its namespace ignores its own SIGABRT; `abort` then ends otherwise.
        ("killed", "signal: 11"),
    ] {
        let output = Installation::jailed(script).run(&["--", "true"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{script}: {said}");
        assert!(said.contains(hint), "{script}: {said}");
    }
}

#[test]
fn a_program_that_can_not_be_executed_is_a_step_that_fails() {
    let installation = Installation::jailed("ordinary");
    let vmm = installation.path("bin/cloister-vmm");
    // A link to the double: only the name is ours.
    fs::remove_file(&vmm).expect("a vmm");
    fs::write(&vmm, "no program").expect("a file");
    fs::set_permissions(&vmm, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    let output = installation.run(&["--", "true"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("the jail's step \"execution\" failed: Exec format error"), "{said}");
    assert!(said.contains("What to do: the program must be a static one"), "{said}");
}

#[test]
fn a_jailer_that_says_nothing_is_told() {
    let installation = Installation::jailed("ordinary");
    let jailer = installation.path("bin/cloister-jailer");
    fs::remove_file(&jailer).expect("a jailer");
    fs::copy("/bin/true", &jailer).expect("a program");
    let said = text(&installation.run(&["--", "true"]).stderr);
    assert!(said.contains("cloister-jailer did not say that it started"), "{said}");
    fs::remove_file(&jailer).expect("a jailer");
    let said = text(&installation.run(&["--", "true"]).stderr);
    assert!(said.contains("can't open the program cloister-jailer"), "{said}");
}

#[test]
fn a_directory_that_is_no_control_group_is_refused() {
    let output = Installation::jailed("exit 0")
        .cloister()
        .args(["run", "--cgroup", "/tmp", "--", "true"])
        .output()
        .expect("a run");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("/tmp is not a directory of control groups version 2"), "{said}");
}

#[test]
fn what_a_killed_command_left_is_removed_by_the_next_one() {
    let installation = Installation::jailed("silent");
    let place = ControlGroup::new();
    let run = |words: &[&str]| {
        let mut command = installation.cloister();
        command.args(["run", "--cgroup"]).arg(&place.0).args(words).args(["--", "true"]);
        command.stderr(std::process::Stdio::piped());
        command.spawn().expect("a run")
    };
    let mut killed = run(&[]);
    let group = place.wait_for_machine();
    killed.kill().expect("a kill");
    killed.wait().expect("an end");
    assert!(group.exists(), "nobody was left to remove it");
    let next = run(&["--start-timeout", "1s"]).wait_with_output().expect("a run");
    let said = text(&next.stderr);
    let line = format!("removed what a killed command had left: {}", group.display());
    assert!(said.contains(&line), "{said}");
    assert_eq!(place.machines(), [] as [PathBuf; 0]);
}

/// A directory for control groups of a test's own.
struct ControlGroup(PathBuf);

impl ControlGroup {
    fn new() -> Self {
        let usual = cloister::launch::group::Place::find(None).expect("control groups").folder;
        let name = format!("cloister-test-{}-kill", std::process::id());
        let folder = usual.with_file_name(name);
        fs::create_dir(&folder).expect("a control group");
        Self(folder)
    }

    fn machines(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).expect("a directory");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.is_dir()).collect()
    }

    /// Waits until a process is in a machine's group. The kernel tells nobody of a new directory in
    /// this file system, so it is looked at again and again.
    fn wait_for_machine(&self) -> PathBuf {
        loop {
            for path in self.machines() {
                if !fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().is_empty() {
                    return path;
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
    }
}
