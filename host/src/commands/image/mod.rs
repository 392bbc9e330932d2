//! `cloister image`: the store of images from the command line.

mod progress;

mod listing;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::image::{ImageArgs, ImageCommand, ImportArgs, PullArgs};
use crate::exit_codes;
use crate::images::archive::apply::Specials;
use crate::images::import::{ImportError, Imported, Request, import};
use crate::images::limits::Limits;
use crate::images::policy::{OPERATORS_FILE, Policy, PolicyError};
use crate::images::registry::{PullError, Transport, pull};
use crate::images::signature::{Key, SignatureError};
use crate::images::store::removal::Removed;
use crate::images::store::session::Session;
use crate::images::store::{Store, StoreError};
use crate::report::{describe, tell_line};
use progress::{Bar, bytes};

/// Most memory of a pull, in bytes. The registry client takes manifests, tokens and error messages
/// into memory whole, however large a registry makes them; what passes here takes a tenth of this.
const PULL_MEMORY: u64 = 2 << 30;

/// Why a command about images failed.
#[derive(Debug, thiserror::Error)]
enum ImageError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("can't set up {what}")]
    Setup {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("can't write standard output")]
    Output(#[source] io::Error),
}

impl ImageError {
    fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Self::Store(error) => error.remedy(),
            Self::Import(error) => error.remedy(),
            Self::Pull(error) => error.remedy(),
            Self::Policy(error) => error.remedy(),
            Self::Signature(error) => error.remedy(),
            Self::Setup { .. } | Self::Output(_) => return None,
        })
    }
}

/// Does what was asked, and tells on standard error what went wrong.
#[must_use]
pub fn image(arguments: ImageArgs) -> u8 {
    match run(arguments) {
        Ok(()) => exit_codes::OK,
        Err(ImageError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            exit_codes::OK
        }
        Err(error) => {
            tell_line(describe(&error, error.remedy()));
            exit_codes::FAILED
        }
    }
}

fn run(arguments: ImageArgs) -> Result<(), ImageError> {
    let path: PathBuf = match arguments.store {
        Some(path) => path,
        None => Store::usual_path()?,
    };
    let store = Store::open(&path)?;
    match arguments.command {
        ImageCommand::Import(arguments) => import_image(&store, arguments),
        ImageCommand::Pull(arguments) => pull_image(&store, arguments),
        ImageCommand::Ls(arguments) => {
            let (_guard, removed) = store.enter()?;
            tell_leftovers(removed);
            print(&if arguments.json { listing::json(&store)? } else { listing::table(&store)? })
        }
        ImageCommand::Inspect(arguments) => {
            let (_guard, removed) = store.enter()?;
            tell_leftovers(removed);
            print(&listing::inspect(&store, &arguments.image)?)
        }
        ImageCommand::Rm(arguments) => {
            let (alone, removed) = store.enter_alone(tell_waiting)?;
            tell_leftovers(removed);
            for image in &arguments.images {
                let (names, removed) = store.remove(image, &alone)?;
                print(&(names.join("\n") + "\n"))?;
                tell_held(removed);
            }
            Ok(())
        }
        ImageCommand::Gc => {
            let (alone, removed) = store.enter_alone(tell_waiting)?;
            tell_leftovers(removed);
            let removed = store.collect(&alone)?;
            tell_held(removed);
            print(&format!(
                "removed {} blobs ({}) and {} roots\n",
                removed.blobs,
                bytes(removed.blob_bytes),
                removed.roots
            ))
        }
    }
}

fn import_image(store: &Store, arguments: ImportArgs) -> Result<(), ImageError> {
    let request = Request {
        name: arguments.name,
        reference: arguments.reference,
        specials: specials(arguments.skip_special),
        limits: Limits::default(),
        policy: policy(arguments.verify_key.as_deref())?,
    };
    let bar = Bar::new();
    let result = import(store, begin(store)?, &arguments.source, &request, &bar);
    bar.clear();
    tell_imported(&result?)
}

fn pull_image(store: &Store, arguments: PullArgs) -> Result<(), ImageError> {
    let request = Request {
        name: Some(arguments.name),
        reference: None,
        specials: specials(arguments.skip_special),
        limits: Limits::default(),
        policy: policy(arguments.verify_key.as_deref())?,
    };
    let transport = Transport { plain_http: arguments.plain_http, docker_config: None };
    let old = getrlimit(Resource::Data);
    let most = old.maximum.map_or(PULL_MEMORY, |most| most.min(PULL_MEMORY));
    setrlimit(Resource::Data, Rlimit { current: Some(most), maximum: old.maximum })
        .map_err(|error| ImageError::Setup { what: "the limit of memory", source: error.into() })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ImageError::Setup { what: "the runtime", source })?;
    let bar = Bar::new();
    let session = begin(store)?;
    let result = runtime.block_on(pull(store, session, &request, &transport, &bar));
    bar.clear();
    tell_imported(&result?)
}

fn begin(store: &Store) -> Result<Session<'_>, ImageError> {
    let (guard, removed) = store.enter()?;
    tell_leftovers(removed);
    Ok(Session::begin(store, guard)?)
}

/// The operator's policy, and what this command adds to it.
fn policy(verify_key: Option<&Path>) -> Result<Policy, ImageError> {
    let mut policy = Policy::load(Path::new(OPERATORS_FILE))?;
    if let Some(file) = verify_key {
        policy.required.push(vec![Key::load(file)?]);
    }
    Ok(policy)
}

const fn specials(skip: bool) -> Specials {
    if skip { Specials::Skip } else { Specials::Refuse }
}

/// Names and digest on standard output; what was left out on standard error.
fn tell_imported(imported: &Imported) -> Result<(), ImageError> {
    let facts = imported.facts;
    let mut notes = Vec::new();
    for (count, what) in [
        (facts.skipped_specials, "special files left out"),
        (facts.cleared_set_id, "set-id bits cleared"),
        (facts.dropped_xattrs, "extended attributes left out"),
    ] {
        if count > 0 {
            notes.push(format!("{count} {what}"));
        }
    }
    tell_line(format_args!(
        "cloister: {} with {} entries, {} on the disk{}{}",
        imported.kind,
        facts.entries,
        bytes(facts.bytes),
        if imported.signed { "; its signature was verified" } else { "" },
        if notes.is_empty() { String::new() } else { format!("; {}", notes.join(", ")) }
    ));
    print(&format!("{} {}\n", imported.names.join(" "), imported.digest))
}

fn tell_leftovers(removed: Option<Removed>) {
    if let Some(removed) = removed {
        tell_line(format_args!(
            "cloister: removed what {} unfinished commands left: {} blobs, {} roots",
            removed.unfinished, removed.blobs, removed.roots
        ));
    }
}

fn tell_waiting() {
    tell_line(format_args!("cloister: waiting for another `cloister image` command to end"));
}

fn tell_held(removed: Removed) {
    if removed.held > 0 {
        tell_line(format_args!(
            "cloister: {} roots are in use and stay until `cloister image gc`",
            removed.held
        ));
    }
}

fn print(text: &str) -> Result<(), ImageError> {
    io::stdout().write_all(text.as_bytes()).map_err(ImageError::Output)
}
