//! Programs that an agent with a list is about to execute: the filter asks, and the answer is
//! always to go on, since Landlock decides. What Landlock will deny is told to the host.
//!
//! The path is read from the memory of a hostile process, which can change it afterwards: it is
//! good for a report, and nothing is decided by it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Result;

use super::enter::Entrance;
use super::mount::within;
use super::rules::LOADERS;
use crate::kernel::{self, Waiting};

/// Most calls answered in one turn of a command, so that others have theirs.
const MAX_A_TURN: usize = 32;
/// Longest path that the kernel takes.
const MAX_PATH: usize = cloister_protocol::limits::MAX_PATH;

/// Answers what waits; gives the paths that will be denied, and whether more is waiting.
pub(crate) fn answer(listener: &OwnedFd, entrance: &Entrance) -> (Vec<Vec<u8>>, bool) {
    let mut denied = Vec::new();
    for _ in 0..MAX_A_TURN {
        if !is_readable(listener) {
            return (denied, false);
        }
        // Who asked may have been killed meanwhile.
        let Ok(waiting) = kernel::next_waiting(listener.as_fd()) else { continue };
        let found = look(&waiting, entrance);
        // Else what was read is of another process, which got the number of one that is gone.
        if kernel::still_waits(listener.as_fd(), waiting.id) {
            denied.extend(found.ok().flatten());
            let _gone = kernel::let_go_on(listener.as_fd(), waiting.id);
        }
    }
    (denied, true)
}

fn is_readable(listener: &OwnedFd) -> bool {
    let mut files = [PollFd::new(listener, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut files, Some(&now)).is_ok()
        && files.iter().any(|file| file.revents().contains(PollFlags::IN))
}

/// The path that is to be executed, if it is a program that is not on the list.
fn look(waiting: &Waiting, entrance: &Entrance) -> Result<Option<Vec<u8>>> {
    let process = |part: &str| format!("/proc/{}/{part}", waiting.thread);
    let [first, second, ..] = waiting.arguments;
    let is_at = i64::from(waiting.call) == libc::SYS_execveat;
    let named = read_path(&process("mem"), if is_at { second } else { first })?;
    let mut path = named.clone();
    if named.first() != Some(&b'/') {
        // Where it begins; only the lower half counts for the kernel.
        let [a, b, c, d, ..] = first.to_le_bytes();
        let directory = i32::from_le_bytes([a, b, c, d]);
        let base = if is_at && directory != libc::AT_FDCWD {
            process(&format!("fd/{directory}"))
        } else {
            process("cwd")
        };
        path = rustix::fs::readlink(&*base, Vec::new())?.into_bytes();
        if !named.is_empty() {
            path.push(b'/');
            path.extend(&named);
        }
    }
    let place = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(&*process("root"), place, Mode::empty())?;
    let file = within(&root, &path)?;
    let stat = rustix::fs::fstat(&file)?;
    let is_program =
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o111 != 0;
    if !is_program {
        return Ok(None);
    }
    let found = true_path(&file)?;
    let listed = entrance.list.iter().map(Vec::as_slice).chain(LOADERS);
    let allowed = listed.into_iter().any(|one| {
        let one = within(&root, one).and_then(|one| true_path(&one)).unwrap_or_default();
        one == b"/"
            || (!one.is_empty()
                && found
                    .strip_prefix(one.as_slice())
                    .is_some_and(|rest| matches!(rest.first(), None | Some(b'/'))))
    });
    let told = if named.is_empty() { found } else { named };
    Ok((!allowed).then_some(told))
}

/// A string in another process's memory, up to its NUL.
fn read_path(memory: &str, address: u64) -> Result<Vec<u8>> {
    let file = rustix::fs::open(memory, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = vec![0; MAX_PATH];
    let count = rustix::io::pread(file, &mut bytes, address)?;
    bytes.truncate(count);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    Ok(bytes)
}

/// Where a file lies, links resolved, as its container has it.
fn true_path(file: &OwnedFd) -> Result<Vec<u8>> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::readlink(link, Vec::new()).map(std::ffi::CString::into_bytes)
}
