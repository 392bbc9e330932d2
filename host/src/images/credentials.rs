//! Who to be for a registry: from Docker's configuration file, or from the program that it names.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::files;

/// More than the configuration of any number of registries.
const MAX_FILE: u64 = 1 << 20;
/// Most bytes of a helper's answer.
const MAX_ANSWER: u64 = 64 << 10;
/// What a helper answers in place of a name when the secret is a token of an identity provider.
const TOKEN_USER: &str = "<token>";

/// A name and its password. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub user: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({}, …)", self.user)
    }
}

/// Why the credentials can't be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file makes no sense.
    #[error("{} is not a configuration of Docker's", path.display())]
    Parse {
        /// Where it is.
        path: PathBuf,
        /// Where in it, and why.
        #[source]
        source: serde_json::Error,
    },
    /// An entry is not a name and a password.
    #[error("the entry for {0} in Docker's configuration is not a name and a password")]
    Entry(String),
    /// The helper's name would name a file elsewhere.
    #[error("Docker's configuration names the credential helper {0:?}, which is no plain word")]
    HelperName(String),
    /// The helper failed.
    #[error("the credential helper {helper} did not answer for {host}: {reason}")]
    Helper {
        /// The program.
        helper: String,
        /// The registry.
        host: String,
        /// What went wrong.
        reason: String,
    },
    /// A kind of secret that is not used here.
    #[error("the credentials for {0} are an identity token, which is not supported")]
    Token(String),
}

impl CredentialsError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Read { .. } => "check the file's permissions; DOCKER_CONFIG names another folder",
            Self::Parse { .. } | Self::Entry(_) | Self::HelperName(_) => {
                "log in again with `skopeo login` or `docker login`, or put the file in order"
            }
            Self::Helper { .. } => "run the helper by hand, or log in again",
            Self::Token(_) => {
                "log in with a name and a password, or an access token as the password"
            }
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerFile {
    #[serde(default)]
    auths: HashMap<String, Auth>,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
    #[serde(default)]
    creds_store: String,
}

#[derive(Default, Deserialize)]
struct Auth {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Where Docker's configuration is: `$DOCKER_CONFIG/config.json`, or `~/.docker/config.json`.
#[must_use]
pub fn usual_file() -> Option<PathBuf> {
    let folder = std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty());
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker"));
    folder.map(PathBuf::from).or_else(home).map(|folder| folder.join("config.json"))
}

/// The login for a registry's host, if there is one in the file.
///
/// # Errors
/// The file or the helper that it names can't be used.
pub fn find(file: &Path, host: &str) -> Result<Option<Login>, CredentialsError> {
    let read = |source| CredentialsError::Read { path: file.to_owned(), source };
    let bytes = match std::fs::File::open(file) {
        Ok(open) => files::read_bounded(open, MAX_FILE).map_err(read)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read(error)),
    };
    let config: DockerFile = serde_json::from_slice(&bytes)
        .map_err(|source| CredentialsError::Parse { path: file.to_owned(), source })?;
    if let Some(helper) = config.cred_helpers.get(host) {
        return ask(helper, host);
    }
    let entry = config.auths.iter().find(|(key, _)| host_of(key) == host);
    if let Some((_, auth)) = entry {
        if !auth.identitytoken.is_empty() {
            return Err(CredentialsError::Token(host.to_owned()));
        }
        // An empty entry says that the store of the next lines has it.
        if !auth.auth.is_empty() {
            return login(&auth.auth)
                .map(Some)
                .ok_or_else(|| CredentialsError::Entry(host.to_owned()));
        }
    }
    if config.creds_store.is_empty() { Ok(None) } else { ask(&config.creds_store, host) }
}

/// Keys were addresses once.
fn host_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

fn login(auth: &str) -> Option<Login> {
    let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Login { user: user.to_owned(), password: password.to_owned() })
}

/// Asks `docker-credential-HELPER get`, which reads the host and answers with JSON.
fn ask(helper: &str, host: &str) -> Result<Option<Login>, CredentialsError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if helper.is_empty() || !helper.bytes().all(plain) {
        return Err(CredentialsError::HelperName(helper.chars().take(64).collect()));
    }
    let program = format!("docker-credential-{helper}");
    let failed = |reason: String| CredentialsError::Helper {
        helper: program.clone(),
        host: host.to_owned(),
        reason,
    };
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read its input will say why by its exit status.
        input.write_all(host.as_bytes()).ok();
    }
    let output = match child.stdout.take() {
        Some(output) => files::read_bounded(output, MAX_ANSWER),
        None => Ok(Vec::new()),
    };
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        // The one answer that all helpers give for a host that they don't know.
        if output.starts_with(b"credentials not found") {
            return Ok(None);
        }
        return Err(failed(status.to_string()));
    }
    let answer: Answer =
        serde_json::from_slice(&output).map_err(|_| failed("its answer is not JSON".to_owned()))?;
    if answer.username == TOKEN_USER {
        return Err(CredentialsError::Token(host.to_owned()));
    }
    Ok(Some(Login { user: answer.username, password: answer.secret }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, host: &str) -> Result<Option<Login>, CredentialsError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, text).unwrap();
        find(&file, host)
    }

    #[test]
    fn a_login_is_found_by_host() {
        let auth = STANDARD.encode("me:se:cret");
        let text = format!(r#"{{"auths": {{"https://host:5000/v2/": {{"auth": "{auth}"}}}}}}"#);
        let login = found(&text, "host:5000").unwrap().unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("me", "se:cret"));
        assert_eq!(found(&text, "other").unwrap(), None);
        assert!(!format!("{login:?}").contains("cret"));
        assert_eq!(find(Path::new("/nonexistent"), "host").unwrap(), None);
    }

    #[test]
    fn what_is_wrong_is_told() {
        assert!(matches!(found("{", "h"), Err(CredentialsError::Parse { .. })));
        let bad = r#"{"auths": {"h": {"auth": "%%"}}}"#;
        assert!(matches!(found(bad, "h"), Err(CredentialsError::Entry(_))));
        let token = r#"{"auths": {"h": {"identitytoken": "x"}}}"#;
        assert!(matches!(found(token, "h"), Err(CredentialsError::Token(_))));
        let path = r#"{"credHelpers": {"h": "../x"}}"#;
        assert!(matches!(found(path, "h"), Err(CredentialsError::HelperName(_))));
        let absent = r#"{"credsStore": "surely-not-there"}"#;
        assert!(matches!(found(absent, "h"), Err(CredentialsError::Helper { .. })));
    }
}
