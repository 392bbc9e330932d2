//! A bar for a person at a terminal, and sizes as people read them.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::images::import::Progress;

/// How often it is drawn anew while nothing comes.
const TURN: Duration = Duration::from_millis(200);
const KNOWN: &str = "cloister: {msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}";
const UNKNOWN: &str = "cloister: {msg} {spinner} {bytes}";

/// Shows an import's steps on standard error, if it is a terminal.
#[derive(Debug)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(TURN);
        Self(bar)
    }

    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn step(&self, what: &str, bytes: Option<u64>) {
        let template = if bytes.is_some() { KNOWN } else { UNKNOWN };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style);
        }
        self.0.set_position(0);
        self.0.set_length(bytes.unwrap_or(0));
        self.0.set_message(what.to_owned());
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

/// A size as people read it, in units of 1024.
pub(super) fn bytes(count: u64) -> String {
    HumanBytes(count).to_string()
}
