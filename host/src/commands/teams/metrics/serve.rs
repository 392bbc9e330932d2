//! Serves the figures to who may ask: on a Unix socket of this user's, or on a loopback address.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::Mode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::super::TeamError;
use super::snapshot::Snapshot;
use super::text::text;
use crate::cli::metrics::Listen;
use crate::exit_codes;
use crate::report::{chain, tell_line};
use crate::signals::Signals;
use crate::state::StateDir;

/// Connections at once; more wait. One scraper makes one.
const MAX_CONNECTIONS: usize = 8;
/// How long a connection may take in all: every team's time to answer is within it.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);
/// How long a request's head may take.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// Longest head: a scraper's has some 300 bytes.
const MAX_HEAD: usize = 16 << 10;
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until a signal comes; its exit code.
pub(super) async fn serve(state: StateDir, place: &Listen) -> Result<u8, TeamError> {
    let mut signals = Signals::listen()
        .map_err(|source| TeamError::Setup { what: "the signal handlers", source })?;
    let listener = Listener::bind(place)
        .map_err(|error| TeamError::Told(format!("cloister: can't listen on {place}: {error}")))?;
    let place = listener.place().unwrap_or_else(|| place.clone());
    tell_line(format_args!("cloister: serves metrics on {place}, until it is interrupted"));
    let state = Rc::new(state);
    let work = LocalSet::new();
    let code = work
        .run_until(async {
            tokio::select! {
                code = signals.end() => code,
                never = listener.serve(&state) => match never {},
            }
        })
        .await;
    Ok(exit_codes::of_signal(code))
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: Removed },
}

/// A socket's file, which goes with its listener.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

impl Listener {
    fn bind(place: &Listen) -> io::Result<Self> {
        match place {
            Listen::Loopback(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(TcpListener::from_std(listener)?))
            }
            Listen::Unix(path) => {
                remove_dead(path)?;
                // Only this user may connect, from the first moment on.
                let before = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
                let listener = UnixListener::bind(path);
                rustix::process::umask(before);
                Ok(Self::Unix { listener: listener?, _file: Removed(path.clone()) })
            }
        }
    }

    /// The address, which the system may have chosen.
    fn place(&self) -> Option<Listen> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(Listen::Loopback),
            Self::Unix { .. } => None,
        }
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix { listener, .. } => Box::new(listener.accept().await?.0),
        })
    }

    /// Takes connections; never comes back.
    async fn serve(&self, state: &Rc<StateDir>) -> Infallible {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let names_count = matches!(self, Self::Tcp(_));
        loop {
            // Never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { continue };
            match self.accept().await {
                Ok(stream) => {
                    let state = Rc::clone(state);
                    tokio::task::spawn_local(async move {
                        connection(stream, state, names_count).await;
                        drop(place);
                    });
                }
                // Out of descriptors, say: what is open will end.
                Err(error) => {
                    tell_line(format_args!("cloister: can't take a connection: {error}"));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// Removes the socket of a server that was killed; an error if one serves there, or it is something else.
fn remove_dead(path: &Path) -> io::Result<()> {
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let kind = fs::symlink_metadata(path)?.file_type();
            if !std::os::unix::fs::FileTypeExt::is_socket(&kind) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            tell_line(format_args!("cloister: removes {}, which nobody serves", path.display()));
            fs::remove_file(path)
        }
        Err(error) => Err(error),
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Answers the requests of one connection.
async fn connection(stream: Box<dyn Stream>, state: Rc<StateDir>, names_count: bool) {
    let service = service_fn(move |request: Request<Incoming>| {
        let state = Rc::clone(&state);
        async move { Ok::<_, Infallible>(answer(&request, &state, names_count).await) }
    });
    let mut server = http1::Builder::new();
    // One request each, so that the limit never falls into a later one.
    server.keep_alive(false);
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(MAX_HEAD);
    let server = server.serve_connection(TokioIo::new(stream), service);
    // How a scraper's connection ends is its own business.
    timeout(CONNECTION_LIMIT, server).await.ok();
}

async fn answer(
    request: &Request<Incoming>,
    state: &StateDir,
    names_count: bool,
) -> Response<Full<Bytes>> {
    if names_count && !is_for_an_address(request.headers().get(HOST)) {
        return told(StatusCode::FORBIDDEN, "ask by an address, or as localhost\n");
    }
    if request.uri().path() != "/metrics" {
        return told(StatusCode::NOT_FOUND, "figures are at /metrics\n");
    }
    if request.method() != Method::GET {
        let mut response = told(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    match Snapshot::take(state).await {
        Ok(snapshot) => {
            let mut response = told(StatusCode::OK, text(snapshot));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS));
            response
        }
        Err(error) => {
            tell_line(format_args!("cloister: no metrics: {}", chain(&error)));
            told(StatusCode::INTERNAL_SERVER_ERROR, "the state can't be read\n")
        }
    }
}

fn told(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}

/// Whether a request names the server by an address or as localhost. A page in this user's browser could have a name of
/// its own lead here, and then read what it gets.
fn is_for_an_address(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host.and_then(|host| host.to_str().ok()) else { return false };
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_anybody_can_have_are_refused() {
        let is_taken = |host: &str| is_for_an_address(HeaderValue::from_str(host).ok().as_ref());
        for host in ["127.0.0.1", "127.0.0.1:9464", "[::1]:9464", "localhost", "localhost:1"] {
            assert!(is_taken(host), "{host}");
        }
        for host in
            ["evil.test", "evil.test:9464", "localhost.evil.test", "127.0.0.1.evil.test", ""]
        {
            assert!(!is_taken(host), "{host}");
        }
        assert!(!is_for_an_address(None));
    }

    #[test]
    fn a_dead_socket_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        remove_dead(&path).unwrap();
        let alive = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(remove_dead(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(alive);
        remove_dead(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "a file").unwrap();
        assert!(remove_dead(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    }
}
