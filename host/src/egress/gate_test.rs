use tokio::net::TcpListener;

use super::*;
use crate::egress::connect::tests::name_server;
use crate::egress::limits::{BUFFER, MAX_EVENTS, MAX_NEW_AGENT, MAX_STREAMS_AGENT};
use crate::egress::policy::tests::policy;
use crate::egress::quota::Quota;

/// What was told.
type Told = Rc<RefCell<Vec<(usize, String, String)>>>;

async fn gate(policies: Vec<Policy>) -> (Rc<Gate>, Told) {
    let told: Told = Rc::default();
    let heard = Rc::clone(&told);
    let connector = name_server(&[("a.example", "127.0.0.1")]).await;
    let tell = move |agent: usize, kind: &str, words: String, _: Facts| {
        heard.borrow_mut().push((agent, kind.to_owned(), words));
    };
    (Rc::new(Gate::new(policies, connector, Box::new(tell))), told)
}

/// Asks for a stream: whether it was connected, and the stream.
async fn ask(gate: &Rc<Gate>, agent: u32, target: Target, port: u16) -> (bool, UnixStream) {
    let (mut guest, ours) = UnixStream::pair().unwrap();
    tokio::task::spawn_local(Rc::clone(gate).pass(ours));
    guest.write_all(&Head { agent, target, port }.encode().unwrap()).await.unwrap();
    let mut answer = [0];
    let connected = guest.read_exact(&mut answer).await.is_ok() && answer == [CONNECTED];
    (connected, guest)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

fn name(text: &str) -> Target {
    Target::Name(text.to_owned())
}

#[test]
fn each_agent_has_its_own_rules_and_all_is_told() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let first =
            policy(&[&format!("allow a.example {port}"), &format!("allow 127.0.0.1 {port}")]);
        let (gate, told) = gate(vec![first, Policy::default()]).await;
        let (connected, mut guest) = ask(&gate, 0, name("a.example"), port).await;
        assert!(connected);
        let (mut server, _) = listener.accept().await.unwrap();
        guest.write_all(b"question").await.unwrap();
        guest.shutdown().await.unwrap();
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        server.write_all(b"answer!").await.unwrap();
        drop(server);
        let mut answer = Vec::new();
        guest.read_to_end(&mut answer).await.unwrap();
        assert_eq!((got.as_slice(), answer.as_slice()), (&b"question"[..], &b"answer!"[..]));
        for (agent, target, port) in [
            (0, name("a.example"), 1),
            (0, name("b.example"), port),
            (0, Target::Address([10, 0, 0, 1].into()), port),
            (0, Target::Address([169, 254, 169, 254].into()), 80),
            (1, name("a.example"), port),
            (1, Target::Address([127, 0, 0, 1].into()), port),
            (7, name("a.example"), port),
            (u32::MAX, name("a.example"), port),
        ] {
            assert!(!ask(&gate, agent, target.clone(), port).await.0, "{agent} {target:?}:{port}");
        }
        let told = told.borrow();
        let kinds: Vec<(usize, &str)> = told.iter().map(|(a, kind, _)| (*a, &**kind)).collect();
        assert_eq!(kinds[..2], [(0, "egress-allowed"), (0, "egress-ended")]);
        assert!(told[0].2.starts_with(&format!("a.example:{port} at 127.0.0.1, by the rule in ")));
        assert!(told[1].2.contains("8 bytes sent, 7 received"), "{}", told[1].2);
        assert_eq!(kinds.iter().filter(|one| **one == (0, "egress-denied")).count(), 4);
        assert_eq!(kinds.iter().filter(|one| **one == (1, "egress-denied")).count(), 2);
        assert_eq!(kinds.len(), 8);
        let totals = gate.totals();
        let count = |agent: usize, kind: &str| totals[agent].events.get(kind).copied();
        assert_eq!((count(0, "egress-allowed"), count(0, "egress-denied")), (Some(1), Some(4)));
        assert_eq!((count(1, "egress-allowed"), count(1, "egress-denied")), (None, Some(2)));
        assert_eq!((totals[0].sent, totals[0].received, totals[0].open), (8, 7, 0));
        assert!(totals[0].connects == 1 && totals[0].connect_us > 0, "{totals:?}");
    });
}

#[test]
fn a_stream_without_a_head_is_left_in_time() {
    run(async {
        let (gate, told) = gate(vec![Policy::default()]).await;
        for bytes in [&b"\0\0"[..], b"\xff\xff", b"\x02\0\0\0", b"\x05\0aaaaa"] {
            let (mut guest, ours) = UnixStream::pair().unwrap();
            guest.write_all(bytes).await.unwrap();
            Rc::clone(&gate).pass(ours).await;
            assert_eq!(guest.read(&mut [0]).await.unwrap_or(0), 0);
        }
        tokio::time::pause();
        let (_silent, ours) = UnixStream::pair().unwrap();
        gate.pass(ours).await;
        assert!(told.borrow().is_empty());
    });
}

#[test]
fn streams_and_events_are_bounded() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (gate, told) = gate(vec![policy(&[&format!("allow 127.0.0.1 {port}")])]).await;
        let loopback = || Target::Address([127, 0, 0, 1].into());
        let mut open = Vec::new();
        for _ in 0..MAX_STREAMS_AGENT {
            let (connected, guest) = ask(&gate, 0, loopback(), port).await;
            assert!(connected);
            open.push((guest, listener.accept().await.unwrap()));
        }
        assert!(!ask(&gate, 0, loopback(), port).await.0, "one too many");
        assert_eq!(told.borrow().len(), usize::try_from(MAX_EVENTS).unwrap());
        // Totals have what the events leave out.
        let totals = gate.totals().remove(0);
        let most = u64::try_from(MAX_STREAMS_AGENT).unwrap();
        assert_eq!((totals.open, totals.events["egress-allowed"]), (most, most));
        open.clear();
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        let mut connected = 0;
        for _ in 0..MAX_NEW_AGENT {
            let (is_connected, _guest) = ask(&gate, 0, loopback(), port).await;
            connected += u32::from(is_connected);
            if is_connected {
                drop(listener.accept().await.unwrap());
            }
        }
        assert!(connected < MAX_NEW_AGENT, "{connected}");
        assert_eq!(told.borrow().len(), usize::try_from(MAX_EVENTS).unwrap());
    });
}

#[test]
fn other_rules_hold_at_once_and_cut_what_they_do_not_allow() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = format!("allow 127.0.0.1 {port}");
        let (name_too, other) = (format!("allow a.example {port}"), "allow b.example 1".to_owned());
        let both = || policy(&[&name_too, &address]);
        let (gate, told) = gate(vec![both(), both()]).await;
        let (connected, mut first) = ask(&gate, 0, name("a.example"), port).await;
        assert!(connected);
        let mut server = listener.accept().await.unwrap().0;
        let (connected, mut second) = ask(&gate, 1, name("a.example"), port).await;
        assert!(connected);
        let mut other_server = listener.accept().await.unwrap().0;
        // More rules, in other places of the file: nothing is cut.
        gate.replace(vec![policy(&[&other, &address, &name_too]), both()]);
        first.write_all(b"a").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
        // Without the name the stream of this agent is cut, and no other; then it is allowed again.
        gate.replace(vec![policy(&[&address]), both()]);
        assert_eq!(first.read(&mut [0]).await.unwrap_or(0), 0);
        assert_eq!(server.read(&mut [0]).await.unwrap_or(0), 0);
        second.write_all(b"b").await.unwrap();
        other_server.read_exact(&mut [0]).await.unwrap();
        assert!(!ask(&gate, 0, name("a.example"), port).await.0);
        gate.replace(vec![both(), Policy::default()]);
        assert!(ask(&gate, 0, name("a.example"), port).await.0);
        assert_eq!(second.read(&mut [0]).await.unwrap_or(0), 0);
        // The name stays allowed, and its address does not.
        let mut third = ask(&gate, 0, name("a.example"), port).await.1;
        gate.replace(vec![policy(&[&name_too]), Policy::default()]);
        assert_eq!(third.read(&mut [0]).await.unwrap_or(0), 0);
        let told = told.borrow();
        let cut = told.iter().filter(|one| one.1 == "egress-denied" && one.2.contains(NO_LONGER));
        assert!(cut.count() >= 3, "{told:?}");
    });
}

#[test]
fn what_is_observed_is_told_as_such_and_leads_nowhere_that_is_never_open() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let rules = [&*format!("allow 127.0.0.1 {port}"), "deny b.example"];
        let (gate, told) = gate(vec![policy(&rules).observing(true)]).await;
        assert!(ask(&gate, 0, name("a.example"), port).await.0);
        assert_eq!(told.borrow()[0].1, OBSERVED);
        for (target, port) in [
            (name("b.example"), port),
            // The address is named for another port alone.
            (name("a.example"), port ^ 1),
            (Target::Address([10, 0, 0, 1].into()), port),
            (Target::Address([169, 254, 169, 254].into()), 80),
        ] {
            assert!(!ask(&gate, 0, target.clone(), port).await.0, "{target:?}");
        }
        assert_eq!(told.borrow().iter().filter(|one| one.1 == "egress-denied").count(), 4);
    });
}

#[test]
fn a_stream_waits_for_the_operators_word() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asks, address) = (format!("ask a.example {port}"), format!("allow 127.0.0.1 {port}"));
        let (gate, told) = gate(vec![policy(&[&asks, &address])]).await;
        let begin = |gate: &Rc<Gate>| {
            let gate = Rc::clone(gate);
            tokio::task::spawn_local(async move { ask(&gate, 0, name("a.example"), port).await })
        };
        let question = async || loop {
            if let Some(question) = gate.questions().pop() {
                break question;
            }
            tokio::task::yield_now().await;
        };
        // Yes: the stream is connected, and stays so under rules that ask the same.
        let stream = begin(&gate);
        let asked = question().await;
        assert_eq!((asked.number, &*asked.to), (1, &*format!("a.example:{port}")));
        gate.answer(1, true, false).unwrap();
        let (connected, mut guest) = stream.await.unwrap();
        assert!(connected);
        let mut server = listener.accept().await.unwrap().0;
        gate.replace(vec![policy(&[&address, &asks])]);
        guest.write_all(b"a").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
        // No, other rules, and an agent that leaves: not connected.
        let stream = begin(&gate);
        question().await;
        gate.answer(2, false, false).unwrap();
        assert!(!stream.await.unwrap().0);
        let stream = begin(&gate);
        question().await;
        gate.replace(vec![policy(&[&address])]);
        assert!(!stream.await.unwrap().0);
        // Without a rule that asks, what was approved is cut.
        assert_eq!(guest.read(&mut [0]).await.unwrap_or(0), 0);
        gate.replace(vec![policy(&[&address, &asks])]);
        let stream = begin(&gate);
        question().await;
        stream.abort();
        while !gate.questions().is_empty() {
            tokio::task::yield_now().await;
        }
        let told = told.borrow();
        let of = |kind: &str| told.iter().filter(|one| one.1 == kind).map(|one| &*one.2).collect();
        let asked: Vec<&str> = of(ASKED);
        assert_eq!(asked.len(), 4);
        assert!(asked[0].starts_with(&format!("question 1: a.example:{port}, by the rule in ")));
        let denied: Vec<&str> = of("egress-denied");
        // What one change of the rules ends, ends in any order.
        for why in ["said no", "rules changed", NO_LONGER, "did not wait"] {
            assert!(denied.iter().any(|words| words.contains(why)), "{why}: {denied:?}");
        }
        assert_eq!(denied.len(), 4);
    });
}

#[test]
fn an_address_is_asked_about_and_no_name_leads_there_by_that() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let rules = [&*format!("ask 127.0.0.1 {port}"), &*format!("allow a.example {port}")];
        let (gate, _) = gate(vec![policy(&rules)]).await;
        assert!(!ask(&gate, 0, name("a.example"), port).await.0);
        assert!(gate.questions().is_empty());
        let asking = Rc::clone(&gate);
        let loopback = Target::Address([127, 0, 0, 1].into());
        let stream = tokio::task::spawn_local(async move { ask(&asking, 0, loopback, port).await });
        while gate.questions().is_empty() {
            tokio::task::yield_now().await;
        }
        gate.answer(1, true, false).unwrap();
        assert!(stream.await.unwrap().0);
    });
}

#[test]
fn a_quota_ends_all_streams_of_its_agent_and_of_no_other() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let rules = || policy(&[&format!("allow 127.0.0.1 {port}")]);
        let bounded = |sent| rules().bounded(Quota { sent: Some(sent), received: None });
        let (gate, told) = gate(vec![bounded(100_000), rules()]).await;
        let loopback = || Target::Address([127, 0, 0, 1].into());
        let mut idle = ask(&gate, 0, loopback(), port).await.1;
        let _idle_server = listener.accept().await.unwrap();
        let mut other = ask(&gate, 1, loopback(), port).await.1;
        let mut other_server = listener.accept().await.unwrap().0;
        let (connected, guest) = ask(&gate, 0, loopback(), port).await;
        assert!(connected);
        let mut server = listener.accept().await.unwrap().0;
        let (mut from_server, mut to_server) = guest.into_split();
        // It sends for as long as it may.
        let sending = tokio::task::spawn_local(async move {
            while to_server.write_all(&[7; 10_000]).await.is_ok() {}
        });
        let mut got = 0;
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = server.read(&mut buffer).await {
            got += count;
        }
        sending.await.unwrap();
        // What was on its way in one buffer is more.
        assert!((100_000..=100_000 + BUFFER).contains(&got), "{got}");
        assert_eq!(from_server.read(&mut [0]).await.unwrap_or(0), 0);
        assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0);
        assert!(!ask(&gate, 0, loopback(), port).await.0);
        other.write_all(b"a").await.unwrap();
        other_server.read_exact(&mut [0]).await.unwrap();
        // More of it, by other rules.
        gate.replace(vec![bounded(1 << 20), rules()]);
        assert!(ask(&gate, 0, loopback(), port).await.0);
        let told = told.borrow();
        assert_eq!(told.iter().filter(|one| one.1 == QUOTA).count(), 1, "{told:?}");
        let denied = told.iter().filter(|one| one.1 == "egress-denied");
        let denied: Vec<_> =
            denied.filter(|one| one.2.contains("is used up (100000 bytes)")).collect();
        assert_eq!(denied.len(), 3, "{told:?}");
    });
}

#[tokio::test]
async fn what_was_used_of_a_quota_before_counts() {
    let quota = Quota { sent: Some(100), received: None };
    let policy = Policy::new(Vec::new()).bounded(quota);
    let connector = name_server(&[]).await;
    let gate = Gate::new(vec![policy], connector, Box::new(|_, _, _, _| ()));
    let gate = gate.having_used(&[(60, 7), (1, 1)]);
    assert_eq!(gate.used(), [(60, 7)]);
    assert!(gate.used[0].refusal().is_none());
    let gate = gate.having_used(&[(40, 0)]);
    assert!(gate.used[0].refusal().is_some());
}
