use super::*;

fn grant() -> Grant {
    Grant {
        mark: [1; MARK_LEN],
        endpoint: "https://auth.example.com/token".to_owned(),
        client: "cloister".to_owned(),
        scope: "read write".to_owned(),
        client_secret: Some(b"cl1ent-s3cret".to_vec()),
        in_body: false,
        refresh_token: Some(b"r3fresh".to_vec()),
    }
}

#[test]
fn addresses_of_token_servers() {
    let parse = |text: &str| Endpoint::parse(text).unwrap();
    let plain = parse("https://Auth.example.com/a/token?x=1");
    assert_eq!(plain.host, Host::Name("auth.example.com".to_owned()));
    assert_eq!((plain.tls, plain.port, &*plain.path), (true, 443, "/a/token?x=1"));
    let near = parse("http://127.0.0.1:8080");
    assert_eq!((near.tls, near.port, &*near.path), (false, 8080, "/"));
    let six = parse("http://[::1]:81/t");
    assert_eq!((six.host, six.port), (Host::Address("::1".parse().unwrap()), 81));
    assert_eq!(parse("https://192.0.2.1:8443/t").authority, "192.0.2.1:8443");
    let long = format!("https://a.example/{}", "a".repeat(MAX_ENDPOINT));
    for (text, what) in [
        ("", "no URL"),
        ("auth.example.com/token", "no URL"),
        ("/token", "no URL"),
        ("https://", "no URL"),
        ("https:///token", "no URL"),
        ("https://a b/token", "no URL"),
        ("https://a.example:0/token", "no URL"),
        ("https://a.example:/token", "no URL"),
        ("https://a.example:99999/token", "no URL"),
        ("https://-a.example/token", "no URL"),
        ("ftp://a.example/token", "no https://"),
        ("http://a.example/token", "without TLS"),
        ("http://localhost/token", "without TLS"),
        ("http://192.0.2.1/token", "without TLS"),
        ("http://[2001:db8::1]/token", "without TLS"),
        ("https://user@a.example/token", "a user or a fragment"),
        ("https://a.example/token#x", "a user or a fragment"),
        (&long, "longer than 2 KiB"),
    ] {
        let (why, remedy) = Endpoint::parse(text).unwrap_err();
        assert!(why.contains(what) && !remedy.is_empty(), "{text}: {why}");
    }
}

#[test]
fn a_grant_is_looked_at_and_shows_nothing_secret() {
    grant().check("mail").unwrap();
    let shown = format!("{:?} {}", grant(), grant().shown());
    assert!(shown.contains("https://auth.example.com/token, client cloister, refresh token"));
    assert!(!shown.contains("s3cret") && !shown.contains("r3fresh"), "{shown}");
    let changes: [fn(&mut Grant); 8] = [
        |grant| grant.endpoint = "http://a.example".to_owned(),
        |grant| grant.client.clear(),
        |grant| grant.client = "a\nb".to_owned(),
        |grant| grant.client = "a".repeat(MAX_CLIENT + 1),
        |grant| grant.scope = "a".repeat(MAX_SCOPE + 1),
        |grant| (grant.refresh_token, grant.client_secret) = (None, None),
        |grant| grant.refresh_token = Some(b"r3fresh\r\nX: 1".to_vec()),
        |grant| grant.client_secret = Some(Vec::new()),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut wrong = grant();
        change(&mut wrong);
        let error = wrong.check("mail").unwrap_err();
        assert!(error.to_string().contains("mail") && !error.remedy().is_empty(), "{index}");
        assert!(!error.to_string().contains("r3fresh"), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn no_address_is_too_much(text in "(https?://)?[ -~é]{0,60}") {
        if let Ok(endpoint) = Endpoint::parse(&text) {
            assert!(endpoint.port > 0 && endpoint.path.starts_with(['/', '?']));
        }
    }
}
