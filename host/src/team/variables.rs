//! `${NAME}` in the strings of a team file: from the environment, then the file of variables, then the
//! team file's own table.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::limits::MAX_TEXT;
use super::mistake::{Fault, Mistakes, nearest};
use super::rules::is_variable;
use super::source::{Source, shown};

/// A variable of the environment, if it is set.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Where values come from.
#[derive(Default)]
pub(super) struct Variables<'a> {
    /// The environment of the command; a name that it has not gives nothing.
    pub(super) environment: Option<Lookup<'a>>,
    /// Of the file of variables.
    pub(super) file: BTreeMap<String, String>,
    /// Of the team file.
    pub(super) table: BTreeMap<String, String>,
}

impl Variables<'_> {
    /// The text with its variables put in. `$${` stands for `${`; a value is not looked into again.
    pub(super) fn expand(&self, text: &str) -> Result<String, Fault> {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            let after = from.get(2..).unwrap_or_default();
            if let Some(literal) = before.strip_suffix('$') {
                result.push_str(literal);
                result.push_str("${");
                rest = after;
                continue;
            }
            result.push_str(before);
            let Some((name, behind)) = after.split_once('}') else {
                return Err((
                    "`${` without its `}`".to_owned(),
                    "write ${NAME} for a variable, or $${ for the two characters".to_owned(),
                ));
            };
            result.push_str(&self.value(name)?);
            if result.len() > MAX_TEXT {
                return Err((
                    format!("with its variables it has more than {MAX_TEXT} bytes"),
                    "make it shorter, or put it into a file and mount that".to_owned(),
                ));
            }
            rest = behind;
        }
        result.push_str(rest);
        Ok(result)
    }

    fn value(&self, name: &str) -> Result<String, Fault> {
        if !is_variable(name) {
            return Err((
                format!("`${{{}}}` is no variable", shown(name)),
                "write a name of letters, digits and underscores, like ${HOME}, or $${ for the two characters".to_owned(),
            ));
        }
        if let Some(value) = self.environment.and_then(|environment| environment(name)) {
            return value.into_string().map_err(|_| {
                (
                    format!("the environment's variable {name} is not UTF-8"),
                    "set it to text".to_owned(),
                )
            });
        }
        if let Some(value) = self.file.get(name).or_else(|| self.table.get(name)) {
            return Ok(value.clone());
        }
        let known = self.file.keys().chain(self.table.keys()).map(String::as_str);
        let near = nearest(name, known)
            .map_or_else(String::new, |near| format!("did you mean ${{{near}}}? "));
        Err((
            format!("the variable {name} is not set"),
            format!(
                "{near}set it in the environment, in the file of `variables-file`, or under [variables]"
            ),
        ))
    }
}

/// Reads a file of lines `NAME=value`. Lines without anything, and lines that begin with `#`, say nothing;
/// the value is the rest of the line as it is.
pub(super) fn read_file(source: &Source, mistakes: &mut Mistakes) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let mut start = 0;
    for line in source.text().split('\n') {
        let bytes = start..start + line.len();
        start = bytes.end + 1;
        let line = line.trim_end_matches('\r');
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once('=') {
            Some((name, value)) if is_variable(name) && !value.contains('\0') => {
                values.insert(name.to_owned(), value.to_owned());
            }
            _ => mistakes.add_hidden(
                source,
                source.place(bytes),
                "the line is no variable",
                "write NAME=value: letters, digits and underscores, and no space before the `=`",
            ),
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, Fault> {
        let environment = |name: &str| match name {
            "HOME" => Some(OsString::from("/home/me")),
            "BOTH" => Some(OsString::from("environment")),
            _ => None,
        };
        let table = BTreeMap::from([
            ("BOTH".to_owned(), "table".to_owned()),
            ("OWN".to_owned(), "${HOME}".to_owned()),
            ("BIG".to_owned(), "x".repeat(MAX_TEXT)),
        ]);
        Variables { environment: Some(&environment), table, ..Variables::default() }.expand(text)
    }

    #[test]
    fn variables_are_put_in() {
        for (text, value) in [
            ("", ""),
            ("a$b", "a$b"),
            ("${HOME}/x", "/home/me/x"),
            ("${HOME}${BOTH}", "/home/meenvironment"),
            ("$${HOME}", "${HOME}"),
            ("a$$${HOME}", "a$${HOME}"),
            ("${OWN}", "${HOME}"),
            ("}{$", "}{$"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_can_t_be_put_in() {
        for (text, what) in [
            ("${", "without its `}`"),
            ("${HOME", "without its `}`"),
            ("${}", "is no variable"),
            ("${A B}", "is no variable"),
            ("${NONE}", "NONE is not set"),
            ("${BIG}x${BIG}", "more than"),
        ] {
            let (got, _) = expanded(text).unwrap_err();
            assert!(got.contains(what), "{text}: {got}");
        }
        assert!(expanded("${BOHT}").unwrap_err().1.contains("did you mean ${BOTH}?"));
    }

    #[test]
    fn a_file_of_variables() {
        let source = Source::new("team.env", "# words\n\nA=1\nB= two = 2 \r\nbad\n =x\nC=\n");
        let mut mistakes = Mistakes::default();
        let values = read_file(&source, &mut mistakes);
        let expected = [("A", "1"), ("B", " two = 2 "), ("C", "")];
        assert_eq!(
            values,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
        );
        let lines: Vec<u32> = mistakes.list().iter().map(|mistake| mistake.place.line).collect();
        assert_eq!(lines, [5, 6]);
        // What is in such a file may be secret.
        assert!(!mistakes.to_string().contains("bad"), "{mistakes}");
    }
}
