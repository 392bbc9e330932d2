//! A step that fails ends the start, and is named.

use std::io;
use std::process::Command;

use cloister_jailer::spec::{Limits, Spec};
use cloister_jailer::step::{LIMIT_FILES, Step};

use super::harness::{SEALS, Start, jailer, memory_file, spec};

/// The step that ends this start; nothing of it lives.
fn fails(start: Start) -> (Step, u8, i32) {
    let (result, group) = start.go();
    let Err(failure) = result else { panic!("it started") };
    assert_eq!(group.read("cgroup.procs"), "");
    (failure.step, failure.detail, failure.errno)
}

#[test]
fn descriptors_that_are_missing_or_wrong() {
    for fd in [3, 4, 6, 7] {
        let start = Start { without: vec![fd], ..Start::new() };
        assert_eq!(fails(start), (Step::Descriptors, 0, libc::EBADF), "{fd}");
    }
    let unsealed = memory_file(b"x", 0);
    let start = Start { program: unsealed, ..Start::new() };
    assert_eq!(fails(start), (Step::Descriptors, 0, libc::EBADF));
}

#[test]
fn a_spec_that_is_none() {
    for spec in [vec![], vec![0; 48], vec![0xff; 4096]] {
        assert_eq!(fails(Start { spec, ..Start::new() }), (Step::Spec, 0, libc::EINVAL));
    }
}

#[test]
fn a_host_that_is_not_the_parent() {
    let spec = Spec { host_pid: 1, ..spec() };
    let start = Start { spec: spec.encode().into(), ..Start::new() };
    assert_eq!(fails(start), (Step::Host, 0, libc::ESRCH));
}

#[test]
fn a_limit_without_its_controller_is_named_with_its_file() {
    let limits = Limits { memory_bytes: 64 << 20, pids: 10, cpu_percent: 100, io_weight: 50 };
    let spec = Spec { limits: Some(limits), ..spec() };
    let start = Start { spec: spec.encode().into(), ..Start::new() };
    if start.group.0.join(LIMIT_FILES[0]).exists() {
        println!("skipped: this place has controllers");
        return;
    }
    let (step, detail, errno) = fails(start);
    assert_eq!((step, LIMIT_FILES[usize::from(detail)]), (Step::Limits, "memory.max"));
    assert!(errno == libc::ENOENT || errno == libc::EACCES, "{errno}");
}

#[test]
fn a_program_that_is_none() {
    let start = Start { program: memory_file(b"#!/bin/sh\n", SEALS), ..Start::new() };
    let (step, _, errno) = fails(start);
    assert_eq!(step, Step::Execute, "{}", io::Error::from_raw_os_error(errno));
}

#[test]
fn started_by_hand_it_says_so() {
    for arguments in [&[][..], &["--bad"]] {
        let output = Command::new(jailer()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("started by `cloister`"), "{text}");
    }
    let output = Command::new(jailer()).arg("--version").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}
