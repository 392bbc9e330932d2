//! Names of hosts, in the one form in which they are compared: ASCII, lower case, no dot at the end.

use cloister_protocol::egress::is_host_name;
use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};

/// What is wrong with a name, and what to do.
pub type Fault = (String, &'static str);

const WRITE: &str =
    "write a name like \"api.example.com\", or \"*.example.com\" for all names below it";
const ADDRESS: &str = "write addresses as cidr = \"203.0.113.7\"";

/// The one form of a host's name.
///
/// # Errors
/// It is none.
pub fn normal(text: &str) -> Result<String, Fault> {
    let bare = text.strip_suffix('.').unwrap_or(text);
    if bare.is_empty() {
        return Err(("the name is empty".to_owned(), WRITE));
    }
    if bare.contains("://") || bare.contains('/') {
        let what = "it is a URL and no name of a host".to_owned();
        return Err((what, "write the host alone, like \"api.example.com\""));
    }
    if bare.parse::<std::net::IpAddr>().is_ok() || bare.starts_with('[') {
        return Err(("it is an address and no name".to_owned(), ADDRESS));
    }
    if bare.contains(':') {
        let what = "there is a port in it".to_owned();
        return Err((what, "write the host alone, and its ports as ports = [443]"));
    }
    let ascii = Uts46::new()
        .to_ascii(bare.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
        .map_err(|_| ("it is no name of a host".to_owned(), WRITE))?;
    if !is_host_name(&ascii) {
        let what = "its last part is a number, as of an address".to_owned();
        return Err((what, ADDRESS));
    }
    Ok(ascii.into_owned())
}

/// The one form of a pattern: a host's name, perhaps with `*.` in front.
///
/// # Errors
/// It is none, or means too much.
pub fn pattern(text: &str) -> Result<String, Fault> {
    let star = "put the star alone before the first dot, like \"*.example.com\"";
    let Some(domain) = text.strip_prefix("*.") else {
        if text == "*" {
            let what = "it means every host".to_owned();
            return Err((what, "name the hosts that the agent needs"));
        }
        if text.contains('*') {
            return Err(("the star is not the whole first part".to_owned(), star));
        }
        let name = normal(text)?;
        return own(&name).map(|()| name);
    };
    if domain.contains('*') {
        return Err(("there is more than one star in it".to_owned(), star));
    }
    let domain = normal(domain)?;
    if !domain.contains('.') {
        let what = format!("it means every host below \"{domain}\"");
        return Err((what, "leave at least two parts behind the star, like \"*.example.com\""));
    }
    own(&domain).map(|()| format!("*.{domain}"))
}

/// Names that never leave an agent.
fn own(name: &str) -> Result<(), Fault> {
    if name == "localhost" || name.ends_with(".localhost") {
        let what = "localhost is the agent itself".to_owned();
        return Err((what, "give the host another name that it has elsewhere"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_has_one_form() {
        for (text, form) in [
            ("api.example.com", "api.example.com"),
            ("API.Example.COM.", "api.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example.", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("r3---sn-x.example.com", "r3---sn-x.example.com"),
            // Other dots and full-width letters are the same to a resolver's front.
            ("api。example。com", "api.example.com"),
            ("ａpi.example.com", "api.example.com"),
            ("db", "db"),
        ] {
            assert_eq!(pattern(text), Ok(form.to_owned()), "{text}");
        }
        assert_eq!(pattern("*.Example.com."), Ok("*.example.com".to_owned()));
        assert_eq!(pattern("*.bücher.example"), Ok("*.xn--bcher-kva.example".to_owned()));
    }

    #[test]
    fn what_is_no_name() {
        let long = "a".repeat(64);
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a.b..",
            "a_b.c",
            "a b",
            "-a.b",
            "a-.b",
            "1.2.3.4",
            "[::1]",
            "::1",
            "127.1",
            "0x7f.1",
            "2130706433",
            "1.2.3.4.",
            "https://a.b",
            "a.b/c",
            "a.b:443",
            "*",
            "*.",
            "*.com",
            "*.localhost",
            "localhost",
            "a.localhost.",
            "a.*.com",
            "*a.com",
            "a*.com",
            "**.a.com",
            "*.*.a.com",
            "*.1.2.3.4",
            "xn--a.example",
            "a\u{ad}\u{0}b.c",
            "a@b.c",
            "a%2eb.c",
            "１.２.３.４",
            &long,
        ] {
            assert!(pattern(text).is_err(), "{text:?}: {:?}", pattern(text));
        }
    }
}
