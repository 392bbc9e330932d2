//! Each step by what it leaves behind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;

use cloister_jailer::spec::{Ids, Spec};

use super::harness::{Jailed, Start, is_root, spec};

#[test]
fn every_namespace_is_its_own() {
    let (jailed, _group) = Jailed::new();
    for name in ["user", "pid", "mnt", "ipc", "uts", "net", "cgroup"] {
        let theirs = fs::read_link(jailed.path(&format!("ns/{name}"))).unwrap();
        let ours = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(theirs, ours, "{name}");
    }
    assert_eq!(jailed.ask(b'p'), Some(1), "it is the first process of its namespace");
}

#[test]
fn only_its_three_streams_and_its_control_socket_are_open() {
    let (jailed, _group) = Jailed::new();
    let open: BTreeSet<String> = fs::read_dir(jailed.path("fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(open, ["0", "1", "2", "3"].map(str::to_owned).into());
}

#[test]
fn the_root_is_empty_and_the_only_mount() {
    let (jailed, _group) = Jailed::new();
    let mounts = jailed.read("mountinfo");
    let lines: Vec<&str> = mounts.lines().collect();
    let [line] = lines.as_slice() else { panic!("{mounts}") };
    let (place, kind) = line.split_once(" - ").unwrap();
    let fields: Vec<&str> = place.split(' ').collect();
    assert_eq!(fields[4], "/", "{line}");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(fields[5].split(',').any(|found| found == option), "{option}: {line}");
    }
    assert!(kind.starts_with("tmpfs ") && kind.contains(" ro,"), "{line}");
    assert_eq!(fs::read_dir(jailed.path("root")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(jailed.path("cwd")).unwrap().count(), 0);
}

#[test]
fn user_and_group_are_the_ones_asked_for_and_no_others() {
    let own = spec();
    let Ids { uid, gid, .. } = own.ids;
    let start = Start { spec: own.encode().into(), ..Start::new() };
    let (result, _group) = start.go();
    let jailed = result.unwrap();
    assert_eq!(jailed.ask(b'.'), Some(0));
    let status = jailed.status();
    assert_eq!(status["Uid"], vec![uid.to_string(); 4].join("\t"));
    assert_eq!(status["Gid"], vec![gid.to_string(); 4].join("\t"));
    let map = |name| jailed.read(name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(map("uid_map"), ["0".to_owned(), uid.to_string(), "1".to_owned()]);
    assert_eq!(map("gid_map"), ["0".to_owned(), gid.to_string(), "1".to_owned()]);
    if is_root() {
        assert_eq!(status["Groups"], "");
    } else {
        assert_eq!(jailed.read("setgroups").trim(), "deny");
    }
}

#[test]
fn no_capability_is_left_in_any_set() {
    let (jailed, _group) = Jailed::new();
    let status = jailed.status();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
}

#[test]
fn no_new_privileges_and_a_filter() {
    let (jailed, _group) = Jailed::new();
    let status = jailed.status();
    assert_eq!(status["NoNewPrivs"], "1");
    assert_eq!((status["Seccomp"].as_str(), status["Seccomp_filters"].as_str()), ("2", "1"));
}

#[test]
fn no_signal_is_ignored_blocked_or_shared() {
    let (jailed, _group) = Jailed::new();
    let status = jailed.status();
    assert_eq!(status["SigBlk"], "0000000000000000");
    // Rust's start ignores SIGPIPE (13) and nothing else.
    assert_eq!(status["SigIgn"], "0000000000001000");
    assert_eq!(status["NSsid"].split_whitespace().last(), Some("1"), "a session of its own");
}

#[test]
fn its_memory_is_nobodys_to_read() {
    let (jailed, _group) = Jailed::new();
    // The kernel gives the files of a process that is not dumpable to root, and else to its user.
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(jailed.path("fd")).unwrap());
    let user: u32 = jailed.status()["Uid"].split_whitespace().next().unwrap().parse().unwrap();
    if is_root() {
        assert_eq!((owner, owner == user), (0, false));
    }
}

#[test]
fn resource_limits_are_set() {
    let (jailed, _group) = Jailed::new();
    let limits = jailed.read("limits");
    for (name, value) in [
        ("Max core file size", "0"),
        ("Max file size", "0"),
        ("Max locked memory", "0"),
        ("Max msgqueue size", "0"),
        ("Max nice priority", "0"),
        ("Max realtime priority", "0"),
    ] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        let values: Vec<&str> = line[name.len()..].split_whitespace().take(2).collect();
        assert_eq!(values, [value, value], "{line}");
    }
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let most: u64 = files.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!(most <= 2048, "{files}");
}

#[test]
fn the_environment_is_empty_and_the_name_is_the_jails() {
    let (jailed, _group) = Jailed::new();
    assert_eq!(jailed.read("environ"), "");
    assert_eq!(jailed.read("cmdline"), "cloister-vmm\0");
}

#[test]
fn the_group_is_its_own_and_the_root_of_what_it_sees() {
    let (jailed, group) = Jailed::new();
    assert_eq!(group.read("cgroup.procs").trim(), jailed.pid.to_string());
    let name = group.0.file_name().unwrap().to_str().unwrap();
    let line = jailed.read("cgroup");
    let own = line.lines().find(|line| line.starts_with("0::")).unwrap();
    assert!(own.ends_with(name), "{own}");
}

#[test]
fn what_it_may_not_call_kills_it_and_a_path_is_not_found() {
    let (jailed, _group) = Jailed::new();
    assert_eq!(jailed.ask(b'o'), Some(libc::ENOENT));
    drop(jailed);
    for letter in *b"Osumfctkeix" {
        let (mut jailed, _group) = Jailed::new();
        assert_eq!(jailed.ask(letter), None, "{:?}", char::from(letter));
        assert_eq!(jailed.wait().signal(), Some(libc::SIGSYS), "{:?}", char::from(letter));
    }
}

#[test]
fn landlock_denies_the_execution_of_a_file_that_was_open_all_the_time() {
    // The kernel shows a process's Landlock domain nowhere, so it has to be run into. Its standard
    // input is the jailer's own program; no other step would keep it from executing that.
    let (jailed, _group) = Jailed::new();
    assert_eq!(jailed.ask(b'E'), Some(libc::EACCES));
}

#[test]
fn landlock_handles_every_right_that_this_kernel_knows() {
    use cloister_jailer::{landlock, sys};
    let handled = landlock::handled(sys::landlock_version().unwrap());
    let more: Vec<u64> = handled.iter().map(|rights| rights | (rights + 1)).collect();
    // A right more is one that the kernel refuses to know; then nothing is restricted.
    assert_eq!(sys::landlock_restrict(&more), Err(libc::EINVAL));
}

#[test]
fn a_spec_without_limits_is_one_without_limits() {
    let spec = Spec { limits: None, ..spec() };
    assert_eq!(Spec::decode(&spec.encode()).unwrap().limits, None);
}

#[test]
fn the_hosts_name_is_not_seen() {
    if !is_root() {
        println!("skipped: only root may look into another user's namespace");
        return;
    }
    let (jailed, _group) = Jailed::new();
    let pid = jailed.pid.to_string();
    let seen = std::process::Command::new("nsenter")
        .args(["--target", &pid, "--uts", "hostname"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "cloister\n");
}
