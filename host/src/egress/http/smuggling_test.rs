//! What is read differently by different programs.

use super::*;

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn what_servers_read_differently_never_reaches_one() {
    let host = "Host: a.example\r\n";
    let cases = [
        // To a proxy, or to another host.
        ("GET http://a.example/v1/x HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(), "400"),
        ("GET http://b.example/v1/x HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(), "400"),
        ("CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n".to_owned(), "400"),
        ("GET /v1/x HTTP/1.1\r\nHost: b.example\r\n\r\n".to_owned(), "400"),
        ("GET /v1/x HTTP/1.1\r\nHost: a.example.b.example\r\n\r\n".to_owned(), "400"),
        ("GET /v1/x HTTP/1.1\r\nHost: a.example@b.example\r\n\r\n".to_owned(), "400"),
        ("GET /v1/x HTTP/1.1\r\nHost: a.example:9\r\n\r\n".to_owned(), "400"),
        ("GET /v1/x HTTP/1.1\r\nHost: a.example/x\r\n\r\n".to_owned(), "400"),
        ("GET /v1/x HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n".to_owned(), "400"),
        (format!("GET /v1/x HTTP/1.1\r\n{host}Host: b.example\r\n\r\n"), "400"),
        (format!("GET /v1/x HTTP/1.1\r\n{host}{host}\r\n"), "400"),
        ("GET /v1/x HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("GET /v1/x HTTP/1.0\r\n\r\n".to_owned(), "400"),
        // Paths.
        (format!("GET /v1//x HTTP/1.1\r\n{host}\r\n"), "400"),
        (format!("GET /v1/..;/x HTTP/1.1\r\n{host}\r\n"), "400"),
        (format!("GET /v1/%2e%2e/x HTTP/1.1\r\n{host}\r\n"), "400"),
        (format!("GET /v1/%252e%252e/x HTTP/1.1\r\n{host}\r\n"), "400"),
        (format!("GET /v1%2fx HTTP/1.1\r\n{host}\r\n"), "400"),
        (format!("GET /v1\\x HTTP/1.1\r\n{host}\r\n"), "400"),
        (format!("OPTIONS * HTTP/1.1\r\n{host}\r\n"), "400"),
        // Two lengths, and heads that are read in more ways than one.
        (
            format!(
                "POST /v1/x HTTP/1.1\r\n{host}Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde"
            ),
            "400",
        ),
        (format!("POST /v1/x HTTP/1.1\r\n{host}Content-Length: +4\r\n\r\nabcd"), "400"),
        (format!("POST /v1/x HTTP/1.1\r\n{host}Content-Length: 4, 4\r\n\r\nabcd"), "400"),
        (
            format!("POST /v1/x HTTP/1.1\r\n{host}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
            "400",
        ),
        (
            format!(
                "POST /v1/x HTTP/1.1\r\n{host}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"
            ),
            "400",
        ),
        (
            format!("POST /v1/x HTTP/1.1\r\n{host}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
            "400",
        ),
        (format!("GET /v1/x HTTP/1.1\r\n{host}A: b\r\n c\r\n\r\n"), "400"),
        (format!("GET /v1/x HTTP/1.1\r\n{host}A: b\0c\r\n\r\n"), "400"),
        (format!("GET /v1/x HTTP/1.1\r\n{host}A\r\n\r\n"), "400"),
        (format!("GET /v1/x HTTP/1.1\r\n A: b\r\n{host}\r\n"), "400"),
        (format!("GET /v1/x HTTP/3\r\n{host}\r\n"), "400"),
        (format!("GET /v1/x y HTTP/1.1\r\n{host}\r\n"), "400"),
        ("GET /v1/x\r\n\r\n".to_owned(), "400"),
        // Another method, another path, another protocol.
        (format!("GET /v1/x HTTP/1.1\r\n{host}X-HTTP-Method-Override: DELETE\r\n\r\n"), "400"),
        (format!("GET /v1/x HTTP/1.1\r\n{host}X-Original-URL: /admin\r\n\r\n"), "400"),
        (
            format!(
                "GET /v1/x HTTP/1.1\r\n{host}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            ),
            "403",
        ),
        (
            format!(
                "GET /ws HTTP/1.1\r\n{host}Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n"
            ),
            "400",
        ),
        (
            format!("POST /ws HTTP/1.1\r\n{host}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
            "400",
        ),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "400"),
        (format!("GET /v1/{} HTTP/1.1\r\n{host}\r\n", "a".repeat(70_000)), "4"),
        (format!("GET /v1/x HTTP/1.1\r\n{host}A: {}\r\n\r\n", "a".repeat(70_000)), "4"),
        (format!("GET /v1/x HTTP/1.1\r\n{host}{}\r\n", "A: b\r\n".repeat(MAX_FIELDS)), "4"),
    ];
    run(async {
        for (ask, status) in &cases {
            let mut bed = bed().await;
            let read = bed.serve_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            let mut stream = bed.stream().await;
            stream.write_all(ask.as_bytes()).await.ok();
            stream.shutdown().await.ok();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok();
            let answer = String::from_utf8_lossy(&answer).into_owned();
            drop(stream);
            let shown: String = ask.chars().take(200).collect();
            // A head that is none ends the stream, with or without a word.
            let refused = answer.is_empty()
                || answer.starts_with(&format!("HTTP/1.1 {status}"))
                || answer.starts_with(&format!("HTTP/1.0 {status}"));
            assert!(refused, "{shown:?}: {answer}");
            assert_eq!(read.await.unwrap(), "", "{shown:?}");
        }
    });
}

#[test]
fn a_request_hidden_in_another_stays_a_body() {
    run(async {
        let hidden = "GET /admin HTTP/1.1\r\nHost: a.example\r\n\r\n";
        let chunked = |before: &str| {
            let size = hidden.len();
            format!("{before}Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{hidden}\r\n0\r\n\r\n")
        };
        for framing in [
            format!("Content-Length: {}\r\n\r\n{hidden}", hidden.len()),
            chunked(""),
            // Two lengths: the chunks' counts, and the other goes no further (RFC 9112, section 6.3).
            chunked("Content-Length: 4\r\n"),
            chunked("").replacen("chunked\r\n", "chunked\r\nContent-Length: 4\r\n", 1),
            // Bare line feeds end lines for some.
            format!("Content-Length: {}\n\n{hidden}", hidden.len()),
        ] {
            let mut bed = bed().await;
            let read = bed
                .serve_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let mut stream = bed.stream().await;
            let ask = format!("POST /v1/x HTTP/1.1\r\nHost: a.example\r\n{framing}");
            stream.write_all(ask.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok();
            drop(stream);
            let seen = read.await.unwrap();
            let (head, body) = seen.split_once("\r\n\r\n").unwrap();
            assert!(
                head.starts_with("POST /v1/x HTTP/1.1\r\n") && body.contains("GET /admin"),
                "{seen}"
            );
            let lengths = head.to_ascii_lowercase();
            let one = lengths.contains("content-length") ^ lengths.contains("transfer-encoding");
            assert!(one, "{seen}");
        }
    });
}
