use std::sync::Arc;

use proptest::prelude::*;
use rustls::crypto::ring::default_provider;

use super::*;

/// What rustls sends first, to a server of this name.
fn real(name: &str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// A hello of these extensions.
pub(crate) fn made(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, content) in extensions {
        list.extend_from_slice(&kind.to_be_bytes());
        list.extend_from_slice(&u16::try_from(content.len()).unwrap().to_be_bytes());
        list.extend_from_slice(content);
    }
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 1, 1, 0]);
    body.extend_from_slice(&u16::try_from(list.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&list);
    let mut message = vec![1, 0];
    message.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend_from_slice(&body);
    records(&message, message.len())
}

/// A message in records of at most so many bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in message.chunks(size) {
        bytes.extend_from_slice(&[22, 3, 1]);
        bytes.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

pub(crate) fn name(text: &str) -> Vec<u8> {
    let length = |count: usize| u16::try_from(count).unwrap().to_be_bytes();
    let mut bytes = length(text.len() + 3).to_vec();
    bytes.push(0);
    bytes.extend_from_slice(&length(text.len()));
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

#[test]
fn a_real_client_is_understood_however_its_bytes_come() {
    let bytes = real("api.example.com");
    assert_eq!(examine(&bytes), Ok(Hello::To("api.example.com".to_owned())));
    for end in 0..bytes.len() {
        assert_eq!(examine(&bytes[..end]), Ok(Hello::Unfinished), "{end}");
    }
    let message = &bytes[5..];
    for size in [1, 2, 3, 5, 50] {
        let cut = records(message, size);
        assert_eq!(examine(&cut), Ok(Hello::To("api.example.com".to_owned())), "{size}");
    }
    // What follows is not looked at.
    let mut more = bytes;
    more.extend_from_slice(&[20, 3, 3, 0, 1, 1]);
    assert_eq!(examine(&more), Ok(Hello::To("api.example.com".to_owned())));
}

#[test]
fn other_protocols_are_plain() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x", b"\0\0\0\x08\x04\xd2\x16\x2f", b"\x15\x03\x01"]
    {
        assert_eq!(examine(bytes), Ok(Hello::Plain));
    }
    assert_eq!(examine(b""), Ok(Hello::Unfinished));
}

#[test]
fn what_is_refused() {
    let good = name("a.example");
    let two = {
        let mut bytes = good[2..].to_vec();
        bytes.extend_from_slice(&good[2..]);
        let mut list = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
        list.extend_from_slice(&bytes);
        list
    };
    let mut other_kind = good.clone();
    other_kind[2] = 1;
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(examine(&made(&[(0, &good)])), Ok(Hello::To("a.example".to_owned())));
    for (extensions, error) in [
        (&[][..], HelloError::NoName),
        (&[(43, &[2, 3, 4][..])], HelloError::NoName),
        (&[(0, &good), (0, &good)], HelloError::Malformed),
        (&[(0, &good), (43, &[]), (43, &[])], HelloError::Malformed),
        (&[(0, &two)], HelloError::Names),
        (&[(0, &other_kind)], HelloError::Names),
        (&[(0, &longer)], HelloError::Names),
        (&[(0, &[])], HelloError::Malformed),
        (&[(0, &[0, 0])], HelloError::Malformed),
        (&[(0, &name(""))], HelloError::Names),
        (&[(0, &name("1.2.3.4"))], HelloError::Names),
        (&[(0, &name("a.example."))], HelloError::Names),
        (&[(0, &name("a.example\0.evil"))], HelloError::Names),
        (&[(0, &good), (0xfe0d, &[0; 40])], HelloError::Encrypted),
        (&[(0xfe0d, &[0; 40]), (0, &good)], HelloError::Encrypted),
        (&[(0xffce, &[1]), (0, &good)], HelloError::Encrypted),
    ] {
        assert_eq!(examine(&made(extensions)), Err(error), "{extensions:?}");
    }
    assert_eq!(examine(&made(&[(0, &name("A.Example"))])), Ok(Hello::To("a.example".to_owned())));
    for bytes in [
        // Not a client's hello; another version; an empty record; one that is too long.
        vec![22, 3, 1, 0, 4, 2, 0, 0, 0],
        vec![22, 2, 0, 0, 4],
        vec![22, 3, 1, 0, 0],
        vec![22, 3, 1, 0x40, 1],
        // Records of another type in between.
        vec![22, 3, 1, 0, 1, 1, 23, 3, 3, 0, 1, 0],
    ] {
        assert_eq!(examine(&bytes), Err(HelloError::Malformed), "{bytes:?}");
    }
    let mut long = made(&[(0, &good)]);
    long[6] = 1;
    assert_eq!(examine(&long), Err(HelloError::TooLong));
    let mut with_more = made(&[(0, &good)]);
    with_more.push(14);
    let length = u16::try_from(with_more.len() - 5).unwrap().to_be_bytes();
    with_more[3..5].copy_from_slice(&length);
    assert_eq!(examine(&with_more), Err(HelloError::Malformed), "a second message in the record");
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        drop(examine(&bytes));
        bytes.splice(0..0, [22, 3, 1]);
        drop(examine(&bytes));
    }

    /// One changed byte: refused, or still one host name.
    #[test]
    fn a_damaged_hello_names_a_host_or_nobody(
        place in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = real("api.example.com");
        let place = place.index(bytes.len());
        bytes[place] = byte;
        if let Ok(Hello::To(name)) = examine(&bytes) {
            prop_assert!(cloister_protocol::egress::is_host_name(&name));
        }
    }
}
