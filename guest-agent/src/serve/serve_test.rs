//! Tests of a whole supervisor, from request to event.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use cloister_protocol::limits::MAX_COMMANDS;
use cloister_protocol::message::{Event, Exec, ExecFailure, ExitStatus, Request, Stdio};

use crate::test_bed::{Bed, eventually};

#[test]
fn a_command_is_heard_and_its_code_told() {
    let mut bed = Bed::start();
    let exec = bed.shell(7, "echo out; echo err >&2; exit 3");
    let (output, errors, status) = bed.output_of(exec);
    assert_eq!((output.as_str(), errors.as_str()), ("out\n", "err\n"));
    assert_eq!(status, ExitStatus::Code(3));
}

#[test]
fn input_passes_and_its_end_too() {
    let mut bed = Bed::start();
    let exec = bed.shell(1, "cat; echo after; sleep 0.05; echo later");
    let mut streams = bed.exec(exec);
    streams.stdin().write_all(b"hello\n").unwrap();
    assert_eq!(streams.read_until("\n"), "hello\n");
    // The end of input only: output goes on.
    streams.stdin().shutdown(Shutdown::Write).unwrap();
    assert_eq!(streams.read_until("later\n"), "after\nlater\n");
    bed.started(1);
    assert_eq!(bed.exited(1), ExitStatus::Code(0));
}

#[test]
fn no_input_is_dev_null() {
    let mut bed = Bed::start();
    let mut exec = bed.shell(1, "readlink /proc/self/fd/0; cat");
    if let Stdio::Streams { stdin, .. } = &mut exec.stdio {
        *stdin = None;
    }
    assert_eq!(bed.output_of(exec).0, "/dev/null\n");
}

#[test]
fn signals_reach_the_group_and_are_told() {
    let mut bed = Bed::start();
    let exec = bed.shell(1, "sleep 1000 & echo up; wait");
    let mut streams = bed.exec(exec);
    bed.started(1);
    streams.read_until("up\n");
    bed.send(&Request::Signal { id: 1, signal: 15 });
    assert_eq!(bed.exited(1), ExitStatus::Signal(15));

    let exec =
        bed.shell(2, "trap 'echo caught; exit 9' INT; echo up; while :; do sleep 0.01; done");
    let mut streams = bed.exec(exec);
    bed.started(2);
    streams.read_until("up\n");
    bed.send(&Request::Signal { id: 2, signal: 2 });
    streams.read_until("caught\n");
    assert_eq!(bed.exited(2), ExitStatus::Code(9));

    let exec = bed.shell(3, "kill -9 $$");
    assert_eq!(bed.output_of(exec).2, ExitStatus::Signal(9));
}

#[test]
fn real_time_signals_pass() {
    let mut bed = Bed::start();
    let exec = bed.shell(1, "echo up; exec sleep 1000");
    let mut streams = bed.exec(exec);
    bed.started(1);
    streams.read_until("up\n");
    bed.send(&Request::Signal { id: 1, signal: 64 });
    assert_eq!(bed.exited(1), ExitStatus::Signal(64));
}

#[test]
fn signals_for_a_command_that_has_ended_are_no_fault() {
    let mut bed = Bed::start();
    bed.send(&Request::Signal { id: 5, signal: 15 });
    bed.send(&Request::Ping { token: 9 });
    assert_eq!(bed.event(), Event::Pong { token: 9 });
}

#[test]
fn the_time_limit_kills_everything() {
    let mut bed = Bed::start();
    let mut exec = bed.shell(1, "trap '' TERM; sleep 1000 & (setsid sleep 1000 &) ; echo up; wait");
    exec.timeout_ms = Some(300);
    let begin = Instant::now();
    let mut streams = bed.exec(exec);
    bed.started(1);
    streams.read_until("up\n");
    assert_eq!(bed.exited(1), ExitStatus::TimedOut);
    assert!(begin.elapsed() >= Duration::from_millis(300));
    // No sleeper holds the streams.
    assert_eq!(streams.read_all(), (String::new(), String::new()));
}

#[test]
fn a_time_limit_that_is_not_reached_is_not_told() {
    let mut bed = Bed::start();
    let mut exec = bed.shell(1, "exit 4");
    exec.timeout_ms = Some(60_000);
    assert_eq!(bed.output_of(exec).2, ExitStatus::Code(4));
}

#[test]
fn what_a_command_leaves_behind_ends_with_it() {
    let mut bed = Bed::start();
    let exec = bed.shell(1, "(setsid sh -c 'echo here; exec sleep 1000' &); sleep 0.1; exit 5");
    let (output, _, status) = bed.output_of(exec);
    assert_eq!((output.as_str(), status), ("here\n", ExitStatus::Code(5)));
    assert!(!bed.group().join("command-1").exists());
}

#[test]
fn orphans_are_reaped() {
    let mut bed = Bed::start();
    let exec = bed.shell(1, "for i in 1 2 3 4 5 6 7 8; do (sh -c 'exit 1' &); done; echo up; cat");
    let mut streams = bed.exec(exec);
    streams.read_until("up\n");
    let children = format!("/proc/{0}/task/{0}/children", bed.supervisor().as_raw_nonzero());
    // The command's shell alone is left.
    eventually("orphans reaped", || {
        std::fs::read_to_string(&children).unwrap().split_whitespace().count() == 1
    });
}

#[test]
fn a_hundred_at_once_all_end_right() {
    let mut bed = Bed::start();
    let mut all = Vec::new();
    for id in 0..100 {
        let exec = bed.shell(id, &format!("read line; echo \"$line {id}\"; exit {id}"));
        all.push(bed.exec(exec));
    }
    for streams in &mut all {
        streams.stdin().write_all(b"number\n").unwrap();
    }
    let mut codes = [None; 100];
    let mut started = 0;
    while codes.iter().any(Option::is_none) {
        match bed.event() {
            Event::Started { .. } => started += 1,
            Event::Exited { id, status } => codes[id as usize] = Some(status),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(started, 100);
    for (id, streams) in all.into_iter().enumerate() {
        assert_eq!(codes[id], Some(ExitStatus::Code(u8::try_from(id).unwrap())));
        assert_eq!(streams.read_all(), (format!("number {id}\n"), String::new()));
    }
}

#[test]
fn too_many_are_refused_and_nothing_leaks() {
    let mut bed = Bed::start();
    let before = bed.descriptors();
    let most = u32::try_from(MAX_COMMANDS).unwrap();
    let mut all = Vec::new();
    for id in 0..most {
        let exec = bed.shell(id, "exec cat");
        all.push(bed.exec(exec));
        bed.started(id);
    }
    let exec = bed.shell(most, "exit");
    bed.send(&Request::Exec(exec));
    let Event::Failed { id, reason, detail } = bed.event() else { panic!("not refused") };
    assert_eq!((id, reason), (most, ExecFailure::Resources));
    assert_eq!(detail, "too many commands run already");
    drop(all);
    for _ in 0..most {
        assert!(matches!(bed.event(), Event::Exited { status: ExitStatus::Code(0), .. }));
    }
    eventually("descriptors closed", || bed.descriptors() == before);
    let exec = bed.shell(0, "exit 6");
    assert_eq!(bed.output_of(exec).2, ExitStatus::Code(6));
}

#[test]
fn an_id_in_use_is_refused() {
    let mut bed = Bed::start();
    let exec = bed.shell(1, "cat");
    let _streams = bed.exec(exec);
    bed.started(1);
    let again = bed.shell(1, "true");
    bed.send(&Request::Exec(again));
    let Event::Failed { id: 1, reason, detail } = bed.event() else { panic!("not refused") };
    assert_eq!((reason, detail.as_str()), (ExecFailure::BadRequest, "the id is in use"));
}

#[test]
fn start_failures_are_told_apart() {
    let mut bed = Bed::start();
    let directory = bed.directory().to_path_buf();
    let file = |name: &str, text: &str, mode: u32| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&path, mode).unwrap();
        path.to_str().unwrap().as_bytes().to_vec()
    };
    let text = file("text", "just text\n", 0o755);
    let plain = file("plain", "#!/bin/sh\n", 0o644);
    let lost = file("lost", "#!/no/such/interpreter\n", 0o755);
    let cases: [(&[u8], ExecFailure, &str); 7] = [
        (b"/no/such/program", ExecFailure::NotFound, "No such file"),
        (b"no-such-program", ExecFailure::NotFound, "no-such-program"),
        (b"/", ExecFailure::NotExecutable, "Permission denied"),
        (b"/etc/passwd/x", ExecFailure::NotExecutable, "Not a directory"),
        (&text, ExecFailure::NotExecutable, "Exec format error"),
        (&plain, ExecFailure::NotExecutable, "Permission denied"),
        (&lost, ExecFailure::NotExecutable, "interpreter"),
    ];
    for (id, (program, reason, words)) in (0..).zip(cases) {
        let mut exec = bed.shell(id, "");
        exec.arguments = vec![program.to_vec()];
        let streams = bed.exec(exec);
        let Event::Failed { id: failed, reason: told, detail } = bed.event() else {
            panic!("{id} did not fail")
        };
        assert_eq!((failed, told), (id, reason), "{detail}");
        assert!(detail.contains(words), "{detail}");
        assert_eq!(streams.read_all(), (String::new(), String::new()));
    }
    let mut exec = bed.shell(50, "true");
    exec.directory = b"/no/such/directory".to_vec();
    let _streams = bed.exec(exec);
    let Event::Failed { reason, detail, .. } = bed.event() else { panic!("did not fail") };
    assert_eq!(reason, ExecFailure::Directory);
    assert_eq!(detail, "can't enter /no/such/directory: No such file or directory (os error 2)");
}

#[test]
fn a_stream_that_can_not_be_connected_fails_the_command() {
    let mut bed = Bed::start();
    let exec = bed.shell(1, "true");
    // Nobody listens on its ports.
    bed.send(&Request::Exec(exec));
    let Event::Failed { id: 1, reason, detail } = bed.event() else { panic!("did not fail") };
    assert_eq!(reason, ExecFailure::Resources);
    assert!(detail.starts_with("can't connect its streams: "), "{detail}");
}

#[test]
fn the_search_is_that_of_the_commands_path() {
    let mut bed = Bed::start();
    let directory = bed.directory().to_str().unwrap().to_owned();
    let script = bed.directory().join("only-here");
    std::fs::write(&script, "#!/bin/sh\necho found\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    let mut exec = bed.shell(1, "");
    exec.arguments = vec![b"only-here".to_vec()];
    exec.environment =
        vec![(b"PATH".to_vec(), format!("/no/such:/etc/passwd:{directory}:/bin").into_bytes())];
    assert_eq!(bed.output_of(exec).0, "found\n");
    // The present directory, as an empty part of the path.
    let mut exec = bed.shell(2, "");
    exec.arguments = vec![b"only-here".to_vec()];
    exec.environment = vec![(b"PATH".to_vec(), b":/bin".to_vec())];
    exec.directory = directory.into_bytes();
    assert_eq!(bed.output_of(exec).0, "found\n");
}

#[test]
fn a_command_starts_clean() {
    let mut bed = Bed::start();
    let directory = bed.directory().to_str().unwrap().to_owned();
    let script = "pwd; umask; echo $0 \"$A\"; ls /proc/self/fd | wc -l; \
        grep -E '^Sig(Blk|Ign|Cgt)|^SigQ' /proc/self/status | grep -v SigQ; \
        ps -o sid=,pgid= -p $$ | tr -s ' '; echo $$; ulimit -n; cat /proc/self/cgroup | grep -c command-1";
    let mut exec = bed.shell(1, script);
    exec.directory = directory.clone().into_bytes();
    exec.environment.push((b"A".to_vec(), b"b=c".to_vec()));
    let (output, errors, _) = bed.output_of(exec);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(errors, "");
    assert_eq!(lines[0], directory);
    assert_eq!(lines[1], "0022");
    assert_eq!(lines[2], "sh b=c");
    // Three and the one that `ls` reads.
    assert_eq!(lines[3], "4");
    assert_eq!(lines[4], "SigBlk:\t0000000000000000");
    // A test's surroundings may ignore a real-time signal.
    assert!(["00000000", "80000000"].iter().any(|end| lines[5].ends_with(end)), "{}", lines[5]);
    let session: Vec<&str> = lines[7].split_whitespace().collect();
    assert_eq!(session, [lines[8], lines[8]]);
    assert_eq!(lines[9], "1024");
    assert_eq!(lines[10], "1");
}

#[test]
fn bad_commands_are_answered_and_not_fatal() {
    let mut bed = Bed::start();
    let good = bed.shell(1, "true");
    let bad = [
        Exec { arguments: vec![], ..good.clone() },
        Exec { directory: b"relative".to_vec(), ..good.clone() },
        Exec { environment: vec![(b"A=B".to_vec(), vec![])], ..good.clone() },
        Exec { timeout_ms: Some(u64::MAX), ..good },
    ];
    for exec in bad {
        bed.send(&Request::Exec(exec));
        let Event::Failed { id: 1, reason, detail } = bed.event() else { panic!("accepted") };
        assert_eq!(reason, ExecFailure::BadRequest, "{detail}");
    }
}

#[test]
fn groups_inside_a_commands_group_go_with_it() {
    let mut bed = Bed::start();
    let group = bed.group().join("command-1");
    let script =
        format!("mkdir -p {0}/a/b {0}/c && echo $$ > {0}/a/b/cgroup.procs", group.display());
    let exec = bed.shell(1, &script);
    assert_eq!(bed.output_of(exec), (String::new(), String::new(), ExitStatus::Code(0)));
    assert!(!group.exists());
    assert_eq!(bed.log(), "");
}

#[test]
fn a_busy_command_starves_nobody() {
    let mut bed = Bed::start();
    let exec = bed.shell(1, "exec cat /dev/zero");
    let mut busy = bed.exec(exec);
    bed.started(1);
    let mut output = busy.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut block = vec![0; 1 << 16];
        while output.read(&mut block).unwrap() > 0 {}
    });
    for token in 0..20 {
        bed.send(&Request::Ping { token });
        assert_eq!(bed.event(), Event::Pong { token });
    }
    let exec = bed.shell(2, "echo through");
    assert_eq!(bed.output_of(exec).0, "through\n");
    bed.send(&Request::Signal { id: 1, signal: 9 });
    assert_eq!(bed.exited(1), ExitStatus::Signal(9));
    reader.join().unwrap();
}
