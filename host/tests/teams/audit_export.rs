//! `cloister audit export`: every record reaches its collector, over closed connections, full sockets and killed
//! exporters, and what is missing is told.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::Child;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use cloister::audit::log::Log;
use cloister::audit::record::Entry;
use cloister::audit::{self, AuditError};
use cloister::state::StateDir;
use rustix::process::{Pid, Signal, kill_process};

use crate::bed::Bed;
use crate::harness::text;

/// How long anything here may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const HOSTILE: &str = "a\n<0>1 - evil\r\u{1b}[2J\u{7f}\u{9b}\u{202e}\"]\\ é 😀\nPRIORITY=0\n";

fn log(bed: &Bed) -> Log {
    let state = StateDir::open(Some(&bed.path("state"))).expect("it works");
    let end = Instant::now() + LIMIT;
    loop {
        match audit::open(&state, "t") {
            // A child of another test has the lock from its fork to its program.
            Err(AuditError::Busy(_)) if Instant::now() < end => thread::yield_now(),
            log => return log.expect("a log"),
        }
    }
}

/// Adds hostile records up to number `last`.
fn fill(log: &mut Log, from: u64, last: u64) {
    for number in from..=last {
        let entry = Entry::new("exec-denied", format!("{number} {HOSTILE}")).of("a");
        log.append(entry.with("path", HOSTILE)).expect("it works");
    }
}

/// A log of `last` records.
fn bed_with(last: u64) -> Bed {
    let bed = Bed::new();
    let mut log = log(&bed);
    fill(&mut log, 2, last);
    log.close().expect("it works");
    bed
}

/// The value of a name in the structured data of a message, which is checked to be one line of printable text.
fn value<'a>(message: &'a str, name: &str) -> &'a str {
    assert!(message.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{message}");
    let (_, data) = message.split_once("[cloister@32473 ").expect("structured data");
    let (_, rest) = data.split_once(&format!("{name}=\"")).expect("a value");
    rest.split_once('"').expect("its end").0
}

fn number(message: &str) -> u64 {
    value(message, "record").parse().expect("it works")
}

/// The JSON behind the structured data.
fn json(message: &str) -> serde_json::Value {
    let (_, json) = message.split_once("\"] ").expect("JSON");
    serde_json::from_str(json).expect("it works")
}

fn end(mut child: Child) -> String {
    child.kill().expect("it works");
    text(&child.wait_with_output().expect("it works").stderr)
}

fn interrupt(child: Child) -> (Option<i32>, String) {
    kill_process(Pid::from_child(&child), Signal::INT).expect("it works");
    let output = child.wait_with_output().expect("it works");
    (output.status.code(), text(&output.stderr))
}

/// A collector by TCP that reads messages of connection after connection and hands them on.
struct Collector {
    address: String,
    messages: Receiver<String>,
}

impl Collector {
    /// `most` messages are read from each connection, then it is closed; whoever ends before has all read.
    fn new(mut most: impl FnMut(usize) -> usize + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("it works");
        let address = listener.local_addr().expect("it works").to_string();
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            for (count, stream) in listener.incoming().enumerate() {
                // Nothing beyond a message: what is read and thrown away can't be told from what was taken.
                let mut stream = BufReader::with_capacity(1, stream.expect("it works"));
                let messages = (0..most(count)).map_while(|_| message(&mut stream));
                // Who has seen enough takes no more.
                messages.for_each(|message| sender.send(message).unwrap_or_default());
            }
        });
        Self { address, messages }
    }

    /// Waits for all numbers up to `last`.
    fn await_all(&self, seen: &mut BTreeSet<u64>, last: u64) {
        while (1..=last).any(|number| !seen.contains(&number)) {
            seen.insert(number(&self.messages.recv_timeout(LIMIT).expect("a message")));
        }
    }
}

/// One message behind its length; `None`: the stream has ended.
fn message(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut length = Vec::new();
    stream.read_until(b' ', &mut length).ok()?;
    let length = String::from_utf8(length).expect("it works").trim_end().parse().ok()?;
    let mut message = vec![0; length];
    stream.read_exact(&mut message).ok()?;
    Some(String::from_utf8(message).expect("it works"))
}

#[test]
fn datagrams_have_all_records_each_as_one() {
    let bed = bed_with(40);
    let local = UnixDatagram::bind(bed.path("log")).unwrap();
    let remote = UdpSocket::bind("127.0.0.1:0").unwrap();
    let places = [
        format!("syslog:unix:{}", bed.path("log").display()),
        format!("syslog:udp:{}", remote.local_addr().unwrap()),
    ];
    for (index, place) in places.iter().enumerate() {
        // The Unix socket takes few at once: it is full most of the time.
        let child = bed.start(&["audit", "export", "--format", "records", "--to", place, "t"]);
        let mut buffer = vec![0; 1 << 17];
        for wanted in 1..=40 {
            let received = if index == 0 {
                local.set_read_timeout(Some(LIMIT)).unwrap();
                local.recv(&mut buffer)
            } else {
                remote.set_read_timeout(Some(LIMIT)).unwrap();
                remote.recv(&mut buffer)
            };
            let message = text(&buffer[..received.expect("a message")]);
            assert_eq!(number(&message), wanted);
            assert_eq!((value(&message, "team"), value(&message, "digest").len()), ("t", 64));
            let start = match (wanted, index) {
                // Made: a notice; denied: a warning.
                (1, 0) => "<85>cloister: [",
                (1, _) => "<85>1 2",
                (_, 0) => "<84>cloister: [",
                _ => "<84>1 2",
            };
            assert!(message.starts_with(start), "{message}");
            if wanted > 1 {
                assert_eq!(json(&message)["detail"], format!("{wanted} {HOSTILE}"));
            }
        }
        let output = child.wait_with_output().unwrap();
        let told = text(&output.stderr);
        assert!(output.status.success() && output.stdout.is_empty(), "{told}");
        assert!(told.contains("handed over up to record 40 of t") && told.contains("--since 41"));
    }
    // Standard output begins where it is told, and takes any number that is not there yet.
    let printed = bed.ok(&["audit", "export", "--format", "records", "--since", "39", "t"]);
    assert!(printed.is_ascii());
    let records: Vec<serde_json::Value> =
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&records[0]["seq"], records.len()), (&39.into(), 2));
    assert_eq!(bed.ok(&["audit", "export", "--since", "99", "t"]), "");
    let told = bed.fails(&["audit", "export", "--to", "syslog:tcp:h", "t"], 125);
    assert!(told.contains("write syslog, syslog:unix:/PATH"), "{told}");
}

#[test]
fn a_socket_that_is_full_is_waited_for() {
    let bed = bed_with(60);
    let socket = UnixDatagram::bind(bed.path("log")).unwrap();
    let place = format!("syslog:unix:{}", bed.path("log").display());
    let mut child = bed.start(&["audit", "export", "-f", "--to", &place, "t"]);
    let mut log = log(&bed);
    fill(&mut log, 61, 70);
    assert!(child.try_wait().unwrap().is_none(), "it has not waited");
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut buffer = vec![0; 1 << 17];
    for wanted in 1..=70 {
        let count = socket.recv(&mut buffer).expect("a message");
        assert_eq!(number(&text(&buffer[..count])), wanted);
    }
    let (code, told) = interrupt(child);
    assert_eq!(code, Some(130), "{told}");
    assert!(told.contains("handed over up to record 70"), "{told}");
}

#[test]
fn an_interrupt_tells_no_more_than_was_handed_over() {
    let bed = bed_with(60);
    // One that is full, and so was not sent what was read last.
    let socket = UnixDatagram::bind(bed.path("log")).unwrap();
    let place = format!("syslog:unix:{}", bed.path("log").display());
    let child = bed.start(&["audit", "export", "-f", "--to", &place, "t"]);
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut buffer = vec![0; 1 << 17];
    let count = socket.recv(&mut buffer).expect("a message");
    assert_eq!(number(&text(&buffer[..count])), 1);
    let (code, told) = interrupt(child);
    assert_eq!(code, Some(130), "{told}");
    socket.set_nonblocking(true).unwrap();
    let mut last = 1;
    while let Ok(count) = socket.recv(&mut buffer) {
        last = number(&text(&buffer[..count]));
    }
    assert!(last < 60, "it was never full");
    assert!(told.contains(&format!("handed over up to record {last} of t")), "{last}: {told}");
    // One that has read to the end, and does not say so.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = format!("syslog:tcp:{}", listener.local_addr().unwrap());
    let cursor = bed.path("cursor").display().to_string();
    let child =
        bed.start(&["audit", "export", "-f", "--to", &place, "--cursor-file", &cursor, "t"]);
    let mut stream = BufReader::new(listener.accept().unwrap().0);
    let read = std::iter::from_fn(|| message(&mut stream)).count();
    assert_eq!(read, 60);
    let (code, told) = interrupt(child);
    assert_eq!(code, Some(130), "{told}");
    assert!(told.contains("no record of t was handed over"), "{told}");
    assert!(!bed.path("cursor").exists());
}

#[test]
fn a_collector_that_closes_and_comes_back_misses_nothing() {
    let bed = bed_with(30);
    // Of its first connections it reads only some messages and closes them, whatever else is in them.
    let collector = Collector::new(|count| if count < 6 { count * 3 } else { usize::MAX });
    let place = format!("syslog:tcp:{}", collector.address);
    let cursor = bed.path("cursor").display().to_string();
    let words = ["audit", "export", "-f", "--to", &place, "--cursor-file", &cursor, "t"];
    let child = bed.start(&words);
    let mut log = log(&bed);
    let mut seen = BTreeSet::new();
    collector.await_all(&mut seen, 30);
    fill(&mut log, 31, 90);
    collector.await_all(&mut seen, 90);
    bed.await_that("the cursor", |bed| {
        fs::read_to_string(bed.path("cursor")).is_ok_and(|text| text.contains("\"record\":90,"))
    });
    let (code, told) = interrupt(child);
    assert_eq!(code, Some(130), "{told}");
    assert!(told.contains("cloister: no way to syslog:tcp:127.0.0.1:"), "{told}");
    assert!(told.contains("the collector is back"), "{told}");
    assert!(told.contains("handed over up to record 90 of t, digest "), "{told}");
    // All of it is there: nothing more comes, and a second exporter has nothing to do.
    while collector.messages.try_recv().is_ok() {}
    bed.ok(&["audit", "export", "--to", &place, "--cursor-file", &cursor, "t"]);
    assert!(collector.messages.try_recv().is_err());
}

#[test]
fn killed_exporters_go_on_where_they_were() {
    let bed = bed_with(2);
    let collector = Collector::new(|_| usize::MAX);
    let place = format!("syslog:tcp:{}", collector.address);
    let cursor = bed.path("cursor").display().to_string();
    let words = ["audit", "export", "-f", "--to", &place, "--cursor-file", &cursor, "t"];
    let mut log = log(&bed);
    let (mut seen, mut count, mut last) = (BTreeSet::new(), 0, 2);
    for life in 0..5 {
        let child = bed.start(&words);
        // In the middle of what it has to do, sooner or later.
        for _ in 0..=life {
            fill(&mut log, last + 1, last + 100);
            last += 100;
            let message = collector.messages.recv_timeout(LIMIT).expect("a message");
            seen.insert(number(&message));
            count += 1;
        }
        end(child);
    }
    let child = bed.start(&words);
    while (1..=last).any(|number| !seen.contains(&number)) {
        let message = collector.messages.recv_timeout(LIMIT).expect("a message");
        seen.insert(number(&message));
        count += 1;
    }
    let (_, told) = interrupt(child);
    assert!(told.contains(&format!("handed over up to record {last}")), "{told}");
    println!("{last} records, {count} messages");
    // A broken cursor is no reason to begin anew, or in the middle.
    fs::write(bed.path("cursor"), "{}").unwrap();
    let told = bed.fails(&words, 125);
    assert!(told.contains("is no cursor") && told.contains("--since"), "{told}");
}

#[test]
fn what_is_missing_is_told_to_everybody() {
    let bed = bed_with(9);
    let path = bed.path("state/audit/t/00000000000000000001.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    let mut left: Vec<_> = whole.lines().collect();
    left.drain(3..6);
    fs::write(&path, left.join("\n") + "\n").unwrap();
    let collector = Collector::new(|_| usize::MAX);
    let place = format!("syslog:tcp:{}", collector.address);
    let output = bed.run(&["audit", "export", "--to", &place, "t"]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("of team t: records 4 to 6 were dropped from the log"), "{told}");
    let messages: Vec<_> =
        (0..7).map(|_| collector.messages.recv_timeout(LIMIT).expect("a message")).collect();
    let numbers: Vec<_> = messages.iter().map(|message| number(message)).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 7, 8, 9]);
    assert_eq!(value(&messages[3], "kind"), "export-gap");
    assert!(messages[3].starts_with("<83>1 "), "{}", messages[3]);
    assert_eq!(json(&messages[3])["unmapped"]["data"]["last"], 6);
    // The same on standard output.
    let output = bed.run(&["audit", "export", "--format", "records", "t"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("\"kind\":\"export-gap\""));
    // Moved away, it is not read on as if it were there.
    let child = bed.start(&["audit", "export", "-f", "--since", "9", "--to", &place, "t"]);
    assert_eq!(number(&collector.messages.recv_timeout(LIMIT).expect("a message")), 9);
    fs::rename(bed.path("state/audit/t"), bed.path("evidence")).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{told}");
    assert!(told.contains("the log was moved away or removed"), "{told}");
    fs::rename(bed.path("evidence"), bed.path("state/audit/t")).unwrap();
    // Nobody listens: it gives up, as nobody has asked it to follow.
    drop(collector);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let place = format!("syslog:tcp:{nobody}");
    let told = bed.fails(&["audit", "export", "--to", &place, "t"], 125);
    assert!(told.contains("can't hand records over to syslog:tcp:127.0.0.1:"), "{told}");
    assert!(told.contains("no record of t was handed over"), "{told}");
}

#[test]
fn the_journal_gets_fields() {
    let bed = bed_with(3);
    let socket = UnixDatagram::bind(bed.path("socket")).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let place = format!("journald:unix:{}", bed.path("socket").display());
    bed.ok(&["audit", "export", "--kind", "exec-denied", "--to", &place, "t/a"]);
    let mut buffer = vec![0; 1 << 17];
    for wanted in 2..=3 {
        let count = socket.recv(&mut buffer).expect("an entry");
        let mut rest = &buffer[..count];
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').expect("a name");
            let name = text(&rest[..end]);
            let (length, after) = rest[end + 1..].split_at(8);
            let length = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
            fields.push((name, text(&after[..length])));
            rest = after[length..].strip_prefix(b"\n").expect("the end of a value");
        }
        let value = |name: &str| {
            let found = fields.iter().find(|(field, _)| field == name);
            found.map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        assert_eq!((value("PRIORITY"), value("SYSLOG_IDENTIFIER")), ("4", "cloister"));
        assert_eq!((value("CLOISTER_TEAM"), value("CLOISTER_AGENT")), ("t", "a"));
        assert_eq!((value("CLOISTER_KIND"), value("CLOISTER_DIGEST").len()), ("exec-denied", 64));
        assert_eq!(value("CLOISTER_RECORD"), wanted.to_string());
        assert!(value("MESSAGE").starts_with(&format!("a exec-denied {wanted} a | <0>1 - evil")));
        assert!(!value("MESSAGE").contains(char::is_control));
        let event: serde_json::Value = serde_json::from_str(value("CLOISTER_EVENT")).unwrap();
        assert_eq!(event["message"], format!("{wanted} {HOSTILE}"));
        assert_eq!(fields.iter().filter(|(name, _)| name == "PRIORITY").count(), 1);
    }
}

#[test]
fn a_log_is_traces_too() {
    let bed = Bed::new();
    let mut log = log(&bed);
    let of_a = |kind: &'static str, detail: &str| Entry::new(kind, detail).of("a");
    log.append(Entry::new("team-started", "")).unwrap();
    log.append(of_a("started", "")).unwrap();
    log.append(of_a("exec", HOSTILE)).unwrap();
    log.append(of_a("egress-ended", HOSTILE).with("milliseconds", 1500).with("port", 443)).unwrap();
    log.append(of_a("exited", "exit code 0")).unwrap();
    let spans = |words: &[&str]| -> Vec<serde_json::Value> {
        let printed = bed.ok(&[&["audit", "export", "--format", "otlp"], words].concat());
        assert!(printed.is_ascii());
        let lines = printed.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .map(|line: serde_json::Value| {
                line["resourceSpans"][0]["scopeSpans"][0]["spans"][0].clone()
            })
            .collect()
    };
    let names = |spans: &[serde_json::Value]| -> Vec<String> {
        spans.iter().map(|span| span["name"].as_str().unwrap().to_owned()).collect()
    };
    // The team runs.
    assert_eq!(names(&spans(&["t"])), ["exec", "egress-ended", "agent a"]);
    log.append(Entry::new("team-ended", "")).unwrap();
    log.close().unwrap();
    let whole = spans(&["t"]);
    assert_eq!(names(&whole), ["exec", "egress-ended", "agent a", "team t"]);
    assert!(whole.iter().all(|span| span["traceId"] == whole[3]["traceId"]));
    assert_eq!(names(&spans(&["t/a"])), ["exec", "egress-ended", "agent a"]);
    let told = bed.fails(&["audit", "export", "--format", "otlp", "--since", "2", "t"], 125);
    assert!(told.contains("traces are made of a whole log") && told.contains("--since"), "{told}");
}
