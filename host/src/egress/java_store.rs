//! A key store of certificate authorities as Java reads it: the format JKS, whose lists of trusted certificates need no
//! password. (Bytes in order of the network; `java.io.DataOutput` says how a text is written.)

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
/// An entry that is a trusted certificate.
const TRUSTED: u32 = 2;
const KIND: &str = "X.509";
/// The password that every Java has for its list; it guards nothing.
const PASSWORD: &str = "changeit";
/// What goes into the digest behind the password: the format's own words.
const SALT: &[u8] = b"Mighty Aphrodite";
/// Most certificates: Mozilla's list has some 150.
const MAX_CERTIFICATES: usize = 1024;

/// The store of the certificates in these lists, which are PEM. What is no certificate there is left out, as other
/// programs do that read such a list.
#[must_use]
pub(crate) fn java_store(lists: &[&[u8]]) -> Vec<u8> {
    let all = lists.iter().flat_map(|list| CertificateDer::pem_slice_iter(list));
    let certificates: Vec<_> = all.filter_map(Result::ok).take(MAX_CERTIFICATES).collect();
    let mut store = Vec::new();
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    store.extend(MAGIC.to_be_bytes());
    store.extend(VERSION.to_be_bytes());
    store.extend(number(certificates.len()));
    for (index, certificate) in certificates.iter().enumerate() {
        store.extend(TRUSTED.to_be_bytes());
        text(&mut store, &format!("authority-{index}"));
        // Made in 1970: so the same certificates are the same file.
        store.extend(0_u64.to_be_bytes());
        text(&mut store, KIND);
        store.extend(number(certificate.len()));
        store.extend_from_slice(certificate);
    }
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    let password: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    for part in [password.as_slice(), SALT, &store] {
        digest.update(part);
    }
    store.extend_from_slice(digest.finish().as_ref());
    store
}

/// A short text of ASCII.
fn text(store: &mut Vec<u8>, text: &str) {
    store.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    store.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::authority::Authority;

    #[test]
    fn a_store_has_every_certificate_and_its_digest() {
        let pems = [Authority::new("a").unwrap().pem(), Authority::new("b").unwrap().pem()];
        let list = format!("# a comment\n{}nonsense\n", pems[0]);
        let store = java_store(&[list.as_bytes(), pems[1].as_bytes()]);
        assert_eq!(store[..12], [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 2]);
        assert_eq!(store[12..16], [0, 0, 0, 2]);
        assert_eq!(&store[18..29], b"authority-0");
        for pem in &pems {
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            let found = store.windows(der.len()).filter(|some| *some == &*der).count();
            assert_eq!(found, 1);
        }
        let (body, digest) = store.split_at(store.len() - 20);
        let password = b"\0c\0h\0a\0n\0g\0e\0i\0t";
        let wanted = ring::digest::digest(
            &SHA1_FOR_LEGACY_USE_ONLY,
            &[&password[..], b"Mighty Aphrodite", body].concat(),
        );
        assert_eq!(digest, wanted.as_ref());
        assert_eq!(java_store(&[b"-----BEGIN CERTIFICATE-----\n!"]).len(), 32);
    }
}
