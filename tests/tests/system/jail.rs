//! The jail with all its limits, around a machine that runs: as root and as a user of group kvm.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cloister_tests::census::{child_named, children};
use cloister_tests::{Call, Running};

use crate::ordinary_user::{OrdinaryUser, USER};

/// Of these a machine has its own.
const NAMESPACES: [&str; 7] = ["user", "pid", "mnt", "ipc", "uts", "net", "cgroup"];

/// What the kernel says of the vmm of a running `cloister`.
struct Vmm {
    folder: PathBuf,
    status: BTreeMap<String, String>,
    group: PathBuf,
}

impl Vmm {
    fn of(running: &Running) -> Self {
        let pid = running.pid().as_raw_nonzero().get().unsigned_abs();
        let vmm = child_named(pid, "cloister-vmm").expect("a vmm, the child of cloister");
        assert_eq!(children(pid), [vmm], "nothing else is left of the start");
        let folder = Path::new("/proc").join(vmm.to_string());
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let status = read("status")
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect();
        let groups = read("cgroup");
        let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let group = Path::new("/sys/fs/cgroup").join(own);
        Self { folder, status, group }
    }

    fn limit(&self, file: &str) -> String {
        fs::read_to_string(self.group.join(file)).unwrap().trim().to_owned()
    }

    /// What holds for every jail.
    fn assert_confined(&self) {
        for name in NAMESPACES {
            let ns = |process: &Path| fs::read_link(process.join("ns").join(name)).unwrap();
            assert_ne!(ns(&self.folder), ns(Path::new("/proc/self")), "{name}");
        }
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(self.status[set], "0000000000000000", "{set}");
        }
        assert_eq!(self.status["NoNewPrivs"], "1");
        // The jailer's filter, and the event loop's own.
        let seccomp = (self.status["Seccomp"].as_str(), self.status["Seccomp_filters"].as_str());
        assert_eq!(seccomp, ("2", "2"));
        let mounts = fs::read_to_string(self.folder.join("mountinfo")).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        assert_eq!(fs::read_dir(self.folder.join("root")).unwrap().count(), 0);
        // 64 MiB, page tables, and the vmm's own 128 MiB.
        assert_eq!(self.limit("memory.max"), ((64 + 2 + 128) << 20).to_string());
        assert_eq!(self.limit("memory.oom.group"), "1");
        assert_eq!(self.limit("pids.max"), "9");
        assert_eq!(self.limit("cpu.max"), "200000 100000");
    }
}

fn machine() -> Call {
    Call::run().option("--memory", "64M").shell("echo up; sleep 1000")
}

#[test]
fn as_root_a_machine_has_an_id_and_limits_of_its_own() {
    let mut first = machine().spawn();
    let mut second = machine().spawn();
    first.wait_for("up");
    second.wait_for("up");
    let (a, b) = (Vmm::of(&first), Vmm::of(&second));
    for vmm in [&a, &b] {
        vmm.assert_confined();
        let ids: Vec<u32> =
            vmm.status["Uid"].split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert!(ids.iter().all(|id| *id == ids[0] && (1_900_000_000..=1_900_065_535).contains(id)));
        assert_eq!(vmm.status["Groups"], "");
        assert!(vmm.group.ends_with(format!("cloister/vm-{}", ids[0])), "{}", vmm.group.display());
    }
    assert_ne!(a.status["Uid"], b.status["Uid"]);
    first.signal(rustix::process::Signal::TERM);
    drop(first.finish());
    assert!(!a.group.exists() && b.group.exists());
}

#[test]
fn as_a_user_a_machine_is_confined_no_less() {
    let Some(user) = OrdinaryUser::new("of-a-user") else { return };
    let _report = user.makes(Call::cloister(["doctor"])).output().exits(0);
    let mut running = user.makes(machine()).spawn();
    running.wait_for("up");
    let vmm = Vmm::of(&running);
    vmm.assert_confined();
    assert_eq!(vmm.status["Uid"], [USER.to_string().as_str(); 4].join("\t"));
    assert!(vmm.group.starts_with(user.top().join("cloister")), "{}", vmm.group.display());
    running.signal(rustix::process::Signal::TERM);
    drop(running.finish());
    // Without a group of its own it is refused, with what to do.
    let elsewhere = user.makes_elsewhere(machine()).output().exits(125);
    elsewhere.says("not this user's to divide").says("systemd-run --user");
    user.end();
}
