//! Whoever dies first: the jailed process does not outlive its host.
#![expect(unsafe_code, reason = "a host that is forked, and killed")]

use std::io::{Read as _, Write as _};
use std::time::Duration;

use super::harness::{Jailed, Start};

/// A failing test alone waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn it_ends_with_its_control_socket() {
    let (mut jailed, group) = Jailed::new();
    drop(jailed.take_control());
    assert_eq!(jailed.wait().code(), Some(0));
    assert_eq!(group.read("cgroup.procs"), "");
}

#[test]
fn the_kernel_kills_it_when_the_thread_that_started_it_ends() {
    let (told, hears) = std::sync::mpsc::channel();
    let host = std::thread::spawn(move || {
        let (result, group) = Start::new().go();
        let mut jailed = result.unwrap();
        assert_eq!(jailed.ask(b'.'), Some(0));
        // The control socket lives on, so it is not what ends the process.
        let control = jailed.take_control();
        told.send((jailed, control, group)).unwrap();
    });
    let (mut jailed, control, _group) = hears.recv().unwrap();
    host.join().unwrap();
    let status = jailed.wait();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
    drop(control);
}

#[test]
fn it_dies_with_a_host_that_is_killed() {
    let (mut from_host, mut to_us) = std::io::pipe().unwrap();
    // SAFETY: the child starts a jail and is killed; it returns to nothing of the test's.
    let host = unsafe { libc::fork() };
    assert!(host >= 0);
    if host == 0 {
        let mut start = Start::new();
        let own =
            cloister_jailer::spec::Spec { host_pid: std::process::id(), ..super::harness::spec() };
        start.spec = own.encode().into();
        let (result, group) = start.go();
        if let Ok(mut jailed) = result {
            let control = jailed.take_control();
            writeln!(to_us, "{} {}", jailed.pid, group.0.display()).ok();
            // Only the kill ends this: the socket stays open till then, in our parent too.
            std::mem::forget((jailed, control, group));
            std::thread::park();
        }
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(1) };
    }
    drop(to_us);
    let mut line = String::new();
    let mut byte = [0];
    while from_host.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(char::from(byte[0]));
    }
    let (pid, group) = line.split_once(' ').expect("a jailed process");
    // SAFETY: opens a descriptor for the process; its host has not reaped it.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.parse::<i32>().unwrap(), 0) };
    let process = i32::try_from(process).unwrap();
    assert!(process >= 0);
    // SAFETY: our own child, not waited for yet.
    unsafe { libc::kill(host, libc::SIGKILL) };
    let mut poll = libc::pollfd { fd: process, events: libc::POLLIN, revents: 0 };
    let limit = i32::try_from(PATIENCE.as_millis()).unwrap();
    // SAFETY: one entry, alive.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, limit) }, 1, "it outlived its host");
    // SAFETY: waits for our own child.
    unsafe { libc::waitpid(host, std::ptr::null_mut(), 0) };
    std::fs::remove_dir(group).unwrap();
}
