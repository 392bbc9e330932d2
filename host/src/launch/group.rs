//! A machine's control group (version 2): where it lies, making it, and removing it for certain.
//!
//! Each group is a directory `vm-…` that its maker holds a lock on (`flock`). A directory that nobody
//! locks is what a killed `cloister` left; [`sweep`] removes it. There is no other record, so none
//! can be wrong or left over. As root, the directory's number is the machine's user id: making the
//! directory allocates it, and it is free again when no process of the group lives.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cloister_jailer::spec::Limits;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, FlockOperation, Mode, OFlags, access, flock, openat, statfs};

/// The controllers that a machine's limits need.
pub const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// Used where the kernel has it.
const OPTIONAL_CONTROLLER: &str = "io";
/// Under the place that belongs to this user.
const FOLDER: &str = "cloister";
const PREFIX: &str = "vm-";
/// How long the processes of a killed group may take to be gone: much memory is given back.
const END_LIMIT: Duration = Duration::from_secs(20);
/// How often the making of a group is tried again when another command's cleaning comes in between.
const ATTEMPTS: u32 = 16;

/// Why there is no control group.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// Version 2 is not there.
    #[error("control groups version 2 are not mounted on this host")]
    NotMounted,
    /// This user may not divide any group that it is in.
    #[error("this process's control group ({}) is not this user's to divide", .0.display())]
    NotDelegated(PathBuf),
    /// A directory that was named is not of the control group file system.
    #[error("{} is not a directory of control groups version 2", .0.display())]
    NotGroup(PathBuf),
    /// Controllers are missing.
    #[error("the control group {} has not got: {missing}", folder.display())]
    Controllers {
        /// Where.
        folder: PathBuf,
        /// Which.
        missing: String,
    },
    /// Every id of the range is in use.
    #[error("every user id of the range is in use by a machine")]
    NoneFree,
    /// The system refuses.
    #[error("can't {what} ({})", path.display())]
    System {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl GroupError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NotMounted => {
                "start the host with systemd.unified_cgroup_hierarchy=1; `cloister doctor` tells more"
            }
            Self::NotDelegated(_) => {
                "run it in a group of your own: `systemd-run --user --scope -p Delegate=yes \
                 cloister …`; or name one with --cgroup or CLOISTER_CGROUP"
            }
            Self::NotGroup(_) => "name a directory beneath the mount of cgroup2",
            Self::Controllers { .. } => {
                "the host must use control groups version 2 alone (no version 1 mounts: \
                 cgroup_no_v1=all) and give the controllers down to this group; `cloister doctor` \
                 tells more"
            }
            Self::NoneFree => "name a larger range with --uids or CLOISTER_UIDS",
            Self::System { .. } => {
                "name a directory that is yours to divide, without processes in it, with --cgroup or \
                 CLOISTER_CGROUP; `cloister doctor` tells more"
            }
        }
    }
}

fn system(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GroupError {
    move |source| GroupError::System { what, path: path.to_owned(), source }
}

/// Where this user's groups are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory that will hold the groups.
    pub folder: PathBuf,
    /// It was named, so it is there and stays.
    named: bool,
}

impl Place {
    /// The directory that was named; else as root one at the top; else one in the highest group above
    /// this process that belongs to this user.
    ///
    /// # Errors
    /// There is none.
    pub fn find(named: Option<&Path>) -> Result<Self, GroupError> {
        if let Some(folder) = named {
            let kind = statfs(folder).map_err(io::Error::from);
            let kind = kind.map_err(system("find the control group", folder))?;
            if kind.f_type != libc::CGROUP2_SUPER_MAGIC {
                return Err(GroupError::NotGroup(folder.to_owned()));
            }
            return Ok(Self { folder: folder.to_owned(), named: true });
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let (mount, own) = find_own(&mounts, &groups).ok_or(GroupError::NotMounted)?;
        let top = if rustix::process::geteuid().is_root() {
            mount
        } else {
            let ours = |folder: &&Path| {
                let writable = |name: &str| access(folder.join(name), Access::WRITE_OK).is_ok();
                writable("") && writable("cgroup.procs") && writable("cgroup.subtree_control")
            };
            let above = own.ancestors().take_while(|folder| folder.starts_with(&mount));
            above.take_while(ours).last().ok_or(GroupError::NotDelegated(own.clone()))?.to_owned()
        };
        Ok(Self { folder: top.join(FOLDER), named: false })
    }

    /// Makes a group with the first of `names` that is free.
    ///
    /// # Errors
    /// Controllers are missing though `limits` are wanted, or the system refuses.
    pub fn make(
        &self,
        names: &(impl Iterator<Item = u32> + Clone),
        limits: bool,
    ) -> Result<(Group, u32), GroupError> {
        for _ in 0..ATTEMPTS {
            self.prepare(limits)?;
            for name in names.clone() {
                let folder = self.folder.join(format!("{PREFIX}{name}"));
                match fs::create_dir(&folder) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                    // Another command has just removed the directory above, as empty.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) => return Err(system("make a control group", &folder)(error)),
                }
                // A command that cleans up may have been quicker: then it is not ours any more.
                if let Some(group) = Group::lock(folder, self.clone())? {
                    return Ok((group, name));
                }
            }
        }
        Err(GroupError::NoneFree)
    }

    /// The directory with its controllers.
    fn prepare(&self, limits: bool) -> Result<(), GroupError> {
        if !self.named {
            if let Some(above) = self.folder.parent().filter(|_| limits) {
                enable(above)?;
            }
            match fs::create_dir(&self.folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(system("make a control group", &self.folder)(error));
                }
                _ => {}
            }
        }
        if limits { enable(&self.folder) } else { Ok(()) }
    }
}

/// Gives the controllers to the groups beneath `folder`.
fn enable(folder: &Path) -> Result<(), GroupError> {
    let words = |name: &str| -> Vec<String> {
        let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    };
    let (there, given) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
    let has = |list: &[String], name: &str| list.iter().any(|one| one == name);
    let missing: Vec<&str> = CONTROLLERS.into_iter().filter(|name| !has(&there, name)).collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(GroupError::Controllers { folder: folder.to_owned(), missing });
    }
    let wanted = CONTROLLERS.into_iter().chain([OPTIONAL_CONTROLLER]);
    let file = folder.join("cgroup.subtree_control");
    for name in wanted.filter(|name| has(&there, name) && !has(&given, name)) {
        match fs::write(&file, format!("+{name}")) {
            Err(_) if name == OPTIONAL_CONTROLLER => {}
            written => written.map_err(system("give controllers to control groups", &file))?,
        }
    }
    Ok(())
}

/// Where version 2 is mounted, and this process's own directory in it.
pub(crate) fn find_own(mounts: &str, groups: &str) -> Option<(PathBuf, PathBuf)> {
    let mount = mounts.lines().find_map(|line| {
        // proc_pid_mountinfo(5): ... mount point is the fifth word; after " - " comes the type.
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| place.split(' ').nth(4)).flatten()
    })?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some((PathBuf::from(mount), Path::new(mount).join(own)))
}

/// A control group of ours. Dropped, its processes are killed and it is removed.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
    folder: File,
    place: Place,
}

impl Group {
    /// Takes the lock; `None`: somebody else has it, or the directory is gone.
    fn lock(path: PathBuf, place: Place) -> Result<Option<Self>, GroupError> {
        let folder = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(system("open a control group", &path))?,
        };
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            locked => locked.map_err(io::Error::from).map_err(system("lock", &path))?,
        }
        // Removed between its opening and its locking?
        if access(&path, Access::EXISTS).is_err() {
            return Ok(None);
        }
        Ok(Some(Self { path, folder, place }))
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory for another process, without the lock. With it a jailer that outlives a killed command for a moment
    /// would make the group look as if it were in use.
    ///
    /// # Errors
    /// The system has no descriptor.
    pub fn unlocked(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat(&self.folder, ".", flags, Mode::empty())?)
    }

    /// Kills every process in it.
    pub fn kill(&self) {
        // Linux 5.14. It can fail only when the directory is gone.
        fs::write(self.path.join("cgroup.kill"), "1").ok();
    }

    /// Waits until no process is in it.
    fn wait_until_empty(&self) -> io::Result<()> {
        let mut events = File::open(self.path.join("cgroup.events"))?;
        let end = Instant::now() + END_LIMIT;
        loop {
            let mut text = String::new();
            events.rewind()?;
            events.read_to_string(&mut text)?;
            let left = end.saturating_duration_since(Instant::now());
            if text.contains("populated 0") || left.is_zero() {
                return Ok(());
            }
            // The kernel tells when the file has changed.
            let limit = Timespec::try_from(left).map_err(io::Error::other)?;
            poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&limit))?;
        }
    }

    fn remove(&self) -> io::Result<()> {
        self.kill();
        self.wait_until_empty()?;
        fs::remove_dir(&self.path)?;
        if !self.place.named {
            // Not while others have groups in it.
            fs::remove_dir(&self.place.folder).ok();
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What can't be removed now is what the next command removes.
        self.remove().ok();
    }
}

/// Gives a group the limits of a machine, in place of those that it was made with: writes those that differ.
///
/// # Errors
/// The system refuses.
pub fn change_limits(group: &Path, before: &Limits, limits: &Limits) -> Result<(), GroupError> {
    let changed =
        limits.files().into_iter().zip(before.files()).filter(|(now, before)| now != before);
    for ((name, value, is_optional), _) in changed {
        let file = group.join(OsStr::from_bytes(name.to_bytes()));
        match fs::write(&file, value) {
            Err(error) if is_optional && error.kind() == io::ErrorKind::NotFound => {}
            written => written.map_err(system("limit a control group", &file))?,
        }
    }
    Ok(())
}

/// Removes the groups of commands that were killed, with whatever still runs in them; which.
#[must_use]
pub fn sweep(place: &Place) -> Vec<PathBuf> {
    let entries = fs::read_dir(&place.folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            name.is_some_and(|name| name.starts_with(PREFIX))
        })
        .filter_map(|path| Group::lock(path, place.clone()).ok().flatten())
        .filter_map(|group| {
            group.remove().ok()?;
            Some(group.path.clone())
        })
        .collect()
}

#[cfg(test)]
#[path = "group_test.rs"]
mod tests;
