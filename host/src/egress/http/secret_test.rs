//! Secrets: where they are put in, and where they never come.

use super::*;
use crate::egress::credential::placeholder;
use crate::secrets::Kept;

/// With a space, and with what has a meaning in queries and patterns.
const VALUE: &str = "S3cr3t+value/with=signs& more:%41";

/// A server of TLS and bytes: what it read of each connection, and answers of this head.
fn hear(bed: &mut Bed, answer: &'static str) -> Rc<RefCell<Vec<String>>> {
    let listener = bed.listener.take().unwrap();
    let config = bed.server.config("a.example", None).unwrap();
    let heard: Rc<RefCell<Vec<String>>> = Rc::default();
    let all = Rc::clone(&heard);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = TlsAcceptor::from(Arc::clone(&config)).accept(stream).await else {
                continue;
            };
            let mut read = Vec::new();
            loop {
                let text = String::from_utf8_lossy(&read).into_owned();
                let length = text
                    .to_lowercase()
                    .split_once("content-length: ")
                    .map(|(_, rest)| rest.split_once("\r\n").unwrap().0.parse::<usize>().unwrap());
                let head = text.find("\r\n\r\n");
                if head.is_some_and(|head| read.len() >= head + 4 + length.unwrap_or(0)) {
                    break;
                }
                if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            all.borrow_mut().push(String::from_utf8_lossy(&read).into_owned());
            let answer = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n{answer}\r\n"
            );
            stream.write_all(answer.as_bytes()).await.ok();
            stream.shutdown().await.ok();
        }
    });
    heard
}

fn places() -> Vec<Place> {
    ["bearer", "basic", "header:X-Key", "query:key", "placeholder"]
        .map(|text| Place::parse(text).unwrap())
        .to_vec()
}

#[test]
fn a_secret_is_put_in_where_its_rule_says() {
    run(async {
        let mut bed = bed_with(&places()).await;
        bed.store.set("token", &Kept::Value(VALUE.into())).unwrap();
        let heard = hear(&mut bed, "");
        let mark = placeholder("token");
        let basic = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, VALUE);
        let quoted = "S3cr3t%2Bvalue%2Fwith%3Dsigns%26%20more%3A%2541";
        for (ask, wanted) in [
            (
                "GET /secret/bearer HTTP/1.1\r\n".to_owned(),
                format!("authorization: Bearer {VALUE}\r\n"),
            ),
            // What the agent says there goes.
            (
                format!(
                    "GET /secret/bearer HTTP/1.1\r\nAuthorization: Bearer {mark}\r\nauthorization: own\r\n"
                ),
                format!("authorization: Bearer {VALUE}\r\n"),
            ),
            (
                "GET /secret/basic HTTP/1.1\r\n".to_owned(),
                format!("authorization: Basic {basic}\r\n"),
            ),
            (
                "GET /secret/header HTTP/1.1\r\nx-key: own\r\n".to_owned(),
                format!("x-key: {VALUE}\r\n"),
            ),
            (
                "GET /secret/query HTTP/1.1\r\n".to_owned(),
                format!("GET /secret/query?key={quoted} HTTP/1.1"),
            ),
            (
                format!("GET /secret/query?a=1&key={mark}&k%65y=own&b HTTP/1.1\r\n"),
                format!("GET /secret/query?a=1&b&key={quoted} HTTP/1.1"),
            ),
            (
                format!("GET /secret/placeholder HTTP/1.1\r\nX-Other: a {mark} b\r\n"),
                format!("x-other: a {VALUE} b\r\n"),
            ),
            (
                format!(
                    "POST /secret/placeholder HTTP/1.1\r\nContent-Length: {}\r\n\r\n{mark},{mark}",
                    2 * mark.len() + 1
                ),
                format!("\r\n\r\n{VALUE},{VALUE}"),
            ),
        ] {
            let (line, rest) = ask.split_once("\r\n").unwrap();
            let end = if rest.contains("\r\n\r\n") { "" } else { "\r\n" };
            let ask = format!("{line}\r\nHost: a.example\r\n{rest}{end}");
            let answer = say(bed.open(&[]).await.unwrap(), ask.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{line}: {answer}");
            let last = heard.borrow().last().unwrap().clone();
            assert!(last.contains(&wanted), "{last}");
            assert!(!last.contains("own\r\n") && !last.contains(&mark), "{last}");
        }
        let records = bed.told("egress-request");
        assert!(records.iter().all(|record| record.contains("with the secret \"token\"")));
        assert!(!format!("{:?}", bed.told).contains("S3cr3t"), "{:?}", bed.told);
    });
}

#[test]
fn a_secret_goes_nowhere_else() {
    run(async {
        let mut bed = bed_with(&places()).await;
        bed.store.set("token", &Kept::Value(VALUE.into())).unwrap();
        bed.store.set("other", &Kept::Value("another".into())).unwrap();
        let heard = hear(&mut bed, "");
        let (mark, other) = (placeholder("token"), placeholder("other"));
        let long = "a".repeat(40);
        for ask in [
            // To a request that has none, by head, query, path and body.
            format!("GET /v1/x HTTP/1.1\r\nX: {mark}\r\n\r\n"),
            format!("GET /v1/x?a={mark} HTTP/1.1\r\n\r\n"),
            format!("GET /v1/{mark} HTTP/1.1\r\n\r\n"),
            format!("GET /v1/x HTTP/1.1\r\n{mark}: a\r\n\r\n"),
            format!(
                "POST /v1/x HTTP/1.1\r\nContent-Length: {}\r\n\r\n{long}{mark}",
                40 + mark.len()
            ),
            format!(
                "POST /v1/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n__clo\r\n{:x}\r\n{}\r\n0\r\n\r\n",
                mark.len() - 5,
                &mark[5..]
            ),
            // Of another, or in another place than the rule's.
            format!("GET /secret/bearer HTTP/1.1\r\nX: {other}\r\n\r\n"),
            format!("GET /secret/bearer HTTP/1.1\r\nX: {mark}\r\n\r\n"),
            format!("GET /secret/query?b={mark} HTTP/1.1\r\n\r\n"),
            format!("GET /secret/query HTTP/1.1\r\nX: {mark}\r\n\r\n"),
            format!("GET /secret/placeholder?a={mark} HTTP/1.1\r\n\r\n"),
            format!("GET /secret/placeholder HTTP/1.1\r\nX: {mark}{other}\r\n\r\n"),
            format!(
                "POST /secret/placeholder HTTP/1.1\r\nContent-Length: {}\r\n\r\n{other}",
                other.len()
            ),
            "POST /secret/placeholder HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\na"
                .to_owned(),
            // Asked back.
            "TRACE /secret/bearer HTTP/1.1\r\n\r\n".to_owned(),
        ] {
            let (line, rest) = ask.split_once("\r\n").unwrap();
            let before = bed.told("secret-denied").len();
            let ask = format!("{line}\r\nHost: a.example\r\nConnection: close\r\n{rest}");
            let answer = say(bed.open(&[]).await.unwrap(), ask.as_bytes()).await;
            assert!(!answer.starts_with("HTTP/1.1 200"), "{ask}: {answer}");
            assert_eq!(bed.told("secret-denied").len(), before + 1, "{ask}: {:?}", bed.told);
        }
        let heard = heard.borrow().join("\n");
        assert!(!heard.contains(&mark) && !heard.contains("S3cr3t"), "{heard}");
        // Without TLS anybody on the way could read it.
        let ask = b"GET /secret/bearer HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
        let answer = say(bed.stream().await, ask).await;
        assert!(answer.contains("over TLS alone"), "{answer}");
    });
}

#[test]
fn a_secret_that_is_missing_or_told_back_ends_the_request() {
    run(async {
        let told = [
            "Set-Cookie: a=S3cr3t+value/with=signs& more:%41\r\n",
            "Location: /x/?key=S3cr3t%2Bvalue%2Fwith%3Dsigns%26%20more%3A%2541\r\n",
            "X: UzNjcjN0K3ZhbHVlL3dpdGg9c2lnbnMmIG1vcmU6JTQx\r\n",
        ];
        for told in told {
            told_back(told).await;
        }
    });
}

async fn told_back(told: &'static str) {
    let mut bed = bed_with(&places()).await;
    let _heard = hear(&mut bed, told);
    let ask = b"GET /secret/bearer HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    let answer = say(bed.open(&[]).await.unwrap(), ask).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert_eq!(bed.told("secret-failed").len(), 1);
    let words = ["sh", "-c", "echo no one sees this >&2; exit 1"].map(str::to_owned);
    bed.store.set("token", &Kept::Command(words.to_vec())).unwrap();
    let answer = say(bed.open(&[]).await.unwrap(), ask).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    bed.store.set("token", &Kept::Value(VALUE.into())).unwrap();
    let answer = say(bed.open(&[]).await.unwrap(), ask).await;
    assert!(answer.starts_with("HTTP/1.1 502") && !answer.contains("S3cr3t"), "{answer}");
    assert_eq!(bed.told("secret-denied").len(), 1);
    assert!(!format!("{:?}", bed.told).contains("S3cr3t"));
}
