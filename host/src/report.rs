//! Words for a person, on standard error: news, and errors with the chain of causes on one line and
//! what to do on the next.

use std::error::Error;
use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};

/// Writes `text` on standard error. A reader that has gone away is no reason to fail (`eprint!`
/// panics then): the exit code says the same.
pub fn tell(text: impl Display) {
    let whole = text.to_string();
    io::stderr().lock().write_all(whole.as_bytes()).ok();
}

/// [`tell`] with a line end.
pub fn tell_line(text: impl Display) {
    tell(format_args!("{text}\n"));
}

/// `error` and its causes, each once, and its remedy.
#[must_use]
pub fn describe(error: &dyn Error, remedy: Option<&str>) -> String {
    let mut text = format!("cloister: {}", chain(error));
    if let Some(remedy) = remedy {
        // Writing to a string can't fail.
        write!(text, "\n  What to do: {remedy}").ok();
    }
    text
}

/// `error` and its causes, each once.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // A transparent error says the same as its source.
        if words != last {
            // Writing to a string can't fail.
            write!(text, ": {words}").ok();
        }
        last = words;
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::LaunchError;
    use crate::machine::StartError;
    use cloister_vmm::spec::SpecError;

    #[test]
    fn the_chain_is_told_once() {
        let error = StartError::from(LaunchError::from(SpecError::Vcpus { got: 0 }));
        let text = describe(&error, error.remedy());
        assert_eq!(
            text,
            "cloister: 0 vCPUs: must be 1 to 32\n  What to do: choose another number with --cpus"
        );
    }
}
