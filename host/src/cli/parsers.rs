//! Parsers of arguments that may hold any bytes, not only UTF-8.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::builder::{StyledStr, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Error};

use super::{ArgumentError, Variable};

/// Parses `KEY=VALUE`.
#[derive(Clone, Copy, Debug)]
pub(super) struct VariableParser;

impl TypedValueParser for VariableParser {
    type Value = Variable;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Variable, Error> {
        variable(value.as_bytes()).map_err(|error| refuse(command, argument, value, error))
    }
}

/// Parses an absolute path.
#[derive(Clone, Copy, Debug)]
pub(super) struct AbsoluteParser;

impl TypedValueParser for AbsoluteParser {
    type Value = OsString;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<OsString, Error> {
        if value.as_bytes().starts_with(b"/") {
            Ok(value.to_owned())
        } else {
            Err(refuse(command, argument, value, ArgumentError::Relative))
        }
    }
}

fn variable(text: &[u8]) -> Result<Variable, ArgumentError> {
    let end = text.iter().position(|byte| *byte == b'=').ok_or(ArgumentError::Variable)?;
    let (name, rest) = text.split_at(end);
    match rest {
        [b'=', value @ ..] if !name.is_empty() => {
            Ok(Variable { name: name.to_vec(), value: value.to_vec() })
        }
        _ => Err(ArgumentError::Variable),
    }
}

/// The error that clap makes of what its plain parsers return.
fn refuse(
    command: &Command,
    argument: Option<&Arg>,
    value: &OsStr,
    reason: ArgumentError,
) -> Error {
    let mut error = Error::new(ErrorKind::InvalidValue).with_cmd(command);
    if let Some(argument) = argument {
        let name = ContextValue::String(argument.to_string());
        error.insert(ContextKind::InvalidArg, name);
    }
    let shown = value.to_string_lossy().into_owned();
    error.insert(ContextKind::InvalidValue, ContextValue::String(shown));
    let advice = ContextValue::StyledStrs(vec![StyledStr::from(reason.to_string())]);
    error.insert(ContextKind::Suggested, advice);
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables() {
        let parsed = |text: &[u8]| variable(text).map(|variable| (variable.name, variable.value));
        assert_eq!(parsed(b"A=b"), Ok((b"A".to_vec(), b"b".to_vec())));
        assert_eq!(parsed(b"A="), Ok((b"A".to_vec(), Vec::new())));
        assert_eq!(parsed(b"A=b=c\xff"), Ok((b"A".to_vec(), b"b=c\xff".to_vec())));
        for bad in [&b""[..], b"A", b"=b", b"="] {
            assert_eq!(parsed(bad), Err(ArgumentError::Variable));
        }
    }
}
