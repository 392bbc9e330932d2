//! The keys of a rule about egress.

use cloister_protocol::limits::MAX_EGRESS_PORTS;

use super::keys::{Kind, Rule, Table, key};
use super::limits::{PORT, QUOTA};
use crate::egress::limits::{MAX_METHODS, MAX_PATTERNS};

/// `egress-quota = { … }`.
pub static EGRESS_QUOTA: Table = Table {
    what: "an egress quota",
    keys: &[
        key(
            "sent",
            Kind::Size(QUOTA),
            "any number",
            "Bytes that its connections may carry to the outside.",
        ),
        key("received", Kind::Size(QUOTA), "any number", "Bytes that they may carry from there."),
    ],
};

/// `[[agents.NAME.egress]]`.
pub static EGRESS: Table = Table {
    what: "an egress rule",
    keys: &[
        key(
            "host",
            Kind::Text(Rule::Host),
            "one of `host` and `cidr`",
            "A host's name, or `*.` and a name for all names below it.",
        ),
        key(
            "cidr",
            Kind::Text(Rule::Range),
            "one of `host` and `cidr`",
            "An address or a range of addresses; at most 256 to be allowed.",
        ),
        key(
            "ports",
            Kind::List(&Kind::Count(PORT), MAX_EGRESS_PORTS),
            "every port, if the rule denies; else an error",
            "TCP ports.",
        ),
        key(
            "action",
            Kind::Choice(&["allow", "ask", "deny"]),
            "`\"allow\"`",
            "What the rule does; `ask`: the operator decides about each connection (`cloister policy questions`).",
        ),
        key(
            "methods",
            Kind::List(&Kind::Text(Rule::Method), MAX_METHODS),
            "every method",
            "Methods of HTTP requests that the rule is about; its host's TLS is opened for that.",
        ),
        key(
            "paths",
            Kind::List(&Kind::Text(Rule::Path), MAX_PATTERNS),
            "every path",
            "Paths of requests that the rule is about: `*` within a part, `**` for all below. TLS is opened for that.",
        ),
        key(
            "secret",
            Kind::Text(Rule::Name),
            "none",
            "A secret of `cloister secret` that is put into each request that the rule allows, over TLS alone.",
        ),
        key(
            "as",
            Kind::Text(Rule::Credential),
            "`\"bearer\"`",
            "Where: `bearer`, `basic` (of `user:password`), `header:NAME`, `query:NAME`, or for the `placeholder` that the agent writes; with `aws-sigv4:SERVICE/REGION` requests are signed with it.",
        ),
        key("websocket", Kind::Flag, "`false`", "Whether such a request may become a WebSocket."),
    ],
};
