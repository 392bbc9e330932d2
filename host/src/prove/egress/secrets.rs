//! Secrets: where an agent tries to have one put in, sent, or told back that is not for it.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ground::{Ground, HOST, VALUE};
use super::requests::filled;
use super::{Attack, Row, by};
use crate::prove::report::Seen;
use crate::secrets::Kept;

const MARK: &str = "__cloister_secret_token__";
const ELSEWHERE: &str =
    "a placeholder is looked for in every request, and stops one that it is not for";
const PLACE: &str = "a secret is put in at its rule's place and nowhere else";
const STOPPED: &str = "which is not for this request";

const fn row(
    name: &'static str,
    tries: &'static str,
    (why, by): (&'static str, &'static str),
    request: &'static str,
) -> Row {
    Row { name, tries, why, by, attack: Attack::Secret(request) }
}

/// `$P` is the secret's placeholder, `$O` another one's.
pub(super) const ROWS: &[Row] = &[
    row(
        "secret-field",
        "sends a placeholder in a field of another request",
        (ELSEWHERE, STOPPED),
        "GET /v1/x HTTP/1.1\r\n$HX: $P\r\n\r\n",
    ),
    row(
        "secret-field-name",
        "sends it as a field's name",
        (ELSEWHERE, STOPPED),
        "GET /v1/x HTTP/1.1\r\n$H$P: x\r\n\r\n",
    ),
    row(
        "secret-query",
        "sends it in the query of another request",
        (ELSEWHERE, STOPPED),
        "GET /v1/x?a=$P HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "secret-path",
        "sends it in the path of another request",
        (ELSEWHERE, STOPPED),
        "GET /v1/$P HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "secret-body",
        "sends it in the body of another request",
        (ELSEWHERE, STOPPED),
        "POST /v1/x HTTP/1.1\r\n$HContent-Length: 25\r\n\r\n$P",
    ),
    row(
        "secret-chunks",
        "sends it in two chunks of a body",
        (ELSEWHERE, STOPPED),
        "POST /v1/x HTTP/1.1\r\n$HTransfer-Encoding: chunked\r\n\r\n5\r\n__clo\r\n14\r\nister_secret_token__\r\n0\r\n\r\n",
    ),
    row(
        "secret-other",
        "sends another secret's placeholder with a request that has one",
        (PLACE, STOPPED),
        "GET /secret/placeholder HTTP/1.1\r\n$HX: $O\r\n\r\n",
    ),
    row(
        "secret-other-place",
        "has a bearer secret put into another field",
        (PLACE, STOPPED),
        "GET /secret/bearer HTTP/1.1\r\n$HX: $P\r\n\r\n",
    ),
    row(
        "secret-other-parameter",
        "has a secret of the query put into another parameter",
        (PLACE, STOPPED),
        "GET /secret/query?other=$P HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "secret-compressed",
        "hides a placeholder in a compressed body",
        (PLACE, "the body is compressed"),
        "POST /secret/placeholder HTTP/1.1\r\n$HContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
    ),
    row(
        "secret-trace",
        "asks for a request back with its secret (TRACE)",
        ("a request with a secret is no TRACE", "TRACE"),
        "TRACE /secret/placeholder HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "secret-method",
        "has a secret put into a request of another method",
        ("a secret is for the requests of its rule", "no rule allows"),
        "POST /secret/bearer HTTP/1.1\r\n$HContent-Length: 0\r\n\r\n",
    ),
    row(
        "secret-path-alike",
        "has a secret put into a request of another path by its encoding",
        ("a path has one meaning or none", "`.` or `..`"),
        "GET /secret/bearer/%2e%2e/other HTTP/1.1\r\n$H\r\n",
    ),
    Row {
        name: "secret-line-end",
        tries: "puts a field of its own into a request by a line end in a secret",
        why: "a secret's value is one line, and checked when it is read",
        by: "can't be used",
        attack: Attack::BrokenSecret,
    },
    Row {
        name: "secret-told-back",
        tries: "has a host tell the secret back in its answer's head",
        why: "an answer whose head has the value does not reach the agent",
        by: "tells the secret in its head",
        attack: Attack::ToldBack,
    },
];

/// A stream of the attacker that is opened.
async fn open(ground: &Ground) -> Option<TlsStream<UnixStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ground.trusted.as_bytes()).ok()?).ok()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.ok()?.with_root_certificates(roots).with_no_client_auth();
    let stream = ground.ask(0, HOST, ground.port).await?;
    let name = ServerName::try_from(HOST).ok()?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()
}

/// Says a request on an opened stream: what came back.
async fn say(ground: &Ground, request: &str) -> Option<String> {
    let request = filled(request).replace("$P", MARK).replace("$O", "__cloister_secret_other__");
    let request = request.replacen("\r\nHost:", "\r\nConnection: close\r\nHost:", 1);
    Some(ground.say(open(ground).await?, request.as_bytes()).await)
}

const NOT_OPENED: &str = "the stream, which is allowed, was not opened";

pub(super) async fn attack(row: &Row, ground: &Ground, request: &str) -> Seen {
    let Some(answer) = say(ground, request).await else { return Seen::not_run(NOT_OPENED) };
    let heard = ground.heard();
    let whole = heard.contains(MARK) || heard.contains("ister_secret_");
    if whole || heard.contains(VALUE) || answer.starts_with("HTTP/1.1 200") {
        return Seen::new(false, "the server got the request with what it may not have");
    }
    by(row, ground)
}

pub(super) async fn broken(row: &Row, ground: &Ground) -> Seen {
    let file = ground.folder.join("broken-secret");
    let kept = std::fs::write(&file, "value\r\nX-Own: 1\n");
    let kept = kept.is_ok() && ground.store.set("token", &Kept::File(file)).is_ok();
    if !kept {
        return Seen::not_run("no such secret could be kept");
    }
    let request = "GET /secret/bearer HTTP/1.1\r\n$H\r\n";
    if say(ground, request).await.is_none() {
        return Seen::not_run(NOT_OPENED);
    }
    if !ground.heard().is_empty() {
        return Seen::new(false, "the server got a request");
    }
    by(row, ground)
}

pub(super) async fn told_back(row: &Row, ground: &Ground) -> Seen {
    ground.answer.replace(format!("X-Back: {VALUE}\r\n"));
    let request = "GET /secret/bearer HTTP/1.1\r\n$H\r\n";
    let Some(answer) = say(ground, request).await else { return Seen::not_run(NOT_OPENED) };
    if !ground.heard().contains(VALUE) {
        return Seen::not_run("the server did not get the secret, which is for it");
    }
    if answer.contains(VALUE) {
        return Seen::new(false, "the agent got the secret");
    }
    by(row, ground)
}
