//! What a token server answers (RFC 6749, sections 5.1 and 5.2), read within bounds.

use std::time::Duration;

use serde::Deserialize;
use zeroize::{Zeroize as _, Zeroizing};

use super::TokenError;
use crate::egress::limits::{TOKEN_LEAST, TOKEN_MARGIN, TOKEN_MOST, TOKEN_UNSAID};
use crate::secrets::value::Secret;

/// Errors that a token server names (section 5.2). What else it says may tell a secret.
pub const ERRORS: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

/// What a token server gives.
#[derive(Debug)]
pub struct Answer {
    /// The access token.
    pub access: Secret,
    /// How long it is to be used.
    pub life: Duration,
    /// The refresh token from now on; nothing: as before.
    pub refresh: Option<Secret>,
}

/// An answer as it is written.
#[derive(Deserialize)]
struct Said {
    access_token: Option<String>,
    token_type: Option<String>,
    expires_in: Option<Seconds>,
    refresh_token: Option<String>,
}

impl Drop for Said {
    fn drop(&mut self) {
        self.access_token.zeroize();
        self.refresh_token.zeroize();
    }
}

/// A number of seconds; some servers write it as a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

/// An error as it is written.
#[derive(Deserialize)]
struct Fault {
    error: Option<String>,
}

impl Answer {
    /// Reads an answer.
    ///
    /// # Errors
    /// It is a refusal, or nothing that can be used.
    pub fn read(status: u16, body: &[u8]) -> Result<Self, TokenError> {
        match status {
            200 => {}
            300..=399 => return Err(TokenError::Redirected(status)),
            _ => {
                let named = serde_json::from_slice(body).ok().and_then(|fault: Fault| fault.error);
                let error = ERRORS.into_iter().find(|known| named.as_deref() == Some(known));
                return Err(TokenError::Refused { status, error });
            }
        }
        let wrong = |_| TokenError::Answer("is not JSON as tokens are given in");
        let mut said: Said = serde_json::from_slice(body).map_err(wrong)?;
        let bearer =
            said.token_type.as_ref().is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
        if !bearer {
            return Err(TokenError::Answer("has a token of another type than `bearer`"));
        }
        let access = said.access_token.take();
        let access = access.ok_or(TokenError::Answer("has no access token"))?;
        let access = token(access, "has an access token that no request can have")?;
        let refresh = said.refresh_token.take().filter(|refresh| !refresh.is_empty());
        let refresh = refresh
            .map(|refresh| token(refresh, "has a refresh token that can't be kept"))
            .transpose()?;
        let life = life(said.expires_in.as_ref())?;
        Ok(Self { access, life, refresh })
    }
}

fn token(text: String, why: &'static str) -> Result<Secret, TokenError> {
    let bytes = Zeroizing::new(text.into_bytes());
    // One line end would go from a text: a token has none.
    if bytes.ends_with(b"\n") || bytes.ends_with(b"\r") {
        return Err(TokenError::Answer(why));
    }
    Secret::of_text("", bytes).map_err(|_| TokenError::Answer(why))
}

/// How long a token is used of which its server says this.
fn life(said: Option<&Seconds>) -> Result<Duration, TokenError> {
    let seconds = match said {
        None => return Ok(TOKEN_UNSAID),
        Some(Seconds::Number(seconds)) => *seconds,
        Some(Seconds::Text(text)) => text.parse().map_err(|_| {
            TokenError::Answer("does not say in seconds how long the token is good")
        })?,
    };
    let whole = Duration::from_secs(seconds).min(TOKEN_MOST);
    Ok(whole.saturating_sub(TOKEN_MARGIN.min(whole / 2)).max(TOKEN_LEAST))
}

#[cfg(test)]
#[path = "answer_test.rs"]
mod tests;
