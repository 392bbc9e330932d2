//! Streams that become something else, and how streams end.

use super::*;

#[test]
fn a_websocket_passes_where_it_is_asked_for() {
    run(async {
        let mut bed = bed().await;
        let listener = bed.listener.take().unwrap();
        let server = tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut head).await.unwrap();
            }
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                           Sec-WebSocket-Accept: x\r\n\r\nfirst";
            stream.write_all(answer).await.unwrap();
            let mut got = [0; 4];
            stream.read_exact(&mut got).await.unwrap();
            stream.write_all(&got).await.unwrap();
            String::from_utf8(head).unwrap().to_ascii_lowercase()
        });
        let ask = b"GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
                    Sec-WebSocket-Key: k\r\n\r\n";
        let mut stream = bed.stream().await;
        stream.write_all(ask).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"first") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
        }
        let text = String::from_utf8(answer).unwrap().to_ascii_lowercase();
        assert!(
            text.starts_with("http/1.1 101") && text.contains("sec-websocket-accept: x"),
            "{text}"
        );
        stream.write_all(b"\0\xffxy").await.unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"\0\xffxy");
        let head = server.await.unwrap();
        assert!(
            head.contains("upgrade: websocket") && head.contains("sec-websocket-key: k"),
            "{head}"
        );
    });
}

#[test]
fn a_protocol_that_nobody_asked_for_is_none() {
    run(async {
        let mut bed = bed().await;
        let _read = bed.serve_bytes(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        );
        let mut stream = bed.stream().await;
        stream
            .write_all(b"GET /v1/x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        assert!(answer.starts_with(b"HTTP/1.1 502"), "{}", String::from_utf8_lossy(&answer));
    });
}

#[test]
fn a_host_that_is_not_who_it_should_be_gets_nothing() {
    run(async {
        // Signed by nobody that is trusted, and for another name.
        for (other, name) in [(true, "a.example"), (false, "b.example")] {
            let mut bed = bed().await;
            if other {
                bed.server = Authority::new("other").unwrap();
            }
            let listener = bed.listener.take().unwrap();
            let config = bed.server.config(name, None).unwrap();
            let server = tokio::task::spawn_local(async move {
                let (stream, _) = listener.accept().await.unwrap();
                TlsAcceptor::from(config).accept(stream).await.is_ok()
            });
            assert!(bed.open(&[]).await.is_err());
            assert!(!server.await.unwrap());
            while bed.told("egress-ended").is_empty() {
                tokio::task::yield_now().await;
            }
            let words = &bed.told("egress-ended")[0];
            assert!(words.contains("the TLS handshake with the host failed"), "{words}");
        }
    });
}

#[test]
fn silence_before_a_request_has_its_end() {
    run(async {
        let mut bed = bed().await;
        bed.serve(Some(H2));
        let silent = bed.open(&[H2]).await.unwrap();
        let plain = bed.stream().await;
        tokio::time::pause();
        for mut stream in [Box::new(silent) as Box<dyn AsyncRead + Unpin>, Box::new(plain)] {
            let mut rest = Vec::new();
            // What HTTP/2 says at its beginning may come, and then the end.
            while stream.read_buf(&mut rest).await.unwrap_or(0) > 0 {}
        }
    });
}

#[test]
fn a_stream_is_not_reset_before_its_answer_was_read() {
    run(async {
        let mut bed = bed().await;
        let _read = bed.serve_bytes(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab");
        let mut stream = bed.stream().await;
        let ask = b"GET /v1/x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with(b"\r\n\r\nab"), "{answer:?}");
        // The other end is there still: this would fail otherwise.
        assert!(bed.told("egress-ended").is_empty());
        stream.write_all(b"x").await.unwrap();
        drop(stream);
        while bed.told("egress-ended").is_empty() {
            tokio::task::yield_now().await;
        }
    });
}
