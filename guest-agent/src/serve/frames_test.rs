//! The supervisor and its host's bytes: the greeting, hostile frames, and the end of the connection.

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use cloister_protocol::VERSION;
use cloister_protocol::message::{Event, Request};

use crate::test_bed::Bed;

/// The supervisor must end itself, and say why, after `bytes`.
fn assert_ends(bytes: &[u8], why: &str) {
    let mut bed = Bed::start();
    bed.send_bytes(bytes);
    let (content, log) = bed.end();
    assert!(!content);
    assert!(log.contains(why), "{log}");
}

#[test]
fn hostile_frames_end_it() {
    assert_ends(&u32::MAX.to_le_bytes(), "over the limit of 262144");
    assert_ends(&[1, 0, 0, 0, 99], "is not a message");
    let mut longer = cloister_protocol::frame::encode(&Request::PowerOff).unwrap();
    longer[0] += 1;
    longer.push(9);
    assert_ends(&longer, "1 bytes after its message");
    let signal = Request::Signal { id: 1, signal: 99 };
    assert_ends(&cloister_protocol::frame::encode(&signal).unwrap(), "99 is not a signal");
    let hello = Request::Hello { version: VERSION, fork: None };
    assert_ends(&cloister_protocol::frame::encode(&hello).unwrap(), "greets twice");
}

#[test]
fn the_greeting_comes_first_and_has_the_version() {
    let mut bed = Bed::start_silently();
    bed.send(&Request::Ping { token: 1 });
    let (content, log) = bed.end();
    assert!(!content && log.contains("first message"), "{log}");
    let mut bed = Bed::start_silently();
    bed.send(&Request::Hello { version: VERSION + 1, fork: None });
    let (content, log) = bed.end();
    let words = format!("protocol version {}, not {VERSION}", VERSION + 1);
    assert!(!content && log.contains(&words), "{log}");
}

#[test]
fn everything_ends_with_the_connection() {
    let mut bed = Bed::start();
    let exec = bed.shell(1, "sleep 1000 & echo up; wait");
    let mut streams = bed.exec(exec);
    streams.read_until("up\n");
    bed.control().shutdown(Shutdown::Both).unwrap();
    let (content, log) = bed.end();
    assert!(!content && log.contains("closed the control connection"), "{log}");
    assert_eq!(streams.read_all().0, "");
}

#[test]
fn everything_ends_with_power_off() {
    let mut bed = Bed::start();
    let exec = bed.shell(1, "sleep 1000 & echo up; wait");
    let mut streams = bed.exec(exec);
    streams.read_until("up\n");
    bed.send(&Request::PowerOff);
    assert_eq!(bed.end(), (true, String::new()));
    assert_eq!(streams.read_all().0, "");
}

#[test]
fn pings_that_nobody_reads_are_bounded() {
    let mut bed = Bed::start();
    let ping = cloister_protocol::frame::encode(&Request::Ping { token: u64::MAX }).unwrap();
    let many = ping.repeat(4096);
    bed.control().set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let before = bed.resident_kilobytes();
    // The supervisor stops reading long before 64 MiB.
    let sent = (0..1200).take_while(|_| bed.control().write_all(&many).is_ok()).count();
    assert!(sent < 1200, "the supervisor took everything");
    let grown = bed.resident_kilobytes().saturating_sub(before);
    assert!(grown < 1024, "grown by {grown} KiB");
    assert_eq!(bed.event(), Event::Pong { token: u64::MAX });
}

#[test]
fn random_bytes_end_it_in_order() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    for _ in 0..30 {
        let mut bed = Bed::start();
        // Frames of true lengths, so that their bodies are looked at, then the end.
        for _ in 0..20 {
            let body: Vec<u8> = (0..random()[0] % 6).flat_map(|_| random()).collect();
            let mut frame = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
            frame.extend(body);
            if bed.control().write_all(&frame).is_err() {
                break;
            }
        }
        let _gone = bed.control().shutdown(Shutdown::Write);
        let (content, log) = bed.end();
        assert!(!content && log.starts_with("<0>cloister: the "), "{log}");
    }
}

#[test]
fn a_frame_in_single_bytes_is_understood() {
    let mut bed = Bed::start();
    let frame = cloister_protocol::frame::encode(&Request::Ping { token: 77 }).unwrap();
    for byte in frame {
        bed.send_bytes(&[byte]);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(bed.event(), Event::Pong { token: 77 });
}
