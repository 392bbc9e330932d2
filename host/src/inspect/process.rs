//! One process, as the kernel describes it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::calls;
use super::filters::{Verdict, verdict};
use super::trace;
use crate::launch::group::find_own;

/// Kinds of namespaces (namespaces(7)) in which a jailed process differs from the host.
pub const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
/// Limits of a control group that are shown, if they are there.
const LIMITS: [&str; 6] =
    ["memory.max", "memory.swap.max", "pids.max", "cpu.max", "io.weight", "memory.current"];

/// What a process is.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// Its role in the team.
    pub role: String,
    /// Its id on the host.
    pub pid: i32,
    /// Real, effective, saved and file system user id, on the host.
    pub uids: Vec<u32>,
    /// The same of the group.
    pub gids: Vec<u32>,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Each kind of namespace, and whether it is another than this command's.
    pub namespaces: BTreeMap<String, Namespace>,
    /// What its user namespace maps: lines of `uid_map`.
    pub uid_map: Vec<String>,
    /// The mounts that it sees.
    pub mounts: Vec<Mount>,
    /// Inheritable, permitted, effective, bounding and ambient capabilities, as bit sets.
    pub capabilities: BTreeMap<String, String>,
    /// Whether it can gain privileges by executing something.
    pub no_new_privs: bool,
    /// Whether its memory can be dumped, as the owner of its files in `/proc` tells.
    pub dumpable: bool,
    /// Its threads.
    pub threads: Vec<Thread>,
    /// Its control group's directory.
    pub group: String,
    /// Limits of that group.
    pub limits: BTreeMap<String, String>,
    /// Soft limits of its resources.
    pub resources: BTreeMap<String, String>,
    /// Its open descriptors.
    pub descriptors: Vec<Descriptor>,
}

/// A namespace.
#[derive(Clone, Debug, Serialize)]
pub struct Namespace {
    /// As the kernel names it.
    pub name: String,
    /// Another than this command's, which is the host's.
    pub own: bool,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Where, seen from the process.
    pub place: String,
    /// The file system.
    pub kind: String,
    /// Of the mount and of the file system.
    pub options: Vec<String>,
}

/// A thread.
#[derive(Clone, Debug, Serialize)]
pub struct Thread {
    /// Its id on the host.
    pub tid: i32,
    /// Its name.
    pub name: String,
    /// 0 none, 1 strict, 2 filter.
    pub seccomp: u8,
    /// How many filters it has.
    pub filters: u32,
    /// Which calls these let through; nothing if this user may not ask.
    pub calls: Option<Calls>,
}

/// What filters let through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// Always.
    pub allowed: Vec<String>,
    /// With some arguments.
    pub checked: Vec<String>,
}

/// An open descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Descriptor {
    /// Its number.
    pub number: u32,
    /// As the kernel names it.
    pub target: String,
    /// What it is for.
    pub purpose: &'static str,
}

impl Process {
    /// Reads everything of a process.
    ///
    /// # Errors
    /// It is gone, or this user may not look at it.
    pub fn read(role: &str, pid: i32) -> io::Result<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let status = fs::read_to_string(folder.join("status"))?;
        let numbers = |key: &str| -> Vec<u32> {
            let words = field(&status, key).unwrap_or_default();
            words.split_whitespace().filter_map(|word| word.parse().ok()).collect()
        };
        let names = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
        let capabilities = names
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), field(&status, name)?.to_owned())))
            .collect();
        let (group, limits) = group(pid)?;
        let mut descriptors = descriptors(&folder)?;
        descriptors.sort_by_key(|one| one.number);
        Ok(Self {
            role: role.to_owned(),
            pid,
            uids: numbers("Uid"),
            gids: numbers("Gid"),
            groups: numbers("Groups"),
            namespaces: namespaces(&folder)?,
            uid_map: lines(&folder.join("uid_map")),
            mounts: fs::read_to_string(folder.join("mountinfo"))?
                .lines()
                .filter_map(mount)
                .collect(),
            capabilities,
            no_new_privs: field(&status, "NoNewPrivs") == Some("1"),
            dumpable: is_dumpable(&folder, &status),
            threads: threads(&folder)?,
            group,
            limits,
            resources: resources(&folder)?,
            descriptors,
        })
    }
}

/// The value of a line `KEY:\tVALUE`.
fn field<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn namespaces(folder: &Path) -> io::Result<BTreeMap<String, Namespace>> {
    let mut namespaces = BTreeMap::new();
    for kind in NAMESPACES {
        let name = fs::read_link(folder.join("ns").join(kind))?;
        let ours = fs::read_link(Path::new("/proc/self/ns").join(kind))?;
        let own = name != ours;
        namespaces.insert(kind.to_owned(), Namespace { name: name.display().to_string(), own });
    }
    Ok(namespaces)
}

/// A line of mountinfo (proc_pid_mountinfo(5)).
fn mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(4);
    let (place, options) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let kind = after.next()?.to_owned();
    let of_file_system = after.nth(1).unwrap_or_default();
    let mut all: Vec<String> =
        options.split(',').chain(of_file_system.split(',')).map(str::to_owned).collect();
    all.sort();
    all.dedup();
    Some(Mount { place: place.to_owned(), kind, options: all })
}

/// The files in `/proc` of a process that is not dumpable belong to root, whoever it is (proc(5)).
fn is_dumpable(folder: &Path, status: &str) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let effective = field(status, "Uid").and_then(|uids| uids.split_whitespace().nth(1));
    let owner = folder.join("environ").metadata().map(|metadata| metadata.uid()).ok();
    match (effective.and_then(|uid| uid.parse::<u32>().ok()), owner) {
        // Of root's own processes this can't be told: the owner is root in both cases.
        (Some(uid), Some(owner)) => owner == uid,
        _ => true,
    }
}

fn threads(folder: &Path) -> io::Result<Vec<Thread>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(folder.join("task"))? {
        let entry = entry?;
        let Ok(tid) = entry.file_name().to_string_lossy().parse() else { continue };
        // It may end while it is looked at.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let number = |key| field(&status, key).and_then(|word| word.parse::<u32>().ok());
        let seccomp = number("Seccomp").unwrap_or(0);
        let calls = if seccomp == 2 { calls_of(tid) } else { None };
        threads.push(Thread {
            tid,
            name: field(&status, "Name").unwrap_or_default().to_owned(),
            seccomp: u8::try_from(seccomp).unwrap_or(u8::MAX),
            filters: number("Seccomp_filters").unwrap_or(0),
            calls,
        });
    }
    threads.sort_by_key(|thread| thread.tid);
    Ok(threads)
}

fn calls_of(tid: i32) -> Option<Calls> {
    let filters = trace::filters(tid).ok()?;
    let mut calls = Calls::default();
    for (number, name) in calls::all() {
        match verdict(&filters, number).ok()? {
            Verdict::Allowed => calls.allowed.push(name),
            Verdict::Checked => calls.checked.push(name),
            Verdict::Refused(_) => {}
        }
    }
    Some(calls)
}

fn group(pid: i32) -> io::Result<(String, BTreeMap<String, String>)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let Some((_, folder)) = find_own(&mounts, &groups) else {
        return Ok((String::new(), BTreeMap::new()));
    };
    let limit = |file: &&str| {
        let text = fs::read_to_string(folder.join(file)).ok()?;
        Some(((*file).to_owned(), text.trim().to_owned()))
    };
    Ok((folder.display().to_string(), LIMITS.iter().filter_map(limit).collect()))
}

fn resources(folder: &Path) -> io::Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(folder.join("limits"))?;
    let resource = |line: &str| {
        // The name has spaces in it; the columns are as wide as their heads.
        let (name, rest) = line.split_at_checked(26)?;
        let soft = rest.split_whitespace().next()?;
        Some((name.trim().to_owned(), soft.to_owned()))
    };
    Ok(text.lines().skip(1).filter_map(resource).collect())
}

fn descriptors(folder: &Path) -> io::Result<Vec<Descriptor>> {
    let mut descriptors = Vec::new();
    for entry in fs::read_dir(folder.join("fd"))? {
        let entry = entry?;
        let Ok(number) = entry.file_name().to_string_lossy().parse() else { continue };
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.display().to_string();
        let purpose = purpose(number, &target);
        descriptors.push(Descriptor { number, target, purpose });
    }
    Ok(descriptors)
}

/// What a descriptor of a jailed process is for, from its kind.
fn purpose(number: u32, target: &str) -> &'static str {
    match target {
        "/dev/null" => "standard stream that leads nowhere",
        "/dev/kvm" => "KVM itself",
        "anon_inode:kvm-vm" => "the virtual machine",
        "anon_inode:[eventpoll]" => "the event loop",
        "anon_inode:[eventfd]" => "queue notification, interrupt or wake-up",
        "anon_inode:[timerfd]" => "watchdog or time limit",
        _ if target.starts_with("anon_inode:kvm-vcpu") => "a virtual processor",
        _ if target.starts_with("/memfd:") => "guest memory, or memory shared with the file server",
        _ if target.starts_with("socket:") && number == 3 => "control socket",
        _ if target.starts_with("socket:") => "a stream between guest and host",
        _ if target.starts_with("pipe:") => "log or standard error",
        _ if target.ends_with("/fd") => "own descriptors, to open files again by them",
        _ => "a file or directory of a share, or an image",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_taken_apart() {
        let line = "36 35 98:0 /root /place rw,noatime,nosuid shared:1 - tmpfs tmpfs ro,size=4k";
        let wanted = Mount {
            place: "/place".into(),
            kind: "tmpfs".into(),
            options: ["noatime", "nosuid", "ro", "rw", "size=4k"].map(str::to_owned).into(),
        };
        assert_eq!(mount(line), Some(wanted));
        assert_eq!(mount("nonsense"), None);
    }

    #[test]
    fn this_process_is_no_jailed_one() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let process = Process::read("test", pid).unwrap();
        assert_eq!(process.uids.first(), Some(&rustix::process::getuid().as_raw()));
        assert!(process.namespaces.values().all(|namespace| !namespace.own));
        assert!(process.mounts.iter().any(|mount| mount.place == "/"));
        assert!(process.resources.contains_key("Max open files"), "{:?}", process.resources);
        assert!(process.descriptors.iter().any(|one| one.number == 0));
        assert!(!process.threads.is_empty());
    }
}
