//! A supervisor whose host leaves commands in mid-work, and comes back to them: on the same connection, and on another
//! one as in a machine that goes on from a saved one.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use cloister_protocol::VERSION;
use cloister_protocol::message::{Attached, Event, ExitStatus, Request};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::test_bed::{Bed, Streams, eventually};

/// Every line with its number, on both outputs, as fast as the host takes them.
const COUNT: &str = "i=0; while :; do echo $i; echo $i >&2; i=$((i+1)); done";
const ROUNDS: u64 = 20;
/// Long enough for pipe, pump and socket to fill.
pub(super) const WHILE: Duration = Duration::from_millis(20);

pub(super) const HOLDS: Event = Event::Detached { holds: true };
pub(super) const HOLDS_NOT: Event = Event::Detached { holds: false };

pub(super) fn detach(bed: &mut Bed, ids: &[u32]) {
    bed.send(&Request::Detach { commands: ids.to_vec() });
}

/// A running command without input.
pub(super) fn start(bed: &mut Bed, id: u32, shell: &str) -> Streams {
    let exec = bed.shell_without_input(id, shell);
    let streams = bed.exec(exec);
    bed.started(id);
    streams
}

/// Reads to the end, and closes.
fn reader(stream: Option<UnixStream>) -> JoinHandle<Vec<u8>> {
    let mut stream = stream.unwrap();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// What was written on each output.
#[derive(Default)]
struct Written([Vec<u8>; 2]);

impl Written {
    fn read(streams: Streams) -> [JoinHandle<Vec<u8>>; 2] {
        [reader(streams.stdout), reader(streams.stderr)]
    }

    fn add(&mut self, readers: [JoinHandle<Vec<u8>>; 2]) {
        for (all, reader) in self.0.iter_mut().zip(readers) {
            all.extend(reader.join().unwrap());
        }
    }

    fn assert_counted(&self) {
        for all in &self.0 {
            let lines = std::str::from_utf8(all).unwrap().lines();
            let count = lines.zip(0_u32..).map(|(line, number)| {
                assert_eq!(line, number.to_string());
            });
            assert!(count.count() > 1000);
        }
    }
}

/// Detaches a command that writes without end in many rounds; in every second one the host is slow.
fn every_line_comes_once(mut come_back: impl FnMut(&mut Bed, u64)) {
    let mut bed = Bed::start();
    let mut streams = start(&mut bed, 1, COUNT);
    let mut written = Written::default();
    for round in 0..ROUNDS {
        let readers = if round % 2 == 0 {
            let readers = Written::read(streams);
            std::thread::sleep(WHILE);
            detach(&mut bed, &[1]);
            readers
        } else {
            std::thread::sleep(WHILE);
            detach(&mut bed, &[1]);
            std::thread::sleep(WHILE);
            Written::read(streams)
        };
        written.add(readers);
        assert_eq!(bed.event(), HOLDS);
        std::thread::sleep(WHILE / 4);
        assert!(bed.is_silent());
        come_back(&mut bed, round);
        streams = bed.attach(&[1]).remove(0);
    }
    let readers = Written::read(streams);
    bed.send(&Request::Signal { id: 1, signal: 9 });
    assert_eq!(bed.exited(1), ExitStatus::Signal(9));
    written.add(readers);
    written.assert_counted();
}

#[test]
fn every_line_comes_once_on_the_same_connection() {
    every_line_comes_once(|_, _| {});
}

#[test]
fn every_line_comes_once_in_another_machine() {
    every_line_comes_once(|bed, round| {
        bed.leave();
        bed.greet_anew(round);
    });
}

#[test]
fn a_machine_can_be_left_again_before_it_is_attached() {
    let mut bed = Bed::start();
    let mut streams = start(&mut bed, 1, "echo one; sleep 1000");
    streams.read_until("one\n");
    detach(&mut bed, &[1]);
    streams.read_all();
    assert_eq!(bed.event(), HOLDS);
    for wall_ns in 0..5 {
        // Not greeted, as one that was saved where it had connected.
        bed.leave();
        bed.leave();
        bed.greet_anew(wall_ns);
        eventually("another identity", || bed.identity() == wall_ns.to_string());
    }
    assert_eq!(bed.attach(&[1]).len(), 1);
    bed.send(&Request::Ping { token: 1 });
    assert_eq!(bed.event(), Event::Pong { token: 1 });
    // Attached, it ends with its connection as ever.
    bed.control().shutdown(Shutdown::Both).unwrap();
    assert!(!bed.end().0);
}

/// Least that is left of a full pipe, whatever its writer's writes are.
const PIPE: usize = 32 << 10;

/// Whether the other side has ended the stream, of which nothing may have been read.
fn has_ended(stream: &UnixStream) -> bool {
    let mut files = [PollFd::new(stream, PollFlags::RDHUP)];
    rustix::event::poll(&mut files, Some(&Timespec::default())).unwrap() > 0
}

/// Ends a command that stands still, as a time limit does.
fn kill(bed: &Bed, id: u32) {
    let group = bed.group().join(format!("command-{id}"));
    std::fs::write(group.join("cgroup.kill"), "1").unwrap();
    eventually("the command has ended", || !group.exists());
}

#[test]
fn a_command_that_ends_meanwhile_delivers_its_last_bytes_and_its_end() {
    for anew in [false, true] {
        let mut bed = Bed::start();
        let streams = start(&mut bed, 1, "exec head -c 10000000 /dev/zero");
        // Until socket, pump and pipe are full.
        std::thread::sleep(10 * WHILE);
        detach(&mut bed, &[1]);
        eventually("its end", || has_ended(streams.stdout.as_ref().unwrap()));
        streams.read_all();
        assert_eq!(bed.event(), HOLDS);
        kill(&bed, 1);
        assert!(bed.is_silent());
        if anew {
            bed.leave();
            bed.greet_anew(1);
        }
        let streams = bed.attach(&[1]).remove(0);
        assert_eq!(bed.exited(1), ExitStatus::Signal(9));
        assert!(streams.read_all().0.len() >= PIPE);
        let exec = bed.shell(1, "exit 3");
        assert_eq!(bed.output_of(exec).2, ExitStatus::Code(3), "its id is free");
    }
}

#[test]
fn what_another_host_does_not_list_is_killed_and_not_spoken_of() {
    let mut bed = Bed::start();
    let before = bed.descriptors();
    let sleep = "sleep 1000 & (setsid sleep 1000 &); echo up; wait";
    let mut kept = start(&mut bed, 1, sleep);
    let mut others = vec![start(&mut bed, 2, sleep), start(&mut bed, 3, sleep)];
    let exec = bed.shell_in_terminal(4, sleep);
    others.push(bed.exec(exec));
    bed.started(4);
    let ended = start(&mut bed, 5, "true");
    assert_eq!(bed.exited(5), ExitStatus::Code(0));
    // 3 and 4 keep their streams, and 5 its unread end.
    kept.read_until("up\n");
    for one in &mut others {
        one.read_until("up");
    }
    detach(&mut bed, &[1, 2]);
    kept.read_all();
    others.remove(0).read_all();
    assert_eq!(bed.event(), HOLDS);
    bed.leave();
    bed.greet_anew(1);
    let mut kept = bed.attach(&[1]).remove(0);
    // All of them are gone by now, and their ids free.
    for id in 2..6 {
        assert!(!bed.group().join(format!("command-{id}")).exists());
        let exec = bed.shell_without_input(id, "echo new");
        assert_eq!(bed.output_of(exec), ("new\n".into(), String::new(), ExitStatus::Code(0)));
    }
    bed.send(&Request::Signal { id: 1, signal: 15 });
    assert_eq!(bed.exited(1), ExitStatus::Signal(15));
    assert_eq!(kept.stdout().read(&mut [0]).unwrap(), 0);
    drop((kept, others, ended));
    eventually("descriptors closed", || bed.descriptors() == before);
}

#[test]
fn the_ends_of_others_are_told_afterwards_and_never_to_another_host() {
    for anew in [false, true] {
        let mut bed = Bed::start();
        let first = start(&mut bed, 1, "sleep 1000");
        let _second = start(&mut bed, 2, "sleep 1000");
        detach(&mut bed, &[1]);
        first.read_all();
        assert_eq!(bed.event(), HOLDS);
        kill(&bed, 2);
        assert!(bed.is_silent());
        if anew {
            bed.leave();
            bed.greet_anew(1);
        }
        let _streams = bed.attach(&[1]);
        if !anew {
            assert_eq!(bed.exited(2), ExitStatus::Signal(9));
        }
        bed.send(&Request::Ping { token: 3 });
        assert_eq!(bed.event(), Event::Pong { token: 3 });
    }
}

#[test]
fn others_keep_their_streams_in_the_same_machine() {
    let mut bed = Bed::start();
    let first = start(&mut bed, 1, "sleep 1000");
    let exec = bed.shell(2, "exec cat");
    let mut cat = bed.exec(exec);
    bed.started(2);
    detach(&mut bed, &[1]);
    first.read_all();
    assert_eq!(bed.event(), HOLDS);
    cat.stdin().write_all(b"one\n").unwrap();
    std::thread::sleep(WHILE);
    cat.stdin().write_all(b"two\n").unwrap();
    let _streams = bed.attach(&[1]);
    assert_eq!(cat.read_until("two\n"), "one\ntwo\n");
}

#[test]
fn what_can_not_be_detached_is_refused_and_nothing_changes() {
    let mut bed = Bed::start();
    let mut runs = start(&mut bed, 1, "echo one; sleep 0.2; echo two; sleep 1000");
    let exec = bed.shell(2, "cat");
    let mut input = bed.exec(exec);
    bed.started(2);
    let exec = bed.shell_in_terminal(3, "sleep 1000");
    let _terminal = bed.exec(exec);
    bed.started(3);
    let _ended = start(&mut bed, 4, "true");
    assert_eq!(bed.exited(4), ExitStatus::Code(0));
    for ids in [&[1, 2][..], &[3, 1], &[1, 4], &[99], &[2]] {
        detach(&mut bed, ids);
        assert_eq!(bed.event(), HOLDS_NOT, "{ids:?}");
    }
    assert_eq!(runs.read_until("two\n"), "one\ntwo\n");
    bed.send(&Request::Ping { token: 1 });
    assert_eq!(bed.event(), Event::Pong { token: 1 });
    input.stdin = None;
    assert_eq!(bed.exited(2), ExitStatus::Code(0));
}

#[test]
fn a_command_that_is_being_started_is_refused() {
    let mut bed = Bed::start();
    for id in 0..50 {
        let exec = bed.shell_without_input(id, "sleep 1000");
        let streams = bed.exec(exec);
        detach(&mut bed, &[id]);
        // Both in either order; detached, it has been started before.
        let (first, second) = (bed.event(), Event::Started { id });
        match first {
            HOLDS_NOT => assert_eq!(bed.event(), second),
            _ => {
                assert_eq!(first, second);
                drop(streams);
                if bed.event() == HOLDS {
                    drop(bed.attach(&[id]));
                }
            }
        }
        bed.send(&Request::Signal { id, signal: 9 });
        assert_eq!(bed.exited(id), ExitStatus::Signal(9));
    }
}

#[test]
fn a_command_is_detached_once_its_input_has_ended() {
    let mut bed = Bed::start();
    let exec = bed.shell(1, "read line; echo $line; read line; echo end; sleep 1000");
    let mut streams = bed.exec(exec);
    bed.started(1);
    streams.stdin().write_all(b"word\n").unwrap();
    streams.read_until("word\n");
    detach(&mut bed, &[1]);
    assert_eq!(bed.event(), HOLDS_NOT);
    streams.stdin = None;
    // Its end has been passed on, and so its stream is gone.
    streams.read_until("end\n");
    detach(&mut bed, &[1]);
    streams.read_all();
    assert_eq!(bed.event(), HOLDS);
    let _streams = bed.attach(&[1]);
}

#[test]
fn streams_that_had_ended_end_again() {
    let mut bed = Bed::start();
    // The command has closed one, and the host the other.
    let mut streams = start(&mut bed, 1, "exec >&-; sleep 1000");
    assert_eq!(streams.stdout().read(&mut [0]).unwrap(), 0);
    streams.stderr = None;
    detach(&mut bed, &[1]);
    drop(streams);
    assert_eq!(bed.event(), HOLDS);
    let streams = bed.attach(&[1]).remove(0);
    let [stdout, stderr] = [streams.stdout, streams.stderr].map(reader);
    assert_eq!(stdout.join().unwrap(), b"");
    bed.send(&Request::Signal { id: 1, signal: 9 });
    assert_eq!(bed.exited(1), ExitStatus::Signal(9));
    assert_eq!(stderr.join().unwrap(), b"");
}

#[test]
fn nothing_is_told_before_the_host_has_closed_its_ends() {
    let mut bed = Bed::start();
    let mut streams = start(&mut bed, 1, "sleep 1000");
    detach(&mut bed, &[1]);
    assert_eq!(streams.stdout().read(&mut [0]).unwrap(), 0);
    streams.stdout = None;
    std::thread::sleep(WHILE);
    assert!(bed.is_silent());
    drop(streams);
    assert_eq!(bed.event(), HOLDS);
}

#[test]
fn nothing_at_all_is_detached_too() {
    let mut bed = Bed::start();
    for round in 0..3 {
        detach(&mut bed, &[]);
        assert_eq!(bed.event(), HOLDS);
        bed.leave();
        bed.greet_anew(round);
        assert_eq!(bed.attach(&[]).len(), 0);
    }
    bed.send(&Request::PowerOff);
    assert_eq!(bed.end(), (true, String::new()));
}

#[test]
fn a_detached_machine_can_be_powered_off() {
    let mut bed = Bed::start();
    let streams = start(&mut bed, 1, "sleep 1000");
    detach(&mut bed, &[1]);
    streams.read_all();
    assert_eq!(bed.event(), HOLDS);
    bed.send(&Request::PowerOff);
    assert_eq!(bed.end(), (true, String::new()));
}

#[test]
fn a_host_that_leaves_before_all_has_ended_ends_the_machine() {
    let mut bed = Bed::start();
    let _unread = start(&mut bed, 1, "sleep 1000");
    detach(&mut bed, &[1]);
    bed.control().shutdown(Shutdown::Both).unwrap();
    let (content, log) = bed.end();
    assert!(!content && log.contains("closed the control connection"), "{log}");
}

#[test]
fn a_detached_supervisor_without_a_next_host_ends() {
    let mut bed = Bed::start();
    detach(&mut bed, &[]);
    assert_eq!(bed.event(), HOLDS);
    bed.control().shutdown(Shutdown::Both).unwrap();
    assert!(!bed.end().0);
}

/// The supervisor must end itself and say why, when it is asked for these, with a command detached or not.
fn assert_ends(is_detached: bool, requests: &[Request], why: &str) {
    let mut bed = Bed::start();
    let streams = start(&mut bed, 1, "sleep 1000");
    let mut kept = Some(streams);
    if is_detached {
        detach(&mut bed, &[1]);
        kept.take().unwrap().read_all();
        assert_eq!(bed.event(), HOLDS);
    }
    for request in requests {
        bed.send(request);
    }
    let (content, log) = bed.end();
    assert!(!content && log.contains(why), "{requests:?}: {log}");
    drop(kept);
}

#[test]
fn hostile_requests_end_it() {
    let attach = |ids: &[u32]| {
        let one = |id: &u32| Attached { id: *id, stdout: 1000 + 2 * id, stderr: 1001 + 2 * id };
        Request::Attach { commands: ids.iter().map(one).collect() }
    };
    let again = Request::Detach { commands: vec![1] };
    let presence = "does not fit to its being detached";
    assert_ends(false, &[attach(&[1])], presence);
    assert_ends(false, &[attach(&[])], presence);
    // While the streams are not closed yet.
    assert_ends(false, &[again.clone(), Request::Ping { token: 1 }], presence);
    assert_ends(false, &[again.clone(), attach(&[1])], presence);
    for request in [again, Request::Ping { token: 1 }, Request::Signal { id: 1, signal: 9 }] {
        assert_ends(true, &[request], presence);
    }
    let others = "attaches other commands";
    assert_ends(true, &[attach(&[])], others);
    assert_ends(true, &[attach(&[1, 2])], others);
    assert_ends(true, &[attach(&[2])], others);
    // Nobody listens there.
    assert_ends(true, &[attach(&[1])], "can't connect new streams");
    assert_ends(true, &[attach(&[1, 1])], "is named twice");
    assert_ends(false, &[Request::Detach { commands: vec![1, 1] }], "is named twice");
    let many = Request::Detach { commands: (0..1000).collect() };
    assert_ends(false, &[many], "1000 commands are named");
}

#[test]
fn another_host_must_say_that_it_is_another() {
    let anew = || {
        let mut bed = Bed::start();
        detach(&mut bed, &[]);
        assert_eq!(bed.event(), HOLDS);
        bed.leave();
        bed
    };
    for (request, why) in [
        (Request::Hello { version: VERSION, fork: None }, "does not fit to its being detached"),
        (Request::Attach { commands: vec![] }, "first message"),
        (Request::Detach { commands: vec![] }, "first message"),
    ] {
        let mut bed = anew();
        bed.send(&request);
        let (content, log) = bed.end();
        assert!(!content && log.contains(why), "{log}");
    }
    let mut bed = anew();
    bed.greet_anew(1);
    bed.send(&Request::Attach { commands: vec![Attached { id: 9, stdout: 8, stderr: 9 }] });
    let (content, log) = bed.end();
    assert!(!content && log.contains("attaches other commands"), "{log}");
}
