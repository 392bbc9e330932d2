use std::net::SocketAddr;

use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::egress::policy::tests::policy;

/// A name server that knows some names, each with an address; the rest does not exist.
pub(crate) async fn name_server(names: &'static [(&'static str, &'static str)]) -> Connector {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::task::spawn(async move {
        let mut query = [0; 512];
        loop {
            let (length, sender) = socket.recv_from(&mut query).await.unwrap();
            let answer = answer(&query[..length], names);
            socket.send_to(&answer, sender).await.unwrap();
        }
    });
    connector(address)
}

fn connector(server: SocketAddr) -> Connector {
    let operator = Operator { name_servers: vec![server], ..Operator::default() };
    Connector { resolver: Resolver::new(&operator).unwrap(), operator }
}

/// What a server says (RFC 1035, section 4.1): the addresses of the name's kind.
fn answer(query: &[u8], names: &[(&str, &str)]) -> Vec<u8> {
    let (mut name, mut at) = (String::new(), 12);
    while query[at] != 0 {
        let length = usize::from(query[at]);
        name.push_str(std::str::from_utf8(&query[at + 1..=at + length]).unwrap());
        name.push('.');
        at += length + 1;
    }
    let (name, kind) = (name.trim_end_matches('.').to_ascii_lowercase(), query[at + 2]);
    let found: Vec<IpAddr> = names
        .iter()
        .filter(|(known, _)| *known == name)
        .map(|(_, address)| address.parse().unwrap())
        .filter(|address: &IpAddr| address.is_ipv4() == (kind == 1))
        .collect();
    let known = names.iter().any(|(known, _)| *known == name);
    let mut bytes = query[..2].to_vec();
    let count = u8::try_from(found.len()).unwrap();
    bytes.extend_from_slice(&[0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, count, 0, 0, 0, 0]);
    bytes.extend_from_slice(&query[12..at + 5]);
    for address in found {
        let octets = match address {
            IpAddr::V4(four) => four.octets().to_vec(),
            IpAddr::V6(six) => six.octets().to_vec(),
        };
        bytes.extend_from_slice(&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0]);
        bytes.push(u8::try_from(octets.len()).unwrap());
        bytes.extend_from_slice(&octets);
    }
    bytes
}

fn name(text: &str) -> Target {
    Target::Name(text.to_owned())
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

const NAMES: &[(&str, &str)] = &[
    ("good.test.example", "127.0.0.1"),
    ("six.test.example", "::ffff:127.0.0.1"),
    ("rebound.test.example", "127.0.0.2"),
    ("both.test.example", "10.9.9.9"),
    ("both.test.example", "127.0.0.1"),
    ("private.test.example", "192.168.7.7"),
    ("cloud.test.example", "169.254.169.254"),
    ("cloud.test.example", "fd00:ec2::254"),
    ("translated.test.example", "64:ff9b::a9fe:a9fe"),
    ("compatible.test.example", "::127.0.0.1"),
    ("tunnel.test.example", "2002:7f00:1::"),
    ("any.test.example", "0.0.0.0"),
    ("link.test.example", "fe80::1"),
    ("shared.test.example", "100.64.0.1"),
    ("group.test.example", "224.0.0.1"),
    ("none.test.example", "2001:db8::1"),
];

#[test]
fn a_name_leads_only_to_addresses_that_are_named_or_public() {
    run(async {
        let connector = name_server(NAMES).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let policy =
            policy(&[&format!("allow *.test.example {port}"), &format!("allow 127.0.0.1 {port}")]);
        for reached in ["good.test.example", "six.test.example", "both.test.example"] {
            let (stream, address) =
                connector.connect(&policy, &name(reached), port, false).await.unwrap();
            assert_eq!(address.to_string(), "127.0.0.1", "{reached}");
            assert_eq!(stream.peer_addr().unwrap().port(), port);
        }
        for (refused, word) in [
            ("rebound.test.example", "loopback"),
            ("private.test.example", "private"),
            ("cloud.test.example", "metadata"),
            ("translated.test.example", "metadata"),
            ("compatible.test.example", "reserved"),
            ("tunnel.test.example", "6to4"),
            ("any.test.example", "this network"),
            ("link.test.example", "link-local"),
            ("shared.test.example", "shared"),
            ("group.test.example", "multicast"),
            ("none.test.example", "documentation"),
        ] {
            match connector.connect(&policy, &name(refused), port, false).await {
                Err(ConnectError::Denied(words)) => {
                    assert!(words.contains(word), "{refused}: {words}");
                }
                other => panic!("{refused}: {other:?}"),
            }
        }
        let missing = connector.connect(&policy, &name("missing.test.example"), port, false).await;
        assert!(matches!(missing, Err(ConnectError::Resolve(_))), "{missing:?}");
    });
}

#[test]
fn without_a_rule_about_it_loopback_is_refused_by_any_name_and_by_itself() {
    run(async {
        let connector = name_server(NAMES).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let policy = policy(&[&format!("allow *.test.example {port}"), "allow 127.0.0.1 1"]);
        let loopback = Target::Address(Ipv4Addr::LOCALHOST);
        for target in [name("good.test.example"), name("six.test.example"), loopback] {
            let result = connector.connect(&policy, &target, port, false).await;
            assert!(matches!(result, Err(ConnectError::Denied(_))), "{target:?} {result:?}");
        }
    });
}

#[test]
fn what_does_not_take_it_is_told_at_once() {
    run(async {
        let connector = name_server(NAMES).await;
        // A port that nobody has: taken, and given back.
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let policy =
            policy(&[&format!("allow *.test.example {port}"), &format!("allow 127.0.0.1 {port}")]);
        let result = connector.connect(&policy, &name("good.test.example"), port, false).await;
        assert!(matches!(result, Err(ConnectError::Connect { .. })), "{result:?}");
    });
}

#[test]
fn a_name_server_that_is_silent_is_left_in_time() {
    run(async {
        tokio::time::pause();
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let connector = connector(silent.local_addr().unwrap());
        let policy = policy(&["allow *.test.example 443"]);
        let result = connector.connect(&policy, &name("good.test.example"), 443, false).await;
        assert!(matches!(result, Err(ConnectError::Resolve(_))), "{result:?}");
    });
}

#[test]
fn this_hosts_own_addresses_are_known() {
    assert!(is_own("127.0.0.1".parse().unwrap()));
    assert!(!is_own("1.1.1.1".parse().unwrap()));
}
