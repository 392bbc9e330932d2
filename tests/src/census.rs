//! What is there before and must be there after: processes, descriptors, mounts, cgroups, files.
//!
//! The counts are of the whole place where the test runs, so a test that takes a census must run
//! alone; those tests have an executable of their own.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::set_child_subreaper;

/// How long something that was killed may still be seen. The kernel closes a machine's memory and its
/// interrupt controller before the process is gone; in the lab that takes a while.
const SETTLING: Duration = Duration::from_secs(20);
/// How often it is looked at: nothing tells when a process is gone that is nobody's child.
const LOOK: Duration = Duration::from_millis(50);

/// Everything that could be left over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    /// Living processes that this one started, or their orphans, and everything named `cloister…`.
    pub processes: BTreeSet<String>,
    /// This process's own descriptors.
    pub descriptors: BTreeSet<String>,
    /// Lines of the mount table.
    pub mounts: BTreeSet<String>,
    /// Directories of the cgroup file system.
    pub cgroups: BTreeSet<String>,
    /// Entries of the directories for temporary files.
    pub files: BTreeSet<String>,
}

impl Census {
    /// Counts.
    ///
    /// # Panics
    /// The system can't be looked at.
    #[must_use]
    pub fn take() -> Self {
        // Orphans of what is started here become our children, so they are counted.
        set_child_subreaper(Some(rustix::process::getpid())).expect("to adopt orphans");
        let mut cgroups = BTreeSet::new();
        walk(Path::new("/sys/fs/cgroup"), &mut cgroups);
        let temporary = std::env::temp_dir();
        let folders = [temporary.as_path(), Path::new("/dev/shm"), Path::new("/run")];
        Self {
            processes: processes(),
            descriptors: entries(Path::new("/proc/self/fd"))
                .iter()
                .filter_map(|fd| fs::read_link(fd).ok().map(|to| format!("{fd} {}", to.display())))
                .filter(|line| !line.ends_with("/fd"))
                .collect(),
            mounts: fs::read_to_string("/proc/self/mountinfo")
                .expect("the mount table")
                .lines()
                .map(str::to_owned)
                .collect(),
            cgroups,
            files: folders.into_iter().flat_map(entries).collect(),
        }
    }

    /// Nothing is there that was not there before, as soon as what was killed is gone.
    ///
    /// # Panics
    /// Something is left.
    pub fn assert_nothing_left(&self, after: &str) {
        let end = Instant::now() + SETTLING;
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "left over after {after}:\n{}", left.join("\n"));
            thread::sleep(LOOK);
        }
    }

    fn left(&self) -> Vec<String> {
        let now = Self::take();
        let kinds = [
            ("process", &now.processes, &self.processes),
            ("descriptor", &now.descriptors, &self.descriptors),
            ("mount", &now.mounts, &self.mounts),
            ("cgroup", &now.cgroups, &self.cgroups),
            ("file", &now.files, &self.files),
        ];
        kinds
            .iter()
            .flat_map(|(kind, now, before)| {
                now.difference(before).map(move |one| format!("{kind} {one}"))
            })
            .collect()
    }
}

/// The living children of a process.
#[must_use]
pub fn children(of: u32) -> Vec<u32> {
    all_processes().into_iter().filter(|process| process.parent == of).map(|one| one.pid).collect()
}

/// The first child of a process with this name.
#[must_use]
pub fn child_named(of: u32, name: &str) -> Option<u32> {
    all_processes()
        .into_iter()
        .find(|process| process.parent == of && process.name == name)
        .map(|process| process.pid)
}

/// A field of a process's status, in KiB: `VmHWM`, `RssAnon` and the like.
#[must_use]
pub fn memory_kib(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

struct Process {
    pid: u32,
    parent: u32,
    name: String,
    dead: bool,
}

fn all_processes() -> Vec<Process> {
    entries(Path::new("/proc"))
        .iter()
        .filter_map(|path| {
            let pid = path.rsplit('/').next()?.parse().ok()?;
            let stat = fs::read_to_string(format!("{path}/stat")).ok()?;
            // The name is in parentheses and may hold anything; the state and the parent follow it.
            let (before, after) = stat.rsplit_once(')')?;
            let mut after = after.split_whitespace();
            let dead = matches!(after.next()?, "Z" | "X");
            let parent = after.next()?.parse().ok()?;
            Some(Process { pid, parent, name: before.split_once('(')?.1.to_owned(), dead })
        })
        .collect()
}

fn processes() -> BTreeSet<String> {
    let all = all_processes();
    let mut ours = BTreeSet::from([std::process::id()]);
    // Parents are usually before their children in the list, but need not be.
    loop {
        let more: Vec<u32> = all
            .iter()
            .filter(|one| ours.contains(&one.parent) && !ours.contains(&one.pid))
            .map(|one| one.pid)
            .collect();
        if more.is_empty() {
            break;
        }
        ours.extend(more);
    }
    all.iter()
        .filter(|one| !one.dead && (ours.contains(&one.pid) || one.name.starts_with("cloister")))
        .map(|one| format!("{} {}", one.pid, one.name))
        .collect()
}

fn entries(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path().display().to_string()).collect())
        .unwrap_or_default()
}

fn walk(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.insert(entry.path().display().to_string());
            walk(&entry.path(), found);
        }
    }
}
