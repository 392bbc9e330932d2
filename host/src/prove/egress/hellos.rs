//! First messages of TLS clients that name another server than the stream goes to, or none, or hide it.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::ground::{Ground, OPEN};
use super::{Attack, Row, judge};
use crate::prove::report::Seen;

/// What is sent.
#[derive(Clone, Copy)]
pub(super) enum Hello {
    /// Another server's name.
    Other,
    /// None.
    Nameless,
    /// The right one, and another behind it.
    Twice,
    /// The right one, and an encrypted one beside it.
    Encrypted,
    /// More than one has.
    Long,
    /// Half of one, and the end.
    Half,
    /// Nothing.
    Silent,
}

const NAMED: &str = "a client that was allowed by name must name that server in its first message, and no byte gets out before";

const fn row(name: &'static str, tries: &'static str, by: &'static str, hello: Hello) -> Row {
    Row { name, tries, why: NAMED, by, attack: Attack::Hello(hello) }
}

pub(super) const ROWS: &[Row] = &[
    row(
        "sni-other",
        "asks an allowed host for another server by TLS",
        "names the server neighbour.prove.test",
        Hello::Other,
    ),
    row(
        "sni-none",
        "asks an allowed host for no server by TLS",
        "names no server",
        Hello::Nameless,
    ),
    row(
        "sni-twice",
        "names two servers, the allowed one first",
        "first message makes no sense",
        Hello::Twice,
    ),
    row(
        "sni-encrypted",
        "hides the server that it names (ECH) behind the allowed one",
        "is encrypted (ECH)",
        Hello::Encrypted,
    ),
    row("hello-long", "begins TLS with more than any client sends", "has more than", Hello::Long),
    row(
        "hello-half",
        "begins TLS and ends in the middle",
        "first message makes no sense",
        Hello::Half,
    ),
    Row {
        name: "slow-request",
        tries: "holds an opened host's stream without a word",
        why: "a client of a host whose requests are looked at has 15 s for its first byte",
        by: "the client's first message took more than 15 s",
        attack: Attack::Hello(Hello::Silent),
    },
];

pub(super) async fn attack(row: &Row, ground: &Ground, hello: Hello) -> Seen {
    let to = if matches!(hello, Hello::Silent) { super::ground::HOST } else { OPEN };
    let Some(mut stream) = ground.ask(0, to, ground.port).await else {
        return Seen::not_run("the stream, which is allowed, was not made");
    };
    if matches!(hello, Hello::Silent) {
        use tokio::io::AsyncReadExt as _;
        // Its end comes by itself.
        let came = stream.read(&mut [0]).await.unwrap_or(0);
        if came > 0 {
            return Seen::unexpected("something came unasked");
        }
        let _answer = ground.say(stream, b"").await;
        return judge(row, ground);
    }
    let Some(bytes) = bytes(hello) else { return Seen::not_run("no hello could be made") };
    let _answer = ground.say(stream, &bytes).await;
    judge(row, ground)
}

/// What a real client sends first, and what becomes of it here.
fn bytes(hello: Hello) -> Option<Vec<u8>> {
    match hello {
        Hello::Other => real(Some("neighbour.prove.test")),
        Hello::Nameless => real(None),
        Hello::Twice => {
            let name = b"neighbour.prove.test";
            let mut list = vec![0, 23, 0, 0, 20];
            list.extend(name);
            with_extension(real(Some(OPEN))?, 0, &list)
        }
        Hello::Encrypted => with_extension(real(Some(OPEN))?, 0xfe0d, &[0; 40]),
        Hello::Long => {
            let mut bytes = vec![0x16, 3, 1, 0x40, 0, 1, 0, 0x80, 0];
            bytes.resize(17 << 10, 0);
            // A second record, so that there is more than one can hold.
            Some(bytes)
        }
        Hello::Half => {
            let whole = real(Some(OPEN))?;
            whole.get(..whole.len() / 2).map(<[u8]>::to_vec)
        }
        Hello::Silent => Some(Vec::new()),
    }
}

fn real(name: Option<&str>) -> Option<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config =
        builder.ok()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.enable_sni = name.is_some();
    let name = ServerName::try_from(name.unwrap_or(OPEN).to_owned()).ok()?;
    let mut client = ClientConnection::new(Arc::new(config), name).ok()?;
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).ok()?;
    Some(bytes)
}

/// The same hello with one more extension at its end (RFC 8446, section 4.1.2).
fn with_extension(mut hello: Vec<u8>, kind: u16, data: &[u8]) -> Option<Vec<u8>> {
    // Heads of the record and of the message, version, random; then the session, the ciphers and the compressions.
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(*hello.get(at)?);
    at += 2 + usize::from(u16::from_be_bytes([*hello.get(at)?, *hello.get(at + 1)?]));
    at += 1 + usize::from(*hello.get(at)?);
    let more = u16::try_from(data.len()).ok()?.checked_add(4)?;
    // Lengths of the record, of the message (its lower two bytes) and of the extensions.
    for place in [3, 7, at] {
        let old = u16::from_be_bytes([*hello.get(place)?, *hello.get(place + 1)?]);
        let new = old.checked_add(more)?.to_be_bytes();
        hello.get_mut(place..place + 2)?.copy_from_slice(&new);
    }
    hello.extend(kind.to_be_bytes());
    hello.extend((more - 4).to_be_bytes());
    hello.extend(data);
    Some(hello)
}
