//! Sockets that are full, gone, or can't take so much.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::net::UnixDatagram as Socket;
use std::time::Duration;

use rustix::fs::fcntl_get_seals;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::audit::export::message::Form;
use crate::audit::export::message::tests::passed;

fn message(length: usize) -> Message {
    Message::of_record("t", &passed(&"x".repeat(length)), Form::Record)
}

fn collector(place: &str) -> Collector {
    Collector::new(Some(&place.parse().unwrap()), Facility::Authpriv, 4 << 20)
}

#[tokio::test]
async fn a_full_socket_is_waited_for_and_one_that_is_gone_is_an_error() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    let mut collector = collector(&format!("syslog:unix:{}", path.display()));
    let error = collector.send(&message(1)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let socket = Socket::bind(&path).unwrap();
    let mut sent = 0;
    while timeout(Duration::from_millis(200), collector.send(&message(1))).await.is_ok() {
        sent += 1;
        assert!(sent < 10_000, "it is never full");
    }
    // Read on, and what waited goes.
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        for _ in 0..=sent {
            let count = socket.recv(&mut buffer).unwrap();
            assert!(buffer[..count].starts_with(b"<84>cloister: [cloister@32473 team=\"t\""));
        }
        socket
    });
    assert_eq!(collector.send(&message(1)).await.unwrap(), Sent::Whole);
    collector.settle().await.unwrap();
    drop(reader.join().unwrap());
    assert!(collector.send(&message(1)).await.is_err());
    std::fs::remove_file(&path).unwrap();
    let socket = Socket::bind(&path).unwrap();
    collector.disconnect();
    collector.send(&message(1)).await.unwrap();
    assert!(socket.recv(&mut [0; 4096]).unwrap() > 0);
}

#[tokio::test]
async fn what_a_datagram_can_not_take_is_cut_and_says_so() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    let local = Socket::bind(&path).unwrap();
    let remote = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut one = collector(&format!("syslog:unix:{}", path.display()));
    // More than any record, and than the system's bound of a socket.
    assert_eq!(one.send(&message(2 << 20)).await.unwrap(), Sent::Cut);
    let count = local.recv(&mut buffer).unwrap();
    assert!(buffer[..count].ends_with(b"}") && count < 1000);
    // As much as the operator says that the collector takes: nothing but the whole or the number.
    let place = format!("syslog:unix:{}", path.display()).parse().unwrap();
    let least = usize::try_from(LEAST_MESSAGE).unwrap();
    let mut one = Collector::new(Some(&place), Facility::Authpriv, least);
    let mut hostile = passed(&"\"".repeat(2000));
    hostile.record.agent = "\"".repeat(2000);
    hostile.record.kind = "]".repeat(2000);
    hostile.record.log = "\\".repeat(2000);
    let hostile = Message::of_record(&"t".repeat(63), &hostile, Form::Ocsf);
    assert_eq!(one.send(&hostile).await.unwrap(), Sent::Cut);
    assert_eq!(one.send(&message(200)).await.unwrap(), Sent::Whole);
    for _ in 0..2 {
        assert!(local.recv(&mut buffer).unwrap() <= least);
    }
    let mut one = collector(&format!("syslog:udp:{}", remote.local_addr().unwrap()));
    assert_eq!(one.send(&message(20_000)).await.unwrap(), Sent::Whole);
    assert!(remote.recv(&mut buffer).unwrap() > 40_000);
    assert_eq!(one.send(&message(40_000)).await.unwrap(), Sent::Cut);
    let count = remote.recv(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..count]);
    assert!(text.contains(" record=\"7\" ") && text.contains("\"cut\":true"), "{text}");
}

#[tokio::test]
async fn the_journal_gets_what_is_long_as_a_sealed_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("socket");
    let journal = Socket::bind(&path).unwrap();
    let mut one = collector(&format!("journald:unix:{}", path.display()));
    assert_eq!(one.send(&message(10)).await.unwrap(), Sent::Whole);
    let mut buffer = [0; 8192];
    let count = journal.recv(&mut buffer).unwrap();
    assert!(buffer[..count].starts_with(b"MESSAGE\n"));
    let long = message(2 << 20);
    assert_eq!(one.send(&long).await.unwrap(), Sent::Whole);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(&journal, &mut [], &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    assert_eq!(message.bytes, 0);
    let file = ancillary.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    let mut file = std::fs::File::from(file.unwrap());
    assert!(fcntl_get_seals(&file).unwrap().contains(SealFlags::WRITE | SealFlags::SEAL));
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, journal::entry(&long, Facility::Authpriv));
}

#[tokio::test]
async fn a_refused_datagram_is_told_at_the_end() {
    let gone = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut one = collector(&format!("syslog:udp:{gone}"));
    one.send(&message(1)).await.unwrap();
    assert!(one.settle().await.is_err());
}
