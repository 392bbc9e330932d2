use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

pub(crate) fn any_egress() -> impl Strategy<Value = Option<Egress>> {
    let ports = || prop::collection::vec(1_u16.., 1..4);
    let name = ("[a-z]{1,9}(\\.[a-z]{1,9}){1,2}", ports(), any::<bool>())
        .prop_map(|(pattern, ports, allows)| NameRule { pattern, ports, allows });
    let range = (any::<u16>(), ports()).prop_map(|(low, ports)| RangeRule {
        address: Ipv4Addr::from(0x0a00_0000 | u32::from(low)),
        prefix: 32,
        ports,
    });
    let lists =
        (prop::collection::vec(name, 0..4), prop::collection::vec(range, 0..4), any::<bool>());
    prop::option::of(lists.prop_map(|(names, ranges, observes)| Egress { names, ranges, observes }))
}

#[test]
fn host_names_have_one_form() {
    let long = format!("{}.com", "a".repeat(63));
    for name in ["a", "localhost", "a.b", "xn--bcher-kva.example", "r3---s.x", "1.a", "0xg", &long]
    {
        assert!(is_host_name(name), "{name}");
    }
    let too_long = format!("{}.com", "a".repeat(64));
    let longest = format!("{}a", "a.".repeat(127));
    for name in [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "A.b",
        "a_b.c",
        "-a.b",
        "a-.b",
        "a b",
        "a\0b",
        "ü.de",
        "*.a",
        "1.2.3.4",
        "0x7f.1",
        "0x7f000001",
        "0x",
        "2130706433",
        "127.1",
        "a.0x10",
        "::1",
        "[::1]",
        "a/b",
        "a:1",
        "a@b",
        "a%2e",
        &too_long,
        &longest,
    ] {
        assert!(!is_host_name(name), "{name}");
    }
}

#[test]
fn patterns_mean_whole_labels() {
    for (pattern, name, means) in [
        ("api.example.com", "api.example.com", true),
        ("api.example.com", "x.api.example.com", false),
        ("*.example.com", "a.example.com", true),
        ("*.example.com", "a.b.example.com", true),
        ("*.example.com", "example.com", false),
        ("*.example.com", "aexample.com", false),
        ("*.example.com", "a.example.com.evil.org", false),
        ("*.example.com", ".example.com", false),
    ] {
        assert_eq!(matches(pattern, name), means, "{pattern} {name}");
    }
}

#[test]
fn what_forbids_wins() {
    let rule = |pattern: &str, ports: &[u16], allows| NameRule {
        pattern: pattern.to_owned(),
        ports: ports.to_vec(),
        allows,
    };
    let egress = Egress {
        names: vec![
            rule("*.a.example", &[443, 80], true),
            rule("x.a.example", &[22, 443], true),
            rule("*.x.a.example", &[80], false),
            rule("bad.a.example", &[], false),
        ],
        ranges: vec![],
        observes: false,
    };
    for (name, ports) in [
        ("y.a.example", &[80, 443][..]),
        ("x.a.example", &[22, 80, 443]),
        ("z.x.a.example", &[443]),
        ("bad.a.example", &[]),
        ("a.example", &[]),
        ("other.example", &[]),
    ] {
        assert_eq!(egress.ports(name), ports, "{name}");
    }
    assert_eq!(Egress::default().ports("a.example"), Vec::<u16>::new());
    let observing = Egress { observes: true, ..egress };
    assert_eq!(observing.ports("other.example"), OBSERVED_PORTS);
    assert_eq!(observing.ports("bad.a.example"), Vec::<u16>::new());
}

#[test]
fn ranges_are_counted_to_their_ends() {
    let range =
        |address: [u8; 4], prefix| RangeRule { address: address.into(), prefix, ports: vec![1] };
    let one: Vec<Ipv4Addr> = range([10, 0, 0, 7], 32).addresses().collect();
    assert_eq!(one, [Ipv4Addr::new(10, 0, 0, 7)]);
    let last: Vec<Ipv4Addr> = range([255, 255, 255, 0], 24).addresses().collect();
    assert_eq!((last.len(), last.last()), (256, Some(&Ipv4Addr::BROADCAST)));
    assert!(contains(NAMES, NAME_SERVER) && contains(NAMES, [198, 19, 255, 255].into()));
    assert!(!contains(NAMES, [198, 20, 0, 0].into()) && !contains(NAMES, [198, 17, 9, 9].into()));
    assert!(contains(([0, 0, 0, 0].into(), 0), [9, 9, 9, 9].into()));
}

#[test]
fn heads_out_of_bounds_are_refused() {
    let head = |name: &str, port| Head { agent: 1, target: Target::Name(name.to_owned()), port };
    assert_eq!(head("A.example", 1).encode(), Err(HeadError::Name));
    assert_eq!(head("a.example", 0).encode(), Err(HeadError::Port));
    assert_eq!(Head::length([0, 0]), Err(HeadError::Length { length: 0 }));
    assert_eq!(Head::length([0xff, 0xff]), Err(HeadError::Length { length: 65_535 }));
    let longest = format!("{}aa", "a.".repeat(125));
    assert!(head(&longest, 9).encode().unwrap().len() <= MAX_HEAD + 2);
    let mut bytes = head("a.example", 443).encode().unwrap().split_off(2);
    bytes.push(0);
    assert_eq!(Head::decode(&bytes), Err(HeadError::Malformed));
}

proptest! {
    #[test]
    fn heads_come_back(
        agent in any::<u32>(), port in 1_u16.., address in prop::option::of(any::<u32>()),
        name in "[a-z]{1,20}(\\.[a-z]{2,20}){0,5}",
    ) {
        let target = address.map_or(Target::Name(name), |one| Target::Address(Ipv4Addr::from(one)));
        let head = Head { agent, target, port };
        let bytes = head.encode().unwrap();
        let (prefix, rest) = bytes.split_at(2);
        prop_assert_eq!(Head::length([prefix[0], prefix[1]]), Ok(rest.len()));
        prop_assert_eq!(Head::decode(rest), Ok(head));
    }

    #[test]
    fn hostile_heads_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(head) = Head::decode(&bytes) {
            prop_assert!(head.port > 0);
            if let Target::Name(name) = head.target { prop_assert!(is_host_name(&name)); }
        }
    }

    #[test]
    fn hostile_texts_have_no_other_meaning(text in "\\PC{0,40}") {
        if is_host_name(&text) {
            let lower: String = text.to_ascii_lowercase();
            prop_assert_eq!(&lower, &text);
            prop_assert!(text.parse::<core::net::IpAddr>().is_err());
        }
    }
}
