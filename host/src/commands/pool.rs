//! `cloister pool`: keep blanks ready, and tell how many there are. `cloister blank`, which a pool starts.

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use tokio::task::LocalSet;

use super::clean_up;
use crate::cli::jail::JailArgs;
use crate::cli::pool::{BlankArgs, PoolArgs, PoolCommand, ServeArgs, StatusArgs};
use crate::exit_codes;
use crate::launch::files::{FileError, Files};
use crate::launch::jail::LimitsWish;
use crate::pool::keeper::{self, Wish};
use crate::pool::{PoolError, blank, take};
use crate::report::{describe, tell_line};
use crate::signals::Signals;

/// Raised when a key goes or changes its meaning.
const SCHEMA: u32 = 1;

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("can't set up {what}")]
    Setup {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Fault {
    fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Pool(error) => error.remedy(),
            Self::File(error) => error.remedy(),
            Self::Setup { .. } => None,
        }
    }
}

/// Does what was asked; the exit code.
#[must_use]
pub fn pool(arguments: PoolArgs, limits: LimitsWish) -> u8 {
    finish(match arguments.command {
        PoolCommand::Serve(arguments) => serve(arguments, limits),
        PoolCommand::Status(arguments) => status(&arguments),
    })
}

/// A blank's parent; the exit code.
#[must_use]
pub fn blank(arguments: BlankArgs, limits: LimitsWish) -> u8 {
    // A Ctrl-C at the pool's terminal is not for this process, nor is the terminal's end.
    if let Err(error) = rustix::process::setsid() {
        tell_line(format_args!("cloister: can't leave the terminal: {error}"));
        return exit_codes::FAILED;
    }
    let work = || {
        let files = Files::find(None, None)?;
        let jail = arguments.jail.spec(limits);
        block_on(async { Ok(blank::run(&files, &jail).await?) })
    };
    finish(work())
}

fn finish(done: Result<(), Fault>) -> u8 {
    match done {
        Ok(()) => exit_codes::OK,
        Err(error) => {
            tell_line(describe(&error, error.remedy()));
            exit_codes::FAILED
        }
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Fault::Setup { what: "the runtime", source })?;
    LocalSet::new().block_on(&runtime, work)
}

fn serve(arguments: ServeArgs, limits: LimitsWish) -> Result<(), Fault> {
    let ServeArgs { size, place, jail } = arguments;
    let place = place.place()?;
    let files = Files::find(None, None)?;
    let words = words(&jail);
    let jail = jail.spec(limits);
    clean_up(&jail);
    block_on(async {
        let kept = keeper::open(&place)?;
        let mut signals = Signals::listen()
            .map_err(|source| Fault::Setup { what: "the signal handlers", source })?;
        let end = async {
            signals.end().await;
        };
        let begun = || {
            tell_line(format_args!(
                "cloister: a pool of {size} in {}; a signal ends it, and what was taken goes on",
                place.folder.display()
            ));
        };
        let wish = Wish { files, jail, words, size };
        Ok(keeper::keep(&kept, wish, begun, end).await?)
    })
}

/// The same jail, for `cloister blank`.
fn words(jail: &JailArgs) -> Vec<OsString> {
    let mut words = Vec::new();
    if let Some(group) = &jail.cgroup {
        words.extend(["--cgroup".into(), group.clone().into_os_string()]);
    }
    if let Some(ids) = jail.uids {
        words.extend(["--uids".into(), ids.to_string().into()]);
    }
    words
}

/// What `pool status --json` prints.
#[derive(Serialize)]
struct Listing {
    schema: u32,
    #[serde(flatten)]
    status: crate::pool::Status,
}

fn status(arguments: &StatusArgs) -> Result<(), Fault> {
    let place = arguments.place.place()?;
    let status = block_on(async {
        Ok(if arguments.wait {
            take::await_full(&place).await?
        } else {
            take::status(&place).await?
        })
    })?;
    let text = if arguments.json {
        let listing = Listing { schema: SCHEMA, status };
        serde_json::to_string(&listing).map_err(io::Error::other).map(|text| text + "\n")
    } else {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(["SIZE", "READY", "TAKEN", "MISSED"]);
        let crate::pool::Status { size, ready, taken, missed } = status;
        table.add_row([size.to_string(), ready.to_string(), taken.to_string(), missed.to_string()]);
        Ok(format!("{table}\n"))
    };
    let written = text.and_then(|text| {
        let mut output = io::stdout().lock();
        output.write_all(text.as_bytes()).and_then(|()| output.flush())
    });
    match written {
        // A reader that went away has had what it wanted.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Fault::Setup { what: "standard output", source: error })
        }
        _ => Ok(()),
    }
}
