//! Percent-encoding (RFC 3986, section 2.1) as queries, forms and signatures have it.

use zeroize::Zeroizing;

/// Bytes with all encoded but what never is: letters, digits and `-._~`.
pub(super) fn quoted(bytes: &[u8]) -> Zeroizing<String> {
    quoted_but(bytes, b"")
}

/// The same, with some more bytes left as they are.
pub(super) fn quoted_but(bytes: &[u8], kept: &[u8]) -> Zeroizing<String> {
    let hex = |digit: u8| char::from_digit(digit.into(), 16).unwrap_or('0').to_ascii_uppercase();
    // Room for all of it from the beginning: growing would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(bytes.len().saturating_mul(3)));
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || kept.contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.extend(['%', hex(byte >> 4), hex(byte & 15)]);
        }
    }
    text
}

/// A text as servers read it. A percent sign without two digits behind it is one.
pub(super) fn decoded(text: &str) -> Vec<u8> {
    let digit =
        |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        match (byte, after) {
            (b'%', [high, low, behind @ ..]) => match (digit(high), digit(low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    rest = behind;
                    continue;
                }
                _ => bytes.push(b'%'),
            },
            (byte, _) => bytes.push(*byte),
        }
        rest = after;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_again() {
        let all: Vec<u8> = (0..=255).collect();
        let text = quoted(&all);
        assert_eq!(decoded(&text), all);
        assert!(text.contains("-._~") || text.contains("-."), "{}", *text);
        assert_eq!(*quoted_but(b"/a b/\xe1", b"/"), "/a%20b/%E1");
        for (text, bytes) in
            [("%", "%"), ("%4", "%4"), ("%+a", "%+a"), ("%zz1", "%zz1"), ("%%41", "%A")]
        {
            assert_eq!(decoded(text), bytes.as_bytes(), "{text}");
        }
    }
}
