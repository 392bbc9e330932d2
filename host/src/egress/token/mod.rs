//! Access tokens (OAuth 2.0, RFC 6749) that secrets are got for: asked for when a request needs one, kept in memory
//! for their time, and asked for by one at a time for each secret, however many requests wait.
//!
//! A token server may put another refresh token in place of the one that it was asked with, which is worth nothing
//! from then on. So what it answered is sealed before it is used, nobody else of this user asks meanwhile, and a
//! request that is given up does not stop what it has begun.

pub mod answer;

mod ask;

mod turn;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::connect::ConnectError;
use super::limits::{MAX_TOKEN_ANSWER, TOKEN_LIMIT, TOKEN_PAUSE, TOKEN_TURN_LIMIT};
use super::resolve::{ResolveError, Resolver};
use super::trust::Trust;
use crate::secrets::grant::Mark;
use crate::secrets::value::{Found, Secret};
use crate::secrets::{SecretError, Store};
use answer::Answer;
use ask::Client;
use turn::Turn;

/// Why there is no access token; without anything secret.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// What it is asked for with can't be read or kept.
    #[error(transparent)]
    Store(#[from] SecretError),
    /// It is asked for with something else now.
    #[error("the secret was set again as something else")]
    Changed,
    /// Another process of this user does not come to its end with it.
    #[error("another process has asked for it for more than {} s", TOKEN_TURN_LIMIT.as_secs())]
    Turn,
    /// No thread can be started that waits for it.
    #[error("can't start a thread")]
    Thread(#[source] std::io::Error),
    /// The address can't be used.
    #[error("{0}")]
    Endpoint(&'static str),
    /// The token server's name has no addresses.
    #[error("can't find the token server")]
    Resolve(#[source] ResolveError),
    /// No address of it takes the connection.
    #[error("can't connect to the token server")]
    Connect(#[source] ConnectError),
    /// It does not do TLS, or is not who it should be.
    #[error("the TLS handshake with the token server failed")]
    Tls(#[source] std::io::Error),
    /// It speaks no HTTP.
    #[error("the token server broke off")]
    Http(#[source] hyper::Error),
    /// It is too slow.
    #[error("the token server took more than {} s", TOKEN_LIMIT.as_secs())]
    TimedOut,
    /// It says too much.
    #[error("the token server's answer is longer than {MAX_TOKEN_ANSWER} bytes, or broke off")]
    Body,
    /// It sends elsewhere.
    #[error("the token server sends elsewhere ({0}), where no secret goes; set its new address")]
    Redirected(u16),
    /// It says no.
    #[error("the token server refuses: {status}{}", .error.map(|error| format!(", {error}")).unwrap_or_default())]
    Refused {
        /// Its status.
        status: u16,
        /// The error's name, if it is one of section 5.2.
        error: Option<&'static str>,
    },
    /// What it says can't be used.
    #[error("the token server's answer {0}")]
    Answer(&'static str),
    /// The task has ended by a fault.
    #[error("asking the token server ended too early")]
    Lost,
}

/// The access tokens of a team.
pub(super) struct Tokens {
    store: Store,
    client: Client,
    entries: RefCell<BTreeMap<String, Arc<Mutex<Entry>>>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// What is known of one secret.
#[derive(Default)]
struct Entry {
    mark: Mark,
    access: Option<(Secret, Instant)>,
    /// A refresh token that could not be sealed yet.
    unsealed: Option<Secret>,
    failed: Option<(Arc<TokenError>, Instant)>,
    /// Who waits for its turn; whatever it is asked for with.
    turn: Turn,
}

impl Entry {
    /// The access token, if it may be used.
    fn usable(&self) -> Option<Secret> {
        let (secret, end) = self.access.as_ref()?;
        (self.unsealed.is_none() && Instant::now() < *end).then(|| secret.clone())
    }

    /// Makes it one of another grant.
    fn become_of(&mut self, mark: Mark) {
        if self.mark != mark {
            *self = Self { mark, turn: self.turn.clone(), ..Self::default() };
        }
    }
}

impl Tokens {
    pub(super) fn new(store: Store, resolver: Resolver, trust: Trust) -> Self {
        Self { store, client: Client { resolver, trust }, entries: RefCell::default() }
    }

    /// The access token of a secret whose grant has this mark.
    ///
    /// # Errors
    /// There is none, or there was none a moment ago.
    pub(super) async fn access(
        self: &Rc<Self>,
        name: &str,
        mark: Mark,
    ) -> Result<Secret, Arc<TokenError>> {
        let entry = Arc::clone(self.entries.borrow_mut().entry(name.to_owned()).or_default());
        let mut entry = entry.lock_owned().await;
        entry.become_of(mark);
        if let Some(secret) = entry.usable() {
            return Ok(secret);
        }
        if let Some((error, when)) = &entry.failed
            && when.elapsed() < TOKEN_PAUSE
        {
            return Err(Arc::clone(error));
        }
        // On its own: an agent that goes away must not make a new refresh token be lost.
        let (tokens, name) = (Rc::clone(self), name.to_owned());
        let asked = tokio::task::spawn_local(async move {
            match tokens.renew(&name, &mut entry).await {
                Ok(secret) => {
                    entry.failed = None;
                    Ok(secret)
                }
                Err(error) => {
                    let error = Arc::new(error);
                    entry.failed = Some((Arc::clone(&error), Instant::now()));
                    Err(error)
                }
            }
        });
        asked.await.unwrap_or_else(|_| Err(Arc::new(TokenError::Lost)))
    }

    /// Asks for an access token.
    async fn renew(&self, name: &str, entry: &mut Entry) -> Result<Secret, TokenError> {
        let (store, secret) = (self.store.clone(), name.to_owned());
        let _turn = entry.turn.wait(TOKEN_TURN_LIMIT, move || store.turn(&secret)).await?;
        self.seal(name, entry)?;
        if let Some(secret) = entry.usable() {
            return Ok(secret);
        }
        // Another process may have changed it meanwhile.
        let Found::Grant(grant) = self.store.read(name).await? else {
            return Err(TokenError::Changed);
        };
        entry.become_of(grant.mark);
        let Answer { access, life, refresh } = self.client.ask(&grant).await?;
        let old = grant.refresh_token.as_deref();
        entry.unsealed = refresh.filter(|new| old.is_some_and(|old| old != new.bytes()));
        entry.access = Some((access.clone(), Instant::now() + life));
        self.seal(name, entry)?;
        Ok(access)
    }

    /// Seals what the token server has put in place of a refresh token.
    fn seal(&self, name: &str, entry: &mut Entry) -> Result<(), SecretError> {
        if let Some(new) = &entry.unsealed {
            self.store.rotate(name, &entry.mark, new.bytes())?;
            entry.unsealed = None;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "token_test.rs"]
mod tests;
