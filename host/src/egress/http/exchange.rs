//! One request after the other: decided, passed on, answered, and recorded.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, EXPECT, HeaderValue};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use super::Way;
use super::body::{Passed, Record};
use super::fields::{Becomes, check, make_websocket, strip};
use super::given::{Content, Given, Whole};
use super::secret::{Stopped, search};
use crate::egress::credential::Credential;
use crate::egress::gate::Facts;
use crate::egress::limits::{MAX_REQUESTS, MAX_SHOWN_METHOD, MAX_SHOWN_PATH};
use crate::egress::relay::Direction;
use crate::egress::request::{Asked, Judgement};
use crate::report::chain;
use crate::text::printable_line;

/// The other side, to which requests go.
pub(super) enum Sender {
    /// One request after the other.
    One(Mutex<hyper::client::conn::http1::SendRequest<Outgoing>>),
    /// Many at once.
    Two(hyper::client::conn::http2::SendRequest<Outgoing>),
}

/// What a host gets.
type Outgoing = Either<Passed, Full<Bytes>>;

/// An answer to an agent: the host's, or one of ours.
pub(super) type Answer = Response<Either<Passed, Full<Bytes>>>;

/// The requests of one stream.
pub(super) struct Exchange {
    pub(super) way: Way,
    tls: bool,
    sender: Sender,
    requests: Cell<u32>,
    worn_out: Notify,
    tunnel: RefCell<Option<(OnUpgrade, OnUpgrade)>>,
}

/// A request that is not passed on.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// The kind of event; empty: it is told already, or by the request's record.
    pub(super) kind: &'static str,
    pub(super) words: String,
}

impl Refusal {
    /// The host does not do its part.
    fn host(why: &str) -> Self {
        let words = format!("the host does not answer: {why}");
        Self { status: StatusCode::BAD_GATEWAY, kind: "", words }
    }
}

impl From<Stopped> for Refusal {
    fn from(stopped: Stopped) -> Self {
        let words = stopped.words();
        Self { status: StatusCode::FORBIDDEN, kind: "secret-denied", words }
    }
}

/// A request that is passed on.
struct Allowed {
    becomes: Becomes,
    /// What was asked, for programs.
    facts: Facts,
    /// By which rule, in words.
    rule: String,
    credential: Option<Credential>,
}

impl Exchange {
    pub(super) fn new(way: Way, tls: bool, sender: Sender) -> Self {
        let (requests, worn_out, tunnel) = Default::default();
        Self { way, tls, sender, requests, worn_out, tunnel }
    }

    /// How many requests have come.
    pub(super) const fn requests(&self) -> u32 {
        self.requests.get()
    }

    /// Waits until there were as many as there may be.
    pub(super) async fn worn_out(&self) {
        self.worn_out.notified().await;
    }

    /// Whether the stream becomes one that is not looked at any more.
    pub(super) fn has_tunnel(&self) -> bool {
        self.tunnel.borrow().is_some()
    }

    pub(super) fn take_tunnel(&self) -> Option<(OnUpgrade, OnUpgrade)> {
        self.tunnel.borrow_mut().take()
    }

    /// Answers a request, whatever comes of it.
    pub(super) async fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
    ) -> Result<Answer, Infallible> {
        self.requests.set(self.requests.get().saturating_add(1));
        if self.requests.get() >= MAX_REQUESTS {
            self.worn_out.notify_one();
        }
        let shown = self.shown(&request);
        Ok(match self.pass(request, &shown).await {
            Ok(answer) => answer,
            Err(Refusal { status, kind, words }) => {
                if !kind.is_empty() {
                    self.way.gate.tell(self.way.agent, kind, format!("{shown}: {words}"));
                }
                plain(status, &words)
            }
        })
    }

    /// Method and address without its query, which may hold what is nobody's business.
    fn shown(&self, request: &Request<Incoming>) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let path = request.uri().path();
        let end = path.floor_char_boundary(MAX_SHOWN_PATH);
        let cut = if end < path.len() { "…" } else { "" };
        let path = printable_line(path.get(..end).unwrap_or_default());
        let method: String = request.method().as_str().chars().take(MAX_SHOWN_METHOD).collect();
        let Way { name, port, .. } = &self.way;
        match (self.tls, port) {
            (true, 443) | (false, 80) => format!("{method} {scheme}://{name}{path}{cut}"),
            _ => format!("{method} {scheme}://{name}:{port}{path}{cut}"),
        }
    }

    async fn pass(&self, request: Request<Incoming>, shown: &str) -> Result<Answer, Refusal> {
        let (mut head, body) = request.into_parts();
        let Allowed { becomes, facts, rule, credential } = self.judge(&head)?;
        let on_guest = head.extensions.remove::<OnUpgrade>();
        let mut outgoing = self.outgoing(head, becomes)?;
        let given = match credential {
            None => {
                search(&outgoing)?;
                None
            }
            Some(credential) => Some(self.given(credential, &outgoing, shown).await?),
        };
        let content = match &given {
            None => Content::Passing(body),
            Some(given) => given.give(&mut outgoing, body).await?,
        };
        let record = Rc::new(Record {
            way: self.way.clone(),
            shown: shown.to_owned(),
            rule: match &given {
                Some(given) => format!("with the secret \"{}\", {rule}", given.name()),
                None => rule,
            },
            facts: facts.into(),
            begin: Instant::now(),
            status: Cell::new(0),
            sent: Cell::new(0),
            received: Cell::new(0),
        });
        let (body, _room) = match content {
            Content::Passing(body) => {
                (Either::Left(Passed::new(body, Direction::Out, Rc::clone(&record))), None)
            }
            Content::Whole(Whole { bytes, read, room }) => {
                let traffic = &self.way.traffic;
                traffic.moved(Direction::Out, read);
                record.sent.set(read);
                (Either::Right(Full::new(bytes)), Some(room))
            }
        };
        let sent = self.send(Request::from_parts(outgoing, body)).await;
        let answer = sent.map_err(|error| Refusal::host(&chain(&error)))?;
        if given.is_some_and(|given| given.is_told(answer.headers())) {
            let words = "the host's answer tells the secret in its head".to_owned();
            self.way.gate.tell(self.way.agent, "secret-denied", format!("{shown}: {words}"));
            return Err(Refusal { status: StatusCode::BAD_GATEWAY, kind: "", words });
        }
        self.pass_back(answer, becomes, on_guest, record)
    }

    /// The host's answer for the agent.
    fn pass_back(
        &self,
        mut answer: Response<Incoming>,
        becomes: Becomes,
        on_guest: Option<OnUpgrade>,
        record: Rc<Record>,
    ) -> Result<Answer, Refusal> {
        record.status.set(answer.status().as_u16());
        let switches = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        let on_outside = switches.then(|| hyper::upgrade::on(&mut answer));
        strip(answer.headers_mut());
        match (becomes, on_guest, on_outside) {
            (_, _, None) => {}
            (Becomes::WebSocket, Some(guest), Some(outside)) => {
                make_websocket(answer.headers_mut());
                self.tunnel.replace(Some((guest, outside)));
            }
            (_, _, Some(_)) => return Err(Refusal::host("it changes the protocol unasked")),
        }
        let (mut head, body) = answer.into_parts();
        // The version is the agent's connection's own.
        head.version = Version::default();
        let body = Passed::new(body, Direction::Back, record);
        Ok(Response::from_parts(head, Either::Left(body)))
    }

    /// The secret of a request's rule.
    async fn given(
        &self,
        credential: Credential,
        head: &Parts,
        shown: &str,
    ) -> Result<Given, Refusal> {
        let denied = |words: &str| Refusal {
            status: StatusCode::FORBIDDEN,
            kind: "secret-denied",
            words: words.to_owned(),
        };
        if !self.tls {
            return Err(denied("the rule has a secret, which is sent over TLS alone"));
        }
        if head.method == Method::TRACE {
            return Err(denied("the rule has a secret, and TRACE asks for it back"));
        }
        let Way { gate, agent, .. } = &self.way;
        let opener = gate.opener().ok_or_else(|| Refusal::host("there are no secrets"))?;
        let secret = opener.secrets.get(&credential.secret).await.map_err(|error| {
            // Why, is for the operator.
            gate.tell(*agent, "secret-failed", format!("{shown}: {}", chain(&error)));
            let words = format!("the secret \"{}\" can't be read", credential.secret);
            Refusal { status: StatusCode::BAD_GATEWAY, kind: "", words }
        })?;
        Ok(Given::new(credential, secret, opener.secrets.bodies(*agent)))
    }

    /// Whether it may be passed on.
    fn judge(&self, head: &Parts) -> Result<Allowed, Refusal> {
        let Way { gate, agent, name, port, .. } = &self.way;
        let refused = |status, words: String| Refusal { status, kind: "egress-denied", words };
        let policy = gate.policy(*agent);
        let policy = policy
            .as_ref()
            .ok_or_else(|| refused(StatusCode::FORBIDDEN, "there is no such agent".to_owned()))?;
        let becomes = check(head, (name, *port), policy.looks_at(name, *port))
            .map_err(|words| refused(StatusCode::BAD_REQUEST, words.to_owned()))?;
        let asked = Asked {
            method: head.method.as_str(),
            path: head.uri.path(),
            websocket: becomes == Becomes::WebSocket,
        };
        match policy.judge(name, *port, asked) {
            judged @ (Judgement::Allowed(_) | Judgement::Observed) => {
                let credential = policy.credential(name, *port, asked).cloned();
                let observed = judged == Judgement::Observed;
                let facts = self.facts(asked, observed);
                Ok(Allowed { becomes, facts, rule: judged.words(), credential })
            }
            judged @ Judgement::Unclear(_) => Err(refused(StatusCode::BAD_REQUEST, judged.words())),
            judged => Err(refused(StatusCode::FORBIDDEN, judged.words())),
        }
    }

    /// What rules are learned from. A path that is not whole is none.
    fn facts(&self, asked: Asked<'_>, observed: bool) -> Facts {
        let mut facts = Facts::from([
            ("host", self.way.name.as_str().into()),
            ("port", self.way.port.into()),
            ("method", asked.method.chars().take(MAX_SHOWN_METHOD).collect::<String>().into()),
            ("websocket", asked.websocket.into()),
            ("observed", observed.into()),
        ]);
        if asked.path.len() <= MAX_SHOWN_PATH {
            facts.insert("path", asked.path.into());
        }
        facts
    }

    /// The head as the host gets it.
    fn outgoing(&self, mut head: Parts, becomes: Becomes) -> Result<Parts, Refusal> {
        strip(&mut head.headers);
        // The answer to it is given here, when the host takes the body.
        head.headers.remove(EXPECT);
        if becomes == Becomes::WebSocket {
            make_websocket(&mut head.headers);
        }
        if let Sender::One(_) = self.sender {
            head.version = Version::HTTP_11;
            let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
            head.uri = path.parse::<Uri>().map_err(|_| Refusal {
                status: StatusCode::BAD_REQUEST,
                kind: "egress-denied",
                words: "its path is none".to_owned(),
            })?;
        }
        Ok(head)
    }

    async fn send(&self, request: Request<Outgoing>) -> hyper::Result<Response<Incoming>> {
        match &self.sender {
            Sender::One(sender) => {
                let sent = {
                    let mut sender = sender.lock().await;
                    sender.ready().await?;
                    sender.send_request(request)
                };
                sent.await
            }
            Sender::Two(sender) => {
                let mut sender = sender.clone();
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// An answer of ours, for whoever reads it in the agent.
fn plain(status: StatusCode, words: &str) -> Answer {
    let words = match status {
        StatusCode::BAD_GATEWAY => format!("cloister: {words}\n"),
        _ => format!("cloister: denied: {words}\n"),
    };
    let mut answer = Response::new(Either::Right(Full::new(Bytes::from(words))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}
