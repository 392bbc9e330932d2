//! Control groups: one for each command, so that everything it starts can be killed at once, and
//! one for each agent, with those of its commands in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::{Errno, Result};

/// Groups that a command made inside its own are removed down to this depth; deeper ones stay,
/// empty, until the machine ends.
const MAX_DEPTH: usize = 8;

/// A mounted cgroup v2 hierarchy, or a part of one.
#[derive(Debug)]
pub(crate) struct Groups {
    root: Rc<OwnedFd>,
}

impl Groups {
    pub(crate) fn open(path: &str) -> Result<Self> {
        let root = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        Ok(Self { root: Rc::new(root) })
    }

    /// The group with this name as a place for others, made if it is missing.
    pub(crate) fn enter_or_make(&self, name: &str) -> Result<Self> {
        match rustix::fs::mkdirat(&self.root, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let root = rustix::fs::openat(&self.root, name, DIRECTORY, Mode::empty())?;
        Ok(Self { root: Rc::new(root) })
    }

    /// Writes one of the files of the group that these are in.
    pub(crate) fn set(&self, file: &str, value: &str) -> Result<()> {
        let file = open(&self.root, file, OFlags::WRONLY)?;
        rustix::io::write(file, value.as_bytes()).map(drop)
    }

    /// Makes the group of the command with this id.
    pub(crate) fn create(&self, id: u32) -> Result<Group> {
        self.create_named(format!("command-{id}"))
    }

    /// Makes a group that is empty.
    pub(crate) fn create_named(&self, name: String) -> Result<Group> {
        let is_left = match rustix::fs::mkdirat(&self.root, &name, Mode::from_raw_mode(0o755)) {
            Ok(()) => false,
            Err(Errno::EXIST) => true,
            Err(error) => return Err(error),
        };
        let directory = Rc::new(rustix::fs::openat(&self.root, &name, DIRECTORY, Mode::empty())?);
        let events = open(&directory, "cgroup.events", OFlags::RDONLY)?;
        let group = Group { root: Rc::clone(&self.root), name, directory, events };
        // Also marks the present state as seen: only changes wake the event loop.
        if !group.is_empty()? {
            return Err(Errno::BUSY);
        }
        // An empty one that could not be removed is as good as new, if it was not left frozen.
        if is_left {
            group.thaw()?;
        }
        Ok(group)
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A command's group.
#[derive(Debug)]
pub(crate) struct Group {
    root: Rc<OwnedFd>,
    name: String,
    directory: Rc<OwnedFd>,
    events: OwnedFd,
}

impl Group {
    /// What a process is put into the group with, when it is made.
    pub(crate) fn entry(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// For groups inside it.
    pub(crate) fn inside(&self) -> Groups {
        Groups { root: Rc::clone(&self.directory) }
    }

    /// Writes one of its files.
    pub(crate) fn set(&self, file: &str, value: &str) -> Result<()> {
        let file = open(&self.directory, file, OFlags::WRONLY)?;
        rustix::io::write(file, value.as_bytes()).map(drop)
    }

    /// Opens one of its files for reading.
    pub(crate) fn file(&self, name: &str) -> Result<OwnedFd> {
        open(&self.directory, name, OFlags::RDONLY)
    }

    /// Has an event when the group may have become empty, or have come to stand still.
    pub(crate) const fn events(&self) -> &OwnedFd {
        &self.events
    }

    /// Whether no process is in it; one that is dead but not reaped does not count.
    pub(crate) fn is_empty(&self) -> Result<bool> {
        self.says(b"populated 0")
    }

    /// Has everything in it stand still, also what is just being forked. What is in the kernel for something gets there
    /// when it has that, or at once if a signal would end its waiting.
    pub(crate) fn freeze(&self) -> Result<()> {
        self.set("cgroup.freeze", "1")
    }

    /// Lets everything in it run again.
    pub(crate) fn thaw(&self) -> Result<()> {
        self.set("cgroup.freeze", "0")
    }

    /// Whether everything in it stands still; so does what is not there.
    pub(crate) fn is_frozen(&self) -> Result<bool> {
        self.says(b"frozen 1")
    }

    /// Whether its events have this line now; only changes from here on wake the event loop.
    fn says(&self, wanted: &[u8]) -> Result<bool> {
        let mut text = [0; 128];
        let count = rustix::io::pread(&self.events, &mut text, 0)?;
        let text = text.get(..count).unwrap_or_default();
        Ok(text.split(|byte| *byte == b'\n').any(|line| line == wanted))
    }

    /// Kills everything in it, also what is just being forked, or stands still.
    pub(crate) fn kill(&self) -> Result<()> {
        self.set("cgroup.kill", "1")
    }

    /// Removes the group, which is empty, with those inside it.
    pub(crate) fn remove(&self) -> Result<()> {
        match rustix::fs::unlinkat(&*self.root, &self.name, AtFlags::REMOVEDIR) {
            Err(Errno::BUSY | Errno::NOTEMPTY) => {
                remove_inside(self.directory.as_fd(), MAX_DEPTH)?;
                rustix::fs::unlinkat(&*self.root, &self.name, AtFlags::REMOVEDIR)
            }
            result => result,
        }
    }
}

fn open(directory: impl AsFd, name: &str, access: OFlags) -> Result<OwnedFd> {
    rustix::fs::openat(directory, name, access | OFlags::CLOEXEC, Mode::empty())
}

fn remove_inside(directory: BorrowedFd<'_>, depth: usize) -> Result<()> {
    let Some(depth) = depth.checked_sub(1) else { return Err(Errno::NOTEMPTY) };
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let dots = matches!(name.to_bytes(), b"." | b"..");
        if dots || !entry.file_type().is_dir() {
            continue;
        }
        let inner = rustix::fs::openat(directory, name, DIRECTORY, Mode::empty())?;
        remove_inside(inner.as_fd(), depth)?;
        rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}
