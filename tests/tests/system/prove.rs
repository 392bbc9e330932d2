//! `cloister prove`: every attack is held, as root and as a user; and for each step of the jail and each filter that a
//! build for tests leaves out, it names an attack that notices.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloister_tests::Call;
use cloister_tests::prefix::Prefix;
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::ordinary_user::{OrdinaryUser, USER};

const LIMIT: Duration = Duration::from_secs(600);
/// Cases of each group that there are at least.
const LEAST: [(&str, u64); 5] =
    [("vmm", 100), ("file-server", 100), ("guest-kernel", 50), ("container", 150), ("egress", 100)];

/// What is left out, and an attack that must notice. The steps of the jail are named as in `jailer/src/step.rs`.
const WEAKENED: [(&str, &str); 25] = [
    ("Descriptors", "vmm/leaked-descriptor"),
    ("Spec", "vmm/spec-no-user"),
    ("Host", "vmm/spec-other-host"),
    ("Limits", "vmm/state-limits"),
    ("Clone", "vmm/state-namespaces"),
    ("CloneIpc", "vmm/state-namespaces"),
    ("CloneUts", "file-server/state-namespaces"),
    ("ClonePid", "vmm/state-processes"),
    ("Mapping", "vmm/see-host-name"),
    ("Identity", "vmm/state-user"),
    ("Session", "vmm/state-processes"),
    ("ParentDeath", "vmm/outlive-host"),
    ("GroupNamespace", "vmm/state-namespaces"),
    ("HostName", "vmm/see-host-name"),
    ("Processes", "file-server/find-kernel-switches"),
    ("Root", "vmm/state-mounts"),
    ("ResourceLimits", "vmm/state-resources"),
    ("NoNewPrivileges", "vmm/state-privileges"),
    ("Landlock", "vmm/execute-by-descriptor"),
    ("Capabilities", "vmm/state-privileges"),
    ("NotDumpable", "vmm/state-dumpable"),
    ("SystemCalls", "vmm/state-filters"),
    ("Loop", "vmm/state-filters"),
    ("Vcpu", "vmm/state-filters"),
    ("Files", "file-server/state-filters"),
];

/// What stands in a program that can be weakened, before the name.
const MARK: &[u8] = b"cloister-weaken:";

fn report(call: Call, code: i32) -> Value {
    let outcome = call.limit(LIMIT).output();
    let report = serde_json::from_slice::<Value>(&outcome.stdout);
    assert!(report.is_ok(), "no report: {}", outcome.stderr);
    let report = report.unwrap();
    let bad: Vec<&Value> = cases(&report).filter(|case| case["status"] != "held").collect();
    println!("{} s, {}, not held: {bad:#?}", outcome.time.as_secs(), report["summary"]);
    let _outcome = outcome.exits(code);
    report
}

fn is_slow() -> bool {
    std::env::var_os("CLOISTER_TESTS").is_some_and(|kind| kind == "slow")
}

fn cases(report: &Value) -> impl Iterator<Item = &Value> {
    report["cases"].as_array().unwrap().iter()
}

fn assert_whole(report: &Value) {
    assert_eq!(report["ok"], true);
    let mut sums = report["summary"].as_array().unwrap().iter();
    for (group, least) in LEAST {
        let sum = sums.next().unwrap();
        assert_eq!(sum["group"], group);
        assert!(sum["cases"].as_u64().unwrap() >= least, "{group}: {sum}");
    }
}

#[test]
fn as_root_every_attack_is_held() {
    let (folder, own) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let page = folder.path().join("report.html");
    let call = Call::cloister(["prove", "--json"]).option("--html", &page);
    assert_whole(&report(call.variable("TMPDIR", own.path()), 0));
    assert_eq!(fs::read_dir(own.path()).unwrap().count(), 0, "nothing is left");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("vmm/mount-tmpfs") && page.contains("container/mount-a-tmpfs"), "{page}");
}

#[test]
fn as_a_user_every_attack_is_held() {
    let Some(user) = OrdinaryUser::new("of-a-prover") else { return };
    let own = TempDir::new().unwrap();
    chown(own.path(), Some(USER), Some(USER)).unwrap();
    let call = || Call::cloister(["prove", "--json"]).variable("TMPDIR", own.path());
    if is_slow() {
        assert_whole(&report(user.makes(call()), 0));
    } else {
        // What is another one without root: the jails. Inside the machine nobody knows who owns it.
        for (group, least) in [LEAST[0], LEAST[1]] {
            let report = report(user.makes(call().option("--only", format!("{group}/"))), 0);
            assert!(cases(&report).count() as u64 >= least, "{group}");
        }
    }
    assert_eq!(fs::read_dir(own.path()).unwrap().count(), 0, "nothing is left");
    user.end();
}

/// The programs of a build with the feature `weaken`, which `tests/weak` makes.
struct Weak {
    folder: TempDir,
}

impl Weak {
    const PROGRAMS: [&'static str; 4] =
        ["cloister-jailer", "cloister-vmm", "cloister-file-server", "cloister-prober"];

    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        fs::copy(Prefix::built().program(), folder.path().join("bin/cloister")).unwrap();
        Self { folder }
    }

    fn built() -> PathBuf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../out/tests/weak");
        assert!(folder.exists(), "no {}: tests/weak makes it", folder.display());
        folder
    }

    /// Every program leaves this out; nothing, if the name is empty.
    fn leave_out(&self, name: &str) {
        for program in Self::PROGRAMS {
            let mut bytes = fs::read(Self::built().join(program)).unwrap();
            let marks: Vec<usize> =
                (0..bytes.len() - 64).filter(|at| bytes[*at..].starts_with(MARK)).collect();
            assert!(!marks.is_empty(), "{program} can't be weakened");
            for at in marks {
                let place = at + MARK.len();
                bytes[place..place + name.len()].copy_from_slice(name.as_bytes());
            }
            let path = self.folder.path().join("bin").join(program);
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn prove(&self, only: &str) -> Call {
        let built = Prefix::built();
        Call::program(&self.folder.path().join("bin/cloister"))
            .argument("prove")
            .argument("--json")
            .option("--only", only)
            .option("--kernel", built.kernel())
            .option("--rootfs", built.root())
    }
}

/// Minutes in the lab, so with `CLOISTER_TESTS=slow`.
#[test]
fn each_layer_that_is_left_out_is_noticed() {
    if !is_slow() {
        println!("skipped: only with CLOISTER_TESTS=slow");
        return;
    }
    let weak = Weak::new();
    let mut unnoticed = Vec::new();
    // As it is built it leaves nothing out, so it is the name alone that is noticed.
    weak.leave_out("");
    let mut attacks: Vec<&str> = WEAKENED.iter().map(|(_, attack)| *attack).collect();
    attacks.sort_unstable();
    attacks.dedup();
    for attack in &attacks {
        let held = report(weak.prove(attack), 0);
        assert!(cases(&held).any(|case| case["name"] == *attack), "{attack}");
    }
    for (name, attack) in WEAKENED {
        weak.leave_out(name);
        let outcome = weak.prove(attack).limit(LIMIT).output();
        let report: Value = serde_json::from_slice(&outcome.stdout).unwrap();
        let case = cases(&report).find(|case| case["name"] == attack).unwrap().clone();
        println!("without {name}: {} {} {}", case["name"], case["status"], case["seen"]);
        if case["status"] == "held" || outcome.status.code() != Some(1) {
            unnoticed.push((name, case));
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");
}

/// What runs of the team of a `cloister prove` with this directory for temporary files.
fn running(own: &Path) -> Vec<String> {
    let of_it = |pid: &str| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let wanted = format!("TMPDIR={}", own.display());
        environment.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes())
    };
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
    pids.filter(|pid| pid.parse::<u32>().is_ok() && of_it(pid)).collect()
}

#[test]
fn an_interrupted_run_leaves_nothing_and_a_killed_one_is_cleaned_up() {
    let own = TempDir::new().unwrap();
    let prove = |words: &[&str]| {
        let call = Call::cloister(["prove"]).variable("TMPDIR", own.path()).limit(LIMIT);
        words.iter().fold(call, |call, word| call.argument(word))
    };
    let one = ["--only", "container/mount-a-tmpfs"];
    let attacking = "attacking from a container";

    let mut terminal = prove(&one).in_terminal(24, 100);
    terminal.wait_for(attacking);
    terminal.type_keys("\x03");
    let (code, shown) = terminal.finish();
    assert_eq!(code, Some(130), "{shown}");
    assert_eq!(fs::read_dir(own.path()).unwrap().count(), 0, "{shown}");
    assert_eq!(running(own.path()), [""; 0], "{shown}");

    let mut terminal = prove(&one).in_terminal(24, 100);
    terminal.wait_for(attacking);
    kill_process(terminal.pid(), Signal::KILL).unwrap();
    let (code, shown) = terminal.finish();
    assert_eq!(code, None, "{shown}");
    assert!(fs::read_dir(own.path()).unwrap().count() > 0, "a kill that leaves nothing");
    let next = prove(&["--list"]).output().exits(0);
    let _next = next.says("removed what a killed `cloister prove` had left");
    assert_eq!(fs::read_dir(own.path()).unwrap().count(), 0);
    assert_eq!(running(own.path()), [""; 0]);
}

#[test]
fn what_is_shipped_can_not_be_weakened() {
    let built = Prefix::built();
    for program in [built.jailer(), built.vmm(), built.file_server(), built.prober()] {
        let bytes = fs::read(&program).unwrap();
        let marked = bytes.windows(MARK.len()).any(|part| part == MARK);
        assert!(!marked, "{} is a build for tests", program.display());
    }
}

#[test]
fn wrong_calls_are_told() {
    let no_case = Call::cloister(["prove", "--only", "no-such-attack"]).output();
    let _no_case = no_case.exits(125).says("--list");
    let both = Call::cloister(["prove", "--list", "--html", "x"]).output();
    let _both = both.exits(125).says("cannot be used with");
    let list = Call::cloister(["prove", "--list"]).output().exits(0);
    assert!(list.text().contains("guest-kernel/triple-fault"), "{}", list.text());
    let nowhere = Call::cloister(["prove", "--html", "/no/such/folder/x"]).output();
    let _nowhere = nowhere.exits(125).says("can't write /no/such/folder/x");
}
