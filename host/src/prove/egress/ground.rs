//! What the attacks on rules are made at: the real gate with its agents' rules, and behind it a server and a name server.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use cloister_protocol::egress::{CONNECTED, Head, Target};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket, UnixStream};
use tokio_rustls::TlsAcceptor;

use super::names::SPECIAL;
use crate::egress::authority::Authority;
use crate::egress::connect::Connector;
use crate::egress::credential::{Credential, Place};
use crate::egress::gate::{Facts, Gate};
use crate::egress::http::Opener;
use crate::egress::operator::Operator;
use crate::egress::policy::Policy;
use crate::egress::resolve::Resolver;
use crate::egress::rule::{Action, Http, Peer, Rule};
use crate::egress::trust::Trust;
use crate::report::chain;
use crate::secrets::{Kept, Store};
use crate::state::StateDir;
use crate::team::setting::Setting;

/// The host whose requests are looked at.
pub(super) const HOST: &str = "a.prove.test";
/// The one that any stream may go to.
pub(super) const OPEN: &str = "open.prove.test";
/// What no host may get but by a rule.
pub(super) const VALUE: &str = "S3cr3t-of-the-host";
/// Most that is kept of what comes to the server.
const MAX_HEARD: usize = 1 << 20;
/// Agents whose rules are observed.
pub(super) const OBSERVING: u32 = 2;

/// Everything for one attack.
pub(super) struct Ground {
    gate: Rc<Gate>,
    told: Rc<RefCell<Vec<String>>>,
    heard: Rc<RefCell<Vec<u8>>>,
    /// What the server says back, after its status line.
    pub(super) answer: Rc<RefCell<String>>,
    /// The certificate that agents trust.
    pub(super) trusted: String,
    pub(super) port: u16,
    pub(super) store: Store,
    pub(super) folder: PathBuf,
}

fn rule(pattern: &str, port: u16, http: Option<Http>) -> Setting<Rule> {
    let peer = Peer::Host(pattern.to_owned());
    Setting::usual(Rule { peer, ports: vec![port], action: Action::Allow, http })
}

fn requests(methods: &[&str], path: &str, credential: Option<Place>) -> Http {
    let credential = credential.map(|place| Credential { secret: "token".to_owned(), place });
    let methods = methods.iter().map(|method| (*method).to_owned()).collect();
    Http { methods, paths: vec![path.to_owned()], websocket: false, credential }
}

/// The rules of four agents: the attacker, its neighbour, one that observes, and one that has none.
fn policies(port: u16) -> Vec<Policy> {
    let here = Setting::usual(Rule {
        peer: Peer::Range(IpAddr::V4(Ipv4Addr::LOCALHOST).into()),
        ports: vec![port],
        action: Action::Allow,
        http: None,
    });
    let denied = Setting::usual(Rule {
        peer: Peer::Host("denied.prove.test".to_owned()),
        ports: Vec::new(),
        action: Action::Deny,
        http: None,
    });
    let attacker = vec![
        here.clone(),
        rule(HOST, port, Some(requests(&["GET", "POST"], "/v1/**", None))),
        rule(HOST, port, Some(requests(&["GET"], "/secret/bearer", Some(Place::Bearer)))),
        rule(
            HOST,
            port,
            Some(requests(&["GET"], "/secret/query", Some(Place::Query("key".to_owned())))),
        ),
        rule(HOST, port, Some(requests(&[], "/secret/placeholder", Some(Place::Placeholder)))),
        rule(OPEN, port, None),
        rule("*.special.prove.test", port, None),
        rule("*.wild.prove.test", port, None),
        denied.clone(),
    ];
    let neighbour = vec![here.clone(), rule("neighbour.prove.test", port, None)];
    let observing = Policy::new(vec![here, denied]).observing(true);
    vec![Policy::new(attacker), Policy::new(neighbour), observing, Policy::default()]
}

impl Ground {
    /// Makes it; `folder` holds the secrets.
    pub(super) async fn new(folder: &Path) -> Result<Self, String> {
        let io = |error: std::io::Error| error.to_string();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(io)?;
        let port = listener.local_addr().map_err(io)?.port();
        let server = Authority::new("server").map_err(|error| chain(&error))?;
        let authority = Authority::new("prove").map_err(|error| chain(&error))?;
        let state = StateDir::open(Some(folder)).map_err(|error| chain(&error))?;
        let store = Store::of(&state);
        store.set("token", &Kept::Value(VALUE.into())).map_err(|error| chain(&error))?;
        let certificates = folder.join("certificates.pem");
        std::fs::write(&certificates, server.pem()).map_err(io)?;
        let names = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(io)?;
        let operator = Operator {
            name_servers: vec![names.local_addr().map_err(io)?],
            certificates: Some(certificates),
            ..Operator::default()
        };
        let trust = Trust::load(&operator).map_err(|error| chain(&error))?;
        let resolver = Resolver::new(&operator).map_err(|error| chain(&error))?;
        tokio::task::spawn_local(serve_names(names));
        let (heard, answer): (Rc<RefCell<Vec<u8>>>, Rc<RefCell<String>>) = Default::default();
        let config = server.config(HOST, None).map_err(|error| chain(&error))?;
        tokio::task::spawn_local(serve(listener, config, Rc::clone(&heard), Rc::clone(&answer)));
        let told: Rc<RefCell<Vec<String>>> = Rc::default();
        let telling = Rc::clone(&told);
        let tell = move |_: usize, kind: &str, words: String, _: Facts| {
            telling.borrow_mut().push(format!("{kind}: {words}"));
        };
        let trusted = authority.pem();
        let opener = Opener::new(authority, trust, store.clone(), &resolver);
        let gate = Gate::new(policies(port), Connector { resolver, operator }, Box::new(tell));
        let gate = Rc::new(gate.with_opener(Some(opener)));
        let folder = folder.to_owned();
        Ok(Self { gate, told, heard, answer, trusted, port, store, folder })
    }

    /// What came to the server.
    pub(super) fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.borrow()).into_owned()
    }

    /// What the gate told, in its order.
    pub(super) fn told(&self) -> Vec<String> {
        self.told.borrow().clone()
    }

    /// A stream with a head of these bytes; nothing if it was closed.
    pub(super) async fn stream(&self, head: &[u8]) -> Option<UnixStream> {
        let (mut guest, ours) = UnixStream::pair().ok()?;
        let passing = tokio::task::spawn_local(Rc::clone(&self.gate).pass(ours));
        guest.write_all(head).await.ok()?;
        let mut answer = [0];
        if guest.read_exact(&mut answer).await.is_ok() && answer == [CONNECTED] {
            return Some(guest);
        }
        // It has told what there is to tell then.
        passing.await.ok();
        None
    }

    /// A stream of an agent to a name or an address.
    pub(super) async fn ask(&self, agent: u32, to: &str, port: u16) -> Option<UnixStream> {
        let target = to.parse().map_or_else(|_| Target::Name(to.to_owned()), Target::Address);
        let head = Head { agent, target, port }.encode().ok()?;
        self.stream(&head).await
    }

    /// Says something on a stream of the attacker, and reads what comes until the end.
    pub(super) async fn say(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        bytes: &[u8],
    ) -> String {
        // It may be cut while it is said.
        stream.write_all(bytes).await.ok();
        stream.shutdown().await.ok();
        let mut answer = Vec::new();
        while answer.len() < MAX_HEARD && stream.read_buf(&mut answer).await.unwrap_or(0) > 0 {}
        drop(stream);
        // The gate tells of a stream's end when it has seen it.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// A stream of bytes.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// Takes connections one after the other, in TLS if they begin so, keeps what comes, and answers each head.
async fn serve(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    heard: Rc<RefCell<Vec<u8>>>,
    answer: Rc<RefCell<String>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let mut first = [0];
        let tls = stream.peek(&mut first).await.is_ok_and(|count| count == 1) && first == [0x16];
        let stream: Option<Box<dyn Stream>> = if tls {
            let opened = TlsAcceptor::from(Arc::clone(&config)).accept(stream).await;
            opened.ok().map(|stream| Box::new(stream) as Box<dyn Stream>)
        } else {
            Some(Box::new(stream))
        };
        if let Some(stream) = stream {
            tokio::task::spawn_local(hear(stream, Rc::clone(&heard), Rc::clone(&answer)));
        }
    }
}

async fn hear(
    mut stream: Box<dyn Stream>,
    heard: Rc<RefCell<Vec<u8>>>,
    answer: Rc<RefCell<String>>,
) {
    let mut own = Vec::new();
    let answered = Cell::new(false);
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let bytes = buffer.get(..count).unwrap_or_default();
        own.extend_from_slice(bytes);
        if heard.borrow().len() < MAX_HEARD {
            heard.borrow_mut().extend_from_slice(bytes);
        }
        if !answered.get() && own.windows(4).any(|four| four == b"\r\n\r\n") {
            answered.set(true);
            let more = answer.borrow().clone();
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n";
            stream.write_all(format!("{head}{more}\r\n").as_bytes()).await.ok();
        }
    }
}

/// Answers questions for the addresses of names (RFC 1035, section 4.1); each answer is good for no time.
async fn serve_names(socket: UdpSocket) {
    let mut query = [0; 512];
    let asked = Cell::new(0_u32);
    while let Ok((length, sender)) = socket.recv_from(&mut query).await {
        let answer = query.get(..length).and_then(|query| answer(query, &asked));
        if let Some(answer) = answer {
            send(&socket, &answer, sender).await;
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    socket.send_to(answer, to).await.ok();
}

fn answer(query: &[u8], asked: &Cell<u32>) -> Option<Vec<u8>> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at + 1..=at + length)?).to_lowercase());
        at += length + 1;
    }
    let (question, kind) = (query.get(12..at + 5)?, *query.get(at + 2)?);
    let address = address_of(&labels.join("."), kind == 1, asked);
    let octets = match address {
        Some(IpAddr::V4(four)) if kind == 1 => four.octets().to_vec(),
        Some(IpAddr::V6(six)) if kind == 28 => six.octets().to_vec(),
        _ => Vec::new(),
    };
    let mut bytes = query.get(..2)?.to_vec();
    bytes.extend([0x81, 0x80, 0, 1, 0, u8::from(!octets.is_empty()), 0, 0, 0, 0]);
    bytes.extend(question);
    if let Ok(length @ 1..) = u8::try_from(octets.len()) {
        bytes.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 0, 0, length]);
        bytes.extend(octets);
    }
    Some(bytes)
}

/// Every name has this host's loopback for its address, but those that try where a name may lead.
fn address_of(name: &str, counts: bool, asked: &Cell<u32>) -> Option<IpAddr> {
    let Some(label) = name.strip_suffix(".special.prove.test") else {
        return Some(Ipv4Addr::LOCALHOST.into());
    };
    if label == "rebinding" {
        let first = asked.get() == 0;
        asked.set(asked.get().saturating_add(u32::from(counts)));
        return Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, if first { 1 } else { 2 })));
    }
    SPECIAL.iter().find(|(known, _)| *known == label).and_then(|(_, text)| text.parse().ok())
}
