//! Secrets of a team's rules, as requests get them: read where they are, or got from a token server.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::limits::{SECRETS_AT_ONCE, WHOLE_BODIES_KIB};
use super::resolve::Resolver;
use super::token::{TokenError, Tokens};
use super::trust::Trust;
use crate::secrets::value::{Found, Secret};
use crate::secrets::{SecretError, Store};

/// Why a request gets no secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GetError {
    /// It can't be read.
    #[error(transparent)]
    Read(#[from] SecretError),
    /// Its token server gives no access token.
    #[error("no access token for the secret {name:?}")]
    Token {
        /// Whose.
        name: String,
        /// Why.
        #[source]
        source: Arc<TokenError>,
    },
}

/// Secrets, read by a few requests at once.
#[derive(Debug)]
pub(crate) struct Secrets {
    store: Store,
    turns: Semaphore,
    /// For bodies that are held whole, by agent: a permit for each KiB.
    bodies: RefCell<BTreeMap<usize, Arc<Semaphore>>>,
    tokens: Rc<Tokens>,
}

impl Secrets {
    /// Those of a store; token servers are found and verified as other hosts are.
    pub(crate) fn of(store: Store, resolver: &Resolver, trust: &Trust) -> Self {
        let tokens = Rc::new(Tokens::new(store.clone(), resolver.clone(), trust.clone()));
        let bodies = RefCell::default();
        Self { store, turns: Semaphore::new(SECRETS_AT_ONCE), bodies, tokens }
    }

    /// Room for an agent's bodies that are held whole, a permit for each KiB.
    pub(super) fn bodies(&self, agent: usize) -> Arc<Semaphore> {
        let mut bodies = self.bodies.borrow_mut();
        Arc::clone(bodies.entry(agent).or_insert_with(|| Semaphore::new(WHOLE_BODIES_KIB).into()))
    }

    /// Gets one, when it is its turn.
    pub(super) async fn get(&self, name: &str) -> Result<Secret, GetError> {
        let found = {
            // Never closed. A slow token server keeps nobody from reading another secret.
            let _turn = self.turns.acquire().await;
            self.store.read(name).await?
        };
        match found {
            Found::Value(secret) => Ok(secret),
            Found::Grant(grant) => {
                let access = self.tokens.access(name, grant.mark).await;
                access.map_err(|source| GetError::Token { name: name.to_owned(), source })
            }
        }
    }
}
