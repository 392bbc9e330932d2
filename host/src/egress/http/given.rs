//! A secret that a request is given: put into its head or its body, or what the request is signed with.

use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;
use http_body_util::{BodyExt as _, Limited};
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::exchange::Refusal;
use super::secret::{Stopped, is_told, put_in, put_in_body, search};
use crate::egress::credential::{Credential, Place, find_placeholder};
use crate::egress::limits::{MAX_REPLACED_BODY, MAX_SIGNED_BODY, WHOLE_BODY_LIMIT};
use crate::egress::sigv4::{self, Keys, Scope, UNSIGNED, UNSIGNED_PIECES, digest_of};
use crate::secrets::value::Secret;

/// A rule's secret, for one request.
pub(super) struct Given {
    credential: Credential,
    secret: Secret,
    /// Room for bodies that are held whole, a permit for each KiB.
    bodies: Arc<Semaphore>,
}

/// A body on its way to a host.
pub(super) enum Content {
    /// As it comes.
    Passing(Incoming),
    /// Read whole.
    Whole(Whole),
}

/// A body in memory.
pub(super) struct Whole {
    /// What is sent.
    pub(super) bytes: Bytes,
    /// How many bytes the agent has sent.
    pub(super) read: u64,
    /// Given back when the body has gone.
    pub(super) room: OwnedSemaphorePermit,
}

impl Given {
    pub(super) const fn new(
        credential: Credential,
        secret: Secret,
        bodies: Arc<Semaphore>,
    ) -> Self {
        Self { credential, secret, bodies }
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.credential.secret
    }

    /// Gives it to a request that goes out.
    pub(super) async fn give(&self, head: &mut Parts, body: Incoming) -> Result<Content, Refusal> {
        let Self { credential, secret, bodies } = self;
        match &credential.place {
            Place::AwsSigv4 { service, region } => {
                self.sign(head, body, Scope { service, region }).await
            }
            Place::Placeholder => {
                put_in(head, credential, secret)?;
                head.headers.remove(CONTENT_LENGTH);
                if head.headers.contains_key(CONTENT_ENCODING) {
                    let words = "the rule has a placeholder, and the body is compressed";
                    return Err(refused(StatusCode::FORBIDDEN, words));
                }
                let whole = whole(body, MAX_REPLACED_BODY, bodies).await.ok_or_else(|| {
                    let words = "the rule has a placeholder, and the body is longer than 1 MiB, broke off or took too long";
                    refused(StatusCode::FORBIDDEN, words)
                })?;
                let bytes = put_in_body(&whole.bytes, credential, secret)?;
                Ok(Content::Whole(Whole { bytes, ..whole }))
            }
            _ => {
                put_in(head, credential, secret)?;
                Ok(Content::Passing(body))
            }
        }
    }

    /// Signs a request with it, in place of what the agent signed it with.
    async fn sign(
        &self,
        head: &mut Parts,
        body: Incoming,
        scope: Scope<'_>,
    ) -> Result<Content, Refusal> {
        let keys = Keys::read(self.secret.bytes()).ok_or_else(|| self.unfit())?;
        let said = sigv4::clear(head).map_err(|sigv4::Presigned| {
            let words = "it is signed in its query, and its rule signs it anew in its head";
            refused(StatusCode::FORBIDDEN, words)
        })?;
        search(head)?;
        let (digest, content) = self.digested(body, said.as_ref(), scope).await?;
        sigv4::sign(head, &digest, scope, &keys, Utc::now()).map_err(|_| self.unfit())?;
        Ok(content)
    }

    /// A body's digest as it is signed, and the body; `said`: what the agent said of it.
    async fn digested(
        &self,
        body: Incoming,
        said: Option<&HeaderValue>,
        scope: Scope<'_>,
    ) -> Result<(String, Content), Refusal> {
        let said = said.map(HeaderValue::as_bytes).unwrap_or_default();
        if scope.is_s3() && said == UNSIGNED_PIECES.as_bytes() {
            return Ok((UNSIGNED_PIECES.to_owned(), Content::Passing(body)));
        }
        if said.starts_with(b"STREAMING-") {
            let words = "the agent has signed the body in pieces, which can't be signed anew: let it send the body unsigned or whole";
            return Err(refused(StatusCode::FORBIDDEN, words));
        }
        let most = MAX_SIGNED_BODY as u64;
        if scope.is_s3() && body.size_hint().upper().is_none_or(|length| length > most) {
            return Ok((UNSIGNED.to_owned(), Content::Passing(body)));
        }
        let whole = whole(body, MAX_SIGNED_BODY, &self.bodies).await.ok_or_else(|| {
            let words = "the rule signs requests, and the body is longer than 1 MiB, broke off or took too long";
            refused(StatusCode::PAYLOAD_TOO_LARGE, words)
        })?;
        match find_placeholder(&whole.bytes) {
            Some(name) => Err(Stopped::Placeholder(name).into()),
            None => Ok((digest_of(&whole.bytes), Content::Whole(whole))),
        }
    }

    /// The operator's mistake, of which the agent is told nothing but that.
    fn unfit(&self) -> Refusal {
        let words = format!(
            "the secret \"{}\" is not ACCESS_KEY_ID:SECRET_ACCESS_KEY[:SESSION_TOKEN]",
            self.credential.secret
        );
        Refusal { status: StatusCode::BAD_GATEWAY, kind: "secret-failed", words }
    }

    /// Whether a head of a host's answer tells it.
    pub(super) fn is_told(&self, fields: &HeaderMap) -> bool {
        match (&self.credential.place, Keys::read(self.secret.bytes())) {
            (Place::AwsSigv4 { .. }, Some(Keys { secret, session, .. })) => {
                is_told(fields, secret) || session.is_some_and(|session| is_told(fields, session))
            }
            _ => is_told(fields, self.secret.bytes()),
        }
    }
}

fn refused(status: StatusCode, words: &str) -> Refusal {
    Refusal { status, kind: "secret-denied", words: words.to_owned() }
}

/// A whole body; nothing, if it is longer, breaks off or takes too long.
async fn whole(body: Incoming, most: usize, room: &Arc<Semaphore>) -> Option<Whole> {
    let longest = body.size_hint().upper().unwrap_or(u64::MAX).min(most as u64);
    let wanted = u32::try_from(longest.div_ceil(1 << 10)).ok()?;
    let read = async {
        let room = Arc::clone(room).acquire_many_owned(wanted).await.ok()?;
        let bytes = Limited::new(body, most).collect().await.ok()?.to_bytes();
        Some(Whole { read: bytes.len() as u64, bytes, room })
    };
    timeout(WHOLE_BODY_LIMIT, read).await.ok().flatten()
}
