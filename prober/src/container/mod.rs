//! In an agent's container: the tries to get out of it, or at what is another's.
//!
//! The tests of the supervisor run the same ones.

mod bombs;
mod files;
mod kernel;
mod neighbour;
mod network;
mod processes;

use std::io::Write as _;
use std::process::ExitCode;

pub use neighbour::be_neighbour;

use crate::calls;
use crate::wire::{Case, End, Group, LAST_LINE, LINE, MAX_WORDS, Said};

/// The variable with the process number of another agent, as the guest's kernel counts; without it many are tried.
pub const VICTIM: &str = "CLOISTER_VICTIM";

/// What came of it: what was got, or how it ended.
type Tried = Result<String, End>;

/// A try to get out.
pub struct Try {
    /// Small letters, digits and dashes.
    pub name: String,
    /// What it does.
    pub tries: String,
    /// What keeps it.
    pub why: &'static str,
    /// Also as the container's user 0; some tries are its right.
    pub as_root: bool,
    /// What keeps it is a limit of the agent.
    pub bounded: bool,
    /// Ends everything of the agent, so it comes last and alone.
    pub last: bool,
    attempt: Box<dyn Fn() -> Tried>,
}

impl std::fmt::Debug for Try {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Try").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Try {
    /// Makes it.
    ///
    /// # Errors
    /// How it failed, as it should.
    pub fn attempt(&self) -> Result<String, End> {
        (self.attempt)()
    }
}

/// Collects rows; `why` holds until the next.
struct Rows {
    why: &'static str,
    rows: Vec<Try>,
}

impl Rows {
    fn row(&mut self, tries: &str, attempt: impl Fn() -> Tried + 'static) -> &mut Try {
        self.rows.push(Try {
            name: name(tries),
            tries: tries.to_owned(),
            why: self.why,
            as_root: true,
            bounded: false,
            last: false,
            attempt: Box::new(attempt),
        });
        // The row of the line above.
        let at = self.rows.len() - 1;
        &mut self.rows[at]
    }
}

fn name(tries: &str) -> String {
    let mut name = String::new();
    for letter in tries.chars() {
        match letter.to_ascii_lowercase() {
            letter @ ('a'..='z' | '0'..='9') => name.push(letter),
            _ if name.ends_with('-') || name.is_empty() => {}
            _ => name.push('-'),
        }
    }
    name.trim_end_matches('-').to_owned()
}

/// Every try. Without a neighbour's process number, all numbers that it could have are meant.
#[must_use]
pub fn tries(victim: Option<i32>) -> Vec<Try> {
    let mut rows = Rows { why: "", rows: Vec::new() };
    processes::add(&mut rows, victim);
    files::add(&mut rows);
    kernel::add(&mut rows);
    network::add(&mut rows);
    let bombs = rows.rows.len();
    bombs::add(&mut rows);
    for row in rows.rows.iter_mut().skip(bombs) {
        row.bounded = true;
    }
    rows.rows
}

/// The cases.
#[must_use]
pub fn cases() -> Vec<Case> {
    let case = |one: Try| Case {
        group: Group::Container,
        name: one.name,
        tries: one.tries,
        why: one.why.to_owned(),
        expected: Vec::new(),
        alone: one.last,
        exits: Vec::new(),
        goes_on: false,
        shares: false,
    };
    tries(None).into_iter().map(case).collect()
}

/// Tries everything and writes a line for each.
#[must_use]
pub fn attack() -> ExitCode {
    let victim = std::env::var(VICTIM).ok().and_then(|text| text.parse().ok());
    let as_root = calls::call!(libc::SYS_getuid) == Ok(0);
    if calls::take_signals().is_err() {
        return ExitCode::FAILURE;
    }
    let mut all = tries(victim);
    all.sort_by_key(|one| one.last);
    for one in all.iter().filter(|one| one.as_root || !as_root) {
        let name = one.name.clone();
        say(&Said::Begins(name.clone()));
        let said = match one.attempt() {
            Ok(mut words) => {
                words.truncate(words.floor_char_boundary(MAX_WORDS));
                Said::Saw { name, end: None, words }
            }
            Err(end) => Said::Saw { name, end: Some(end), words: String::new() },
        };
        say(&said);
    }
    line(LAST_LINE);
    ExitCode::SUCCESS
}

fn say(said: &Said) {
    let text = serde_json::to_string(said).unwrap_or_default();
    line(&format!("{LINE}{text}"));
}

fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that is gone needs nothing more.
    out.write_all(format!("{text}\n").as_bytes()).and_then(|()| out.flush()).ok();
}

/// How a library's call failed.
fn end(error: &std::io::Error) -> End {
    error.raw_os_error().map_or(End::Nothing, End::Errno)
}

fn exists(path: &str) -> Tried {
    std::fs::symlink_metadata(path).map(|_| "it is there".into()).map_err(|error| end(&error))
}

fn read_some(path: &str) -> Tried {
    match std::fs::read(path) {
        Ok(bytes) if bytes.is_empty() => Err(End::Nothing),
        Ok(bytes) => Ok(format!("{} bytes", bytes.len())),
        Err(error) => Err(end(&error)),
    }
}

fn list_some(path: &str) -> Tried {
    match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().map(|_| "it has entries".into()).ok_or(End::Nothing),
        Err(error) => Err(end(&error)),
    }
}

fn write_text(path: &str, text: &str) -> Tried {
    let written = std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map(|()| "it was written".into()).map_err(|error| end(&error))
}

fn open(path: &str, flags: i32) -> Tried {
    let path = std::ffi::CString::new(path).map_err(|_| End::Nothing)?;
    let fd = calls::call!(libc::SYS_openat, libc::AT_FDCWD, path.as_c_str(), flags, 0o600)?;
    calls::call!(libc::SYS_close, fd).ok();
    Ok("it was opened".into())
}

/// A plain system call as a row's attempt.
macro_rules! made {
    ($($argument:expr),+ $(,)?) => {
        $crate::calls::call!($($argument),+).map(|result| format!("it returned {result}"))
    };
}

use made;
