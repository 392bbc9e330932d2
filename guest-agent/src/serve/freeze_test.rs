//! Nothing runs while the host is away: it looks at files that grow as long as somebody runs.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cloister_protocol::frame;
use cloister_protocol::message::{Event, ExitStatus, Request};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use super::detach_tests::{HOLDS, HOLDS_NOT, detach, start};
use super::freeze::FREEZE_LIMIT;
use crate::agent_bed::{Agents, USER, mode, mount};
use crate::test_bed::{Bed, eventually};

/// Whoever runs writes in much less.
const WHILE: Duration = Duration::from_millis(150);

/// Writes to the file that is its argument, again and again.
const GROW: &str = "while :; do echo >> $FILE; sleep 0.01; done";

fn grow(file: &Path) -> String {
    GROW.replace("$FILE", file.to_str().unwrap())
}

fn length(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |data| data.len())
}

fn assert_grow(files: &[PathBuf]) {
    for file in files {
        let before = length(file);
        eventually("somebody runs", || length(file) > before);
    }
}

fn assert_stand(files: &[PathBuf]) {
    let before: Vec<u64> = files.iter().map(|file| length(file)).collect();
    std::thread::sleep(WHILE);
    let after: Vec<u64> = files.iter().map(|file| length(file)).collect();
    assert_eq!(before, after, "somebody runs");
}

/// Something that is mounted while a test runs.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _gone = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// A file system whose server answers nothing but the kernel's greeting.
struct Mute {
    server: OwnedFd,
    place: Mounted,
}

impl Mute {
    fn mount(bed: &Bed) -> Self {
        let place = bed.directory().join("mute");
        std::fs::create_dir(&place).unwrap();
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let server = rustix::fs::open("/dev/fuse", flags, Mode::empty()).unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let options = CString::new(options).unwrap();
        rustix::mount::mount("mute", &place, "fuse", MountFlags::empty(), &*options).unwrap();
        let mute = Self { server, place: Mounted(place) };
        // To FUSE_INIT: length, no error, its number; version 7.31, and nothing that needs more.
        let greeting = mute.hear();
        let words = [7_u32, 31].map(u32::to_le_bytes).concat();
        let answer = [&[80, 0, 0, 0, 0, 0, 0, 0], &greeting[8..16], &words, &[0; 56]].concat();
        assert_eq!(rustix::io::write(&mute.server, &answer).unwrap(), answer.len());
        mute
    }

    /// The next request: somebody waits for its answer from then on.
    fn hear(&self) -> Vec<u8> {
        // The least that the kernel takes.
        let mut request = vec![0; 8192];
        let length = rustix::io::read(&self.server, &mut request).unwrap();
        request.truncate(length);
        request
    }

    /// All requests have answers then: errors. By force, since what other tests have forked has copies of the descriptor.
    fn end(&self) {
        let _busy = rustix::mount::unmount(&self.place.0, UnmountFlags::FORCE);
    }
}

/// Command 100 of the machine, agent 1 with a command, and what is left of a command that has put it out of its
/// session: one file of each. Command 100 can be detached.
fn team() -> (Agents, [PathBuf; 3]) {
    let mut agents = Agents::new();
    let share = agents.share("work");
    mode(&share, 0o777);
    let mut spec = agents.spec(1);
    spec.mounts = vec![mount("work", "/shared", false)];
    agents.create(spec);
    let own = grow(Path::new("/shared/own"));
    let away = format!("setsid sh -c '{}' &", grow(Path::new("/shared/away")));
    let (_, streams) = agents.start(1, USER, &format!("{away} {own}"));
    // Of no use from here on; the command goes on without.
    drop(streams);
    let third = agents.bed.directory().join("third");
    drop(start(&mut agents.bed, 100, &grow(&third)));
    let files = [share.join("own"), share.join("away"), third];
    assert_grow(&files);
    (agents, files)
}

#[test]
fn nothing_runs_until_the_host_is_back() {
    let (mut agents, files) = team();
    for _ in 0..3 {
        detach(&mut agents.bed, &[100]);
        assert_eq!(agents.bed.event(), HOLDS);
        assert_stand(&files);
        let _streams = agents.bed.attach(&[100]);
        assert_grow(&files);
    }
}

#[test]
fn nothing_runs_in_another_machine_before_that_knows_it() {
    let (mut agents, files) = team();
    for wall_ns in 1..4 {
        detach(&mut agents.bed, &[100]);
        assert_eq!(agents.bed.event(), HOLDS);
        let lengths = files.clone().map(|file| length(&file));
        for _ in 0..2 {
            agents.bed.leave();
            assert_stand(&files);
            assert_ne!(agents.bed.identity(), wall_ns.to_string());
        }
        agents.bed.greet_anew(wall_ns);
        eventually("the identity", || agents.bed.identity() == wall_ns.to_string());
        assert_stand(&files);
        assert_eq!(lengths, files.clone().map(|file| length(&file)));
        let [own, away, third] = files.clone();
        let _streams = agents.bed.attach(&[100]);
        assert_grow(&[third]);
        // The agent's was not listed, and did nothing from the first moment on.
        assert_eq!(lengths[..2], [length(&own), length(&away)]);
        let own = grow(Path::new("/shared/own"));
        let away = format!("setsid sh -c '{}' &", grow(Path::new("/shared/away")));
        drop(agents.start(1, USER, &format!("{away} {own}")));
        assert_grow(&files);
    }
}

#[test]
fn what_is_refused_leaves_all_running() {
    let (mut agents, files) = team();
    for ids in [&[99][..], &[100, 99]] {
        detach(&mut agents.bed, ids);
        assert_eq!(agents.bed.event(), HOLDS_NOT);
        assert_grow(&files);
    }
}

#[test]
fn what_can_not_be_frozen_is_refused_and_all_runs() {
    let (mut agents, files) = team();
    let file = agents.bed.group().join("command-100/cgroup.freeze");
    rustix::mount::mount_bind("/dev/full", &file).unwrap();
    let mounted = Mounted(file);
    detach(&mut agents.bed, &[100]);
    assert_eq!(agents.bed.event(), HOLDS_NOT);
    assert_grow(&files);
    let log = agents.bed.log();
    assert!(log.contains("can't have agents and commands stand still: No space left"), "{log}");
    drop(mounted);
    detach(&mut agents.bed, &[100]);
    assert_eq!(agents.bed.event(), HOLDS);
    assert_stand(&files);
}

#[test]
fn what_can_not_be_thawed_ends_the_machine() {
    let (mut agents, files) = team();
    detach(&mut agents.bed, &[100]);
    assert_eq!(agents.bed.event(), HOLDS);
    let file = agents.bed.group().join("agents/1/cgroup.freeze");
    rustix::mount::mount_bind("/dev/full", &file).unwrap();
    let _mounted = Mounted(file);
    agents.bed.leave();
    agents.bed.greet_anew(1);
    agents.bed.send(&Request::Attach { commands: vec![] });
    let (content, log) = agents.bed.end();
    assert!(!content && log.contains("can't have agents and commands go on"), "{log}");
    assert_stand(&files);
}

#[test]
fn who_waits_for_a_file_is_waited_for() {
    let mut bed = Bed::start();
    let file = bed.directory().join("file");
    let mute = Mute::mount(&bed);
    let script = format!("ls {}; {}", mute.place.0.display(), grow(&file));
    drop(start(&mut bed, 1, &script));
    mute.hear();
    detach(&mut bed, &[1]);
    std::thread::sleep(WHILE);
    assert!(bed.is_silent());
    mute.end();
    assert_eq!(bed.event(), HOLDS);
    assert_stand(std::slice::from_ref(&file));
    let _streams = bed.attach(&[1]);
    assert_grow(&[file]);
}

#[test]
fn who_waits_too_long_keeps_all_running_and_attached() {
    let mut bed = Bed::start();
    let file = bed.directory().join("file");
    let mute = Mute::mount(&bed);
    let _waiting = start(&mut bed, 1, &format!("ls {}", mute.place.0.display()));
    mute.hear();
    let script = format!("echo one; {} & read line; echo two; wait", grow(&file));
    let mut streams = start(&mut bed, 2, "sleep 0.3; echo one; sleep 1000");
    let exec = bed.shell(3, &script);
    let mut other = bed.exec(exec);
    bed.started(3);
    other.read_until("one\n");
    let begin = Instant::now();
    detach(&mut bed, &[2]);
    assert_eq!(bed.event(), HOLDS_NOT);
    assert!(begin.elapsed() >= FREEZE_LIMIT);
    assert!(bed.log().contains("stand still"), "{}", bed.log());
    other.stdin = None;
    assert_eq!(other.read_until("two\n"), "two\n");
    assert_eq!(streams.read_until("one\n"), "one\n");
    assert_grow(&[file]);
    mute.end();
    assert_eq!(bed.exited(1), ExitStatus::Code(2));
    detach(&mut bed, &[2]);
    streams.read_all();
    assert_eq!(bed.event(), HOLDS);
}

#[test]
fn a_time_limit_ends_what_stands_still() {
    let mut bed = Bed::start();
    let mut exec = bed.shell_without_input(1, "sleep 1000 & sleep 1000");
    exec.timeout_ms = Some(500);
    let streams = bed.exec(exec);
    bed.started(1);
    drop(streams);
    detach(&mut bed, &[1]);
    assert_eq!(bed.event(), HOLDS);
    let group = bed.group().join("command-1");
    eventually("the command has ended", || !group.exists());
    assert!(bed.is_silent());
    let _streams = bed.attach(&[1]);
    assert_eq!(bed.exited(1), ExitStatus::TimedOut);
}

#[test]
fn what_begins_meanwhile_does_not_run() {
    for anew in [false, true] {
        let (mut agents, files) = team();
        let share = agents.bed.directory().join("shares/work");
        let new = [agents.bed.directory().join("new"), share.join("new")];
        let [machine, agent] = [agents.bed.shell(200, &grow(&new[0])), {
            let exec = agents.exec(1, USER, &grow(Path::new("/shared/new")));
            cloister_protocol::message::Exec { id: 201, ..exec }
        }];
        // All in one message, so that they are still being connected.
        let listeners = [&machine, &agent].map(|exec| agents.bed.listen_for(exec));
        let mut bytes = Vec::new();
        for request in
            [Request::Exec(machine), Request::Exec(agent), Request::Detach { commands: vec![100] }]
        {
            bytes.extend(frame::encode(&request).unwrap());
        }
        agents.bed.send_bytes(&bytes);
        assert_eq!(agents.bed.event(), HOLDS);
        assert_stand(&files);
        assert_eq!(new.clone().map(|file| length(&file)), [0, 0]);
        let groups = ["command-200", "agents/1/command-201"];
        let groups = groups.map(|name| agents.bed.group().join(name));
        eventually("they are made", || groups.iter().all(|group| group.exists()));
        if anew {
            agents.bed.leave();
            agents.bed.greet_anew(1);
        }
        let _streams = agents.bed.attach(&[100]);
        if anew {
            assert_eq!(groups.map(|group| group.exists()), [false, false]);
            assert_eq!(new.map(|file| length(&file)), [0, 0]);
        } else {
            let mut started = [agents.bed.event(), agents.bed.event()];
            started.sort_by_key(|event| matches!(event, Event::Started { id: 201 }));
            assert_eq!(started, [200, 201].map(|id| Event::Started { id }));
            assert_grow(&new);
        }
        drop(listeners);
    }
}
