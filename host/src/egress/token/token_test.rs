//! Access tokens from a token server on loopback: good ones, and all that can be wrong with one.

use std::cell::Cell;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::egress::authority::Authority;
use crate::egress::connect::tests::name_server;
use crate::egress::limits::TOKEN_UNSAID;
use crate::egress::secrets::{GetError, Secrets};
use crate::report::chain;
use crate::secrets::Kept;
use crate::secrets::grant::Grant;
use crate::state::StateDir;

/// What a server does with a request.
#[derive(Clone)]
enum Do {
    Say(String),
    /// Answers when it is told to.
    Wait(Rc<tokio::sync::Notify>, String),
    Nothing,
    Endless,
}

struct Bed {
    secrets: Rc<Secrets>,
    store: Store,
    heard: Rc<RefCell<Vec<String>>>,
    next: Rc<RefCell<Do>>,
    port: u16,
    folder: tempfile::TempDir,
}

fn json(text: &str) -> Do {
    Do::Say(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    ))
}

fn grant(endpoint: &str) -> Grant {
    Grant {
        mark: Grant::new_mark().unwrap(),
        endpoint: endpoint.to_owned(),
        client: "the client".to_owned(),
        scope: String::new(),
        client_secret: None,
        in_body: false,
        refresh_token: Some(b"first+r3fresh".to_vec()),
    }
}

/// Whether a request has come whole.
fn is_whole(read: &[u8]) -> bool {
    let text = String::from_utf8_lossy(read).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head
        .split_once("content-length: ")
        .map_or(0, |(_, rest)| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
    body.len() >= length
}

impl Bed {
    async fn new(tls: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(&folder.path().join("state"))).unwrap();
        let store = Store::of(&state);
        let server = Authority::new("server").unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, server.pem()).unwrap();
        let mut connector = name_server(&[("auth.example", "127.0.0.1")]).await;
        connector.operator.certificates = Some(file);
        let trust = Trust::load(&connector.operator).unwrap();
        let secrets = Rc::new(Secrets::of(store.clone(), &connector.resolver, &trust));
        let heard: Rc<RefCell<Vec<String>>> = Rc::default();
        let next = Rc::new(RefCell::new(json(r#"{"access_token":"t0ken","expires_in":3600}"#)));
        let config = tls.map(|name| server.config(name, None).unwrap());
        let (hears, does) = (Rc::clone(&heard), Rc::clone(&next));
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (hears, does) = (Rc::clone(&hears), Rc::clone(&does));
                tokio::task::spawn_local(serve_any(stream, config.clone(), hears, does));
            }
        });
        Self { secrets, store, heard, next, port, folder }
    }

    fn set(&self, change: impl FnOnce(&mut Grant)) {
        let mut grant = grant(&format!("http://127.0.0.1:{}/token?a=1", self.port));
        change(&mut grant);
        self.store.set("mail", &Kept::OAuth(grant)).unwrap();
    }

    async fn get(&self) -> Result<String, String> {
        match self.secrets.get("mail").await {
            Ok(secret) => Ok(String::from_utf8(secret.bytes().to_vec()).unwrap()),
            Err(error) => Err(chain(&error)),
        }
    }

    fn says(&self, next: Do) {
        self.next.replace(next);
    }

    fn count(&self) -> usize {
        self.heard.borrow().len()
    }

    fn kept(&self) -> Vec<u8> {
        let Kept::OAuth(grant) = &self.store.find("mail").unwrap() else { panic!("none") };
        grant.refresh_token.clone().unwrap()
    }
}

async fn serve_any(
    stream: tokio::net::TcpStream,
    config: Option<Arc<rustls::ServerConfig>>,
    heard: Rc<RefCell<Vec<String>>>,
    next: Rc<RefCell<Do>>,
) {
    let Some(config) = config else { return serve(stream, heard, next).await };
    // A client that does not trust it goes away.
    if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
        serve(stream, heard, next).await;
    }
}

async fn serve(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    heard: Rc<RefCell<Vec<String>>>,
    next: Rc<RefCell<Do>>,
) {
    let mut read = Vec::new();
    while !is_whole(&read) {
        if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
            return;
        }
    }
    heard.borrow_mut().push(String::from_utf8(read).unwrap());
    let next = next.borrow().clone();
    let text = match next {
        Do::Say(text) => text,
        Do::Wait(until, text) => {
            until.notified().await;
            text
        }
        Do::Nothing => std::future::pending().await,
        Do::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            while stream.write_all(&[b' '; 4096]).await.is_ok() {}
            return;
        }
    };
    stream.write_all(text.as_bytes()).await.ok();
    stream.shutdown().await.ok();
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, work)
}

#[test]
fn a_token_is_asked_for_once_and_again_when_it_ends() {
    run(async {
        let bed = Bed::new(None).await;
        bed.set(|grant| grant.scope = "read write".to_owned());
        for _ in 0..3 {
            assert_eq!(bed.get().await.unwrap(), "t0ken");
        }
        assert_eq!(bed.count(), 1);
        let heard = bed.heard.borrow()[0].clone();
        assert!(heard.starts_with("POST /token?a=1 HTTP/1.1\r\n"), "{heard}");
        assert!(heard.contains(&format!("host: 127.0.0.1:{}\r\n", bed.port)), "{heard}");
        assert!(heard.contains("content-type: application/x-www-form-urlencoded\r\n"), "{heard}");
        let form = "grant_type=refresh_token&refresh_token=first%2Br3fresh&scope=read%20write&client_id=the%20client";
        assert!(heard.ends_with(&format!("\r\n\r\n{form}")), "{heard}");
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(3560)).await;
        tokio::time::resume();
        assert_eq!(bed.get().await.unwrap(), "t0ken");
        assert_eq!(bed.count(), 1);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(15)).await;
        tokio::time::resume();
        bed.says(json(r#"{"access_token":"another"}"#));
        assert_eq!(bed.get().await.unwrap(), "another");
        assert_eq!(bed.count(), 2);
        tokio::time::pause();
        tokio::time::advance(TOKEN_UNSAID).await;
        tokio::time::resume();
        bed.get().await.unwrap();
        assert_eq!(bed.count(), 3);
        // Set again, it is another grant.
        bed.set(|_| {});
        bed.get().await.unwrap();
        assert_eq!(bed.count(), 4);
    });
}

#[test]
fn clients_say_who_they_are_in_the_way_that_was_set() {
    run(async {
        let bed = Bed::new(None).await;
        bed.set(|grant| grant.client_secret = Some(b"p:w d".to_vec()));
        bed.get().await.unwrap();
        // "the%20client:p%3Aw%20d", by another's hand.
        let basic = "authorization: Basic dGhlJTIwY2xpZW50OnAlM0F3JTIwZA==\r\n";
        let heard = bed.heard.borrow()[0].clone();
        assert!(heard.contains(basic) && !heard.contains("client_id"), "{heard}");
        bed.set(|grant| {
            (grant.client_secret, grant.in_body) = (Some(b"p:w d".to_vec()), true);
            grant.refresh_token = None;
        });
        bed.get().await.unwrap();
        let heard = bed.heard.borrow()[1].clone();
        let form = "grant_type=client_credentials&client_id=the%20client&client_secret=p%3Aw%20d";
        assert!(heard.ends_with(&format!("\r\n\r\n{form}")), "{heard}");
        assert!(!heard.contains("authorization"), "{heard}");
    });
}

#[test]
fn however_many_wait_one_asks_and_going_away_loses_nothing() {
    run(async {
        let bed = Rc::new(Bed::new(None).await);
        bed.set(|_| {});
        let until = Rc::new(tokio::sync::Notify::new());
        let text = r#"{"access_token":"t0ken","refresh_token":"second"}"#;
        let Do::Say(answer) = json(text) else { panic!("no words") };
        bed.says(Do::Wait(Rc::clone(&until), answer));
        let done = Rc::new(Cell::new(0));
        let all: Vec<_> = (0..20)
            .map(|_| {
                let (bed, done) = (Rc::clone(&bed), Rc::clone(&done));
                tokio::task::spawn_local(async move {
                    assert_eq!(bed.get().await.unwrap(), "t0ken");
                    done.set(done.get() + 1);
                })
            })
            .collect();
        while bed.count() == 0 {
            tokio::task::yield_now().await;
        }
        // The first is the one that asks; it goes away before the answer comes.
        all[0].abort();
        tokio::task::yield_now().await;
        until.notify_waiters();
        for one in all.into_iter().skip(1) {
            one.await.unwrap();
        }
        assert_eq!((bed.count(), done.get()), (1, 19));
        assert_eq!(bed.kept(), b"second");
    });
}

#[test]
fn another_refresh_token_is_sealed_before_it_is_needed() {
    run(async {
        let bed = Bed::new(None).await;
        bed.set(|_| {});
        bed.says(json(r#"{"access_token":"one","expires_in":1,"refresh_token":"second"}"#));
        assert_eq!(bed.get().await.unwrap(), "one");
        assert_eq!(bed.kept(), b"second");
        // Where nothing can be written the token is not used, and is kept until something can.
        let secrets = bed.folder.path().join("state/secrets");
        std::fs::create_dir(secrets.join("mail.new")).unwrap();
        bed.says(json(r#"{"access_token":"two","refresh_token":"th1rd"}"#));
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(6)).await;
        tokio::time::resume();
        let error = bed.get().await.unwrap_err();
        assert!(error.contains("can't write") && !error.contains("th1rd"), "{error}");
        assert!(bed.heard.borrow()[1].contains("refresh_token=second"));
        assert_eq!(bed.kept(), b"second");
        std::fs::remove_dir(secrets.join("mail.new")).unwrap();
        assert!(bed.get().await.is_err(), "not at once");
        tokio::time::pause();
        tokio::time::advance(TOKEN_PAUSE).await;
        tokio::time::resume();
        assert_eq!(bed.get().await.unwrap(), "two");
        assert_eq!((bed.count(), bed.kept()), (2, b"th1rd".to_vec()));
    });
}

#[test]
fn what_is_set_meanwhile_stays() {
    run(async {
        let bed = Rc::new(Bed::new(None).await);
        bed.set(|_| {});
        let until = Rc::new(tokio::sync::Notify::new());
        let Do::Say(answer) = json(r#"{"access_token":"t0ken","refresh_token":"second"}"#) else {
            panic!("no words")
        };
        bed.says(Do::Wait(Rc::clone(&until), answer));
        let asks = Rc::clone(&bed);
        let asking = tokio::task::spawn_local(async move { asks.get().await });
        while bed.count() == 0 {
            tokio::task::yield_now().await;
        }
        bed.set(|grant| grant.refresh_token = Some(b"by-hand".to_vec()));
        until.notify_waiters();
        assert_eq!(asking.await.unwrap().unwrap(), "t0ken");
        assert_eq!(bed.kept(), b"by-hand");
        bed.says(json(r#"{"access_token":"by-hand"}"#));
        assert_eq!(bed.get().await.unwrap(), "by-hand");
    });
}

#[test]
fn what_goes_wrong_is_told_without_a_secret_and_not_tried_again_at_once() {
    run(async {
        let say = |text: &str| Do::Say(text.to_owned());
        for (next, what) in [
            (
                say(
                    "HTTP/1.1 400 Bad Request\r\nContent-Length: 25\r\n\r\n{\"error\":\"invalid_grant\"}",
                ),
                "refuses: 400, invalid_grant",
            ),
            (say("HTTP/1.1 500 No\r\nContent-Length: 7\r\n\r\nr3fresh"), "refuses: 500"),
            (
                say(
                    "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
                ),
                "sends elsewhere (302)",
            ),
            (json("r3fresh"), "not JSON"),
            (json("{}"), "no access token"),
            (say("SSH-2.0-r3fresh\r\n\r\n"), "broke off"),
            (say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"), "broke off"),
            (say(""), "broke off"),
            (
                say(&format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "r3fresh".repeat(20_000))),
                "broke off",
            ),
            (Do::Endless, "longer than 65536 bytes"),
        ] {
            let bed = Bed::new(None).await;
            bed.set(|_| {});
            bed.says(next);
            let error = bed.get().await.unwrap_err();
            assert!(
                error.contains("no access token for the secret \"mail\"") && error.contains(what),
                "{what}: {error}"
            );
            assert!(!error.contains("r3fresh"), "{error}");
            bed.says(json(r#"{"access_token":"t0ken"}"#));
            assert_eq!(bed.get().await.unwrap_err(), error);
            assert_eq!(bed.count(), 1, "{what}");
            tokio::time::pause();
            tokio::time::advance(TOKEN_PAUSE).await;
            tokio::time::resume();
            assert_eq!(bed.get().await.unwrap(), "t0ken");
        }
    });
}

#[test]
fn a_server_that_says_nothing_or_is_not_there_has_its_time() {
    run(async {
        let bed = Rc::new(Bed::new(None).await);
        bed.set(|_| {});
        bed.says(Do::Nothing);
        let asks = Rc::clone(&bed);
        let asking = tokio::task::spawn_local(async move { asks.get().await });
        while bed.count() == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::pause();
        let error = asking.await.unwrap().unwrap_err();
        assert!(error.contains("took more than 15 s"), "{error}");
        tokio::time::resume();
        bed.set(|grant| grant.endpoint = "http://127.0.0.1:1/token".to_owned());
        let error = bed.get().await.unwrap_err();
        assert!(error.contains("can't connect to the token server"), "{error}");
        bed.set(|grant| grant.endpoint = "https://none.example/token".to_owned());
        let error = bed.get().await.unwrap_err();
        assert!(error.contains("can't find the token server"), "{error}");
        bed.store.remove("mail").unwrap();
        let error = bed.secrets.get("mail").await.unwrap_err();
        assert!(matches!(error, GetError::Read(SecretError::Missing(_))), "{error:?}");
    });
}

#[test]
fn a_token_server_is_who_it_should_be() {
    run(async {
        for (certified, good) in [("auth.example", true), ("other.example", false)] {
            let bed = Bed::new(Some(certified)).await;
            let endpoint = format!("https://auth.example:{}/token", bed.port);
            bed.set(|grant| grant.endpoint = endpoint);
            let got = bed.get().await;
            assert_eq!(got.is_ok(), good, "{got:?}");
            assert_eq!(bed.count(), usize::from(good));
            if let Err(error) = got {
                assert!(
                    error.contains("the TLS handshake with the token server failed"),
                    "{error}"
                );
            }
        }
    });
}

#[test]
fn another_process_s_turn_is_waited_for() {
    run(async {
        let bed = Rc::new(Bed::new(None).await);
        bed.set(|_| {});
        let turn = bed.store.turn("mail").unwrap();
        let asks = Rc::clone(&bed);
        let asking = tokio::task::spawn_local(async move { asks.get().await });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        // Who has the turn changes the refresh token meanwhile.
        let Kept::OAuth(grant) = &bed.store.find("mail").unwrap() else { panic!("none") };
        bed.store.rotate("mail", &grant.mark, b"theirs").unwrap();
        assert_eq!(bed.count(), 0);
        drop(turn);
        assert_eq!(asking.await.unwrap().unwrap(), "t0ken");
        assert!(bed.heard.borrow()[0].contains("refresh_token=theirs"));
    });
}
