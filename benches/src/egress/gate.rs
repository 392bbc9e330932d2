//! The product's gate in a process of its own, on one thread as in the warden, with what the warden makes it of: rules,
//! resolver, trust, the team's authority, and the audit log, in which every decision is recorded.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use cloister::audit::key::HostKey;
use cloister::audit::limits::Limits;
use cloister::audit::log::Log;
use cloister::audit::record::Entry;
use cloister::egress::Opener;
use cloister::egress::authority::Authority;
use cloister::egress::connect::Connector;
use cloister::egress::gate::{Facts, Gate, LEFT_OUT};
use cloister::egress::operator::Operator;
use cloister::egress::policy::Policy;
use cloister::egress::resolve::Resolver;
use cloister::egress::rule::{Action, Http, Peer, Rule};
use cloister::egress::trust::Trust;
use cloister::report::chain;
use cloister::secrets::Store;
use cloister::state::StateDir;
use cloister::team::setting::Setting;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::HOST;
use super::role::Control;
use super::server::Server;

/// Agents of the team: streams are of each in turn, so that none has more than the gate records (60 events of an agent in
/// 10 s, and 1,000 requests), and what is measured is the gate that leaves nothing out.
pub const AGENTS: u32 = 64;
/// As the warden: how long a record may wait to be made durable.
const DURABLE_AFTER: Duration = Duration::from_secs(1);

/// What a gate is made of.
#[derive(Debug, Serialize, Deserialize)]
pub struct Spec {
    /// An empty directory of its own.
    pub folder: PathBuf,
    /// What its agents may reach.
    pub server: Server,
}

/// Where the gate is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    /// It takes streams here.
    pub socket: PathBuf,
    /// The authority by which it opens streams, as PEM.
    pub authority: String,
}

/// What the gate recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// Records in the audit log.
    pub written: u64,
    /// How often it said that some were left out.
    pub left_out: u64,
    /// The first thing that went wrong, in words.
    pub failed: Option<String>,
}

/// Takes streams until nobody needs it any more.
///
/// # Errors
/// It can't be made.
pub fn run() -> anyhow::Result<()> {
    let (mut control, spec) = Control::take::<Spec>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let records: Rc<RefCell<Records>> = Rc::default();
    tokio::task::LocalSet::new().block_on(&runtime, take(&mut control, &spec, &records))?;
    control.say(&*records.borrow())
}

async fn take(
    control: &mut Control,
    spec: &Spec,
    records: &Rc<RefCell<Records>>,
) -> anyhow::Result<()> {
    let (gate, authority) = make(spec, records)?;
    let socket = spec.folder.join("gate");
    let listener = UnixListener::bind(&socket)?;
    control.say(&Ready { socket, authority })?;
    let mut ended = std::pin::pin!(control.ended());
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                tokio::task::spawn_local(Rc::clone(&gate).pass(accepted?.0));
            }
            result = &mut ended => return result,
        }
    }
}

/// The gate, and the authority of its team.
fn make(spec: &Spec, records: &Rc<RefCell<Records>>) -> anyhow::Result<(Rc<Gate>, String)> {
    let Spec { folder, server } = spec;
    let certificates = folder.join("server.pem");
    std::fs::write(&certificates, &server.authority)?;
    let operator = Operator {
        name_servers: vec![server.name_server],
        certificates: Some(certificates),
        ..Operator::default()
    };
    let resolver = Resolver::new(&operator)?;
    let trust = Trust::load(&operator)?;
    let authority = Authority::new("bench")?;
    let pem = authority.pem();
    let state = StateDir::open(Some(&folder.join("state")))?;
    let opener = Opener::new(authority, trust, Store::of(&state), &resolver);
    let policies = (0..AGENTS).map(|_| policy(server)).collect::<Result<_, _>>()?;
    let gate = Gate::new(policies, Connector { resolver, operator }, tell(folder, records)?);
    Ok((Rc::new(gate.with_opener(Some(opener))), pem))
}

/// Streams to the passed ports as a whole, requests to the opened ones by method and path, and the loopback address, which
/// no name leads to without a rule about it.
fn policy(server: &Server) -> anyhow::Result<Policy> {
    let (passed, opened) = (server.passed, server.opened);
    let (passed, opened) = (vec![passed.plain, passed.tls], vec![opened.plain, opened.tls]);
    let host = || Peer::Host(HOST.to_owned());
    let http = Http {
        methods: vec!["GET".to_owned(), "POST".to_owned()],
        paths: vec!["/v1/**".to_owned()],
        ..Http::default()
    };
    let both = [passed.as_slice(), &opened].concat();
    let rules = [
        (host(), passed, None),
        (host(), opened, Some(http)),
        (Peer::Range("127.0.0.1/32".parse()?), both, None),
    ];
    let rule =
        |(peer, ports, http)| Setting::usual(Rule { peer, ports, action: Action::Allow, http });
    Ok(Policy::new(rules.map(rule).to_vec()))
}

/// What the warden does with what it is told: the audit log. It writes the team's events too, a line each.
fn tell(
    folder: &Path,
    records: &Rc<RefCell<Records>>,
) -> anyhow::Result<Box<cloister::egress::gate::Tell>> {
    let log = Log::open(&folder.join("audit"), HostKey::open(folder)?, Limits::default())?;
    let (log, written) = (Rc::new(RefCell::new(log)), Rc::new(Notify::new()));
    let records = Rc::clone(records);
    tokio::task::spawn_local(keep_durable(Rc::clone(&log), Rc::clone(&written)));
    Ok(Box::new(move |agent: usize, kind: &str, words: String, facts: Facts| {
        let mut records = records.borrow_mut();
        let is_failure = ["egress-denied", "egress-failed"].contains(&kind);
        let mut failed = is_failure.then(|| format!("{kind}: {words}"));
        let entry = Entry::new(kind.to_owned(), words).of(&format!("agent-{agent}"));
        match log.borrow_mut().append(Entry { data: facts, ..entry }) {
            Ok(()) => records.written += 1,
            Err(error) => failed = Some(chain(&error)),
        }
        records.left_out += u64::from(kind == LEFT_OUT);
        if records.failed.is_none() {
            records.failed = failed;
        }
        written.notify_one();
    }))
}

async fn keep_durable(log: Rc<RefCell<Log>>, written: Rc<Notify>) {
    loop {
        written.notified().await;
        sleep(DURABLE_AFTER).await;
        // What can't be made durable is found by the next record.
        log.borrow_mut().sync().ok();
    }
}
