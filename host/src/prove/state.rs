//! The real programs, looked at from outside while they run: what the kernel says of a vmm and a file server that were
//! started as for a team. Whoever replaced one of them by a program that confines itself less is found here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cloister_prober::wire::{Case, Group};
use cloister_vmm::control::Event;
use tokio::time::timeout;

use super::bed::Bed;
use super::place::machine;
use super::report::Seen;
use super::{Progress, START_LIMIT};
use crate::inspect::process::NAMESPACES;
use crate::launch::jail::{IdRange, LimitsWish};
use crate::launch::{LaunchSpec, Launched};
use crate::report::chain;

/// Name, what it tries, why.
const ROWS: [(&str, &str, &str); 9] = [
    (
        "state-filters",
        "finds a thread of the real program behind fewer filters than two",
        "the jailer's filter, and the program's own for each of its threads",
    ),
    (
        "state-privileges",
        "finds a capability in any set of the real program, or a way to new ones",
        "every set is empty, and no_new_privs is set",
    ),
    (
        "state-user",
        "finds the real program as another user than it should be, or with groups",
        "as root an own user id; else the starter's, in a user namespace that knows nobody else",
    ),
    (
        "state-processes",
        "finds the real program in the host's list of processes and its session",
        "process 1 of a namespace of its own, leader of a session of its own",
    ),
    (
        "state-namespaces",
        "finds a namespace that the real program has in common with the host",
        "all seven kinds are its own",
    ),
    (
        "state-mounts",
        "finds a mount in the real program's root",
        "an empty root is the only one: read-only, nosuid, nodev, noexec",
    ),
    (
        "state-limits",
        "finds the real program without a limit of its control group",
        "memory, swap, processes and processor time are limited",
    ),
    (
        "state-resources",
        "finds the real program with resources that it needs not",
        "no core, no locked memory, no message queues; a vmm writes no file",
    ),
    (
        "state-dumpable",
        "reads the real program's memory as its own user",
        "the program can't be read, so its process can't be either",
    ),
];

pub(super) fn cases() -> Vec<Case> {
    let case = |group, (name, tries, why): (&str, &str, &str)| Case {
        group,
        name: name.to_owned(),
        tries: tries.to_owned(),
        why: why.to_owned(),
        expected: Vec::new(),
        alone: true,
        exits: Vec::new(),
        goes_on: false,
        shares: true,
    };
    let of = |group| ROWS.into_iter().map(move |row| case(group, row));
    of(Group::Vmm).chain(of(Group::FileServer)).collect()
}

pub(super) fn is_own(case: &Case) -> bool {
    case.name.starts_with("state-")
}

pub(super) async fn run(bed: &Bed<'_>, cases: &[Case], progress: &mut Progress<'_>) {
    let Some(first) = cases.first() else { return };
    let launched = match start(bed).await {
        Ok(launched) => launched,
        Err(why) => return progress.none(cases, &why),
    };
    let process = match first.group {
        Group::FileServer => launched.files.as_ref(),
        _ => Some(&launched.process),
    };
    let Some(pid) = process.and_then(|process| process.id()) else {
        return progress.none(cases, "it has ended");
    };
    for case in cases {
        let looked = Process { folder: PathBuf::from(format!("/proc/{pid}")), group: case.group };
        progress.add(case, vec![looked.look(bed, &case.name)]);
    }
}

/// A machine with an idle guest and two shares.
async fn start(bed: &Bed<'_>) -> Result<Launched, String> {
    let kernel = bed.kernel("idle").await.map_err(|error| error.to_string())?;
    let mut spec = LaunchSpec::new(bed.files(kernel), machine(String::new()));
    spec.jail = bed.wish.jail.clone();
    spec.shares = bed.shares().map_err(|error| error.to_string())?;
    let prepared = spec.prepare(None).map_err(|error| chain(&error))?;
    let launched = prepared.start().await.map_err(|error| chain(&error))?;
    match timeout(START_LIMIT, launched.control.receive()).await {
        Ok(Ok(Some(Event::Running(_)))) => Ok(launched),
        other => Err(format!("the machine does not run: {other:?}")),
    }
}

struct Process {
    folder: PathBuf,
    group: Group,
}

impl Process {
    fn status(&self, folder: &Path) -> BTreeMap<String, String> {
        let text = fs::read_to_string(folder.join("status")).unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
    }

    fn look(&self, bed: &Bed<'_>, name: &str) -> Seen {
        let status = self.status(&self.folder);
        let get = |key: &str| status.get(key).cloned().unwrap_or_default();
        if status.is_empty() {
            return Seen::not_run("the process has ended");
        }
        match name {
            "state-filters" => self.filters(),
            "state-privileges" => {
                let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
                let empty = sets.iter().all(|set| get(set) == "0000000000000000");
                let none = get("NoNewPrivs") == "1";
                let words =
                    format!("bounding set {}, no_new_privs {}", get("CapBnd"), get("NoNewPrivs"));
                Seen::new(empty && none, words)
            }
            "state-user" => self.user(bed.wish.jail.ids, &get("Uid"), &get("Groups")),
            "state-processes" => {
                let of = |key| get(key).split_whitespace().skip(1).map(str::to_owned).collect();
                let (pid, session): (Vec<String>, Vec<String>) = (of("NSpid"), of("NSsid"));
                let own = pid == ["1"] && session == ["1"];
                Seen::new(own, format!("process {}, session {}", get("NSpid"), get("NSsid")))
            }
            "state-namespaces" => self.namespaces(),
            "state-mounts" => self.mounts(),
            "state-limits" => self.limits(bed.wish.jail.limits),
            "state-resources" => self.resources(),
            _ => self.dumpable(),
        }
    }

    fn filters(&self) -> Seen {
        let tasks = fs::read_dir(self.folder.join("task")).into_iter().flatten().flatten();
        let mut words = Vec::new();
        let mut held = true;
        for task in tasks {
            let status = self.status(&task.path());
            let get = |key: &str| status.get(key).cloned().unwrap_or_default();
            let (mode, count) = (get("Seccomp"), get("Seccomp_filters"));
            // A worker of KVM in newer kernels, which never leaves the kernel: made before the program's own filter.
            let least = if get("Name").starts_with("kvm-nx-lpage") { 1 } else { 2 };
            held &= mode == "2" && count.parse::<u32>().is_ok_and(|count| count >= least);
            words.push(format!("{}: {count}", get("Name")));
        }
        Seen::new(held && words.len() > 1, format!("filters: {}", words.join(", ")))
    }

    fn user(&self, range: IdRange, uids: &str, groups: &str) -> Seen {
        let ids: Vec<u32> = uids.split_whitespace().filter_map(|id| id.parse().ok()).collect();
        let me = rustix::process::geteuid().as_raw();
        let right = |id: &u32| match (me, self.group) {
            (0, Group::Vmm) => (range.first..=range.last).contains(id),
            // Whose files are shared here: the own ones.
            _ => *id == me,
        };
        let held = ids.len() == 4
            && ids.iter().all(right)
            && (me != 0 || self.group != Group::Vmm || groups.is_empty());
        Seen::new(held, format!("user ids {uids}, further groups: {groups:?}"))
    }

    /// As far as this user may look: the links of a process that can't be dumped are root's to read.
    fn namespaces(&self) -> Seen {
        let read = |process: &Path, kind: &str| fs::read_link(process.join("ns").join(kind));
        let (mut shared, mut hidden) = (Vec::new(), 0);
        for kind in NAMESPACES {
            match (read(&self.folder, kind), read(Path::new("/proc/self"), kind)) {
                (Ok(its), Ok(ours)) if its == ours => shared.push(kind),
                (Ok(_), Ok(_)) => {}
                _ => hidden += 1,
            }
        }
        let words = match (shared.is_empty(), hidden) {
            (true, 0) => "all seven are its own".to_owned(),
            (true, _) => "the kernel hides them from this user, who is therefore no nearer to them"
                .to_owned(),
            (false, _) => format!("shared: {}", shared.join(" ")),
        };
        Seen::new(shared.is_empty(), words)
    }

    fn mounts(&self) -> Seen {
        let Ok(text) = fs::read_to_string(self.folder.join("mountinfo")) else {
            return Seen::new(true, "the kernel hides them from this user");
        };
        let strict = |line: &str| {
            ["ro", "nosuid", "nodev", "noexec"]
                .iter()
                .all(|option| line.split([' ', ',']).any(|word| word == *option))
        };
        let held = text.lines().count() == 1 && text.lines().all(strict);
        Seen::new(
            held,
            format!("{} mounts: {}", text.lines().count(), text.lines().next().unwrap_or_default()),
        )
    }

    fn limits(&self, wish: LimitsWish) -> Seen {
        if wish == LimitsWish::NotAsked {
            return Seen::not_run("this program asks for no limits");
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let groups = fs::read_to_string(self.folder.join("cgroup")).unwrap_or_default();
        let Some((_, folder)) = crate::launch::group::find_own(&mounts, &groups) else {
            return Seen::new(false, "it is in no control group of version 2");
        };
        let value = |file: &str| {
            let text = fs::read_to_string(folder.join(file)).unwrap_or_else(|_| "none".into());
            text.trim().to_owned()
        };
        let files = ["memory.max", "pids.max", "cpu.max"];
        let limited = |file: &&str| {
            let value = value(file);
            !value.starts_with("max") && value != "none"
        };
        // A kernel without swap has no limit on it.
        let swap = ["0", "none"].contains(&value("memory.swap.max").as_str());
        let words: Vec<String> =
            files.iter().map(|file| format!("{file} {}", value(file))).collect();
        Seen::new(files.iter().all(limited) && swap, words.join(", "))
    }

    fn resources(&self) -> Seen {
        let text = fs::read_to_string(self.folder.join("limits")).unwrap_or_default();
        let soft_and_hard = |name: &str| {
            let rest = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            rest.split_whitespace().take(2).collect::<Vec<_>>().join("/")
        };
        let mut names = vec!["Max core file size", "Max locked memory", "Max msgqueue size"];
        if self.group == Group::Vmm {
            names.push("Max file size");
        }
        let held = names.iter().all(|name| soft_and_hard(name) == "0/0");
        let words: Vec<String> =
            names.iter().map(|name| format!("{name} {}", soft_and_hard(name))).collect();
        Seen::new(held, words.join(", "))
    }

    /// The files in `/proc` of a process that can't be dumped belong to root of the namespace that it was started
    /// from, and to nobody of its own id.
    fn dumpable(&self) -> Seen {
        use std::os::unix::fs::MetadataExt as _;
        let owner = fs::metadata(self.folder.join("environ")).map(|metadata| metadata.uid());
        let status = self.status(&self.folder);
        let ids = status.get("Uid").cloned().unwrap_or_default();
        let own = ids.split_whitespace().nth(1).and_then(|id| id.parse::<u32>().ok());
        match (owner, own) {
            // Root's own process: its files are root's in both cases, and root may read all memory there is.
            (Ok(0), Some(0)) => {
                Seen::new(true, "it is root's own, who may read all memory there is")
            }
            // A user's own process, in a user namespace of that user, who has every capability in it: also not
            // defended. That the process is not dumpable is seen from its own place.
            (Ok(owner), Some(own))
                if owner == own && rustix::process::geteuid().as_raw() == own =>
            {
                Seen::new(true, "it is this user's own, who may read all memory of own processes")
            }
            (Ok(owner), Some(own)) => Seen::new(
                owner != own,
                format!("its files belong to user id {owner}, it runs as {own}"),
            ),
            _ => Seen::not_run("it can't be looked at"),
        }
    }
}
