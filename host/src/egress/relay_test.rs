use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::egress::quota::Quota;

/// The guest's end and the server's, with a relay between them.
async fn between(
    name: Option<(&'static str, u16)>,
) -> (UnixStream, TcpStream, tokio::task::JoinHandle<Result<(u64, u64), RelayError>>) {
    let (guest, mut ours) = UnixStream::pair().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut outside = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let relayed = tokio::task::spawn_local(async move {
        let traffic = Traffic::new(Rc::new(Used::new(Quota::default())));
        relay(&mut ours, &mut outside, name, &traffic).await?;
        Ok((traffic.sent.get(), traffic.received.get()))
    });
    (guest, server, relayed)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

#[test]
fn each_side_ends_for_itself_and_every_byte_arrives() {
    run(async {
        let (mut guest, mut server, relayed) = between(None).await;
        let (mut guest_reads, mut guest_writes) = guest.split();
        let much = vec![7; 3_000_000];
        let ask = async {
            guest_writes.write_all(&much).await.unwrap();
            guest_writes.shutdown().await.unwrap();
        };
        let serve = async {
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            // Only after the other side's end.
            server.write_all(&got).await.unwrap();
            server.shutdown().await.unwrap();
            got.len()
        };
        let listen = async {
            let mut got = Vec::new();
            guest_reads.read_to_end(&mut got).await.unwrap();
            got == much
        };
        assert_eq!(tokio::join!(ask, serve, listen), ((), 3_000_000, true));
        assert_eq!(relayed.await.unwrap().unwrap(), (3_000_000, 3_000_000));
    });
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    run(async {
        let (mut guest, mut server, relayed) = between(Some(("a.example", 22))).await;
        server.write_all(b"SSH-2.0-x\r\n").await.unwrap();
        let mut banner = [0; 11];
        guest.read_exact(&mut banner).await.unwrap();
        guest.write_all(b"SSH-2.0-y\r\n").await.unwrap();
        server.read_exact(&mut banner).await.unwrap();
        assert_eq!(&banner, b"SSH-2.0-y\r\n");
        drop((guest, server));
        drop(relayed.await.unwrap());
    });
}

#[test]
fn no_byte_of_a_hello_that_is_refused_gets_out() {
    run(async {
        for (bytes, port) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], 443),
            (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", 443),
            (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", 8443),
        ] {
            let (mut guest, mut server, relayed) = between(Some(("a.example", port))).await;
            guest.write_all(bytes).await.unwrap();
            let error = relayed.await.unwrap().unwrap_err();
            assert!(error.is_denial(), "{error:?}");
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"");
        }
    });
}

#[test]
fn without_a_name_and_on_other_ports_plain_bytes_pass() {
    run(async {
        for name in [None, Some(("a.example", 80))] {
            let (mut guest, mut server, relayed) = between(name).await;
            guest.write_all(b"GET").await.unwrap();
            let mut got = [0; 3];
            server.read_exact(&mut got).await.unwrap();
            drop((guest, server));
            drop(relayed.await.unwrap());
        }
    });
}

#[test]
fn silence_has_its_end() {
    run(async {
        tokio::time::pause();
        let (_guest, _server, relayed) = between(None).await;
        assert!(matches!(relayed.await.unwrap(), Err(RelayError::Idle)));
        let (_guest, _server, relayed) = between(Some(("a.example", 443))).await;
        assert!(matches!(relayed.await.unwrap(), Err(RelayError::HelloTimedOut)));
    });
}

#[test]
fn the_name_must_be_the_one_that_was_asked_for() {
    let hello =
        crate::egress::hello::tests::made(&[(0, &crate::egress::hello::tests::name("b.example"))]);
    run(async {
        let (mut guest, _server, relayed) = between(Some(("a.example", 443))).await;
        guest.write_all(&hello).await.unwrap();
        let error = relayed.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("names the server b.example"), "{error}");
        let (mut guest, mut server, relayed) = between(Some(("b.example", 443))).await;
        guest.write_all(&hello).await.unwrap();
        let mut got = vec![0; hello.len()];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(got, hello);
        drop((guest, server));
        drop(relayed.await.unwrap());
    });
}
