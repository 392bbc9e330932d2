//! One request to a token server: over verified TLS, to the operator's own address, and to no other.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT,
};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::TokenError;
use super::answer::Answer;
use crate::egress::connect::first_of;
use crate::egress::hidden;
use crate::egress::limits::{MAX_FIELDS, MAX_TOKEN_ANSWER, TOKEN_LIMIT};
use crate::egress::percent::quoted;
use crate::egress::resolve::Resolver;
use crate::egress::trust::Trust;
use crate::secrets::grant::{Endpoint, Grant, Host};

/// Asks token servers.
pub(super) struct Client {
    pub(super) resolver: Resolver,
    pub(super) trust: Trust,
}

impl Client {
    /// Asks for an access token.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn ask(&self, grant: &Grant) -> Result<Answer, TokenError> {
        let endpoint = Endpoint::parse(&grant.endpoint);
        let endpoint = endpoint.map_err(|(what, _)| TokenError::Endpoint(what))?;
        let asked = timeout(TOKEN_LIMIT, self.exchange(&endpoint, grant));
        asked.await.map_err(|_| TokenError::TimedOut)?
    }

    async fn exchange(&self, endpoint: &Endpoint, grant: &Grant) -> Result<Answer, TokenError> {
        let addresses = match &endpoint.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => self.resolver.addresses(name).await.map_err(TokenError::Resolve)?,
        };
        let connected = first_of(&addresses, endpoint.port).await;
        let (stream, _) = connected.map_err(TokenError::Connect)?;
        let request = request(endpoint, grant)?;
        if !endpoint.tls {
            return said(stream, request).await;
        }
        let name = match &endpoint.host {
            Host::Address(address) => ServerName::IpAddress((*address).into()),
            Host::Name(name) => ServerName::try_from(name.clone())
                .map_err(|error| TokenError::Tls(std::io::Error::other(error)))?,
        };
        let config = self.trust.config(vec![b"http/1.1".to_vec()]);
        let stream = TlsConnector::from(config).connect(name, stream).await;
        said(stream.map_err(TokenError::Tls)?, request).await
    }
}

/// Sends a request, and reads the answer.
async fn said(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Answer, TokenError> {
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_header_size(MAX_TOKEN_ANSWER)
        .max_headers(MAX_FIELDS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(TokenError::Http)?;
    // It ends with this function at the latest. What is wrong with it, the request tells.
    let mut driven = JoinSet::new();
    driven.spawn_local(async move { connection.await.ok() });
    let answer = sender.send_request(request).await.map_err(TokenError::Http)?;
    let status = answer.status().as_u16();
    let body = whole(answer).await?;
    Answer::read(status, &body)
}

/// The body of an answer.
async fn whole(answer: Response<Incoming>) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    // Room for all of it from the beginning: growing would leave copies behind.
    let mut whole = Zeroizing::new(Vec::with_capacity(MAX_TOKEN_ANSWER));
    let mut body = Limited::new(answer.into_body(), MAX_TOKEN_ANSWER);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| TokenError::Body)?;
        if let Some(data) = frame.data_ref() {
            whole.extend_from_slice(data);
        }
    }
    Ok(whole)
}

/// The request for a grant (sections 2.3.1, 4.4.2 and 6).
fn request(endpoint: &Endpoint, grant: &Grant) -> Result<Request<Full<Bytes>>, TokenError> {
    let secret = grant.client_secret.as_deref();
    let mut form = Form::default();
    match grant.refresh_token.as_deref() {
        Some(refresh) => {
            form.add("grant_type", b"refresh_token");
            form.add("refresh_token", refresh);
        }
        None => form.add("grant_type", b"client_credentials"),
    }
    if !grant.scope.is_empty() {
        form.add("scope", grant.scope.as_bytes());
    }
    let mut basic = None;
    match secret {
        Some(secret) if !grant.in_body => {
            let pair = [quoted(grant.client.as_bytes()).as_str(), ":", &quoted(secret)].concat();
            let code = Zeroizing::new(STANDARD.encode(&*Zeroizing::new(pair)));
            basic = Some(Zeroizing::new([b"Basic ", code.as_bytes()].concat()));
        }
        _ => form.add("client_id", grant.client.as_bytes()),
    }
    if let Some(secret) = secret.filter(|_| grant.in_body) {
        form.add("client_secret", secret);
    }
    let unfit = |_| TokenError::Endpoint("the address of the token server is no URL");
    let mut request = Request::post(endpoint.path.as_str())
        .header(HOST, &endpoint.authority)
        .header(USER_AGENT, "cloister")
        .header(ACCEPT, "application/json")
        .header(CACHE_CONTROL, "no-store")
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Full::new(hidden::bytes(form.0)))
        .map_err(unfit)?;
    if let Some(basic) = basic {
        let value: HeaderValue = hidden::field(basic)
            .map_err(|_| TokenError::Endpoint("the client's secret makes no field"))?;
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    Ok(request)
}

/// A form that is overwritten when it goes.
#[derive(Default)]
struct Form(Zeroizing<Vec<u8>>);

impl Form {
    fn add(&mut self, key: &str, value: &[u8]) {
        let value = quoted(value);
        // By hand, so that what it grows out of is overwritten.
        let room = self.0.len().saturating_add(key.len() + value.len() + 2);
        let mut whole = Zeroizing::new(Vec::with_capacity(room));
        whole.extend_from_slice(&self.0);
        if !whole.is_empty() {
            whole.push(b'&');
        }
        for part in [key, "=", &value] {
            whole.extend_from_slice(part.as_bytes());
        }
        self.0 = whole;
    }
}
