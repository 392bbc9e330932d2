//! Whom a host's certificate must come from: the authorities that this system trusts, and the operator's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::limits::MAX_CERTIFICATES_FILE;
use super::operator::Operator;
use crate::images::files::read_bounded;

/// Why no host can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The operator's file can't be read.
    #[error("can't read the certificates of the operator {}", path.display())]
    Read {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no certificate in it, or something else.
    #[error("the certificates of the operator {} are not all certificates as PEM", .0.display())]
    Certificates(PathBuf),
    /// This system trusts nobody.
    #[error("this system has no list of certificate authorities")]
    None,
    /// The TLS library can't be set up.
    #[error("can't set TLS up")]
    Setup(#[from] rustls::Error),
}

impl TrustError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::None => {
                "install the package ca-certificates, or name a file by `certificates` in /etc/cloister/egress.toml"
            }
            Self::Setup(_) => "this is a fault of this program: report it",
            _ => "put the file that /etc/cloister/egress.toml names by `certificates` in order",
        }
    }
}

/// What hosts are held against.
#[derive(Clone, Debug)]
pub struct Trust {
    config: Arc<ClientConfig>,
}

impl Trust {
    /// The system's authorities and the operator's.
    ///
    /// # Errors
    /// There are none, or the operator's can't be read.
    pub fn load(operator: &Operator) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        // Those of the system that no library understands are left out, as everywhere.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = &operator.certificates {
            add(&mut roots, path)?;
        }
        if roots.is_empty() {
            return Err(TrustError::None);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config) })
    }

    /// How to connect to a host, offering these protocols.
    pub(super) fn config(&self, protocols: Vec<Vec<u8>>) -> Arc<ClientConfig> {
        if protocols.is_empty() {
            return Arc::clone(&self.config);
        }
        let mut config = (*self.config).clone();
        config.alpn_protocols = protocols;
        Arc::new(config)
    }
}

/// Adds the operator's. All of them must be good: one that is left out unseen would be missed at the wrong time.
fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), TrustError> {
    let file = std::fs::File::open(path);
    let bytes = file
        .and_then(|file| read_bounded(file, MAX_CERTIFICATES_FILE))
        .map_err(|source| TrustError::Read { path: path.to_owned(), source })?;
    let wrong = || TrustError::Certificates(path.to_owned());
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|_| wrong())?;
        roots.add(certificate).map_err(|_| wrong())?;
        count += 1;
    }
    if count == 0 { Err(wrong()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_s_file_must_be_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let operator = Operator { certificates: Some(path.clone()), ..Operator::default() };
        assert!(matches!(Trust::load(&operator), Err(TrustError::Read { .. })));
        for text in
            ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(Trust::load(&operator), Err(TrustError::Certificates(_))), "{text}");
        }
        let pem = crate::egress::authority::Authority::new("t").unwrap().pem();
        std::fs::write(&path, pem).unwrap();
        Trust::load(&operator).unwrap();
    }
}
