//! Secrets as a request carries them: overwritten when the last that holds them goes, and shown by nothing.

use bytes::Bytes;
use hyper::header::{HeaderValue, InvalidHeaderValue};
use zeroize::Zeroizing;

/// Bytes that are overwritten when the last that holds them goes.
struct Owned(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A body, or a piece of one.
pub(super) fn bytes(value: Zeroizing<Vec<u8>>) -> Bytes {
    Bytes::from_owner(Owned(value))
}

/// A field's value.
///
/// # Errors
/// No field can have it.
pub(super) fn field(value: Zeroizing<Vec<u8>>) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(bytes(value))?;
    value.set_sensitive(true);
    Ok(value)
}
