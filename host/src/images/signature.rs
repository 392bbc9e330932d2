//! Signatures as cosign makes them with a key: a small document that names the image's digest, and an
//! ECDSA signature of its bytes, kept as an image of its own beside the image.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_spec::image::ImageManifest;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::Deserialize;

use super::digest::Digest;
use super::files;
use super::manifest::ManifestError;

/// Where cosign keeps the signature of the document (its specification, `SIGNATURE_SPEC.md`).
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// What the document says of itself.
const TYPE: &str = "cosign container image signature";
/// Most signatures of one image that are looked at.
const MAX_SIGNATURES: usize = 64;
/// A key file has about 180 bytes.
const MAX_KEY_FILE: u64 = 8192;
/// A public key for ECDSA on P-256 in DER (RFC 5480), up to its point: the same for each.
const P256_HEADER: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// An uncompressed point: the byte 4 and two numbers of 32 bytes.
const POINT: usize = 65;

/// A public key, ECDSA on P-256.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    point: Vec<u8>,
    file: PathBuf,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.file.display())
    }
}

/// A document and its signature, not verified.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The document, as it was signed.
    pub payload: Vec<u8>,
    /// The signature in DER.
    pub signature: Vec<u8>,
}

/// Why a signature can't be relied on.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The key's file can't be read.
    #[error("can't read the key {}", path.display())]
    KeyFile {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no key that is used here.
    #[error("{} is not a public key for ECDSA on P-256 in PEM", .0.display())]
    Key(PathBuf),
    /// There is no signature.
    #[error("the image {0} has no signature")]
    Missing(Digest),
    /// There is one, but not by this key for this image.
    #[error("none of the {count} signatures of the image {digest} is by {keys} and for this image")]
    Wrong {
        /// The image.
        digest: Digest,
        /// How many there are.
        count: usize,
        /// The keys that were tried.
        keys: String,
    },
    /// The image that holds the signatures is wrong.
    #[error("the signatures' own manifest")]
    Manifest(#[from] ManifestError),
    /// Too many signatures.
    #[error("the image has {0} signatures; at most {MAX_SIGNATURES} are looked at")]
    TooMany(usize),
}

impl SignatureError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::KeyFile { .. } => "check the path and its permissions",
            Self::Key(_) => "name the public key that `cosign generate-key-pair` wrote: cosign.pub",
            Self::Missing(_) => "have it signed: `cosign sign --key cosign.key NAME@DIGEST`",
            Self::Wrong { .. } => {
                "check which key the image was signed with, and with whoever signed it"
            }
            Self::Manifest(_) | Self::TooMany(_) => "have the image signed again",
        }
    }
}

impl Key {
    /// Reads a key's file.
    ///
    /// # Errors
    /// It can't be read, or is no such key.
    pub fn load(path: &Path) -> Result<Self, SignatureError> {
        let read =
            std::fs::File::open(path).and_then(|file| files::read_bounded(file, MAX_KEY_FILE));
        let text =
            read.map_err(|source| SignatureError::KeyFile { path: path.to_owned(), source })?;
        let point = point_of(&text).ok_or_else(|| SignatureError::Key(path.to_owned()))?;
        Ok(Self { point, file: path.to_owned() })
    }

    fn verifies(&self, signed: &Signed) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point)
            .verify(&signed.payload, &signed.signature)
            .is_ok()
    }
}

/// The point of a key in PEM (RFC 7468).
fn point_of(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, rest) = text.split_once("-----BEGIN PUBLIC KEY-----")?;
    let (body, _) = rest.split_once("-----END PUBLIC KEY-----")?;
    let body: String = body.split_whitespace().collect();
    let bytes = STANDARD.decode(body).ok()?;
    let point = bytes.strip_prefix(&P256_HEADER)?;
    (point.len() == POINT && point.first() == Some(&4)).then(|| point.to_vec())
}

/// The tag of the image that holds an image's signatures.
#[must_use]
pub fn tag(digest: Digest) -> String {
    format!("sha256-{}.sig", digest.hex())
}

/// Reads the signatures out of the manifest of the image that holds them; `fetch` gets a blob, which
/// has the digest that it is asked for.
///
/// # Errors
/// The manifest is none, or a blob can't be had.
pub fn read<E: From<SignatureError>>(
    manifest: &[u8],
    mut fetch: impl FnMut(Digest) -> Result<Vec<u8>, E>,
) -> Result<Vec<Signed>, E> {
    let mut all = Vec::new();
    for (digest, signature) in entries(manifest)? {
        all.push(Signed { payload: fetch(digest)?, signature });
    }
    Ok(all)
}

/// The documents' digests and their signatures.
///
/// # Errors
/// The manifest is none, or has too many.
pub fn entries(manifest: &[u8]) -> Result<Vec<(Digest, Vec<u8>)>, SignatureError> {
    let parsed: ImageManifest = serde_json::from_slice(manifest)
        .map_err(|source| ManifestError::Json { what: "manifest", source })?;
    let count = parsed.layers().len();
    if count > MAX_SIGNATURES {
        return Err(SignatureError::TooMany(count));
    }
    let entry = |layer: &oci_spec::image::Descriptor| {
        let text = layer.annotations().as_ref()?.get(ANNOTATION)?;
        let digest = layer.digest().as_ref().parse().ok()?;
        Some((digest, STANDARD.decode(text).ok()?))
    };
    // What is no signature of this kind is none that could be relied on.
    Ok(parsed.layers().iter().filter_map(entry).collect())
}

/// Checks that one of the signatures is by one of the keys and is for the image.
///
/// # Errors
/// None is.
pub fn verify(signed: &[Signed], keys: &[Key], digest: Digest) -> Result<(), SignatureError> {
    if signed.is_empty() {
        return Err(SignatureError::Missing(digest));
    }
    let good = signed.iter().any(|signed| {
        // The key first: nothing of the document is looked at before.
        keys.iter().any(|key| key.verifies(signed)) && names_image(&signed.payload, digest)
    });
    if good {
        return Ok(());
    }
    let keys = keys.iter().map(|key| key.file.display().to_string()).collect::<Vec<_>>().join(", ");
    Err(SignatureError::Wrong { digest, count: signed.len(), keys })
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

fn names_image(payload: &[u8], digest: Digest) -> bool {
    serde_json::from_slice::<Payload>(payload).is_ok_and(|payload| {
        payload.critical.kind == TYPE && payload.critical.image.digest == digest.to_string()
    })
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;

    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Self {
            let random = SystemRandom::new();
            let kind = &ECDSA_P256_SHA256_ASN1_SIGNING;
            let document = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).unwrap())
        }

        fn pem(&self) -> String {
            let der = [&P256_HEADER[..], self.0.public_key().as_ref()].concat();
            format!(
                "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
                STANDARD.encode(der)
            )
        }

        fn key(&self) -> Key {
            Key { point: point_of(self.pem().as_bytes()).unwrap(), file: "k".into() }
        }

        fn sign(&self, payload: &str) -> Signed {
            let signature = self.0.sign(&SystemRandom::new(), payload.as_bytes()).unwrap();
            Signed { payload: payload.into(), signature: signature.as_ref().to_vec() }
        }
    }

    fn payload(digest: Digest, kind: &str) -> String {
        format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"x"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":null}}"#
        )
    }

    #[test]
    fn only_the_right_key_for_the_right_image_counts() {
        let (signer, other) = (Signer::new(), Signer::new());
        let image = Digest::of(b"image");
        let signed = signer.sign(&payload(image, TYPE));
        assert!(verify(std::slice::from_ref(&signed), &[signer.key()], image).is_ok());
        assert!(verify(std::slice::from_ref(&signed), &[other.key(), signer.key()], image).is_ok());
        let refused = |signed: Signed, key: Key, image| verify(&[signed], &[key], image).is_err();
        assert!(refused(signed.clone(), other.key(), image), "another key");
        assert!(refused(signed.clone(), signer.key(), Digest::of(b"x")), "another image");
        let kind = signer.sign(&payload(image, "another"));
        assert!(refused(kind, signer.key(), image), "another kind of document");
        let mut changed = signed;
        changed.payload.push(b' ');
        assert!(refused(changed, signer.key(), image), "a changed document");
        assert!(matches!(verify(&[], &[signer.key()], image), Err(SignatureError::Missing(_))));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let good = Signer::new().pem();
        assert!(point_of(good.as_bytes()).is_some());
        for bad in ["", "-----BEGIN PUBLIC KEY-----", &good.replace("MFkw", "MFkx"), &good[..60]] {
            assert!(point_of(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn signatures_are_read_out_of_their_manifest() {
        let document = Digest::of(b"document");
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": document.to_string(), "size": 2},
            "layers": [
                {"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": document.to_string(),
                 "size": 8, "annotations": {ANNOTATION: STANDARD.encode(b"sig")}},
                {"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": document.to_string(), "size": 8},
            ],
        });
        let found = entries(manifest.to_string().as_bytes()).unwrap();
        assert_eq!(found, [(document, b"sig".to_vec())]);
        assert!(entries(b"{}").is_err());
    }
}
