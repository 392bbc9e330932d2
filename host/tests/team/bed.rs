//! Team files read as text, with an environment of the test's own.

use std::ffi::OsString;

use cloister::team::file::{Surroundings, TeamFile};
use cloister::team::mistake::Mistakes;
use cloister::team::source::Source;

/// What the file of variables says, whatever its name; one that is called `missing` is not there.
pub(crate) const VARIABLES: &str = "FROM_FILE=file\nIMAGE=python-tools\n";

pub(crate) fn parse(text: &str) -> Result<TeamFile, Mistakes> {
    let environment = |name: &str| match name {
        "HOME" => Some(OsString::from("/home/me")),
        "NEWLINE" => Some(OsString::from("a\nb")),
        _ => None,
    };
    let read = |path: &str| {
        if path == "missing" {
            Err(("it is not there".to_owned(), "make it".to_owned()))
        } else {
            Ok(Source::new(path, VARIABLES))
        }
    };
    let surroundings = Surroundings { environment: &environment, read: &read };
    TeamFile::parse(Source::new("team.toml", text), surroundings)
}

/// A team of one agent with these lines in it, which begin at line 4.
pub(crate) fn agent(lines: &str) -> String {
    format!("name = \"t\"\n[agents.a]\nimage = \"i\"\n{lines}\n")
}
