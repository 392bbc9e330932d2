//! Pulls an image by name from a registry, with `oci-client`; every byte is checked by its digest.

use std::fs::File;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use tokio::io::AsyncWrite;

use super::credentials::{self, CredentialsError, Login};
use super::digest::{Digest, Digesting};
use super::import::{ImportError, Imported, Origin, Progress, Request, Work, check_blob};
use super::limits::{MAX_JSON, MAX_NESTING};
use super::manifest::{self, ACCEPTED, Blob, Layer, ManifestError};
use super::name::Name;
use super::signature;
use super::source::{SourceError, layout};
use super::store::session::Session;
use super::store::{Store, StoreError};

/// A registry that does not answer for so long is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A transfer that stands still for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// A manifest that takes longer is given up.
const MANIFEST_TIMEOUT: Duration = Duration::from_secs(120);

/// How to talk to the registry.
#[derive(Clone, Debug, Default)]
pub struct Transport {
    /// Without TLS even if the registry is not on this machine.
    pub plain_http: bool,
    /// Docker's configuration, if it is not at its usual place.
    pub docker_config: Option<std::path::PathBuf>,
}

/// Why an image can't be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The name has no registry in it.
    #[error("the name {0:?} does not say which registry the image is in")]
    NoRegistry(String),
    /// Credentials can't be had.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The client can't be made.
    #[error("can't set up the registry client")]
    Client(#[source] OciDistributionError),
    /// The registry refused or could not be reached.
    #[error("can't get {what} from the registry {host}")]
    Registry {
        /// What was asked for.
        what: String,
        /// Whom.
        host: String,
        /// Why not.
        #[source]
        source: Box<OciDistributionError>,
    },
    /// It took too long.
    #[error("the registry {host} did not send {what} in time")]
    Timeout {
        /// What was asked for.
        what: String,
        /// Whom.
        host: String,
    },
    /// What came is wrong.
    #[error(transparent)]
    Import(#[from] ImportError),
}

impl From<SourceError> for PullError {
    fn from(error: SourceError) -> Self {
        Self::Import(error.into())
    }
}

impl From<ManifestError> for PullError {
    fn from(error: ManifestError) -> Self {
        Self::Import(error.into())
    }
}

impl From<StoreError> for PullError {
    fn from(error: StoreError) -> Self {
        Self::Import(error.into())
    }
}

impl From<signature::SignatureError> for PullError {
    fn from(error: signature::SignatureError) -> Self {
        Self::Import(error.into())
    }
}

impl PullError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoRegistry(_) => {
                "write the registry's host before the name: HOST[:PORT]/PATH:TAG"
            }
            Self::Credentials(error) => error.remedy(),
            Self::Client(_) => "check the proxy variables and the system's certificates",
            Self::Registry { .. } | Self::Timeout { .. } => {
                "check the name, the network and the login (`skopeo login` writes Docker's configuration); \
                 a registry without TLS needs --plain-http"
            }
            Self::Import(error) => error.remedy(),
        }
    }
}

/// Pulls the image that the request names.
///
/// # Errors
/// It can't be had, or what came is wrong. The store is then as it was.
pub async fn pull(
    store: &Store,
    mut session: Session<'_>,
    request: &Request,
    transport: &Transport,
    progress: &dyn Progress,
) -> Result<Imported, PullError> {
    let no_registry = || {
        let name = request.name.as_ref().map(Name::to_string);
        PullError::NoRegistry(name.unwrap_or_default())
    };
    let name = request.name.as_ref().ok_or_else(no_registry)?;
    let (host, path) = name.registry().ok_or_else(no_registry)?;
    let work = Work { store, request, progress };
    progress.step(&format!("asking {host}"), None);
    let remote = Remote::connect(host, path, transport).await?;
    let top = remote.manifest(&remote.reference(name)).await?;
    let listed = Digest::of(&top);
    work.check_pin(&[listed])?;
    let signatures =
        if request.policy.required.is_empty() { None } else { remote.signatures(listed).await? };
    let signed = work.check_signature(listed, |_| Ok(signatures))?;
    let bytes = remote.leaf(top).await?;
    let digest = Digest::of(&bytes);
    let parsed = manifest::manifest(&bytes)?;
    let configuration = remote.small(parsed.config).await?;
    let image = manifest::image(digest, &parsed, &configuration)?;
    let names = work.names(&[])?;
    work.put_small(&mut session, &bytes)?;
    work.put_small(&mut session, &configuration)?;
    for (index, layer) in image.layers.iter().enumerate() {
        if session.has_blob(layer.digest) {
            continue;
        }
        let what = format!("layer {} of {}", index + 1, image.layers.len());
        progress.step(&format!("pulling {what}"), Some(layer.size));
        remote.layer(&mut session, layer, &what, progress).await?;
    }
    Ok(work.finish(session, &image, Origin { kind: "registry", names, signed, skipped: 0 })?)
}

/// A repository of a registry.
struct Remote {
    client: Client,
    auth: RegistryAuth,
    host: String,
    path: String,
}

impl Remote {
    async fn connect(host: &str, path: &str, transport: &Transport) -> Result<Self, PullError> {
        // The process's own choice of TLS; a second call finds it made.
        rustls::crypto::ring::default_provider().install_default().ok();
        let plain = transport.plain_http || is_loopback(host);
        let client = Client::try_from(ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("cloister/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        })
        .map_err(PullError::Client)?;
        let file = transport.docker_config.clone().or_else(credentials::usual_file);
        let login = file.map(|file| credentials::find(&file, host)).transpose()?.flatten();
        let auth = match login {
            Some(Login { user, password }) => RegistryAuth::Basic(user, password),
            None => RegistryAuth::Anonymous,
        };
        let remote = Self { client, auth, host: host.to_owned(), path: path.to_owned() };
        let reference = remote.tagged("latest");
        let asked = remote.client.auth(&reference, &remote.auth, RegistryOperation::Pull);
        remote.timed("an answer", asked).await?;
        Ok(remote)
    }

    fn tagged(&self, tag: &str) -> Reference {
        Reference::with_tag(self.host.clone(), self.path.clone(), tag.to_owned())
    }

    fn pinned(&self, digest: Digest) -> Reference {
        Reference::with_digest(self.host.clone(), self.path.clone(), digest.to_string())
    }

    /// A digest is asked for if there is one: a tag beside it is only for people.
    fn reference(&self, name: &Name) -> Reference {
        name.digest.map_or_else(|| self.tagged(name.tag()), |digest| self.pinned(digest))
    }

    async fn manifest(&self, reference: &Reference) -> Result<Vec<u8>, PullError> {
        let asked = self.client.pull_manifest_raw(reference, &self.auth, &ACCEPTED);
        let (bytes, _) = self.timed("the manifest", asked).await?;
        let size = bytes.len() as u64;
        if size > MAX_JSON {
            return Err(ManifestError::Size { what: "manifest", size, most: MAX_JSON }.into());
        }
        Ok(bytes.to_vec())
    }

    /// From an index down to the manifest for this host.
    async fn leaf(&self, mut bytes: Vec<u8>) -> Result<Vec<u8>, PullError> {
        for _ in 0..MAX_NESTING {
            if !manifest::looks_like_index(&bytes)? {
                return Ok(bytes);
            }
            let offer = layout::for_this_host(manifest::index(&bytes)?)?;
            bytes = self.manifest(&self.pinned(offer.blob.digest)).await?;
            check("the manifest", offer.blob, &bytes)?;
        }
        Err(SourceError::Nesting.into())
    }

    /// The signatures of an image, or nothing if it has none.
    async fn signatures(
        &self,
        digest: Digest,
    ) -> Result<Option<Vec<signature::Signed>>, PullError> {
        let reference = self.tagged(&signature::tag(digest));
        let manifest = match self.manifest(&reference).await {
            Ok(manifest) => manifest,
            Err(PullError::Registry { source, .. }) if is_not_found(&source) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut signed = Vec::new();
        for (digest, signature) in signature::entries(&manifest)? {
            let payload = self.small(Blob { digest, size: MAX_JSON }).await?;
            signed.push(signature::Signed { payload, signature });
        }
        Ok(Some(signed))
    }

    /// A small blob, at most as large as it should be.
    async fn small(&self, blob: Blob) -> Result<Vec<u8>, PullError> {
        let mut sink = Sink::new(Vec::new(), blob.size.min(MAX_JSON), None);
        let digest = blob.digest.to_string();
        let reference = self.pinned(blob.digest);
        let asked = self.client.pull_blob(&reference, digest.as_str(), &mut sink);
        self.timed("a configuration", asked).await?;
        let (bytes, found, _) = sink.output.finish();
        if found != blob.digest {
            let what = "the configuration".to_owned();
            return Err(SourceError::Digest { what, expected: blob.digest, found }.into());
        }
        Ok(bytes)
    }

    async fn layer(
        &self,
        session: &mut Session<'_>,
        layer: &Layer,
        what: &str,
        progress: &dyn Progress,
    ) -> Result<(), PullError> {
        let (name, file) = session.scratch_file()?;
        let mut sink: Sink<'_, &File> = Sink::new(&file, layer.size, Some(progress));
        let digest = layer.digest.to_string();
        let reference = self.pinned(layer.digest);
        let asked = self.client.pull_blob(&reference, digest.as_str(), &mut sink);
        asked.await.map_err(|source| self.failed(what, source))?;
        let (_, found, size) = sink.output.finish();
        check_blob(what, layer, found, size)?;
        Ok(session.adopt(&name, &file, found, size)?)
    }

    async fn timed<T>(
        &self,
        what: &str,
        asked: impl Future<Output = Result<T, OciDistributionError>>,
    ) -> Result<T, PullError> {
        match tokio::time::timeout(MANIFEST_TIMEOUT, asked).await {
            Ok(answer) => answer.map_err(|source| self.failed(what, source)),
            Err(_) => Err(PullError::Timeout { what: what.to_owned(), host: self.host.clone() }),
        }
    }

    fn failed(&self, what: &str, source: OciDistributionError) -> PullError {
        let host = self.host.clone();
        PullError::Registry { what: what.to_owned(), host, source: Box::new(source) }
    }
}

fn is_not_found(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => true,
        OciDistributionError::ServerError { code, .. } => *code == 404,
        OciDistributionError::RegistryError { envelope, .. } => envelope
            .errors
            .iter()
            .any(|error| error.code == oci_client::errors::OciErrorCode::ManifestUnknown),
        _ => false,
    }
}

/// Whether a registry is on this machine, where nobody else hears what is said.
fn is_loopback(host: &str) -> bool {
    let name = host.split(':').next().unwrap_or(host);
    let address = name.parse::<std::net::Ipv4Addr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn check(what: &str, blob: Blob, bytes: &[u8]) -> Result<(), SourceError> {
    let what = what.to_owned();
    let (found, size) = (Digest::of(bytes), bytes.len() as u64);
    if size != blob.size {
        return Err(SourceError::Length { what, expected: blob.size, found: size });
    }
    if found != blob.digest {
        return Err(SourceError::Digest { what, expected: blob.digest, found });
    }
    Ok(())
}

/// Takes what a registry sends, but no more than there should be.
///
/// Writing to the store's file blocks the runtime, which has nothing else to do.
struct Sink<'a, W> {
    output: Digesting<W>,
    most: u64,
    progress: Option<&'a dyn Progress>,
}

impl<'a, W: io::Write> Sink<'a, W> {
    fn new(output: W, most: u64, progress: Option<&'a dyn Progress>) -> Self {
        Self { output: Digesting::new(output), most, progress }
    }
}

impl<W: io::Write + Unpin> AsyncWrite for Sink<'_, W> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sink = self.get_mut();
        if sink.output.bytes().saturating_add(bytes.len() as u64) > sink.most {
            let text = format!("it sends more than the {} bytes that there should be", sink.most);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::FileTooLarge, text)));
        }
        let written = sink.output.write_all(bytes).map(|()| bytes.len());
        if let Some(progress) = sink.progress {
            progress.advance(bytes.len() as u64);
        }
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().output.flush())
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_without_tls() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.8.8"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["registry.example", "10.0.0.1:5000", "localhost.example", "127.0.0.1.example"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
