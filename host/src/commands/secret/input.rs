//! What is secret, from standard input: piped in, or typed without being shown.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use zeroize::Zeroizing;

use super::CommandError;
use crate::secrets::MAX_VALUE;
use crate::terminal::RawMode;

/// Longest line that is taken: a value and its end. One that is longer is cut, and too long still.
const MAX_LINE: usize = MAX_VALUE + 3;

/// One value: what standard input says, or one line that is typed.
pub(super) fn value(name: &str) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    if !io::stdin().is_terminal() {
        return piped(MAX_LINE);
    }
    typed(name)
}

/// Several values, each on a line of its own; those behind the last line are empty.
pub(super) fn lines(name: &str, asked: &[&str]) -> Result<Vec<Zeroizing<Vec<u8>>>, CommandError> {
    if io::stdin().is_terminal() {
        let typed = asked.iter().map(|what| typed(&format!("{name}, {what}")));
        return typed.map(|line| line.map(|line| bare(&line))).collect();
    }
    let text = piped(MAX_LINE.saturating_mul(asked.len()))?;
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    let mut lines: Vec<_> = text.split(|byte| *byte == b'\n').map(bare).collect();
    if lines.len() > asked.len() {
        return Err(CommandError::Lines { most: asked.len() });
    }
    lines.resize_with(asked.len(), Zeroizing::default);
    Ok(lines)
}

/// A line without its end.
fn bare(line: &[u8]) -> Zeroizing<Vec<u8>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    Zeroizing::new(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}

fn piped(most: usize) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    // Room for all of it from the beginning: growing would leave copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(most.saturating_add(64)));
    let input = io::stdin().lock();
    input.take(most as u64).read_to_end(&mut text).map_err(CommandError::Input)?;
    Ok(text)
}

/// A line of a terminal, which is not shown.
fn typed(asked: &str) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_LINE));
    let mut input = io::stdin().lock();
    let hidden = RawMode::hidden().map_err(CommandError::Input)?;
    let mut terminal = io::stderr();
    // Nothing depends on the words being seen.
    write!(terminal, "{asked}: ").ok();
    let mut byte = Zeroizing::new([0]);
    while text.len() < MAX_LINE && input.read(&mut *byte).map_err(CommandError::Input)? > 0 {
        text.push(byte[0]);
        if byte[0] == b'\n' {
            break;
        }
    }
    drop(hidden);
    writeln!(terminal).ok();
    Ok(text)
}
