//! A collector that was sent something is only believed to have it when it says so by closing its side.

use std::io::Read as _;
use std::net::{Shutdown, TcpListener};
use std::thread;

use super::*;

fn here() -> (TcpListener, Target) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::Address(listener.local_addr().unwrap());
    (listener, target)
}

#[tokio::test]
async fn who_reads_to_the_end_has_everything() {
    let (listener, target) = here();
    let collector = thread::spawn(move || {
        [(); 2].map(|()| {
            let mut text = String::new();
            listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
            text
        })
    });
    let mut tcp = Tcp::default();
    tcp.settle().await.unwrap();
    for words in [["1 a", "1 b"], ["1 c", "1 d"]] {
        for word in words {
            tcp.send(&target, word.as_bytes()).await.unwrap();
        }
        tcp.settle().await.unwrap();
    }
    assert_eq!(collector.join().unwrap(), ["1 a1 b", "1 c1 d"]);
}

#[tokio::test]
async fn who_closes_by_itself_may_have_nothing() {
    let (listener, target) = here();
    let mut tcp = Tcp::default();
    tcp.send(&target, b"1 a").await.unwrap();
    // Closed with what it has not read: a reset.
    drop(listener.accept().unwrap());
    let sent = tcp.send(&target, b"1 b").await;
    assert!(sent.is_err() || tcp.settle().await.is_err());

    // Closed after it has read the first; the second is lost.
    let mut tcp = Tcp::default();
    tcp.send(&target, b"1 a").await.unwrap();
    let mut collector = listener.accept().unwrap().0;
    collector.read_exact(&mut [0; 3]).unwrap();
    drop(collector);
    let sent = tcp.send(&target, b"1 b").await;
    assert!(sent.is_err() || tcp.settle().await.is_err());

    // Its end had come already when it was asked.
    let mut tcp = Tcp::default();
    tcp.send(&target, b"1 a").await.unwrap();
    let collector = listener.accept().unwrap().0;
    collector.shutdown(Shutdown::Write).unwrap();
    let stream = tcp.stream.as_ref().unwrap();
    stream.readable().await.unwrap();
    assert!(tcp.settle().await.is_err());
}

#[tokio::test]
async fn who_answers_is_no_collector() {
    let (listener, target) = here();
    let mut tcp = Tcp::default();
    tcp.send(&target, b"1 a").await.unwrap();
    let mut collector = listener.accept().unwrap().0;
    let talker = thread::spawn(move || {
        use std::io::Write as _;
        while collector.write_all(&[b'x'; 4096]).is_ok() {}
    });
    let error = tcp.settle().await.unwrap_err();
    assert!(error.to_string().contains("it answers"), "{error}");
    drop(tcp);
    talker.join().unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_never_reads_is_not_waited_for_for_ever() {
    let (listener, target) = here();
    let mut tcp = Tcp::default();
    tcp.send(&target, b"1 a").await.unwrap();
    let error = tcp.settle().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    drop(listener);
    // Nobody listens any more.
    assert!(tcp.send(&target, b"1 b").await.is_err());
}
