//! Requests that servers and the warden might read in two ways, or that ask for what no rule allows.

use super::ground::{Ground, HOST};
use super::{Attack, Row, judge};
use crate::prove::report::Seen;

const DECIDED: &str = "each request is decided by its method and path, and no rule allows this one";
const PATHS: &str = "a path has one meaning or none: what servers read differently is refused";
const ANEW: &str =
    "a request is read strictly, and written anew: what is read in two ways is refused";
const WHOM: &str = "a request names the host of its stream, once, and no other";
const BOUNDS: &str = "heads are bounded";
const BROKEN: &str = "HTTP broke off";

const fn row(
    name: &'static str,
    tries: &'static str,
    (why, by): (&'static str, &'static str),
    request: &'static str,
) -> Row {
    Row { name, tries, why, by, attack: Attack::Request(request) }
}

const fn hidden(name: &'static str, tries: &'static str, framing: &'static str) -> Row {
    let why = "a body is passed on with one length alone, and what is in it stays in it";
    Row { name, tries, why, by: "", attack: Attack::Hidden(framing) }
}

/// `$H` is the field with the right host, `$L` a long text, `$M` many fields.
pub(super) const ROWS: &[Row] = &[
    row(
        "method-other",
        "sends a method that no rule has",
        (DECIDED, "no rule allows"),
        "PUT /v1/x HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "method-small",
        "sends an allowed method in small letters",
        (DECIDED, "no rule allows"),
        "get /v1/x HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "method-override",
        "asks by a field for another method",
        (ANEW, "another method"),
        "GET /v1/x HTTP/1.1\r\n$HX-HTTP-Method-Override: DELETE\r\n\r\n",
    ),
    row(
        "path-other",
        "asks for a path that no rule has",
        (DECIDED, "no rule allows"),
        "GET /admin HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "path-override",
        "asks by a field for another path",
        (ANEW, "another path"),
        "GET /v1/x HTTP/1.1\r\n$HX-Original-URL: /admin\r\n\r\n",
    ),
    row(
        "path-dots",
        "climbs out of the allowed path by `..`",
        (PATHS, "`.` or `..`"),
        "GET /v1/../admin HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "path-dots-encoded",
        "climbs out of it by `%2e%2e`",
        (PATHS, "`.` or `..`"),
        "GET /v1/%2e%2e/admin HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "path-dots-twice",
        "climbs out of it by `%252e%252e`",
        (PATHS, "encoded twice"),
        "GET /v1/%252e%252e/admin HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "path-dots-parameter",
        "climbs out of it by `..;`",
        (PATHS, "semicolon"),
        "GET /v1/..;/admin HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "path-slashes",
        "puts two slashes into the path",
        (PATHS, "two slashes"),
        "GET /v1//admin HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "path-slash-encoded",
        "puts an encoded slash into the path",
        (PATHS, "encoded slash"),
        "GET /v1/..%2fadmin HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "path-backslash",
        "puts a backslash into the path",
        (PATHS, "backslash"),
        "GET /v1/..%5cadmin HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "path-nul",
        "ends the path early by a NUL",
        (PATHS, "control character"),
        "GET /v1/x%00/../admin HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "path-bad-encoding",
        "puts a percent sign without digits into the path",
        (PATHS, "percent sign"),
        "GET /v1/%zz HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "url-whole",
        "sends a whole URL, as to a proxy",
        (WHOM, "a whole URL"),
        "GET http://neighbour.prove.test/v1/x HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "connect",
        "asks for another connection by CONNECT",
        (WHOM, "CONNECT"),
        "CONNECT neighbour.prove.test:443 HTTP/1.1\r\nHost: neighbour.prove.test:443\r\n\r\n",
    ),
    row(
        "options-server",
        "asks about the whole server",
        (PATHS, "slash"),
        "OPTIONS * HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "host-other",
        "names another host than the stream's",
        (WHOM, "another host"),
        "GET /v1/x HTTP/1.1\r\nHost: neighbour.prove.test\r\n\r\n",
    ),
    row(
        "host-longer",
        "names a host that begins as the stream's",
        (WHOM, "another host"),
        "GET /v1/x HTTP/1.1\r\nHost: a.prove.test.evil.test\r\n\r\n",
    ),
    row(
        "host-user",
        "names the stream's host as a user",
        (WHOM, "another host"),
        "GET /v1/x HTTP/1.1\r\nHost: a.prove.test@evil.test\r\n\r\n",
    ),
    row(
        "host-port",
        "names another port than the stream's",
        (WHOM, "another host"),
        "GET /v1/x HTTP/1.1\r\nHost: a.prove.test:1\r\n\r\n",
    ),
    row(
        "host-list",
        "names two hosts in one field",
        (WHOM, "another host"),
        "GET /v1/x HTTP/1.1\r\nHost: a.prove.test, evil.test\r\n\r\n",
    ),
    row(
        "host-twice",
        "names two hosts in two fields",
        (WHOM, "more than once"),
        "GET /v1/x HTTP/1.1\r\n$HHost: evil.test\r\n\r\n",
    ),
    row("host-none", "names no host", (WHOM, "names no host"), "GET /v1/x HTTP/1.1\r\n\r\n"),
    row(
        "lengths-two",
        "gives a body two lengths",
        (ANEW, BROKEN),
        "POST /v1/x HTTP/1.1\r\n$HContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    ),
    row(
        "length-sign",
        "gives a body's length a sign",
        (ANEW, BROKEN),
        "POST /v1/x HTTP/1.1\r\n$HContent-Length: +4\r\n\r\nabcd",
    ),
    row(
        "coding-unknown",
        "names a transfer coding that only some read as chunked",
        (ANEW, BROKEN),
        "POST /v1/x HTTP/1.1\r\n$HTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    ),
    row(
        "coding-last",
        "puts another coding behind chunked",
        (ANEW, BROKEN),
        "POST /v1/x HTTP/1.1\r\n$HTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ),
    row(
        "coding-space",
        "puts a space before a field's colon",
        (ANEW, BROKEN),
        "POST /v1/x HTTP/1.1\r\n$HTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    ),
    row(
        "folding",
        "goes on with a field on the next line",
        (ANEW, BROKEN),
        "GET /v1/x HTTP/1.1\r\n$HA: b\r\n c\r\n\r\n",
    ),
    row(
        "field-nul",
        "puts a NUL into a field",
        (ANEW, BROKEN),
        "GET /v1/x HTTP/1.1\r\n$HA: b\0c\r\n\r\n",
    ),
    row(
        "version-one-zero",
        "sends no host by an older version",
        (WHOM, "names no host"),
        "GET /v1/x HTTP/1.0\r\n\r\n",
    ),
    row("version-none", "sends a request without a version", (ANEW, BROKEN), "GET /v1/x\r\n\r\n"),
    row(
        "version-two",
        "begins HTTP/2 where HTTP/1.1 is spoken",
        (ANEW, BROKEN),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ),
    row(
        "upgrade",
        "makes a tunnel of a request that no rule lets become one",
        (DECIDED, "no rule allows"),
        "GET /v1/x HTTP/1.1\r\n$HConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ),
    row(
        "upgrade-post",
        "makes a tunnel of a request with a body",
        (ANEW, "the one way there is"),
        "POST /v1/x HTTP/1.1\r\n$HConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ),
    row(
        "upgrade-two",
        "asks for two protocols, one of them cleartext HTTP/2",
        (ANEW, "the one way there is"),
        "GET /v1/x HTTP/1.1\r\n$HConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
    ),
    row(
        "large-path",
        "sends a path of 70,000 bytes",
        (BOUNDS, BROKEN),
        "GET /v1/$L HTTP/1.1\r\n$H\r\n",
    ),
    row(
        "large-field",
        "sends a field of 70,000 bytes",
        (BOUNDS, BROKEN),
        "GET /v1/x HTTP/1.1\r\n$HA: $L\r\n\r\n",
    ),
    row("many-fields", "sends 201 fields", (BOUNDS, BROKEN), "GET /v1/x HTTP/1.1\r\n$H$M\r\n"),
    row(
        "secret-plain",
        "has a secret put in where everybody on the way reads it",
        ("secrets are sent over opened TLS alone", "over TLS alone"),
        "GET /secret/bearer HTTP/1.1\r\n$H\r\n",
    ),
    hidden(
        "hidden-length",
        "hides a request in a body with a length",
        "Content-Length: $N\r\n\r\n$R",
    ),
    hidden(
        "hidden-chunked",
        "hides a request in a body of chunks",
        "Transfer-Encoding: chunked\r\n\r\n$X\r\n$R\r\n0\r\n\r\n",
    ),
    hidden(
        "hidden-both",
        "hides a request behind a length and chunks (CL.TE)",
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n$X\r\n$R\r\n0\r\n\r\n",
    ),
    hidden(
        "hidden-both-turned",
        "hides a request behind chunks and a length (TE.CL)",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n$X\r\n$R\r\n0\r\n\r\n",
    ),
    hidden(
        "hidden-line-feeds",
        "hides a request behind bare line feeds",
        "Content-Length: $N\n\n$R",
    ),
];

pub(super) fn filled(request: &str) -> String {
    request
        .replace("$H", &format!("Host: {HOST}\r\n"))
        .replace("$L", &"a".repeat(70_000))
        .replace("$M", &"A: b\r\n".repeat(201))
}

pub(super) async fn attack(row: &Row, ground: &Ground, request: &str) -> Seen {
    let Some(stream) = ground.ask(0, HOST, ground.port).await else {
        return Seen::not_run("the stream, which is allowed, was not made");
    };
    let answer = ground.say(stream, filled(request).as_bytes()).await;
    if answer.starts_with("HTTP/1.1 200") {
        return Seen::new(false, "it was answered by the server");
    }
    judge(row, ground)
}

/// The request that is hidden.
const INNER: &str = "GET /admin HTTP/1.1\r\nHost: a.prove.test\r\n\r\n";

pub(super) async fn hidden_attack(ground: &Ground, framing: &str) -> Seen {
    let Some(stream) = ground.ask(0, HOST, ground.port).await else {
        return Seen::not_run("the stream, which is allowed, was not made");
    };
    let framing = framing
        .replace("$N", &INNER.len().to_string())
        .replace("$X", &format!("{:x}", INNER.len()))
        .replace("$R", INNER);
    let request = format!("POST /v1/x HTTP/1.1\r\nHost: {HOST}\r\n{framing}");
    let _answer = ground.say(stream, request.as_bytes()).await;
    let heard = ground.heard();
    let Some((head, body)) = heard.split_once("\r\n\r\n") else {
        // Refused as a whole: nothing is hidden then.
        return Seen::new(heard.is_empty(), ground.told().join("; "));
    };
    let fields = head.to_ascii_lowercase();
    let lengths = [fields.contains("content-length"), fields.contains("transfer-encoding")];
    let one = lengths.iter().filter(|has| **has).count() == 1;
    let whole = body.contains("GET /admin") && head.starts_with("POST /v1/x HTTP/1.1\r\n");
    if one && whole {
        Seen::new(true, "the server got one request with one length, and the other as its body")
    } else {
        let heard: String = heard.chars().take(200).collect();
        Seen::new(false, format!("the server got {}", crate::text::printable_line(&heard)))
    }
}
