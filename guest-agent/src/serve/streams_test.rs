//! Streams of commands: what passes, what waits, and how each end is told.

use std::io::{Read, Write};
use std::time::Duration;

use cloister_protocol::message::ExitStatus;

use crate::test_bed::{Bed, eventually};

#[test]
fn a_slow_reader_slows_the_command_down() {
    let mut bed = Bed::start();
    let progress = bed.directory().join("progress");
    let script = format!(
        "i=0; while [ $i -lt 64 ]; do head -c 65536 /dev/zero; i=$((i+1)); echo $i > {}; done",
        progress.display()
    );
    let exec = bed.shell(1, &script);
    let mut streams = bed.exec(exec);
    bed.started(1);
    // What fits into the pipe, the pump and the socket passes, and then no more: 4 MiB do not.
    let written =
        || std::fs::read_to_string(&progress).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let mut last = None;
    eventually("it stops", || {
        std::thread::sleep(Duration::from_millis(100));
        let now = written();
        std::mem::replace(&mut last, now) == now && now.is_some()
    });
    assert!(last.unwrap() < 40, "{last:?} of 64 blocks passed unread");
    let mut count = 0;
    let mut block = vec![0; 1 << 16];
    loop {
        match streams.stdout().read(&mut block).unwrap() {
            0 => break,
            more => count += more,
        }
    }
    assert_eq!(count, 4 << 20);
    assert_eq!(bed.exited(1), ExitStatus::Code(0));
}

#[test]
fn much_passes_whole_both_ways() {
    let mut bed = Bed::start();
    let exec = bed.shell(1, "cat");
    let mut streams = bed.exec(exec);
    let mut stdin = streams.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        for word in 0..(8_u32 << 20) {
            if word % 4096 == 0 {
                let block: Vec<u8> = (word..word + 4096).flat_map(u32::to_le_bytes).collect();
                stdin.write_all(&block).unwrap();
            }
        }
    });
    let mut expected = 0_u32;
    let mut word = [0; 4];
    let mut output = std::io::BufReader::new(streams.stdout.take().unwrap());
    while output.read_exact(&mut word).is_ok() {
        assert_eq!(u32::from_le_bytes(word), expected);
        expected += 1;
    }
    writer.join().unwrap();
    assert_eq!(expected, 8 << 20);
}

#[test]
fn output_written_just_before_the_end_arrives() {
    let mut bed = Bed::start();
    for id in 0..20 {
        let exec = bed.shell(id, "head -c 60000 /dev/zero | tr '\\0' x");
        let mut streams = bed.exec(exec);
        streams.stdin = None;
        bed.started(id);
        // Nothing is read before it has ended.
        assert_eq!(bed.exited(id), ExitStatus::Code(0));
        assert_eq!(streams.read_all().0.len(), 60_000);
    }
}

#[test]
fn a_closed_output_breaks_the_pipe() {
    let mut bed = Bed::start();
    let exec = bed.shell(1, "exec yes");
    let mut streams = bed.exec(exec);
    bed.started(1);
    streams.read_until("y\ny\n");
    streams.stdout = None;
    assert_eq!(bed.exited(1), ExitStatus::Signal(13));
}

#[test]
fn a_closed_input_is_told_to_the_host() {
    let mut bed = Bed::start();
    let exec = bed.shell(1, "exec <&-; echo closed; read line < /dev/zero");
    let mut streams = bed.exec(exec);
    bed.started(1);
    streams.read_until("closed\n");
    let block = vec![0; 1 << 16];
    let error = (0..1000).find_map(|_| streams.stdin().write_all(&block).err()).unwrap();
    // The second, where the supervisor closed the stream with bytes in it that it had not read (unix(7)).
    let broken = [std::io::ErrorKind::BrokenPipe, std::io::ErrorKind::ConnectionReset];
    assert!(broken.contains(&error.kind()), "{error}");
}

/// Somebody who left the group, or got the descriptor from one in it, can't hold the streams.
#[test]
fn streams_end_though_another_process_holds_them() {
    let mut bed = Bed::start();
    let script = format!(
        "sh -c 'echo $$ > {}/cgroup.procs; echo out; exec sleep 1000' & sleep 0.2; exit 8",
        bed.group().parent().unwrap().display()
    );
    let exec = bed.shell(1, &script);
    let (output, _, status) = bed.output_of(exec);
    assert_eq!((output.as_str(), status), ("out\n", ExitStatus::Code(8)));
    let children = format!("/proc/{0}/task/{0}/children", bed.supervisor().as_raw_nonzero());
    for orphan in std::fs::read_to_string(children).unwrap().split_whitespace() {
        let orphan = rustix::process::Pid::from_raw(orphan.parse().unwrap()).unwrap();
        rustix::process::kill_process(orphan, rustix::process::Signal::KILL).unwrap();
    }
}
