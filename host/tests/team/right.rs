//! Team files that are right, and what comes out of them.

use cloister::team::file::{MountSource, TeamFile};
use cloister::team::limits::machine_memory;
use cloister::team::setting::{Origin, Setting};
use cloister::team::source::Place;
use cloister::team::spec::{Condition, Dependency, Lifetime, Restart, Root};
use cloister::template::Choice;

use super::bed::{agent, parse};

const MIB: u64 = 1 << 20;

const EVERYTHING: &str = r#"
name = "research"
cpus = 2
memory = "1GiB"
lifetime = "persistent"
kernel = "vmlinux"
template = "build"
variables-file = "team.env"

[agents.scout]
image = "${IMAGE}"
command = ["python3", "extract.py"]
args = ["--all", "$${literal}"]
environment = { KEY = "value", HOME2 = "${HOME}", OWN = "${OWN}", FILE = "${FROM_FILE}" }
directory = "/work"
user = "www-data:staff"
cpus = 1.5
memory = "512MiB"
pids = 64
tmp = "32MiB"
files = 100
open-files = 256
file-size = "1MiB"
root = { writable = "128MiB" }
mounts = [
  { source = "./docs", target = "/docs" },
  { source = "./out", target = "/out", writable = true },
  { volume = "cache", target = "/out/cache", writable = true },
]
outputs = [{ path = "/out/report.html", to = "./report.html" }]
executables = ["/usr/bin/python3"]
writable-directories = ["/out", "/tmp", "/home"]
restart = { on-failure = 3, back-off = "2s" }
time-limit = "10m"
after = ["other", { agent = "third", condition = "succeeded" }]

[agents.other]
image = "python-tools@sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
restart = "never"
root = "read-only"

[agents.third]
image = "i"
memory = "100MiB"

[volumes.cache]

[variables]
OWN = "own ${HOME}"
"#;

fn right(text: &str) -> TeamFile {
    parse(text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

#[test]
fn everything_that_can_be_said() {
    let team = right(EVERYTHING);
    assert_eq!(
        (team.name.value.as_str(), team.cpus.value, team.memory.value),
        ("research", 2, 1 << 30)
    );
    assert_eq!(team.lifetime.value, Lifetime::Persistent);
    assert_eq!(team.template.value, Choice::Build);
    assert_eq!(team.kernel.as_ref().unwrap().value, "vmlinux");
    assert_eq!(team.volumes[0].value, "cache");
    let names: Vec<&str> = team.agents.iter().map(|agent| agent.name.value.as_str()).collect();
    assert_eq!(names, ["scout", "other", "third"]);
    let scout = &team.agents[0];
    assert_eq!(scout.image.value, "python-tools");
    assert_eq!(scout.args.as_ref().unwrap().value, ["--all", "${literal}"]);
    let environment: Vec<(&str, &str)> = scout
        .environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.value.as_str()))
        .collect();
    let expected =
        [("KEY", "value"), ("HOME2", "/home/me"), ("OWN", "own ${HOME}"), ("FILE", "file")];
    assert_eq!(environment, expected);
    assert_eq!(scout.limits.cpu_thousandths.value, 1500);
    assert_eq!((scout.limits.memory.value, scout.limits.tmp.value), (512 * MIB, 32 * MIB));
    assert_eq!((scout.limits.pids.value, scout.limits.files.value), (64, 100));
    assert_eq!((scout.limits.open_files.value, scout.limits.file_size.value), (256, MIB));
    assert_eq!(scout.limits.time_limit_ms.value, Some(600_000));
    assert_eq!(scout.limits.pids.from, Origin::File(Place { line: 19, column: 8, length: 2 }));
    assert_eq!(scout.root.value, Root::Writable(128 * MIB));
    assert_eq!(scout.restart.value, Restart::OnFailure { times: 3, back_off_ms: 2000 });
    assert!(matches!(&scout.mounts[2].source, MountSource::Volume(name) if name.value == "cache"));
    let writable: Vec<bool> = scout.mounts.iter().map(|mount| mount.writable).collect();
    assert_eq!(writable, [false, true, true]);
    let after: Vec<&Dependency> = scout.after.iter().map(|after| &after.value).collect();
    assert_eq!((after[0].agent.as_str(), after[0].condition), ("other", Condition::Started));
    assert_eq!((after[1].agent.as_str(), after[1].condition), ("third", Condition::Succeeded));
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let team = right(&agent(""));
    let limits = &team.agents[0].limits;
    assert_eq!(limits.memory, Setting::usual(256 * MIB));
    assert_eq!(limits.cpu_thousandths, Setting::usual(500));
    assert_eq!(limits.pids, Setting::usual(128));
    assert_eq!(limits.tmp, Setting::usual(64 * MIB));
    assert_eq!(limits.time_limit_ms, Setting::usual(None));
    assert_eq!(team.agents[0].root, Setting::usual(Root::ReadOnly));
    assert_eq!(team.agents[0].restart, Setting::usual(Restart::Never));
    assert_eq!(team.cpus, Setting::derived(1));
    assert_eq!(team.memory, Setting::derived(machine_memory(256 * MIB)));
    assert_eq!(team.lifetime, Setting::usual(Lifetime::Ephemeral));
    assert_eq!(team.template, Setting::usual(Choice::Auto));
}

#[test]
fn a_small_memory_has_a_small_tmp() {
    let team = right(&agent("memory = \"16MiB\""));
    assert_eq!(team.agents[0].limits.tmp, Setting::derived(4 * MIB));
}

#[test]
fn the_same_in_other_words() {
    for lines in [
        "cpus = 1",
        "cpus = 1.0",
        "cpus = 1e-1",
        "pids = 0x80",
        "pids = 1_000",
        "memory = \"1g\"",
        "memory = \"1 GiB\"",
        "tmp = \"64K\"",
        "time-limit = \"1d\"",
        "command = [\"sh\", \"-c\", '''\nline\n\tline\n''']",
        "args = []",
        "environment.A = \"x\\ny\"",
        "root.writable = \"1MiB\"",
        "after = []",
        "mounts = [{ source = \"/a\", target = \"/a\", writable = true }, { source = \"/b\", target = \"/a/b\" }]",
        "writable-directories = [\"/tmp/x\"]",
        "writable-directories = []",
        "mounts = [{ source = \"a\", target = \"/tmp/a\" }]",
        "user = \"0\"",
        "directory = \"/\"",
        "environment = { N = \"${NEWLINE}\" }",
    ] {
        right(&agent(lines));
    }
    right("\u{feff}name = \"t\"\r\n[agents.a]\r\nimage = \"i\"\r\n");
    right("agents.a.image = 'i'\nname = 't'");
    right("name = 't'\nagents = { a = { image = 'i' } }");
}
