//! Opened streams: what they share with the tests of secrets, of hidden requests and of ends.

mod end_test;
mod secret_test;
mod sign_test;
mod smuggling_test;

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use cloister_protocol::egress::{Head, Target};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::egress::connect::tests::name_server;
use crate::egress::credential::{Credential, Place};
use crate::egress::gate::Facts;
use crate::egress::policy::Policy;
use crate::egress::rule::{Action, Http, Peer, Rule};
use crate::secrets::Store;
use crate::state::StateDir;
use crate::team::setting::Setting;

type Told = Rc<RefCell<Vec<(String, String)>>>;

/// A gate with one agent, and the certificates that the agent trusts.
struct Bed {
    gate: Rc<Gate>,
    told: Told,
    trusted: String,
    port: u16,
    listener: Option<TcpListener>,
    server: Authority,
    store: Store,
    _folder: tempfile::TempDir,
}

fn rule(action: Action, port: u16, methods: &[&str], paths: &[&str]) -> Setting<Rule> {
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let websocket = paths == ["/ws"];
    let http = Http { methods: list(methods), paths: list(paths), websocket, credential: None };
    let peer = Peer::Host("a.example".to_owned());
    Setting::usual(Rule { peer, ports: vec![port], action, http: Some(http) })
}

/// The rules are `GET` and `POST` below `/v1/`, anything at `/any`, a WebSocket at `/ws`, and never `DELETE`.
async fn bed() -> Bed {
    bed_with(&[]).await
}

/// The same, with these secrets: each at a path `/secret/PLACE`.
async fn bed_with(places: &[Place]) -> Bed {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = Rule {
        peer: Peer::Range("127.0.0.1/32".parse().unwrap()),
        ports: vec![port],
        action: Action::Allow,
        http: None,
    };
    let given = places.iter().map(|place| {
        let path = format!("/secret/{}", place.to_string().split(':').next().unwrap());
        let mut rule = rule(Action::Allow, port, &[], &[&path]);
        let credential = Credential { secret: "token".to_owned(), place: place.clone() };
        rule.value.http.as_mut().unwrap().credential = Some(credential);
        rule
    });
    let own = [
        rule(Action::Allow, port, &["GET", "POST"], &["/v1/**"]),
        rule(Action::Allow, port, &[], &["/any"]),
        rule(Action::Allow, port, &[], &["/ws"]),
        rule(Action::Deny, port, &["DELETE"], &[]),
        Setting::usual(address),
    ];
    let policy = Policy::new(given.chain(own).collect());
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(Some(&folder.path().join("state"))).unwrap();
    let store = Store::of(&state);
    let server = Authority::new("server").unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, server.pem()).unwrap();
    let mut connector = name_server(&[("a.example", "127.0.0.1")]).await;
    connector.operator.certificates = Some(file);
    let trust = Trust::load(&connector.operator).unwrap();
    let secrets = Secrets::of(store.clone(), &connector.resolver, &trust);
    let first = Authority::new("t").unwrap();
    let trusted = first.pem();
    // What goes on from the first signs what clients of the first trust, in all of these tests.
    let authority = Authority::again(&first.kept()).unwrap();
    let told: Told = Rc::default();
    let heard = Rc::clone(&told);
    let tell = move |_: usize, kind: &str, words: String, _: Facts| {
        heard.borrow_mut().push((kind.to_owned(), words));
    };
    let gate = Gate::new(vec![policy], connector, Box::new(tell));
    let gate = Rc::new(gate.with_opener(Some(Opener { authority, trust, secrets })));
    Bed { gate, told, trusted, port, listener: Some(listener), server, store, _folder: folder }
}

impl Bed {
    /// A stream of the agent that goes to `a.example`.
    async fn stream(&self) -> UnixStream {
        let (mut guest, ours) = UnixStream::pair().unwrap();
        tokio::task::spawn_local(Rc::clone(&self.gate).pass(ours));
        let target = Target::Name("a.example".to_owned());
        let head = Head { agent: 0, target, port: self.port };
        guest.write_all(&head.encode().unwrap()).await.unwrap();
        let mut answer = [0];
        guest.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [CONNECTED]);
        guest
    }

    /// The same, opened by a client that offers these protocols.
    async fn open(
        &self,
        protocols: &[&[u8]],
    ) -> std::io::Result<tokio_rustls::client::TlsStream<UnixStream>> {
        let config = client(&self.trusted, protocols);
        let name = ServerName::try_from("a.example").unwrap();
        TlsConnector::from(config).connect(name, self.stream().await).await
    }

    /// A server that answers with what it was asked.
    fn serve(&mut self, protocol: Option<&'static [u8]>) {
        let listener = self.listener.take().unwrap();
        let config = self.server.config("a.example", protocol).unwrap();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(echo_all(stream, Arc::clone(&config), protocol));
            }
        });
    }

    /// A server of bytes: takes one connection, sends this answer to each head, and gives what it read.
    fn serve_bytes(&mut self, answer: &'static [u8]) -> tokio::task::JoinHandle<String> {
        let listener = self.listener.take().unwrap();
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut read, mut answered) = (Vec::new(), 0);
            while stream.read_buf(&mut read).await.unwrap_or(0) > 0 {
                let heads = read.windows(4).filter(|four| *four == b"\r\n\r\n").count();
                for _ in answered..heads {
                    stream.write_all(answer).await.unwrap();
                }
                answered = heads;
            }
            String::from_utf8(read).unwrap()
        })
    }

    fn told(&self, kind: &str) -> Vec<String> {
        let told = self.told.borrow();
        told.iter().filter(|(one, _)| one == kind).map(|(_, words)| words.clone()).collect()
    }
}

fn client(trusted: &str, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|one| one.to_vec()).collect();
    Arc::new(config)
}

/// Answers all requests of a connection.
async fn echo_all(stream: TcpStream, config: Arc<rustls::ServerConfig>, protocol: Option<&[u8]>) {
    let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
    let (stream, service) = (TokioIo::new(stream), service_fn(echo));
    // A client that goes away is no fault of the server's.
    if protocol == Some(H2) {
        let server = hyper::server::conn::http2::Builder::new(Local);
        server.serve_connection(stream, service).await.ok();
    } else {
        let server = hyper::server::conn::http1::Builder::new();
        server.serve_connection(stream, service).await.ok();
    }
}

/// What was asked, in words; a path of `/v1/large` gives a large answer.
async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let host = head.headers.get("host").map(|host| host.to_str().unwrap().to_owned());
    let host = host.or_else(|| head.uri.authority().map(ToString::to_string));
    let mut fields: Vec<&str> = head.headers.keys().map(|name| name.as_str()).collect();
    fields.sort_unstable();
    let path = head.uri.path_and_query().unwrap();
    let words = format!(
        "{:?} {} {path} {} {fields:?} {}",
        head.version,
        head.method,
        host.unwrap_or_default(),
        body.len()
    );
    let body = if head.uri.path() == "/v1/large" { vec![7; 3_000_000] } else { words.into() };
    Ok(Response::new(Full::new(Bytes::from(body))))
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// Writes a request and reads the whole answer, to the end of the stream.
async fn say(mut stream: impl Stream, bytes: &[u8]) -> String {
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // An end that is none is one here: what came is looked at.
    while stream.read_buf(&mut answer).await.unwrap_or(0) > 0 {}
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_stream_is_opened_and_each_request_decided_and_recorded() {
    run(async {
        let mut bed = bed().await;
        bed.serve(None);
        let port = bed.port;
        let stream = bed.open(&[HTTP_11]).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.alpn_protocol(), Some(HTTP_11));
        let ask = format!(
            "POST /v1/x?key=hidden HTTP/1.1\r\nHost: A.example:{port}\r\nConnection: close, x-hop\r\nx-hop: 1\r\n\
             Accept: a\r\nContent-Length: 3\r\n\r\nabc"
        );
        let answer = say(stream, ask.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let seen = format!(
            "HTTP/1.1 POST /v1/x?key=hidden A.example:{port} [\"accept\", \"content-length\", \"host\"] 3"
        );
        assert!(answer.ends_with(&seen), "{answer}");
        let [record] = &bed.told("egress-request")[..] else { panic!("{:?}", bed.told) };
        let wanted = format!("POST https://a.example:{port}/v1/x: 200, 3 bytes sent, ");
        assert!(record.starts_with(&wanted) && record.contains("by the rule in"), "{record}");
        for (line, why) in [
            ("GET /v2/x HTTP/1.1", "no rule allows this request"),
            ("PUT /v1/x HTTP/1.1", "no rule allows this request"),
            ("DELETE /any HTTP/1.1", "by the rule in"),
            ("delete /any HTTP/1.1", "by the rule in"),
            ("GET /v1/../x HTTP/1.1", "`.` or `..`"),
        ] {
            let stream = bed.open(&[]).await.unwrap();
            let ask = format!("{line}\r\nHost: a.example\r\nConnection: close\r\n\r\n");
            let answer = say(stream, ask.as_bytes()).await;
            let denied = answer.starts_with("HTTP/1.1 403") || answer.starts_with("HTTP/1.1 400");
            assert!(denied && answer.contains(why), "{line}: {answer}");
        }
        assert_eq!(bed.told("egress-denied").len(), 5, "{:?}", bed.told);
        assert!(!format!("{:?}", bed.told).contains("hidden"));
    });
}

#[test]
fn two_versions_keep_to_themselves_and_large_bodies_pass() {
    run(async {
        let mut bed = bed().await;
        bed.serve(Some(H2));
        let stream = bed.open(&[H2, HTTP_11]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(H2));
        let (sender, connection) = hyper::client::conn::http2::Builder::new(Local)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::task::spawn_local(connection);
        let send = |method: &str, path: &str, host: &str, body: Vec<u8>| {
            let mut sender = sender.clone();
            let request = Request::builder().method(method).uri(format!("https://{host}{path}"));
            let request = request.body(Full::new(Bytes::from(body))).unwrap();
            async move {
                let answer = sender.send_request(request).await.unwrap();
                let status = answer.status().as_u16();
                (status, answer.into_body().collect().await.unwrap().to_bytes())
            }
        };
        let all = tokio::join!(
            send("GET", "/v1/large", "a.example", vec![]),
            send("POST", "/v1/up", "a.example", vec![1; 2_000_000]),
            send("GET", "/v2", "a.example", vec![]),
            send("GET", "/v1/x", "b.example", vec![]),
            send("GET", "/v1/x", "u@a.example", vec![]),
            send("GET", "/v1/x", "a.example:1", vec![]),
            send("GET", "/v1/%2e%2e/x", "a.example", vec![]),
        );
        assert_eq!((all.0.0, all.0.1.len()), (200, 3_000_000));
        assert_eq!(all.1.0, 200);
        assert!(all.1.1.ends_with(b" 2000000") && all.1.1.starts_with(b"HTTP/2.0 POST /v1/up"));
        let rest = [all.2.0, all.3.0, all.4.0, all.5.0, all.6.0];
        assert_eq!(rest, [403, 400, 400, 400, 400]);
        assert_eq!(bed.told("egress-denied").len(), 5);
    });
}

#[test]
fn curl_takes_the_certificate_and_both_versions() {
    run(async {
        for (protocol, option, shown) in
            [(None, "--http1.1", "HTTP/1.1"), (Some(H2), "--http2", "HTTP/2.0")]
        {
            let mut bed = bed().await;
            bed.serve(protocol);
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("list.pem");
            std::fs::write(&file, &bed.trusted).unwrap();
            let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let near = front.local_addr().unwrap().port();
            let port = bed.port;
            let curl = tokio::task::spawn_blocking(move || {
                std::process::Command::new("curl")
                    .args(["-sS", "--max-time", "60", "--noproxy", "*", option, "-d", "abc"])
                    .args(["--connect-to", &format!("a.example:{port}:127.0.0.1:{near}")])
                    .arg(format!("https://a.example:{port}/v1/x"))
                    .env("CURL_CA_BUNDLE", file)
                    .output()
                    .unwrap()
            });
            // In place of the guest's supervisor.
            let (mut stream, _) = front.accept().await.unwrap();
            let mut inner = bed.stream().await;
            let between = tokio::task::spawn_local(async move {
                tokio::io::copy_bidirectional(&mut stream, &mut inner).await.ok();
            });
            let output = curl.await.unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                text.starts_with(&format!("{shown} POST /v1/x a.example:{port}")),
                "{output:?}"
            );
            between.await.unwrap();
        }
    });
}
