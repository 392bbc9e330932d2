//! The jail with all its limits, around a machine that runs: as root and as a user of group kvm.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use cloister_tests::census::{child_named, children};
use cloister_tests::prefix::Prefix;
use cloister_tests::{Call, Running};

/// A user of the lab, and the group that owns its `/dev/kvm`.
const USER: u32 = 1000;
const KVM_GROUP: u32 = 108;
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
    if std::env::var_os("LAB").is_none() {
        println!("skipped: only the lab's /dev/kvm and control groups are the test's to give away");
        return;
    }
    // What an administrator does once.
    let device = Path::new("/dev/kvm");
    chown(device, Some(0), Some(KVM_GROUP)).unwrap();
    fs::set_permissions(device, fs::Permissions::from_mode(0o660)).unwrap();
    let top = Path::new("/sys/fs/cgroup/of-a-user");
    for folder in [top.to_owned(), top.join("session")] {
        fs::create_dir(&folder).unwrap();
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            chown(folder.join(file), Some(USER), Some(USER)).unwrap();
        }
    }
    let (_folder, prefix) = Prefix::built().copied();
    let user = USER.to_string();
    let kvm = KVM_GROUP.to_string();
    let enter = format!("echo $$ >{}/session/cgroup.procs; exec \"$@\"", top.display());
    let as_user = ["sh", "-c", &enter, "sh", "setpriv", "--reuid", &user, "--regid", &user];
    let as_user = [&as_user[..], &["--groups", &kvm, "--inh-caps=-all"]].concat();

    let report = Call::cloister(["doctor"]).prefix(&prefix).through(&as_user);
    let _report = report.output().exits(0);
    let mut running = machine().prefix(&prefix).through(&as_user).spawn();
    running.wait_for("up");
    let vmm = Vmm::of(&running);
    vmm.assert_confined();
    assert_eq!(vmm.status["Uid"], [user.as_str(); 4].join("\t"));
    assert!(vmm.group.starts_with(top.join("cloister")), "{}", vmm.group.display());
    running.signal(rustix::process::Signal::TERM);
    drop(running.finish());
    assert!(!top.join("cloister").exists());
    fs::remove_dir(top.join("session")).unwrap();
    fs::remove_dir(top).unwrap();

    // Without a group of its own it is refused, with what to do.
    let user = ["setpriv", "--reuid", &user, "--regid", &user, "--groups", &kvm];
    let call = machine().prefix(&prefix).through(&user);
    call.output().exits(125).says("not this user's to divide").says("systemd-run --user");
}
