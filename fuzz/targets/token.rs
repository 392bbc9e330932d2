//! What a hostile token server answers: a status and a body. What is taken of it can be in a request and be kept, for a
//! time within the limits; and what is told of the rest has not a word of it, as that may be a secret.
#![no_main]

use cloister::egress::limits::{TOKEN_LEAST, TOKEN_MOST};
use cloister::egress::token::answer::{Answer, ERRORS};
use cloister::secrets::value::Secret;
use libfuzzer_sys::fuzz_target;

/// All that is told of an answer with status 200.
const WORDS: [&str; 6] = [
    "is not JSON as tokens are given in",
    "has a token of another type than `bearer`",
    "has no access token",
    "has an access token that no request can have",
    "has a refresh token that can't be kept",
    "does not say in seconds how long the token is good",
];

fuzz_target!(|input: &[u8]| {
    let Some((first, body)) = input.split_first() else { return };
    // Every second one is an answer that may have a token.
    let status = if first % 2 == 0 { 200 } else { 100 + 2 * u16::from(*first) };
    match Answer::read(status, body) {
        Ok(Answer { access, life, refresh }) => {
            assert_eq!(status, 200);
            for secret in [Some(access), refresh].into_iter().flatten() {
                assert!(Secret::check("", secret.bytes()).is_ok());
            }
            assert!((TOKEN_LEAST..=TOKEN_MOST).contains(&life));
        }
        Err(error) => {
            let told = error.to_string();
            let known = match status {
                200 => WORDS.iter().any(|words| told == format!("the token server's answer {words}")),
                300..=399 => told == format!("the token server sends elsewhere ({status}), where no secret goes; set its new address"),
                _ => {
                    let refused = format!("the token server refuses: {status}");
                    told == refused || ERRORS.iter().any(|error| told == format!("{refused}, {error}"))
                }
            };
            assert!(known, "{told}");
        }
    }
});
