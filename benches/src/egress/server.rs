//! The server that all ways lead to: HTTP/1.1 by TCP, and HTTP/1.1 and HTTP/2 in TLS, on ports that the gate passes through
//! and on ports whose requests it looks at. Its certificate is of an authority that it makes itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use cloister::egress::authority::Authority;
use hyper::body::Incoming;
use hyper::header::HeaderName;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsAcceptor;

use super::body::{Repeated, content, drain};
use super::role::Control;
use super::{HOST, names};

/// `GET` of this and a number: so many bytes.
pub const BYTES: &str = "/v1/bytes/";
/// `POST` to this: taken, and counted in [`RECEIVED`].
pub const SINK: &str = "/v1/sink";
/// How many bytes a request's body had.
pub const RECEIVED: HeaderName = HeaderName::from_static("x-received");

/// Ports without TLS and with it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ports {
    /// HTTP/1.1.
    pub plain: u16,
    /// HTTP/1.1 or HTTP/2, as the client offers.
    pub tls: u16,
}

/// Where the server is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Server {
    /// Ports that rules allow as a whole.
    pub passed: Ports,
    /// Ports whose requests rules look at.
    pub opened: Ports,
    /// Where its name is known.
    pub name_server: SocketAddr,
    /// The authority of its certificate, as PEM.
    pub authority: String,
}

/// Serves until nobody needs it any more.
///
/// # Errors
/// It can't listen.
pub fn run() -> anyhow::Result<()> {
    let (mut control, ()) = Control::take()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        control.say(&start().await?)?;
        control.ended().await
    })?;
    control.say(&())
}

async fn start() -> anyhow::Result<Server> {
    let authority = Authority::new("server")?;
    let mut config = ServerConfig::clone(&*authority.config(HOST, None)?);
    config.alpn_protocols = [&b"h2"[..], b"http/1.1"].map(<[u8]>::to_vec).to_vec();
    let tls = TlsAcceptor::from(Arc::new(config));
    let names = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let name_server = names.local_addr()?;
    tokio::spawn(names::serve(names));
    let passed = Ports { plain: listen(None).await?, tls: listen(Some(tls.clone())).await? };
    let opened = Ports { plain: listen(None).await?, tls: listen(Some(tls)).await? };
    Ok(Server { passed, opened, name_server, authority: authority.pem() })
}

/// Serves on a new port.
async fn listen(tls: Option<TlsAcceptor>) -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("can't listen")?;
    let port = listener.local_addr()?.port();
    let content = content();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).ok();
            tokio::spawn(take(stream, tls.clone(), content.clone()));
        }
    });
    Ok(port)
}

/// Answers all requests of one connection. A client that goes away is no fault.
async fn take(stream: TcpStream, tls: Option<TlsAcceptor>, content: Bytes) {
    let Some(tls) = tls else { return one(stream, content).await };
    let Ok(stream) = tls.accept(stream).await else { return };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let service = service_fn(move |request| answer(request, content.clone()));
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        server.serve_connection(TokioIo::new(stream), service).await.ok();
    } else {
        one(stream, content).await;
    }
}

async fn one(stream: impl AsyncRead + AsyncWrite + Unpin, content: Bytes) {
    let service = service_fn(move |request| answer(request, content.clone()));
    let server = hyper::server::conn::http1::Builder::new();
    server.serve_connection(TokioIo::new(stream), service).await.ok();
}

async fn answer(request: Request<Incoming>, content: Bytes) -> hyper::Result<Response<Repeated>> {
    let path = request.uri().path();
    let asked = path.strip_prefix(BYTES).and_then(|number| number.parse().ok());
    let is_sink = path == SINK;
    match (request.method(), asked) {
        (&Method::GET, Some(length)) => Ok(Response::new(Repeated::new(content, length))),
        (&Method::POST, None) if is_sink => {
            let count = drain(request.into_body()).await?;
            let mut response = Response::new(Repeated::empty());
            response.headers_mut().insert(RECEIVED, count.into());
            Ok(response)
        }
        _ => {
            let mut response = Response::new(Repeated::empty());
            *response.status_mut() = StatusCode::NOT_FOUND;
            Ok(response)
        }
    }
}
