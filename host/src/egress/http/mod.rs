//! Streams whose requests are looked at: what is TLS is opened by the team's own authority and closed
//! again towards the host, whose certificate is verified; each request is decided on its own.
//!
//! What an agent sends is never passed on as it came: it is read by `hyper` and written anew, so that what
//! was decided about and what the host reads can't differ. Both sides speak the same version of HTTP,
//! which the host chooses, so that requests, answers and their ends correspond one to one.

mod body;

mod exchange;

mod fields;

mod given;

mod prefixed;

mod secret;

use std::os::fd::AsFd as _;
use std::pin::{Pin, pin};
use std::rc::Rc;

use cloister_protocol::egress::CONNECTED;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use super::authority::{Authority, AuthorityError};
use super::gate::Gate;
use super::limits::{
    HANDSHAKE_LIMIT, LINGER_LIMIT, MAX_CONCURRENT, MAX_FIELDS, MAX_REQUEST_HEAD, REQUEST_LIMIT,
};
use super::relay::{Direction, First, RelayError, Traffic, idle, inspect, pump};
use super::resolve::Resolver;
use super::secrets::Secrets;
use super::trust::Trust;
use exchange::{Exchange, Sender};
use prefixed::Prefixed;

use crate::secrets::Store;

/// What streams are opened with.
#[derive(Debug)]
pub struct Opener {
    /// Signs for hosts, towards agents.
    pub(crate) authority: Authority,
    /// Whom hosts are held against.
    pub(crate) trust: Trust,
    /// What rules give to requests.
    pub(crate) secrets: Secrets,
}

impl Opener {
    /// Of a team's authority, whom hosts are held against, and where the secrets are that rules name; token servers of
    /// these are found by `resolver`.
    #[must_use]
    pub fn new(authority: Authority, trust: Trust, store: Store, resolver: &Resolver) -> Self {
        let secrets = Secrets::of(store, resolver, &trust);
        Self { authority, trust, secrets }
    }
}

/// Why a stream ended before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// As a stream that is not looked into.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// The client does not finish its TLS handshake. Its program may not trust the team's authority.
    #[error("the TLS handshake with the agent's client failed")]
    Client(#[source] std::io::Error),
    /// The host does not, or is not who it should be.
    #[error("the TLS handshake with the host failed")]
    Host(#[source] std::io::Error),
    /// One of them took too long.
    #[error("a TLS handshake took more than {} s", HANDSHAKE_LIMIT.as_secs())]
    HandshakeTimedOut,
    /// There is no certificate for it.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// What was sent is no HTTP.
    #[error("HTTP broke off")]
    Http(#[source] hyper::Error),
    /// No request came.
    #[error("no request came within {} s", REQUEST_LIMIT.as_secs())]
    NoRequest,
    /// A team whose streams are looked into has what they are opened with.
    #[error("nothing to open it with")]
    NoOpener,
}

impl From<std::io::Error> for OpenError {
    fn from(error: std::io::Error) -> Self {
        Self::Relay(error.into())
    }
}

impl OpenError {
    /// Whether it was stopped by a rule, and not by a fault or by time.
    pub(crate) const fn is_denial(&self) -> bool {
        matches!(self, Self::Relay(error) if error.is_denial())
    }
}

/// Where a stream goes, and whose it is.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) gate: Rc<Gate>,
    pub(crate) agent: usize,
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) traffic: Rc<Traffic>,
}

/// Carries the requests of one stream to its end.
pub(crate) async fn serve(
    way: Way,
    mut guest: UnixStream,
    outside: TcpStream,
) -> Result<(), OpenError> {
    guest.write_all(&[CONNECTED]).await?;
    let first = inspect(&mut guest, &way.name, way.port, true).await?;
    let (bytes, tls) = match first {
        First::Tls(bytes) => (bytes, true),
        First::Plain(bytes) => (bytes, false),
        First::Nothing => return Ok(()),
    };
    let kept = UnixStream::from_std(guest.as_fd().try_clone_to_owned()?.into())?;
    let guest = Prefixed::new(bytes, guest);
    if tls {
        open(way, guest, outside).await?;
    } else {
        one(way, guest, outside, false).await?;
    }
    linger(kept).await;
    Ok(())
}

/// Waits for the agent's own end after the last answer: a stream that is closed before would be reset, and what the
/// agent has not read yet would be lost.
async fn linger(mut guest: UnixStream) {
    // One that has gone needs no end.
    guest.shutdown().await.ok();
    let mut buffer = [0; 4096];
    let drained = async { while guest.read(&mut buffer).await.unwrap_or(0) > 0 {} };
    timeout(LINGER_LIMIT, drained).await.ok();
}

/// Opens a TLS stream.
async fn open(way: Way, guest: Prefixed, outside: TcpStream) -> Result<(), OpenError> {
    let gate = Rc::clone(&way.gate);
    let opener = gate.opener().ok_or(OpenError::NoOpener)?;
    let limited = |_| OpenError::HandshakeTimedOut;
    let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), guest);
    let start = timeout(HANDSHAKE_LIMIT, acceptor).await.map_err(limited)?;
    let start = start.map_err(OpenError::Client)?;
    let known = |protocol: &&[u8]| [H2, HTTP_11].contains(protocol);
    let offered = start.client_hello().alpn();
    let chooses = offered.is_some();
    let offered = offered.into_iter().flatten().filter(known).map(<[u8]>::to_vec).collect();
    let name = ServerName::try_from(way.name.clone())
        .map_err(|error| OpenError::Host(std::io::Error::other(error)))?;
    let connector = TlsConnector::from(opener.trust.config(offered)).connect(name, outside);
    let outside = timeout(HANDSHAKE_LIMIT, connector).await.map_err(limited)?;
    let outside = outside.map_err(OpenError::Host)?;
    let chosen = outside.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let two = chosen.as_deref() == Some(H2);
    let protocol = chooses.then_some(chosen.as_deref().unwrap_or(HTTP_11));
    let config = opener.authority.config(&way.name, protocol)?;
    let guest = timeout(HANDSHAKE_LIMIT, start.into_stream(config)).await.map_err(limited)?;
    let guest = guest.map_err(OpenError::Client)?;
    if two { self::two(way, guest, outside).await } else { one(way, guest, outside, true).await }
}

const H2: &[u8] = b"h2";
const HTTP_11: &[u8] = b"http/1.1";

/// A stream of bytes in both directions.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// HTTP/1.1.
async fn one(
    way: Way,
    guest: impl Stream,
    outside: impl Stream,
    tls: bool,
) -> Result<(), OpenError> {
    let (sender, client) = hyper::client::conn::http1::Builder::new()
        .max_header_size(MAX_REQUEST_HEAD)
        .max_headers(MAX_FIELDS)
        .handshake(TokioIo::new(outside))
        .await
        .map_err(OpenError::Http)?;
    let exchange = Rc::new(Exchange::new(way, tls, Sender::One(sender.into())));
    let service = {
        let exchange = Rc::clone(&exchange);
        service_fn(move |request| Rc::clone(&exchange).answer(request))
    };
    let server = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_LIMIT)
        .max_header_size(MAX_REQUEST_HEAD)
        .max_headers(MAX_FIELDS)
        .half_close(true)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(guest), service)
        .with_upgrades();
    let server = pin!(server);
    drive(server, client.with_upgrades(), |server| server.graceful_shutdown(), &exchange).await?;
    let Some((guest, outside)) = exchange.take_tunnel() else { return Ok(()) };
    // Both were promised by the answer that made it a WebSocket.
    let guest = guest.await.map_err(OpenError::Http)?;
    let outside = outside.await.map_err(OpenError::Http)?;
    tunnel(TokioIo::new(guest), TokioIo::new(outside), &exchange.way.traffic).await
}

/// HTTP/2.
async fn two(way: Way, guest: impl Stream, outside: impl Stream) -> Result<(), OpenError> {
    let head = u32::try_from(MAX_REQUEST_HEAD).unwrap_or(u32::MAX);
    let (sender, client) = hyper::client::conn::http2::Builder::new(Local)
        .timer(TokioTimer::new())
        .max_header_list_size(head)
        .handshake(TokioIo::new(outside))
        .await
        .map_err(OpenError::Http)?;
    let exchange = Rc::new(Exchange::new(way, true, Sender::Two(sender)));
    let service = {
        let exchange = Rc::clone(&exchange);
        service_fn(move |request| Rc::clone(&exchange).answer(request))
    };
    let server = hyper::server::conn::http2::Builder::new(Local)
        .timer(TokioTimer::new())
        .max_header_list_size(head)
        .max_concurrent_streams(MAX_CONCURRENT)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(guest), service);
    let server = pin!(server);
    drive(server, client, |server| server.graceful_shutdown(), &exchange).await
}

/// Runs both sides. When the host has ended, the agent's side ends after the answer that is under way.
async fn drive<S: Future<Output = hyper::Result<()>>>(
    mut server: Pin<&mut S>,
    client: impl Future<Output = hyper::Result<()>>,
    shut_down: impl Fn(Pin<&mut S>),
    exchange: &Exchange,
) -> Result<(), OpenError> {
    let mut client = pin!(client);
    let mut first = pin!(sleep(REQUEST_LIMIT));
    let mut idle = pin!(idle(&exchange.way.traffic));
    let (mut served, mut gone, mut waited, mut told) = (false, false, false, false);
    loop {
        tokio::select! {
            result = &mut server, if !served => {
                result.map_err(OpenError::Http)?;
                served = true;
            }
            // Why the host went away is told by the request that it did not answer.
            _result = &mut client, if !gone => {
                gone = true;
                if !served {
                    shut_down(server.as_mut());
                }
            }
            () = exchange.worn_out(), if !told && !served => {
                told = true;
                shut_down(server.as_mut());
            }
            () = &mut first, if !waited => {
                if exchange.requests() == 0 {
                    return Err(OpenError::NoRequest);
                }
                waited = true;
            }
            () = &mut idle => return Err(RelayError::Idle.into()),
        }
        // A tunnel is made when both have let go of their streams.
        if served && (gone || !exchange.has_tunnel()) {
            return Ok(());
        }
    }
}

/// What a WebSocket says, both ways, not looked at.
async fn tunnel(
    guest: impl Stream,
    outside: impl Stream,
    traffic: &Traffic,
) -> Result<(), OpenError> {
    let (mut from_guest, mut to_guest) = tokio::io::split(guest);
    let (mut from_outside, mut to_outside) = tokio::io::split(outside);
    let out = pump(&mut from_guest, &mut to_outside, Direction::Out, traffic);
    let back = pump(&mut from_outside, &mut to_guest, Direction::Back, traffic);
    tokio::select! {
        result = async { tokio::try_join!(out, back).map(drop) } => result?,
        () = idle(traffic) => return Err(RelayError::Idle.into()),
    }
    Ok(())
}

/// Runs what HTTP/2 does beside: on this thread.
#[derive(Clone, Copy, Debug)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

#[cfg(test)]
#[path = "http_test.rs"]
mod tests;
