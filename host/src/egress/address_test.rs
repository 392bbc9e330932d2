use super::*;

fn kind(text: &str) -> Option<Kind> {
    special(canonical(text.parse().unwrap()))
}

#[test]
fn public_addresses_are_not_special() {
    for text in [
        "1.1.1.1",
        "8.8.8.8",
        "93.184.216.34",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.0.1",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700::1111",
        "2a00:1450:4001::200e",
        "2001:200::1",
        "64:ff9b::1.1.1.1",
        "::ffff:8.8.8.8",
    ] {
        assert_eq!(kind(text), None, "{text}");
    }
}

#[test]
fn everything_else_is() {
    for (text, word) in [
        ("0.0.0.0", "this network"),
        ("0.1.2.3", "this network"),
        ("10.0.0.1", "private"),
        ("10.255.255.255", "private"),
        ("100.64.0.1", "shared"),
        ("100.127.255.255", "shared"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("169.254.0.1", "link-local"),
        ("169.254.169.254", "metadata"),
        ("169.254.170.2", "link-local"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("192.0.0.192", "metadata"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.0.0.1", "protocols"),
        ("192.0.2.1", "documentation"),
        ("192.88.99.1", "6to4"),
        ("192.168.1.1", "private"),
        ("198.18.0.1", "benchmarks"),
        ("198.19.255.255", "benchmarks"),
        ("198.51.100.1", "documentation"),
        ("203.0.113.1", "documentation"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "broadcast"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("fe80::1", "link-local"),
        ("fec0::1", "site-local"),
        ("fc00::1", "private"),
        ("fdff::1", "private"),
        ("fd00:ec2::254", "metadata"),
        ("fd20:ce::254", "metadata"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "documentation"),
        ("3fff::1", "documentation"),
        ("100::1", "discarding"),
        ("2001::1", "Teredo"),
        ("2001:0:7f00:1::", "Teredo"),
        ("2001:2::1", "protocols"),
        ("2001:10::1", "protocols"),
        ("2002:7f00:1::", "6to4"),
        ("2002:a9fe:a9fe::1", "6to4"),
        ("2002:808:808::1", "6to4"),
        // IPv4 in the clothes of IPv6: mapped, compatible, translated.
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:169.254.169.254", "metadata"),
        ("::ffff:10.0.0.1", "private"),
        ("::127.0.0.1", "reserved"),
        ("::169.254.169.254", "reserved"),
        ("::8.8.8.8", "reserved"),
        ("::ffff:0:127.0.0.1", "reserved"),
        ("64:ff9b::127.0.0.1", "loopback"),
        ("64:ff9b::a9fe:a9fe", "metadata"),
        ("64:ff9b::10.0.0.1", "private"),
        ("64:ff9b:1::8.8.8.8", "translation"),
        ("64:ff9b:0:1::", "reserved"),
        ("4000::1", "reserved"),
        ("fe00::1", "reserved"),
        ("1::1", "reserved"),
    ] {
        let found = kind(text);
        assert!(found.is_some_and(|kind| kind.contains(word)), "{text}: {found:?}");
    }
}

#[test]
fn a_metadata_service_is_named_by_itself_alone() {
    let service: IpAddr = "169.254.169.254".parse().unwrap();
    let names = |range: &str, address| names(&range.parse().unwrap(), address);
    assert!(names("169.254.169.254/32", service));
    assert!(!names("169.254.169.0/24", service));
    assert!(names("169.254.169.0/24", "169.254.169.253".parse().unwrap()));
    assert!(!names("10.0.0.0/8", "11.0.0.0".parse().unwrap()));
}

#[test]
fn a_translated_address_has_two_meanings() {
    let address: IpAddr = "64:ff9b::9.9.9.9".parse().unwrap();
    assert_eq!(meanings(address), [address, "9.9.9.9".parse().unwrap()]);
    assert_eq!(meanings("9.9.9.9".parse().unwrap()).len(), 1);
}
