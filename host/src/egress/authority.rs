//! A team's own certificate authority: it is made when the team starts, signs for the hosts whose streams
//! are opened, and goes with the warden. Its private key is nowhere else, and on no disk but for a team that is suspended,
//! whose agents trust it still: sealed, with what else of the team is kept.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use chrono::{Datelike as _, Duration, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use super::limits::MAX_CERTIFICATES;

/// How long certificates are good, in days. No team lives so long, and what is trusted ends with its team.
const GOOD_DAYS: i64 = 3650;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A key or a certificate can't be made.
    #[error("can't make a certificate")]
    Make(#[from] rcgen::Error),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// The TLS library does not take what was made.
    #[error("can't use the certificate that was made")]
    Use(#[from] rustls::Error),
}

/// A host, and the protocol that it speaks.
type Served = (String, Option<Vec<u8>>);

/// A team's authority.
pub struct Authority {
    team: String,
    certificate: CertificateDer<'static>,
    pem: String,
    params: CertificateParams,
    key: KeyPair,
    /// One key for all hosts: it is as secret as the authority's.
    host_key: KeyPair,
    /// What streams are opened with, by host and protocol.
    configs: RefCell<HashMap<Served, Arc<ServerConfig>>>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.key.zeroize();
        self.host_key.zeroize();
    }
}

/// What an authority goes on from. The keys in it are secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct KeptAuthority {
    /// The team that it was made for: a fork has another name.
    team: String,
    /// Its certificate.
    pem: String,
    certificate: Vec<u8>,
    /// Its key and the one for all hosts (PKCS #8).
    key: Vec<u8>,
    host_key: Vec<u8>,
}

impl std::fmt::Debug for KeptAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptAuthority").field("team", &self.team).finish_non_exhaustive()
    }
}

impl Drop for KeptAuthority {
    fn drop(&mut self) {
        self.key.zeroize();
        self.host_key.zeroize();
    }
}

impl Authority {
    /// Makes an authority for a team.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn new(team: &str) -> Result<Self, AuthorityError> {
        let params = params_of_authority(team)?;
        let (key, host_key) = (KeyPair::generate()?, KeyPair::generate()?);
        let certificate = params.self_signed(&key)?;
        let (pem, certificate) = (certificate.pem(), certificate.der().clone());
        let (team, configs) = (team.to_owned(), RefCell::default());
        Ok(Self { team, certificate, pem, params, key, host_key, configs })
    }

    /// The authority of a team that was suspended: its agents trust this one.
    ///
    /// # Errors
    /// The keys are none.
    pub fn again(kept: &KeptAuthority) -> Result<Self, AuthorityError> {
        let key = |der: &[u8]| KeyPair::try_from(der);
        Ok(Self {
            // Of these only the name counts, by which what is signed names its issuer.
            params: params_of_authority(&kept.team)?,
            team: kept.team.clone(),
            certificate: kept.certificate.clone().into(),
            pem: kept.pem.clone(),
            key: key(&kept.key)?,
            host_key: key(&kept.host_key)?,
            configs: RefCell::default(),
        })
    }

    /// What it can go on from.
    #[must_use]
    pub fn kept(&self) -> KeptAuthority {
        KeptAuthority {
            team: self.team.clone(),
            pem: self.pem.clone(),
            certificate: self.certificate.to_vec(),
            key: self.key.serialize_der(),
            host_key: self.host_key.serialize_der(),
        }
    }

    /// Its certificate, as programs read it.
    #[must_use]
    pub fn pem(&self) -> String {
        self.pem.clone()
    }

    /// How a stream is opened as the host's server, which speaks this protocol (ALPN).
    ///
    /// # Errors
    /// A certificate can't be made.
    pub fn config(
        &self,
        host: &str,
        protocol: Option<&[u8]>,
    ) -> Result<Arc<ServerConfig>, AuthorityError> {
        let wanted = (host.to_owned(), protocol.map(<[u8]>::to_vec));
        if let Some(found) = self.configs.borrow().get(&wanted) {
            return Ok(Arc::clone(found));
        }
        let (chain, key) = self.certified(host)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = wanted.1.iter().cloned().collect();
        // Nothing is kept of a client between its connections.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let config = Arc::new(config);
        let mut configs = self.configs.borrow_mut();
        if configs.len() < MAX_CERTIFICATES {
            configs.insert(wanted, Arc::clone(&config));
        }
        Ok(config)
    }

    /// A certificate for a host, with the authority's, and its key.
    fn certified(
        &self,
        host: &str,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), AuthorityError> {
        let mut params = params(host)?;
        params.subject_alt_names = vec![SanType::DnsName(host.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&self.host_key, &issuer)?;
        let key = PrivatePkcs8KeyDer::from(self.host_key.serialize_der());
        Ok((vec![certificate.der().clone(), self.certificate.clone()], key.into()))
    }
}

/// What the authority's own certificate says.
fn params_of_authority(team: &str) -> Result<CertificateParams, AuthorityError> {
    let mut params = params(&format!("Cloister authority of team {team}"))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// What every certificate says.
fn params(name: &str) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // A common name has at most 64 characters (RFC 5280, appendix A.1); what counts is the alternative name.
    params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_unspecified| AuthorityError::Random)?;
    // Positive, as it must be.
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    // Yesterday: clocks of guests may be behind.
    let day = |days: i64| {
        let date = (Utc::now() + Duration::days(days)).date_naive();
        let part = |number: u32| u8::try_from(number).unwrap_or(1);
        rcgen::date_time_ymd(date.year(), part(date.month()), part(date.day()))
    };
    (params.not_before, params.not_after) = (day(-1), day(GOOD_DAYS));
    Ok(params)
}
