//! The client, the same for every way: makes connections, sends requests, reads answers to their ends.

use std::cell::Cell;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use cloister_protocol::egress::{CONNECTED, Head, Target};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::HOST as HOST_FIELD;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::body::{Repeated, content, drain};
use super::gate::AGENTS;
use super::server::{BYTES, RECEIVED, SINK};
use super::{Address, HOST, Place, Protocol, Way};

/// What clients have in common.
#[derive(Debug)]
pub struct Clients {
    roots: Arc<RootCertStore>,
    content: Bytes,
    /// Whose the next stream is.
    agent: Cell<u32>,
}

/// A client of one way.
#[derive(Debug)]
pub struct Client<'a> {
    clients: &'a Clients,
    address: &'a Address,
    protocol: Protocol,
    /// The protocols that it offers follow from `protocol`.
    tls: Arc<ClientConfig>,
}

/// A connection that takes one request after the other.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    driver: JoinHandle<hyper::Result<()>>,
    authority: String,
    content: Bytes,
}

#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Repeated>),
    Two(http2::SendRequest<Repeated>),
}

/// A stream of bytes in both directions.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Clients {
    /// Clients that trust these authorities, each a certificate as PEM.
    ///
    /// # Errors
    /// One is none.
    pub fn new(authorities: &[&str]) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
        }
        Ok(Self { roots: Arc::new(roots), content: content(), agent: Cell::new(0) })
    }

    /// One that speaks this to that place.
    ///
    /// # Errors
    /// TLS can't be set up.
    pub fn of<'a>(&'a self, place: &'a Place, protocol: Protocol) -> anyhow::Result<Client<'a>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        // Every handshake is a whole one.
        tls.resumption = Resumption::disabled();
        let (address, offered) = match protocol {
            Protocol::Tcp => (&place.plain, &b"http/1.1"[..]),
            Protocol::Tls => (&place.tls, &b"http/1.1"[..]),
            Protocol::Http2 => (&place.tls, &b"h2"[..]),
        };
        tls.alpn_protocols = vec![offered.to_vec()];
        Ok(Client { clients: self, address, protocol, tls: Arc::new(tls) })
    }

    fn next_agent(&self) -> u32 {
        let agent = self.agent.get();
        self.agent.set((agent + 1) % AGENTS);
        agent
    }
}

impl Client<'_> {
    /// A new connection.
    ///
    /// # Errors
    /// The way does not lead to the server.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = self.stream().await?;
        let (sender, driver) = match self.protocol {
            Protocol::Tcp => one(stream).await?,
            Protocol::Tls => one(self.secure(stream).await?).await?,
            Protocol::Http2 => two(self.secure(stream).await?).await?,
        };
        let authority = format!("{HOST}:{}", self.address.port);
        let content = self.clients.content.clone();
        Ok(Connection { sender, driver, authority, content })
    }

    async fn stream(&self) -> anyhow::Result<Box<dyn Stream>> {
        let socket = match &self.address.way {
            Way::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                return Ok(Box::new(stream));
            }
            Way::Gate(socket) => socket,
        };
        let target = Target::Name(HOST.to_owned());
        let head = Head { agent: self.clients.next_agent(), target, port: self.address.port };
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(&head.encode()?).await?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await.context("the gate refuses the stream")?;
        ensure!(answer == [CONNECTED], "the gate answers something else");
        Ok(Box::new(stream))
    }

    async fn secure(
        &self,
        stream: Box<dyn Stream>,
    ) -> anyhow::Result<tokio_rustls::client::TlsStream<Box<dyn Stream>>> {
        let name = ServerName::try_from(HOST)?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?;
        let chosen = stream.get_ref().1.alpn_protocol();
        let offered = self.tls.alpn_protocols.first().map(Vec::as_slice);
        ensure!(chosen == offered, "another protocol was chosen than was offered");
        Ok(stream)
    }
}

type Handshaken = (Sender, JoinHandle<hyper::Result<()>>);

async fn one(stream: impl Stream + 'static) -> anyhow::Result<Handshaken> {
    let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    Ok((Sender::One(sender), tokio::spawn(driver)))
}

async fn two(stream: impl Stream + 'static) -> anyhow::Result<Handshaken> {
    let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    Ok((Sender::Two(sender), tokio::spawn(driver)))
}

impl Connection {
    /// Asks for so many bytes, and reads them.
    ///
    /// # Errors
    /// They do not come, or others.
    pub async fn download(&mut self, bytes: u64) -> anyhow::Result<()> {
        let path = format!("{BYTES}{bytes}");
        let response = self.send(Method::GET, &path, Repeated::empty()).await?;
        let count = drain(response.into_body()).await?;
        ensure!(count == bytes, "{count} bytes came in place of {bytes}");
        Ok(())
    }

    /// Sends so many bytes, and waits until the server has them.
    ///
    /// # Errors
    /// It does not take them.
    pub async fn upload(&mut self, bytes: u64) -> anyhow::Result<()> {
        let body = Repeated::new(self.content.clone(), bytes);
        let response = self.send(Method::POST, SINK, body).await?;
        let count = response.headers().get(RECEIVED).and_then(|count| count.to_str().ok());
        ensure!(count == Some(bytes.to_string().as_str()), "{count:?} bytes arrived of {bytes}");
        drain(response.into_body()).await?;
        Ok(())
    }

    /// Closes it, and waits until it is.
    pub async fn close(self) {
        drop(self.sender);
        // The other side may close it in any way now.
        self.driver.await.map(Result::ok).ok();
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Repeated,
    ) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder().method(method);
        let response = match &mut self.sender {
            Sender::One(sender) => {
                let request = request.uri(path).header(HOST_FIELD, &self.authority).body(body)?;
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Two(sender) => {
                let uri = format!("https://{}{path}", self.authority);
                sender.ready().await?;
                sender.send_request(request.uri(uri).body(body)?).await?
            }
        };
        let status = response.status();
        ensure!(status == StatusCode::OK, "the answer is {status}");
        Ok(response)
    }
}
