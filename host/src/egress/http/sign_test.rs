//! Requests that are signed for AWS, before a host that checks signatures by itself.

use std::collections::BTreeMap;

use http_body_util::Empty;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::secrets::Kept;

const KEYS: &str = "AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY:s3ss1on/t0ken=";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

fn hash(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 2104, with keys of less than a block.
fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let pad = |with: u8| -> Vec<u8> {
        (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ with).collect()
    };
    hash(&[pad(0x5c), hash(&[pad(0x36), text.into()].concat())].concat())
}

/// What a server does that knows the keys: its complaint, or what the body was said to be. For paths and queries that
/// are in order already.
fn verify(head: &hyper::http::request::Parts, body: &[u8]) -> Result<String, String> {
    let mut fields = BTreeMap::new();
    if let Some(authority) = head.uri.authority() {
        fields.insert("host".to_owned(), authority.to_string());
    }
    for (name, value) in &head.headers {
        let before = fields.insert(name.to_string(), value.to_str().unwrap().to_owned());
        assert!(before.is_none(), "{name} twice");
    }
    let field = |name: &str| fields.get(name).cloned().ok_or(format!("no {name}"));
    let (signed, digest, time) =
        (field("authorization")?, field("x-amz-content-sha256")?, field("x-amz-date")?);
    let age = chrono::NaiveDateTime::parse_from_str(&time, "%Y%m%dT%H%M%SZ").unwrap().and_utc();
    let age = (chrono::Utc::now() - age).num_seconds();
    assert!((0..300).contains(&age), "{time}");
    if field("x-amz-security-token")? != "s3ss1on/t0ken=" {
        return Err("another token".to_owned());
    }
    let rest = signed.strip_prefix("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/").unwrap();
    let [scope, names, signature] = rest.split(", ").collect::<Vec<_>>()[..] else {
        return Err(signed);
    };
    let names = names.strip_prefix("SignedHeaders=").unwrap();
    let must =
        |name: &String| name.starts_with("x-amz-") || name == "host" || name == "content-type";
    let all = fields.keys().filter(|name| must(name)).cloned().collect::<Vec<_>>().join(";");
    assert_eq!(names, all);
    let said: String = names.split(';').map(|name| format!("{name}:{}\n", fields[name])).collect();
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    let request = format!("{}\n{path}\n{query}\n{said}\n{names}\n{digest}", head.method);
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&hash(request.as_bytes())));
    let mut key = format!("AWS4{SECRET}").into_bytes();
    for part in scope.split('/') {
        key = hmac(&key, part);
    }
    if signature != format!("Signature={}", hex(&hmac(&key, &text))) {
        return Err(format!("another signature of {request}"));
    }
    if digest.len() == 64 && digest != hex(&hash(body)) {
        return Err("another body".to_owned());
    }
    Ok(format!("{scope} {digest} {}", body.len()))
}

/// A server that answers with what it found.
fn check_all(bed: &mut Bed, protocol: Option<&'static [u8]>) {
    let listener = bed.listener.take().unwrap();
    let config = bed.server.config("a.example", protocol).unwrap();
    let service = service_fn(|request: Request<Incoming>| async {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let found = verify(&head, &body).unwrap_or_else(|error| format!("wrong: {error}"));
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(found))))
    });
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let config = Arc::clone(&config);
            tokio::task::spawn_local(async move {
                let stream = TlsAcceptor::from(config).accept(stream).await.unwrap();
                let stream = TokioIo::new(stream);
                // A client that goes away is no fault of the server's.
                if protocol == Some(H2) {
                    let server = hyper::server::conn::http2::Builder::new(Local);
                    server.serve_connection(stream, service).await.ok();
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    server.serve_connection(stream, service).await.ok();
                }
            });
        }
    });
}

async fn signing(scope: &str) -> Bed {
    let bed = bed_with(&[Place::parse(&format!("aws-sigv4:{scope}")).unwrap()]).await;
    bed.store.set("token", &Kept::Value(KEYS.into())).unwrap();
    bed
}

async fn ask(bed: &Bed, line: &str, rest: &str) -> String {
    let end = if rest.contains("\r\n\r\n") { "" } else { "\r\n" };
    let ask = format!("{line} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{rest}{end}");
    say(bed.open(&[]).await.unwrap(), ask.as_bytes()).await
}

#[test]
fn a_host_that_checks_finds_each_request_signed() {
    run(async {
        let mut bed = signing("dynamodb/eu-central-1").await;
        check_all(&mut bed, None);
        let own = "Authorization: AWS4-HMAC-SHA256 Credential=own/1/r/s/aws4_request, SignedHeaders=host, Signature=0\r\n\
                   X-Amz-Date: 20000101T000000Z\r\nX-Amz-Security-Token: __cloister_secret_token__\r\n\
                   X-Amz-Content-Sha256: own\r\n";
        let chunks =
            "Transfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n3\r\n\":1\r\n1\r\n}\r\n0\r\n\r\n";
        for (line, rest, length) in [
            ("GET /secret/aws-sigv4", String::new(), 0),
            ("GET /secret/aws-sigv4?Action=List&Version=1", own.to_owned(), 0),
            (
                "POST /secret/aws-sigv4",
                format!(
                    "{own}Content-Type: application/x-amz-json-1.0\r\nX-Amz-Target: A.B\r\nContent-Length: 7\r\n\r\n{{\"a\":1}}"
                ),
                7,
            ),
            ("POST /secret/aws-sigv4", format!("X-Amz-Target: A.B\r\n{chunks}"), 7),
        ] {
            let answer = ask(&bed, line, &rest).await;
            let today = chrono::Utc::now().format("%Y%m%d");
            let scope = format!("{today}/eu-central-1/dynamodb/aws4_request ");
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&scope), "{answer}");
            assert!(answer.ends_with(&format!(" {length}")), "{answer}");
        }
        while bed.told("egress-ended").len() < 4 {
            tokio::task::yield_now().await;
        }
        assert!(bed.told("egress-ended")[2].contains("7 bytes sent"), "{:?}", bed.told);
        let records = bed.told("egress-request");
        assert!(records.len() == 4 && records[2].contains("200, 7 bytes sent"), "{records:?}");
        assert!(records.iter().all(|record| record.contains("with the secret \"token\"")));
        assert!(!format!("{:?}", bed.told).contains("wJal"));
    });
}

#[test]
fn requests_of_both_versions_are_signed() {
    run(async {
        let mut bed = signing("s3/eu-central-1").await;
        check_all(&mut bed, Some(H2));
        let stream = bed.open(&[H2]).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http2::Builder::new(Local)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::task::spawn_local(connection);
        let request = Request::get("https://a.example/secret/aws-sigv4?list-type=2")
            .header("host", "A.example")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let answer = sender.send_request(request).await.unwrap().into_body().collect().await;
        let text = String::from_utf8(answer.unwrap().to_bytes().to_vec()).unwrap();
        assert!(text.contains("/s3/aws4_request") && text.ends_with(" 0"), "{text}");
    });
}

#[test]
fn bodies_of_s3_need_no_digest_and_others_must_be_short() {
    run(async {
        let long = "a".repeat((1 << 20) + 1);
        let most = "a".repeat(1 << 20);
        let fixed = |body: &str| format!("Content-Length: {}\r\n\r\n{body}", body.len());
        let pieces = "Content-Length: 3\r\nX-Amz-Content-Sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\n\r\nabc";
        let open = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let mut bed = signing("s3/eu-central-1").await;
        check_all(&mut bed, None);
        for (rest, digest) in [
            (fixed("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad 3"),
            (fixed(&most), " 1048576"),
            (fixed(&long), "UNSIGNED-PAYLOAD 1048577"),
            (open.to_owned(), "UNSIGNED-PAYLOAD 3"),
            (pieces.to_owned(), "STREAMING-UNSIGNED-PAYLOAD-TRAILER 3"),
        ] {
            let answer = ask(&bed, "PUT /secret/aws-sigv4", &rest).await;
            assert!(answer.ends_with(digest), "{digest}: {answer}");
        }
        let mut bed = signing("sqs/eu-central-1").await;
        check_all(&mut bed, None);
        let answer = ask(&bed, "POST /secret/aws-sigv4", &fixed(&most)).await;
        assert!(answer.ends_with(" 1048576"), "{answer}");
        let answer = ask(&bed, "POST /secret/aws-sigv4", &fixed(&long)).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(bed.told("secret-denied")[0].contains("longer than 1 MiB"), "{:?}", bed.told);
    });
}

#[test]
fn what_can_t_be_signed_anew_is_refused() {
    run(async {
        let mut bed = signing("s3/eu-central-1").await;
        check_all(&mut bed, None);
        let body = "Content-Length: 25\r\n\r\n__cloister_secret_token__";
        let pieces =
            "X-Amz-Content-Sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\nContent-Length: 0\r\n";
        for (line, rest, why) in [
            ("GET /secret/aws-sigv4?X-Amz-Signature=1", "", "signed in its query"),
            ("GET /secret/aws-sigv4?x=1&X-Amz-%43redential=1", "", "signed in its query"),
            ("PUT /secret/aws-sigv4", pieces, "signed the body in pieces"),
            ("PUT /secret/aws-sigv4", body, "placeholder of the secret \"token\""),
            ("GET /secret/aws-sigv4", "X: __cloister_secret_token__\r\n", "placeholder"),
            ("TRACE /secret/aws-sigv4", "", "TRACE"),
        ] {
            let before = bed.told("secret-denied").len();
            let answer = ask(&bed, line, rest).await;
            assert!(answer.starts_with("HTTP/1.1 403") && answer.contains(why), "{line}: {answer}");
            assert_eq!(bed.told("secret-denied").len(), before + 1, "{line}: {:?}", bed.told);
        }
        bed.store.set("token", &Kept::Value("s3cr3t-and-no-keys".into())).unwrap();
        let answer = ask(&bed, "GET /secret/aws-sigv4", "").await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        assert!(bed.told("secret-failed")[0].contains("is not ACCESS_KEY_ID"), "{:?}", bed.told);
        assert!(!answer.contains("s3cr3t") && !format!("{:?}", bed.told).contains("s3cr3t"));
    });
}

#[test]
fn a_body_that_does_not_come_has_its_time() {
    run(async {
        let mut bed = signing("sqs/eu-central-1").await;
        check_all(&mut bed, None);
        let mut stream = bed.open(&[]).await.unwrap();
        let head = "POST /secret/aws-sigv4 HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        // It is asked for when its turn has come.
        let mut answer = Vec::new();
        while !answer.ends_with(b"100 Continue\r\n\r\n") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
        }
        stream.write_all(b"abc").await.unwrap();
        tokio::time::pause();
        answer.clear();
        while !answer.ends_with(b"too long\n") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
        }
        assert!(answer.starts_with(b"HTTP/1.1 413"), "{answer:?}");
    });
}

#[test]
fn an_answer_that_tells_a_key_or_a_session_s_token_ends_the_request() {
    run(async {
        for told in [SECRET, "s3ss1on/t0ken="] {
            let mut bed = signing("s3/eu-central-1").await;
            let answer = format!("HTTP/1.1 200 OK\r\nX: a{told}b\r\nContent-Length: 0\r\n\r\n");
            let listener = bed.listener.take().unwrap();
            let config = bed.server.config("a.example", None).unwrap();
            tokio::task::spawn_local(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = TlsAcceptor::from(config).accept(stream).await.unwrap();
                let mut read = Vec::new();
                while !read.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut read).await.unwrap();
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
            });
            let answer = ask(&bed, "GET /secret/aws-sigv4", "").await;
            assert!(answer.starts_with("HTTP/1.1 502") && !answer.contains(told), "{answer}");
            assert_eq!(bed.told("secret-denied").len(), 1);
        }
    });
}
