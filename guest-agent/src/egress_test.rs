//! Ways outside, with a whole supervisor and real containers; this test is the host. They need root.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use cloister_protocol::EGRESS_PORT;
use cloister_protocol::agent::{AgentSpec, Notice};
use cloister_protocol::egress::{CONNECTED, Egress, Head, NameRule, RangeRule, Target};
use cloister_protocol::message::{Event, ExitStatus, Request, Stdio};

use crate::agent_bed::Agents;
use crate::test_bed::eventually;

fn rules() -> Egress {
    let name = |pattern: &str, ports: &[u16], allows| NameRule {
        pattern: pattern.to_owned(),
        ports: ports.to_vec(),
        allows,
    };
    let range = |address: [u8; 4], prefix, ports: &[u16]| RangeRule {
        address: address.into(),
        prefix,
        ports: ports.to_vec(),
    };
    Egress {
        names: vec![
            name("api.example.com", &[80, 8080], true),
            name("*.wild.example", &[80], true),
            name("bad.wild.example", &[], false),
        ],
        ranges: vec![range([10, 1, 2, 4], 30, &[80, 5432]), range([169, 254, 7, 7], 32, &[80])],
        observes: false,
    }
}

fn agents() -> (Agents, UnixListener) {
    let agents = Agents::new();
    let listener =
        UnixListener::bind(agents.bed.directory().join(EGRESS_PORT.to_string())).unwrap();
    (agents, listener)
}

fn with_egress(agents: &Agents, agent: u32) -> AgentSpec {
    AgentSpec { egress: Some(rules()), ..agents.spec(agent) }
}

/// Takes a stream to the outside and its head.
fn take(listener: &UnixListener) -> (Head, UnixStream) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut prefix = [0; 2];
    stream.read_exact(&mut prefix).unwrap();
    let mut bytes = vec![0; Head::length(prefix).unwrap()];
    stream.read_exact(&mut bytes).unwrap();
    (Head::decode(&bytes).unwrap(), stream)
}

/// Asks a host for a page, in the shell.
fn get(host_and_port: &str) -> String {
    format!("printf 'GET /x HTTP/1.0\\r\\n\\r\\n' | nc {host_and_port}")
}

/// A host that answers so many streams: each gets its own target back, as a page.
fn serve(listener: &UnixListener, count: usize) -> JoinHandle<Vec<Head>> {
    let listener = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        let serve = |_| {
            let (head, mut stream) = take(&listener);
            stream.write_all(&[CONNECTED]).unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                asked.push(byte[0]);
            }
            let page = format!("{:?}", head.target);
            let length = page.len();
            write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{page}").unwrap();
            head
        };
        (0..count).map(serve).collect()
    })
}

#[test]
fn what_may_be_reached_is_and_nothing_else() {
    let (mut agents, listener) = agents();
    let spec = with_egress(&agents, 5);
    agents.create(spec);
    let (text, _) = agents.run(5, "cat /etc/resolv.conf; echo x >> /etc/resolv.conf");
    assert!(text.starts_with("nameserver 198.18.0.1\n"), "{text}");
    assert!(text.contains("can't create"), "{text}");
    for (url, target) in [
        ("api.example.com 80", Target::Name("api.example.com".into())),
        ("API.example.com 8080", Target::Name("api.example.com".into())),
        ("a.b.wild.example 80", Target::Name("a.b.wild.example".into())),
        ("10.1.2.5 80", Target::Address([10, 1, 2, 5].into())),
        ("169.254.7.7 80", Target::Address([169, 254, 7, 7].into())),
    ] {
        let host = serve(&listener, 1);
        let (text, status) = agents.run(5, &get(url));
        assert!(text.ends_with(&format!("\r\n\r\n{target:?}")), "{url}: {text}");
        assert_eq!(status, ExitStatus::Code(0), "{url}");
        let heads = host.join().unwrap();
        let port = if url.ends_with("8080") { 8080 } else { 80 };
        assert_eq!(heads, [Head { agent: 5, target, port }]);
    }
    // Nothing of these gets as far as the host: it would wait for an answer for ever.
    for (url, word) in [
        ("api.example.com 81", "Connection refused"),
        ("a.wild.example 8080", "Connection refused"),
        ("10.1.2.5 81", "Connection refused"),
        ("10.1.2.8 80", "Network is unreachable"),
        ("169.254.169.254 80", "Network is unreachable"),
        ("1.1.1.1 80", "Network is unreachable"),
        ("198.18.9.9 80", "Connection refused"),
        ("127.0.0.1 80", "Connection refused"),
    ] {
        let (text, status) = agents.run(5, &get(url));
        assert_ne!(status, ExitStatus::Code(0), "{url}");
        assert!(text.contains(word), "{url}: {text}");
    }
    agents.remove(5);
    assert_eq!(agents.bed.log(), "");
}

#[test]
fn names_that_are_refused_do_not_exist_and_are_told() {
    let (mut agents, _listener) = agents();
    let spec = with_egress(&agents, 6);
    agents.create(spec);
    for name in
        ["secret-data.tunnel.evil.example", "bad.wild.example", "wild.example", "example.com"]
    {
        let exec = agents.exec(6, crate::agent_bed::USER, &format!("nslookup -type=a {name} 2>&1"));
        let id = exec.id;
        let mut streams = agents.bed.exec(exec);
        streams.stdin = None;
        agents.bed.started(id);
        let (text, _) = streams.read_all();
        assert!(text.contains("NXDOMAIN"), "{name}: {text}");
        let mut told = false;
        loop {
            match agents.bed.event() {
                Event::AgentNotice { agent: 6, notice: Notice::NameRefused { name: refused } } => {
                    assert_eq!(String::from_utf8(refused).unwrap(), name);
                    told = true;
                }
                Event::Exited { id: ended, .. } if ended == id => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(told, "{name}");
    }
    let (text, _) = agents.run(6, "nslookup -type=a x.wild.example; nslookup -type=a y.wild.example; nslookup -type=a x.wild.example");
    let addresses: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("Address: 198.18.1.")).collect();
    assert!(matches!(addresses[..], [a, b, c] if a == c && a != b), "{text}");
    let (text, _) = agents.run(6, "nslookup -type=a localhost");
    assert!(text.contains("Address: 127.0.0.1"), "{text}");
    let (text, _) = agents.run(6, "nslookup -type=aaaa x.wild.example");
    assert!(!text.contains("NXDOMAIN") && !text.contains("can't"), "{text}");
}

#[test]
fn without_rules_there_is_no_way() {
    let (mut agents, _listener) = agents();
    let spec = agents.spec(1);
    agents.create(spec);
    let (text, _) = agents.run(1, "cat /etc/resolv.conf; nc 198.18.0.1 53; nc 10.1.2.5 80");
    assert!(text.contains("No such file"), "{text}");
    assert_eq!(text.matches("Network is unreachable").count(), 2, "{text}");
}

#[test]
fn a_stream_that_is_refused_is_a_reset_at_once() {
    let (mut agents, listener) = agents();
    let spec = with_egress(&agents, 2);
    agents.create(spec);
    let host = std::thread::spawn(move || drop(take(&listener)));
    let (text, status) = agents.run(2, &get("api.example.com 80"));
    // Connected and cut off: nothing came, and nobody waits for more.
    assert!(!text.contains("HTTP") && !text.contains("refused"), "{status:?} {text}");
    host.join().unwrap();
}

#[test]
fn each_direction_ends_for_itself() {
    let (mut agents, listener) = agents();
    let spec = with_egress(&agents, 2);
    agents.create(spec);
    let host = std::thread::spawn(move || {
        let (_, mut stream) = take(&listener);
        stream.write_all(&[CONNECTED]).unwrap();
        let mut asked = String::new();
        stream.read_to_string(&mut asked).unwrap();
        stream.write_all(&vec![b'y'; 1_000_000]).unwrap();
        (asked, listener)
    });
    // Its input ends, and then the answer comes.
    let (text, _) = agents.run(2, "echo question | nc api.example.com 80 | wc -c");
    assert_eq!(text.trim(), "1000000");
    let (asked, listener) = host.join().unwrap();
    assert_eq!(asked, "question\n");
    drop(listener);
}

#[test]
fn all_of_it_goes_with_its_agent() {
    let (mut agents, listener) = agents();
    let before = agents.bed.descriptors();
    let spec = with_egress(&agents, 2);
    agents.create(spec);
    let (_, streams) = agents.start(2, crate::agent_bed::USER, "nc api.example.com 80; sleep 1000");
    let (_, mut stream) = take(&listener);
    stream.write_all(&[CONNECTED]).unwrap();
    agents.bed.send(&Request::RemoveAgent { agent: 2 });
    // The stream ends though nobody has ended it.
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    drop(streams);
    loop {
        if agents.bed.event() == (Event::AgentRemoved { agent: 2 }) {
            break;
        }
    }
    // The program of inits stays, and the supervisor's own namespace.
    eventually("descriptors closed", || agents.bed.descriptors() <= before + 2);
}

/// The host of each is another's; that of one being made would never answer.
#[test]
fn streams_of_a_machine_that_goes_on_in_another_end_and_later_ones_work() {
    let (mut agents, listener) = agents();
    let spec = with_egress(&agents, 4);
    agents.create(spec);
    let script = "mkfifo /tmp/a /tmp/b; sleep 1000 >/tmp/a & sleep 1000 >/tmp/b & \
        (nc api.example.com 80 </tmp/a; echo first) & nc 10.1.2.5 80 </tmp/b; wait %3; echo ended";
    let mut exec = agents.exec(4, crate::agent_bed::USER, script);
    if let Stdio::Streams { stdin, .. } = &mut exec.stdio {
        *stdin = None;
    }
    let id = exec.id;
    let mut streams = agents.bed.exec(exec);
    agents.bed.started(id);
    let (_, mut open) = take(&listener);
    open.write_all(&[CONNECTED]).unwrap();
    open.write_all(b"word").unwrap();
    streams.read_until("word");
    // The other one is not answered.
    let (_, asked) = take(&listener);
    agents.bed.send(&Request::Detach { commands: vec![id] });
    streams.read_all();
    assert_eq!(agents.bed.event(), Event::Detached { holds: true });
    agents.bed.leave();
    agents.bed.greet_anew(1);
    let mut streams = agents.bed.attach(&[id]).remove(0);
    let text = streams.read_until("ended\n");
    assert!(text.contains("first\n"), "{text}");
    assert_eq!(agents.bed.exited(id), ExitStatus::Code(0));
    for mut stream in [open, asked] {
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    }
    let host = serve(&listener, 1);
    let (text, status) = agents.run(4, &get("api.example.com 80"));
    assert_eq!(status, ExitStatus::Code(0), "{text}");
    host.join().unwrap();
}

#[test]
fn other_rules_take_the_place_of_those_before() {
    let (mut agents, listener) = agents();
    let spec = with_egress(&agents, 8);
    agents.create(spec);
    let reached = |agents: &mut Agents, url: &str| {
        let host = serve(&listener, 1);
        let (text, status) = agents.run(8, &get(url));
        assert_eq!(status, ExitStatus::Code(0), "{url}: {text}");
        host.join().unwrap();
    };
    let refused = |agents: &mut Agents, url: &str| {
        let (text, status) = agents.run(8, &get(url));
        assert_ne!(status, ExitStatus::Code(0), "{url}: {text}");
    };
    reached(&mut agents, "api.example.com 8080");
    reached(&mut agents, "10.1.2.5 80");
    let new = Egress {
        names: vec![
            NameRule { pattern: "api.example.com".to_owned(), ports: vec![80, 81], allows: true },
            NameRule { pattern: "new.example".to_owned(), ports: vec![80], allows: true },
        ],
        ranges: vec![RangeRule { address: [10, 1, 2, 4].into(), prefix: 31, ports: vec![81] }],
        observes: false,
    };
    agents.set_egress(8, &new);
    for url in ["api.example.com 80", "api.example.com 81", "new.example 80", "10.1.2.5 81"] {
        reached(&mut agents, url);
    }
    for url in ["api.example.com 8080", "10.1.2.5 80", "10.1.2.6 80"] {
        refused(&mut agents, url);
    }
    agents.set_egress(8, &rules());
    reached(&mut agents, "api.example.com 8080");
    refused(&mut agents, "api.example.com 81");
    agents.set_egress(8, &Egress { observes: true, ..Egress::default() });
    reached(&mut agents, "anything.example 443");
    agents.remove(8);
}
