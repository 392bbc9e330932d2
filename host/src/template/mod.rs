//! Templates: saved machines whose supervisor is up and idle, from which others go on in place of booting.
//!
//! [`start`] is the recipe: find the template of the machine that is asked for and go on from it. `cloister template
//! build` makes the first for a machine of some shape, and so does a machine that is to have one ([`Choice`]). A
//! template is found by what it was made of ([`key`]); whatever of that changes makes another one, which replaces it.
//! What is stored is checked before it is used ([`store`]); what does not pass is removed and made anew, with a notice.

pub mod about;

pub mod choice;

pub mod key;

pub mod store;

mod build;

pub(crate) mod content;

mod huge;

mod rehearse;

mod digests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloister_vmm::exit::ExitCode;

use crate::launch::files::FileError;
use crate::launch::{LaunchSpec, Origin};
use crate::machine::{Machine, MachineError, StartError};

pub use about::{About, Places};
pub use choice::Choice;
pub use key::Key;
pub use store::Store;

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It is not known where templates should be.
    #[error("it is not known where templates are: neither XDG_CACHE_HOME nor HOME is set")]
    Nowhere,
    /// The file system refused.
    #[error("can't {what} ({})", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else could change it.
    #[error("{} is not a directory of this user's alone", .0.display())]
    NotOurs(PathBuf),
    /// It is not as it was made.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// There is none of this name.
    #[error("there is no template {0:?}")]
    NotFound(String),
    /// Several begin so.
    #[error("several templates begin with {0:?}")]
    Ambiguous(String),
    /// A machine uses it.
    #[error("a machine that runs uses the template {0}")]
    InUse(String),
    /// This host can't say what it is.
    #[error("can't find out which processor and kernel this host has")]
    Host(#[source] io::Error),
    /// A file of the machine's.
    #[error(transparent)]
    File(#[from] FileError),
    /// The machine that was to be saved did not start.
    #[error("the machine that was to become a template")]
    Start(#[source] Box<StartError>),
    /// This host's KVM lets no machine go on from it.
    #[error("this host's KVM lets no machine go on from one")]
    Fork(#[source] Box<StartError>),
    /// The state of a machine can't be handed to one that is to go on from it.
    #[error("can't copy the state of a template")]
    Rehearsal(#[source] io::Error),
    /// It could not be saved.
    #[error("saving the machine that was to become a template")]
    Save(#[source] MachineError),
}

impl TemplateError {
    fn io<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Self + 'a {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Nowhere | Self::Io { .. } | Self::NotOurs(_) => Some(
                "name a directory of your own with room in it by CLOISTER_TEMPLATES, or start without a \
                 template by --cold",
            ),
            Self::NotFound(_) => Some("`cloister template ls` shows what is there"),
            Self::Ambiguous(_) => Some("write more digits"),
            Self::InUse(_) => Some("stop the machine first"),
            Self::File(error) => error.remedy(),
            Self::Start(error) => error.remedy(),
            Self::Fork(_) => Some("start without a template by --cold"),
            Self::Damaged(_) | Self::Host(_) | Self::Rehearsal(_) | Self::Save(_) => None,
        }
    }
}

/// What a person may want to know while a machine starts.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'a> {
    /// The template is being made, which takes as long as a boot and some more.
    Building,
    /// There is one of other programs, images or another host; it is made anew.
    Outdated,
    /// There is one that can't be used; it is made anew.
    Unusable(&'a dyn std::error::Error),
    /// It was made, and it is not known which pages machines write that go on from it.
    Unrehearsed(&'a TemplateError),
    /// The machine boots, as this host can't make a template.
    Boots(&'a TemplateError),
}

/// How a machine is to come to run, and where templates are.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Whether it goes on from one.
    pub choice: Choice,
    /// The directory of templates, which need not be there; `None`: there is no place for one.
    pub place: Option<PathBuf>,
}

/// Starts a machine as it is wished: from its template, or it boots.
///
/// # Errors
/// As [`Machine::start`].
pub async fn start(
    spec: LaunchSpec,
    wish: &Wish,
    mut tell: impl FnMut(Notice<'_>),
) -> Result<Machine, StartError> {
    let templates = match (wish.choice, &wish.place) {
        (Choice::None, _) | (Choice::Auto, None) => return Machine::start(spec).await,
        (Choice::Build, None) => {
            tell(Notice::Boots(&TemplateError::Nowhere));
            return Machine::start(spec).await;
        }
        (Choice::Auto | Choice::Build, Some(place)) => place,
    };
    for _ in 0..ATTEMPTS {
        let opened = match ready(&spec, wish.choice, templates, &mut tell).await {
            Ok(Some(opened)) => opened,
            Ok(None) => break,
            Err(TemplateError::File(error)) => return Err(StartError::Launch(error.into())),
            // It does not start without a template either.
            Err(TemplateError::Start(error)) if !is_about_kvm(&error) => return Err(*error),
            Err(error) => {
                tell(Notice::Boots(&error));
                break;
            }
        };
        let origin = Origin::Fork(Arc::clone(&opened.saved));
        match Machine::start(LaunchSpec { origin, ..spec.clone() }).await {
            // Checked and yet refused: this host's KVM is not what it was.
            Err(StartError::Ended { end, .. }) if end.exit_code() == Some(ExitCode::Snapshot) => {
                tell(Notice::Unusable(&*end));
                drop(opened.lock);
                let removed = Store::open(templates)
                    .and_then(|store| store.remove(&opened.key).map(|()| store))
                    .map(|store| (store, opened.key));
                match removed {
                    Ok((store, key)) => rebuild(&spec, &store, &key, &mut tell).await,
                    Err(error) => {
                        tell(Notice::Boots(&error));
                        break;
                    }
                }
            }
            Err(error) if is_about_kvm(&error) => {
                tell(Notice::Boots(&TemplateError::Fork(Box::new(error))));
                break;
            }
            started => return started.map(|machine| machine.holding(opened.lock)),
        }
    }
    Machine::start(spec).await
}

/// How often a template is tried: once more when it was just built anew.
const ATTEMPTS: u32 = 2;

/// Builds a template again; without it the machine boots.
async fn rebuild(spec: &LaunchSpec, store: &Store, key: &Key, tell: &mut impl FnMut(Notice<'_>)) {
    if let Err(error) = make(spec, store, key, tell).await {
        tell(Notice::Boots(&error));
    }
}

/// Whether this host's KVM can't do what templates need, though it may well run the machine.
fn is_about_kvm(error: &StartError) -> bool {
    matches!(error, StartError::Ended { end, .. } if end.exit_code() == Some(ExitCode::Kvm))
}

/// The template of a machine, open; `None`: nobody built one for a machine of its shape, nor is to. One that was built
/// of what is not there any more (another kernel, root, program or host) is replaced.
async fn ready(
    spec: &LaunchSpec,
    choice: Choice,
    templates: &Path,
    tell: &mut impl FnMut(Notice<'_>),
) -> Result<Option<store::Opened>, TemplateError> {
    let first = choice == Choice::Build;
    if !first && !templates.exists() {
        return Ok(None);
    }
    let store = Store::open(templates)?;
    let key = Key::of(spec, &store)?;
    let outdated = match store.take(&key) {
        Ok(Some(opened)) => return Ok(Some(opened)),
        Ok(None) => store.outdated(&key, &Places::of(&spec.files))?,
        Err(_) => Vec::new(),
    };
    if !first && outdated.is_empty() && !store.has(&key) {
        return Ok(None);
    }
    if !outdated.is_empty() {
        tell(Notice::Outdated);
    }
    let opened = make(spec, &store, &key, tell).await?;
    for name in outdated {
        // One that a machine uses stays, and is removed another time.
        store.remove_unused(&name).ok();
    }
    Ok(Some(opened))
}

/// The template of this key, open; built of `spec` if there is none.
///
/// # Errors
/// It can't be had.
pub async fn make(
    spec: &LaunchSpec,
    store: &Store,
    key: &Key,
    tell: &mut impl FnMut(Notice<'_>),
) -> Result<store::Opened, TemplateError> {
    match store.take(key) {
        Ok(Some(opened)) => return Ok(opened),
        Ok(None) => {}
        Err(error) => {
            tell(Notice::Unusable(&error));
            store.remove(key)?;
        }
    }
    // One at a time, so that commands that start at once build it once.
    let _alone = store.build_alone().await?;
    if let Ok(Some(opened)) = store.take(key) {
        return Ok(opened);
    }
    tell(Notice::Building);
    if let Some(error) = build::build(spec, store, key).await? {
        tell(Notice::Unrehearsed(&error));
    }
    store.take(key)?.ok_or(TemplateError::Damaged("it was removed at once"))
}

/// Where templates are unless somebody says otherwise: `/var/cache/cloister/templates` for root, else
/// `cloister/templates` below `$XDG_CACHE_HOME`, which is `~/.cache` if it is not set.
///
/// # Errors
/// There is no home.
pub fn usual_path() -> Result<PathBuf, TemplateError> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/cache/cloister/templates"));
    }
    // The XDG specification: a relative path is to be ignored.
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .ok_or(TemplateError::Nowhere)?;
    Ok(cache.join("cloister/templates"))
}
