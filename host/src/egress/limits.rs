//! Every bound on egress that the host keeps. Each names what it stops.

use std::time::Duration;

pub use cloister_protocol::limits::{MAX_STREAMS_AGENT, MAX_STREAMS_TEAM};

/// New streams of one agent in one [`WINDOW`]. Stops an agent from being a port scanner or a flood of its
/// own allowed hosts; a browser's or a crawler's hundred a second is within it.
pub const MAX_NEW_AGENT: u32 = 1000;
/// New streams of all agents of a team in one [`WINDOW`].
pub const MAX_NEW_TEAM: u32 = 4000;
/// Events about one agent's streams in one [`WINDOW`]; those over are counted, so that a flood pushes
/// nothing else out of the team's events.
pub const MAX_EVENTS: u32 = 60;
/// Records of one agent's requests in one [`WINDOW`]; those over are counted. Stops an agent from keeping the host busy
/// with signing and writing them.
pub const MAX_REQUEST_RECORDS: u32 = 1000;
/// What the counts of new streams and of events are for.
pub const WINDOW: Duration = Duration::from_secs(10);
/// How long a guest may take to say where a stream shall go. Its supervisor says it at once.
pub const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection waits for the operator's answer. Longer than a person who was told needs, and within what most
/// clients wait for a server's first byte.
pub const ASK_LIMIT: Duration = Duration::from_secs(120);
/// Questions of one agent that wait at once. Stops an agent from hiding one among many.
pub const MAX_QUESTIONS_AGENT: usize = 16;
/// Answers of a team that are kept. More are rules, which belong into the team file.
pub const MAX_KEPT_ANSWERS: usize = 256;
/// How long finding a name's addresses may take in all.
pub const RESOLVE_LIMIT: Duration = Duration::from_secs(10);
/// How long connecting may take in all, however many addresses there are.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// How long connecting to one address may take, if there is another one to try.
pub const ADDRESS_LIMIT: Duration = Duration::from_secs(6);
/// Addresses of a name that are looked at; the rest is left out.
pub const MAX_ADDRESSES: usize = 16;
/// How long an answer about a name is kept at most, whatever its own time says.
pub const MAX_TTL: Duration = Duration::from_secs(300);
/// Answers about names that are kept.
pub const MAX_ANSWERS: u64 = 1024;
/// How long a TLS client may take for its first message.
pub const HELLO_LIMIT: Duration = Duration::from_secs(15);
/// Longest first message of a TLS client, in bytes, records' heads included. Those with large key shares
/// have some 2 KiB.
pub const MAX_HELLO: usize = 16 << 10;
/// A stream on which nothing moves for so long in either direction ends. Keep-alives of servers that send
/// rarely come within minutes.
pub const IDLE_LIMIT: Duration = Duration::from_secs(15 * 60);
/// What a stream holds of bytes on their way, in each direction.
pub const BUFFER: usize = 32 << 10;
/// Ranges of the operator's list.
pub const MAX_OPERATORS_RANGES: usize = 256;
/// Name servers of the operator's choice.
pub const MAX_NAME_SERVERS: usize = 8;
/// Methods of a rule. HTTP has nine, WebDAV some thirty.
pub const MAX_METHODS: usize = 32;
/// Patterns of paths of a rule: each request is held against them.
pub const MAX_PATTERNS: usize = 64;
/// Longest head of a request of an agent, or of a server's answer, in bytes. Those with large cookies or tokens have some
/// 16 KiB. Stops a head from filling the warden's memory.
pub const MAX_REQUEST_HEAD: usize = 64 << 10;
/// Fields of a head.
pub const MAX_FIELDS: usize = 200;
/// Requests of one stream, after which it is ended in an orderly way. Gives up what a library may have piled up for it.
pub const MAX_REQUESTS: u32 = 10_000;
/// Requests at once on one stream of HTTP/2; servers usually allow a hundred.
pub const MAX_CONCURRENT: u32 = 100;
/// How long a client may take for the head of a request, the pause before it included. Stops slow heads from holding
/// connections; a client that finds its connection closed while it was idle makes another.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// How long the TLS handshake with a host, and that with the agent's client, may take.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(15);
/// How long a stream whose requests are over is kept for the agent to read its end. Long enough for a slow reader, and
/// short enough that one that never ends its side holds little.
pub const LINGER_LIMIT: Duration = Duration::from_secs(10);
/// Certificates of hosts that are kept for one team: more names are signed anew each time.
pub const MAX_CERTIFICATES: usize = 256;
/// Letters of a request's method that are recorded. No rule has a longer one.
pub const MAX_SHOWN_METHOD: usize = 32;
/// Longest path of a request that is recorded, in bytes; the rest is cut.
pub const MAX_SHOWN_PATH: usize = 512;
/// Largest file of certificates that is read, of the operator or of an image, in bytes. Mozilla's list has 230 KiB.
pub const MAX_CERTIFICATES_FILE: u64 = 4 << 20;
/// Secrets that are read at once for one team. Stops requests from starting any number of commands that tell secrets.
pub const SECRETS_AT_ONCE: usize = 4;
/// Longest body in which a placeholder is looked for, in bytes: it is held in memory as a whole.
pub const MAX_REPLACED_BODY: usize = 1 << 20;
/// Longest body whose digest is signed, in bytes: it is held in memory as a whole.
pub const MAX_SIGNED_BODY: usize = 1 << 20;
/// Bodies of one agent that are held whole at once, in KiB; more wait. Stops an agent from filling the warden's memory.
pub const WHOLE_BODIES_KIB: usize = 32 << 10;
/// How long reading a body whole may take, its turn included. Stops slow ones from keeping others waiting.
pub const WHOLE_BODY_LIMIT: Duration = Duration::from_secs(60);
/// How long asking a token server may take in all: requests wait for it.
pub const TOKEN_LIMIT: Duration = Duration::from_secs(15);
/// How long another process of this user, whose turn it is at a token server, is waited for.
pub const TOKEN_TURN_LIMIT: Duration = Duration::from_secs(30);
/// Longest answer of a token server, head and body each, in bytes. Two tokens of the greatest length and words fit.
pub const MAX_TOKEN_ANSWER: usize = 64 << 10;
/// How long a token server that failed is not asked again. Stops requests of agents from hammering it.
pub const TOKEN_PAUSE: Duration = Duration::from_secs(10);
/// How long an access token is used whose server does not say how long it is good.
pub const TOKEN_UNSAID: Duration = Duration::from_secs(5 * 60);
/// How long before its end an access token is not used any more: a request takes its time, and clocks differ.
pub const TOKEN_MARGIN: Duration = Duration::from_secs(30);
/// How long an access token is used at least. Stops a server whose tokens are good for no time from being asked with
/// each request.
pub const TOKEN_LEAST: Duration = Duration::from_secs(5);
/// How long an access token is used at most, whatever its server says.
pub const TOKEN_MOST: Duration = Duration::from_secs(24 * 60 * 60);
