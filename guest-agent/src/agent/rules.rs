//! Landlock: which programs an agent may execute, and where it may write.
//!
//! The rules are made once, with the container, and name files and directories themselves: what an
//! agent puts in their places later is not meant. Each command is bound to the same rules.
//!
//! Execution is what the kernel opens to execute: the program, the interpreter that a script names,
//! and the loader that a dynamically linked program names. The usual loaders may be executed
//! always, since the kernel opens them for nearly every program. Who calls a loader by hand can so
//! run what is mapped executable: hence, for an agent with a list, `/tmp` and all shares but those
//! with listed programs are mounted so that nothing in them can be (`noexec`).

use std::os::fd::{AsFd, OwnedFd};

use cloister_protocol::agent::AgentSpec;
use rustix::io::{Errno, Result};

use super::mount::{is_directory, within};
use super::step::{Failed, Step, of, of_item};
use crate::kernel::{landlock_allow, landlock_rules, landlock_version};

// Rights of files (linux/landlock.h).
const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
/// Removing and making anything in a directory.
const CHANGE_DIRECTORY: u64 = 0b1_1111_1111 << 4;
/// Moving and linking from one directory to another. Denied by every ruleset that does not name it.
const REFER: u64 = 1 << 13;
/// Since version 3.
const TRUNCATE: u64 = 1 << 14;
/// The first version with [`REFER`].
const LEAST_VERSION: u32 = 2;
const TRUNCATE_SINCE: u32 = 3;

/// The loaders of glibc and musl, where the programs of x86-64 expect them.
pub(super) const LOADERS: [&[u8]; 2] =
    [b"/lib64/ld-linux-x86-64.so.2", b"/lib/ld-musl-x86_64.so.1"];
/// Where writing is as the modes allow: terminals, shared memory, and the agent's own processes.
const ALWAYS_WRITABLE: [&[u8]; 2] = [b"/dev", b"/proc"];

/// Whether something at this place, or in what is mounted there, may be executed.
pub(super) fn runs_in(spec: &AgentSpec, place: &[u8]) -> bool {
    let within = |inner: &[u8], outer: &[u8]| {
        outer == b"/"
            || inner
                .strip_prefix(outer)
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    };
    let Some(list) = &spec.executables else { return true };
    list.iter().any(|one| within(one, place) || within(place, one))
}

/// The rules of an agent; `None` if it has no list.
pub(super) fn make(
    root: &OwnedFd,
    spec: &AgentSpec,
) -> std::result::Result<Option<OwnedFd>, Failed> {
    if spec.executables.is_none() && spec.writable.is_none() {
        return Ok(None);
    }
    let version = landlock_version().map_err(of(Step::Rules))?;
    if version < LEAST_VERSION {
        return Err(of(Step::Rules)(Errno::NOSYS));
    }
    let truncate = if version >= TRUNCATE_SINCE { TRUNCATE } else { 0 };
    let write = WRITE_FILE | CHANGE_DIRECTORY | truncate;
    let (executables, writable) = (spec.executables.as_deref(), spec.writable.as_deref());
    let mut handled = REFER;
    if executables.is_some() {
        handled |= EXECUTE;
    }
    if writable.is_some() {
        handled |= write;
    }
    let rules = landlock_rules(handled).map_err(of(Step::Rules))?;
    let allow = |path: &[u8], directory: u64, file: u64| -> Result<()> {
        let place = within(root, path)?;
        let rights = if is_directory(&place)? { directory } else { file };
        landlock_allow(rules.as_fd(), rights & handled, place.as_fd())
    };
    // Moving never gives a file more rights than it had: the kernel sees to that.
    allow(b"/", REFER, 0).map_err(of(Step::Rules))?;
    for (index, path) in executables.unwrap_or_default().iter().enumerate() {
        allow(path, EXECUTE, EXECUTE).map_err(of_item(Step::Rules, index))?;
    }
    if executables.is_some() {
        for loader in LOADERS {
            match allow(loader, EXECUTE, EXECUTE) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(of(Step::Rules)(error)),
            }
        }
    }
    let first_writable = usize::from(Failed::WRITABLE);
    for (index, path) in writable.unwrap_or_default().iter().enumerate() {
        allow(path, write | REFER, WRITE_FILE | truncate)
            .map_err(of_item(Step::Rules, first_writable + index))?;
    }
    if writable.is_some() {
        for path in ALWAYS_WRITABLE {
            allow(path, write, write).map_err(of(Step::Rules))?;
        }
    }
    Ok(Some(rules))
}
