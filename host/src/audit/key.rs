//! The host's key: made at the first use, kept beside the logs. What it signs can be checked by its
//! public half alone, on another machine too.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use super::{AuditError, io_error};
use crate::images::files;

/// The private half's file: PKCS #8 version 2 (RFC 5958), as bytes.
const FILE: &str = "host.key";
/// More than any such key.
const MAX_KEY: u64 = 1024;
/// What comes before the 32 bytes of a public key in `SubjectPublicKeyInfo` (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0];
const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----\n";
const PEM_END: &str = "\n-----END PUBLIC KEY-----\n";

/// Bytes of a signature.
pub const SIGNATURE: usize = 64;

/// The key that signs.
#[derive(Debug)]
pub struct HostKey(Ed25519KeyPair);

/// The key that checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl HostKey {
    /// Reads the key of `folder`, or makes one there.
    ///
    /// # Errors
    /// It can't be read or made, is no key, or others can read it.
    pub fn open(folder: &Path) -> Result<Self, AuditError> {
        let path = folder.join(FILE);
        if let Some(key) = Self::read(&path)? {
            return Ok(key);
        }
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_unspecified| AuditError::Random)?;
        files::put_new(folder, FILE, pkcs8.as_ref()).map_err(io_error("make", &path))?;
        Self::read(&path)?.ok_or(AuditError::Key(path))
    }

    /// The key of `folder`, if there is one.
    ///
    /// # Errors
    /// It can't be read, is no key, or others can read it.
    pub fn find(folder: &Path) -> Result<Option<Self>, AuditError> {
        Self::read(&folder.join(FILE))
    }

    fn read(path: &Path) -> Result<Option<Self>, AuditError> {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(io_error("open", path))?,
        };
        let metadata = file.metadata().map_err(io_error("look at", path))?;
        if metadata.mode() & 0o077 != 0 {
            return Err(AuditError::KeyOpen(path.to_owned()));
        }
        let mut bytes = Vec::new();
        Read::by_ref(&mut file)
            .take(MAX_KEY)
            .read_to_end(&mut bytes)
            .map_err(io_error("read", path))?;
        let key = Ed25519KeyPair::from_pkcs8(&bytes);
        key.map(|key| Some(Self(key))).map_err(|_rejected| AuditError::Key(path.to_owned()))
    }

    /// Signs bytes for one purpose.
    #[must_use]
    pub fn sign(&self, purpose: &str, bytes: &[u8]) -> [u8; SIGNATURE] {
        let signature = self.0.sign(&message(purpose, bytes));
        let mut fixed = [0; SIGNATURE];
        fixed.iter_mut().zip(signature.as_ref()).for_each(|(to, from)| *to = *from);
        fixed
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut fixed = [0; 32];
        fixed.iter_mut().zip(self.0.public_key().as_ref()).for_each(|(to, from)| *to = *from);
        PublicKey(fixed)
    }
}

impl PublicKey {
    /// Whether the key signed these bytes for this purpose.
    #[must_use]
    pub fn has_signed(&self, purpose: &str, bytes: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(&message(purpose, bytes), signature).is_ok()
    }

    /// As other programs read it: PEM of a `SubjectPublicKeyInfo` (RFC 8410).
    #[must_use]
    pub fn pem(&self) -> String {
        let der = [SPKI_PREFIX.as_slice(), &self.0].concat();
        format!("{PEM_BEGIN}{}{PEM_END}", STANDARD.encode(der))
    }

    /// Reads [`Self::pem`].
    #[must_use]
    pub fn from_pem(text: &str) -> Option<Self> {
        let inner = text.trim().strip_prefix(PEM_BEGIN.trim())?.strip_suffix(PEM_END.trim())?;
        let der = STANDARD.decode(inner.trim()).ok()?;
        Some(Self(der.strip_prefix(SPKI_PREFIX.as_slice())?.try_into().ok()?))
    }
}

/// What is signed for one purpose is not signed for another.
fn message(purpose: &str, bytes: &[u8]) -> Vec<u8> {
    [purpose.as_bytes(), b"\0", bytes].concat()
}

/// Random bytes of the system.
///
/// # Errors
/// It gives none.
pub fn random<const N: usize>() -> Result<[u8; N], AuditError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_unspecified| AuditError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_signs_for_one_purpose() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("host.key.new"), "of one that was killed").unwrap();
        let key = HostKey::open(folder.path()).unwrap();
        let again = HostKey::open(folder.path()).unwrap();
        assert_eq!(key.public(), again.public());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let signature = key.sign("a", b"text");
        assert!(again.public().has_signed("a", b"text", &signature));
        assert!(!again.public().has_signed("b", b"text", &signature));
        assert!(!again.public().has_signed("a", b"texT", &signature));
        assert_eq!(PublicKey::from_pem(&key.public().pem()), Some(key.public()));
        assert_eq!(PublicKey::from_pem("-----BEGIN PUBLIC KEY-----"), None);
        assert_eq!(PublicKey::from_pem(""), None);
    }

    #[test]
    fn openssl_reads_the_public_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.pem");
        fs::write(&file, HostKey::open(folder.path()).unwrap().public().pem()).unwrap();
        let Ok(output) = Command::new("openssl")
            .args(["pkey", "-pubin", "-noout", "-text", "-in"])
            .arg(file)
            .output()
        else {
            // Only another reader of what is tested above.
            return;
        };
        assert!(String::from_utf8_lossy(&output.stdout).contains("ED25519"), "{output:?}");
    }

    #[test]
    fn a_key_that_others_read_or_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        HostKey::open(folder.path()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(HostKey::open(folder.path()), Err(AuditError::KeyOpen(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "no key").unwrap();
        assert!(matches!(HostKey::open(folder.path()), Err(AuditError::Key(_))));
    }
}
