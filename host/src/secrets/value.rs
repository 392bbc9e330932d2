//! A secret's value: read when a request needs it, overwritten after.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::grant::Grant;
use super::{Kept, MAX_VALUE, SecretError, Store, wrap};
use crate::images::files::{open_regular, read_bounded};

/// How long a command may take to tell a secret: an agent's request waits for it.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// A value that is overwritten when it goes, and that nothing shows.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a secret")
    }
}

impl Secret {
    /// Looks at a value, without showing it.
    ///
    /// # Errors
    /// It can't be one.
    pub fn check(name: &str, bytes: &[u8]) -> Result<(), SecretError> {
        let why = if bytes.is_empty() {
            "it is empty"
        } else if bytes.len() > MAX_VALUE {
            "it is longer than 8 KiB"
        } else if bytes.iter().any(|byte| !matches!(byte, b' '..=b'~')) {
            // A line end in it would be a field, or a request, of its own.
            "there is something else in it than printable ASCII on one line"
        } else if bytes.starts_with(b" ") || bytes.ends_with(b" ") {
            "it begins or ends with a space"
        } else {
            return Ok(());
        };
        Err(SecretError::Value { name: name.to_owned(), why })
    }

    /// The value of a text as a file or a terminal gives it: one line end goes.
    ///
    /// # Errors
    /// It can't be one.
    pub fn of_text(name: &str, mut text: Zeroizing<Vec<u8>>) -> Result<Self, SecretError> {
        for end in [b'\n', b'\r'] {
            if text.last() == Some(&end) {
                text.pop();
            }
        }
        Self::check(name, &text)?;
        Ok(Self(text))
    }

    /// The value in a file, which is a regular one: nothing that a reader could have to wait for.
    ///
    /// # Errors
    /// It can't be read, or can't be one.
    pub fn of_file(name: &str, path: &Path) -> Result<Self, SecretError> {
        let file = open_regular(path).map_err(wrap("open", path))?;
        let most = MAX_VALUE as u64 + 2;
        let text = Zeroizing::new(read_bounded(file, most).map_err(wrap("read", path))?);
        Self::of_text(name, text)
    }

    /// The bytes, for as short as can be.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What is found where a secret is.
#[derive(Debug)]
pub enum Found {
    /// The value.
    Value(Secret),
    /// What a token server gives the value for.
    Grant(Grant),
}

impl Store {
    /// Reads a secret, from wherever it is.
    ///
    /// # Errors
    /// It can't be read, or can't be one.
    pub async fn read(&self, name: &str) -> Result<Found, SecretError> {
        let kept = self.find(name)?;
        let text = match &kept {
            Kept::Value(bytes) => Zeroizing::new(bytes.clone()),
            Kept::File(path) => {
                return Secret::of_file(name, path).map(Found::Value);
            }
            Kept::OAuth(grant) => return Ok(Found::Grant(grant.clone())),
            Kept::Command(words) => {
                let run = timeout(COMMAND_LIMIT, output(words)).await;
                let failed = |why| SecretError::Command { name: name.to_owned(), why };
                let limit = COMMAND_LIMIT.as_secs();
                run.map_err(|_| failed(format!("takes more than {limit} s")))?.map_err(failed)?
            }
        };
        Secret::of_text(name, text).map(Found::Value)
    }
}

/// What a command writes; it is killed if it is not waited for to its end.
async fn output(words: &[String]) -> Result<Zeroizing<Vec<u8>>, String> {
    let (program, arguments) = words.split_first().ok_or("has no program")?;
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", path)
        .envs(std::env::var_os("HOME").map(|home| ("HOME", home)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // What it says there may tell the secret.
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("can't be started: {error}"))?;
    // Room for all of it from the beginning: growing would leave copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_VALUE + 64));
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = stdout.take(MAX_VALUE as u64 + 3);
        while text.len() < MAX_VALUE + 3 {
            let read = stdout.read_buf(&mut *text).await;
            if read.map_err(|error| format!("can't be read: {error}"))? == 0 {
                break;
            }
        }
    }
    if text.len() > MAX_VALUE + 2 {
        return Err(format!("writes more than {MAX_VALUE} bytes"));
    }
    let status = child.wait().await.map_err(|error| format!("is lost: {error}"))?;
    if status.success() { Ok(text) } else { Err(format!("ends with {status}")) }
}
