//! Text from a guest or a vmm, made fit for a terminal and for a log.

use std::fmt::Write as _;

/// `bytes` as text that can't steer a terminal: line breaks and tabs stay, every other control
/// character, every character that reorders its neighbours and every byte that is not UTF-8 is
/// written as an escape. The result is at most five times as long as `bytes`.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let mut characters = chunk.valid().chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                // A serial console ends its lines so.
                '\r' if characters.peek() == Some(&'\n') => {}
                '\n' | '\t' => text.push(character),
                _ if steers(character) => push_escape(&mut text, character),
                _ => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            push_formatted(&mut text, format_args!("\\x{byte:02x}"));
        }
    }
    text
}

/// Like [`printable`], on one line.
#[must_use]
pub fn printable_line(text: &str) -> String {
    printable(text.as_bytes()).trim().replace('\n', " | ").replace('\t', " ")
}

/// Each line of `text` behind `mark`, so that it can't be taken for the host's own words.
#[must_use]
pub fn quoted(mark: &str, text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for line in text.lines() {
        push_formatted(&mut quoted, format_args!("{mark}{line}\n"));
    }
    quoted
}

/// A control character, or one that changes the order in which others are shown.
fn steers(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

fn push_escape(text: &mut String, character: char) {
    match u32::from(character) {
        // Only ASCII: from 0x80 on one character is not one byte.
        code @ 0..=0x7f => push_formatted(text, format_args!("\\x{code:02x}")),
        code => push_formatted(text, format_args!("\\u{{{code:x}}}")),
    }
}

/// Writing to a string can't fail.
fn push_formatted(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    if text.write_fmt(arguments).is_err() {
        text.push('?');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays() {
        assert_eq!(printable("a ü\n\tb".as_bytes()), "a ü\n\tb");
    }

    #[test]
    fn terminal_control_is_escaped() {
        assert_eq!(printable(b"\x1b[2Jx\x07\x7f\r"), "\\x1b[2Jx\\x07\\x7f\\x0d");
        assert_eq!(printable("\u{9b}31m\u{202e}".as_bytes()), "\\u{9b}31m\\u{202e}");
    }

    #[test]
    fn console_line_ends_become_plain() {
        assert_eq!(printable(b"one\r\ntwo\r\n"), "one\ntwo\n");
    }

    #[test]
    fn bytes_that_are_not_text_are_escaped() {
        assert_eq!(printable(b"a\xff\xfeb\xc3"), "a\\xff\\xfeb\\xc3");
    }

    #[test]
    fn the_length_is_bounded() {
        for unit in ["\x1b".as_bytes(), &[0xff], "\u{9b}".as_bytes(), "\u{202e}".as_bytes()] {
            let bytes = unit.repeat(1000);
            assert!(printable(&bytes).len() <= 5 * bytes.len());
        }
    }

    #[test]
    fn one_line_is_one_line() {
        assert_eq!(printable_line("a\nb\tc\n"), "a | b c");
    }

    #[test]
    fn every_quoted_line_is_marked() {
        assert_eq!(quoted("> ", "a\n\nb"), "> a\n> \n> b\n");
    }
}
