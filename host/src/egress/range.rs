//! Ranges of addresses, as rules name them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::name::Fault;

const WRITE: &str = "write an address or a range, like \"203.0.113.7\" or \"203.0.113.0/24\"";

/// An address or a range of them; the bits behind the prefix are 0.
///
/// # Errors
/// It is none.
pub fn range(text: &str) -> Result<IpNet, Fault> {
    let network = match (text.parse::<IpAddr>(), text.parse::<IpNet>()) {
        (Ok(address), _) => IpNet::from(address),
        (_, Ok(network)) => network,
        _ if text.contains('-') => {
            return Err(("it is written from end to end".to_owned(), WRITE));
        }
        _ if super::name::normal(text).is_ok() => {
            let what = "it is a name and no address".to_owned();
            return Err((what, "write names as host = \"api.example.com\""));
        }
        _ => return Err(("it is neither an address nor a range".to_owned(), WRITE)),
    };
    if network.addr() != network.network() {
        let what = format!("it has bits behind its prefix; the range is {}", network.trunc());
        return Err((what, "write the range's first address, or the address alone"));
    }
    if let IpNet::V6(six) = network
        && six.addr().to_ipv4_mapped().is_some()
    {
        let what = "it is an IPv4 address in the form of IPv6".to_owned();
        return Err((what, "write it as IPv4"));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn ranges_have_one_form() {
        for (text, shown) in [
            ("203.0.113.7", "203.0.113.7/32"),
            ("203.0.113.0/24", "203.0.113.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00::/8", "fd00::/8"),
            ("FD00:EC2::254", "fd00:ec2::254/128"),
        ] {
            assert_eq!(range(text).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "203.0.113.7/24",
            "203.0.113.0/33",
            "203.0.113",
            "203.0.113.0/",
            "010.0.0.1",
            "1.2.3.4-9",
            "a.example",
            "::ffff:10.0.0.1",
            "::ffff:0:0/96",
            "fe80::1%eth0",
            "fd00::1/8",
            "0x7f.1",
            "1.2.3.4 ",
            "300.1.1.1",
        ] {
            assert!(range(text).is_err(), "{text:?}");
        }
    }
}
