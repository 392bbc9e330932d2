//! House rules that a test can keep: file sizes, module docs, the list of unsafe modules, crate
//! arrows, banned words, and that documents name only files and commands that exist.
#![expect(clippy::unwrap_used, reason = "a file that can't be read fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest source file without its tests, in lines; only tables may be longer.
const MAX_FILE_LINES: usize = 400;
/// Modules that may hold `unsafe`, each with a reason in the file.
const UNSAFE_MODULES: &[&str] = &[
    "vmm/src/kvm/mod.rs",
    "vmm/src/kvm/offset.rs",
    "vmm/src/kvm/restore.rs",
    "vmm/src/memory/mod.rs",
    "vmm/src/devices/virtio/sys.rs",
    "vmm/src/sys.rs",
    "guest-agent/src/sys.rs",
    "guest-agent/src/kernel.rs",
    "host/src/audit/export/unacknowledged.rs",
    "host/src/control.rs",
    "host/src/launch/place.rs",
    "host/src/state/lock.rs",
    "host/src/template/huge.rs",
    "jailer/src/sys.rs",
    "jailer/src/mount_calls.rs",
    "file-server/src/sys.rs",
    "host/src/doctor/kernel.rs",
    "host/src/inspect/trace.rs",
    "prober/src/calls.rs",
    "prober/src/guest/interpreter.rs",
];
/// Sibling crates that a crate may name in its manifest.
const ARROWS: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("vmm", &[]),
    ("guest-agent", &["cloister-protocol"]),
    ("jailer", &[]),
    ("file-server", &[]),
    // It attacks from the places of these, confined by their own code.
    ("prober", &["cloister-vmm", "cloister-jailer", "cloister-file-server"]),
    // Of the prober the types of its messages alone.
    (
        "host",
        &[
            "cloister-protocol",
            "cloister-vmm",
            "cloister-jailer",
            "cloister-file-server",
            "cloister-prober",
        ],
    ),
];
/// Modules of `cloister-vmm` that the host may use: its spec types.
const SPEC_MODULES: &[&str] = &["spec", "control", "exit"];
/// File names that say nothing.
const VAGUE: &[&str] = &["manager", "helper", "helpers", "utils", "util", "common", "misc"];
/// Most packages in the lock file that are built on Linux. Half of them come with `oci-client`, which pulls
/// images (HTTP, TLS, names of hosts), and are linked into `cloister` alone. 33 come with virtiofsd's library: most are its
/// own program's (command line, log), of which the linker keeps nothing. A dozen come with SQLite's crate, 15 with
/// `hickory-resolver`, which finds the addresses of names for `cloister` alone, and three with the templates of pages
/// (`maud`), which leave nothing in the program but their output, and three with the text form of metrics.
const MAX_PACKAGES: usize = 296;
/// Most packages that are linked into a program next to hostile bytes. The supervisor's last two came with `tar`, by which
/// it copies files of agents.
const MAX_JAILED_PACKAGES: &[(&str, usize)] =
    &[("cloister-vmm", 32), ("cloister-guest-agent", 20), ("cloister-file-server", 94)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every file that git tracks or would track.
fn files(ending: &str) -> Vec<PathBuf> {
    let list = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(list.status.success());
    let names = String::from_utf8(list.stdout).unwrap();
    names
        .lines()
        .filter(|name| name.ends_with(ending))
        .map(PathBuf::from)
        .filter(|path| root().join(path).exists())
        .collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn is_test(path: &Path) -> bool {
    let name = path.file_stem().unwrap().to_string_lossy();
    name.ends_with("_test") || path.components().any(|part| part.as_os_str() == "tests")
}

/// Collects complaints, so that one run shows all of them.
#[derive(Default)]
struct Complaints(Vec<String>);

impl Complaints {
    fn add(&mut self, path: &Path, what: &str) {
        self.0.push(format!("{}: {what}", path.display()));
    }
}

impl Drop for Complaints {
    fn drop(&mut self) {
        assert!(self.0.is_empty() || std::thread::panicking(), "\n{}", self.0.join("\n"));
    }
}

#[test]
fn every_source_file_has_one_job_and_says_it() {
    let mut complaints = Complaints::default();
    let files = files(".rs");
    assert!(files.len() > 50, "only {} source files found", files.len());
    for path in files {
        let text = read(&path);
        if !text.starts_with("//!") && !is_test(&path) {
            complaints.add(&path, "does not start with a `//!` sentence about its job");
        }
        let own = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        let lines = own.lines().count();
        if lines > MAX_FILE_LINES && !is_test(&path) {
            complaints.add(&path, &format!("{lines} lines, at most {MAX_FILE_LINES}"));
        }
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if VAGUE.contains(&stem.as_str()) {
            complaints.add(&path, "a name that says nothing");
        }
    }
}

#[test]
fn unsafe_code_stays_where_it_is_listed() {
    let mut complaints = Complaints::default();
    let mut found = BTreeSet::new();
    for path in files(".rs") {
        let text = read(&path);
        let product = [
            "vmm/src",
            "guest-agent/src",
            "host/src",
            "protocol/src",
            "jailer/src",
            "file-server/src",
            "prober/src",
        ]
        .iter()
        .any(|folder| path.starts_with(folder));
        let dense: String = text.split_whitespace().collect();
        if product && !is_test(&path) && dense.contains("[expect(unsafe_code") {
            found.insert(path.to_string_lossy().into_owned());
            if !UNSAFE_MODULES.contains(&path.to_string_lossy().as_ref()) {
                complaints.add(&path, "opens unsafe code and is not listed in this test");
            }
        }
        if text.contains(concat!("allow(", "unsafe_code")) {
            complaints.add(&path, "use `expect` with a reason");
        }
    }
    for listed in UNSAFE_MODULES {
        if !found.contains(*listed) {
            complaints.add(Path::new(listed), "listed as unsafe and is not: take it off the list");
        }
    }
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let mut complaints = Complaints::default();
    for (name, allowed) in ARROWS {
        let path = Path::new(name).join("Cargo.toml");
        let manifest: toml::Table = read(&path).parse().unwrap();
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table).unwrap();
        for dependency in dependencies.keys().filter(|name| name.starts_with("cloister")) {
            if !allowed.contains(&dependency.as_str()) {
                complaints.add(&path, &format!("must not depend on {dependency}"));
            }
        }
    }
}

#[test]
fn the_host_uses_only_the_spec_types_of_the_vmm() {
    let mut complaints = Complaints::default();
    for path in files(".rs").iter().filter(|path| path.starts_with("host/src")) {
        for rest in read(path).split("cloister_vmm::").skip(1) {
            let module: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            if !SPEC_MODULES.contains(&module.as_str()) {
                complaints.add(path, &format!("uses cloister_vmm::{module}"));
            }
        }
    }
}

#[test]
fn documents_name_only_what_exists() {
    let mut complaints = Complaints::default();
    let verbs = make_verbs();
    for path in files(".md") {
        let text = read(&path);
        for quoted in text.split('`').skip(1).step_by(2) {
            check_quoted(&path, quoted, &verbs, &mut complaints);
        }
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let folder = path.parent().unwrap_or(Path::new(""));
            let external = target.contains("://") || file.is_empty();
            if !external && !root().join(folder).join(file).exists() {
                complaints.add(&path, &format!("links to {file}, which does not exist"));
            }
        }
    }
}

/// The rules and the tests that keep them: every rule has a row, and every test that is named is there.
#[test]
fn the_rules_name_tests_that_are_there() {
    let mut complaints = Complaints::default();
    let path = Path::new("docs/rules.md");
    let text = read(path);
    for number in 1..=20 {
        let start = format!("| R{number} |");
        let Some(row) = text.lines().find(|line| line.starts_with(&start)) else {
            complaints.add(path, &format!("no row for R{number}"));
            continue;
        };
        if !row.contains("::") && !row.contains("Not relevant yet") {
            complaints.add(path, &format!("R{number} names no test"));
        }
    }
    let quoted = text.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.split_once("::"));
    for (file, test) in quoted.filter(|(file, _)| *file != "file") {
        let there = fs::read_to_string(root().join(file))
            .is_ok_and(|source| source.contains(&format!("fn {test}(")));
        if !there {
            complaints.add(path, &format!("there is no test {test} in {file}"));
        }
    }
}

fn make_verbs() -> BTreeSet<String> {
    read(Path::new("Makefile"))
        .lines()
        .filter_map(|line| line.split_once(':'))
        .flat_map(|(names, _)| names.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// A quoted word that looks like one of our paths must be one; a quoted `make` needs its verb.
fn check_quoted(path: &Path, quoted: &str, verbs: &BTreeSet<String>, complaints: &mut Complaints) {
    if let Some(verb) = quoted.strip_prefix("make ").and_then(|rest| rest.split(' ').next()) {
        if !verbs.contains(verb) && !verb.contains('=') {
            complaints.add(path, &format!("`make {verb}` does not exist"));
        }
        return;
    }
    let word = quoted.split_whitespace().next().unwrap_or_default();
    let folders = [
        "vmm",
        "jailer",
        "file-server",
        "host",
        "protocol",
        "guest-agent",
        "kernel-config",
        "rootfs",
        "tests",
        "benches",
        "docs",
        "fuzz",
        "examples",
        "prober",
    ];
    let plain = word.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
    let ours = word.split_once('/').is_some_and(|(first, _)| folders.contains(&first));
    let beside = path.parent().unwrap_or(Path::new("")).join(word);
    if plain && ours && !root().join(word).exists() && !root().join(beside).exists() {
        complaints.add(path, &format!("names {word}, which does not exist"));
    }
}

#[test]
fn the_project_speaks_of_itself_alone() {
    let mut complaints = Complaints::default();
    // Written in pieces, so that this file does not contain them.
    let banned =
        [concat!("/wo", "rk/"), concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    for ending in [".rs", ".md", ".sh", ".toml", "Makefile", ".config"] {
        for path in files(ending) {
            let text = read(&path);
            for word in banned.iter().filter(|word| text.contains(**word)) {
                complaints.add(&path, &format!("contains {word:?}"));
            }
        }
    }
}

#[test]
fn the_lock_file_stays_small() {
    let names = packages(&["--workspace"]);
    assert!(names.len() <= MAX_PACKAGES, "{} packages: {names:#?}", names.len());
    for (name, most) in MAX_JAILED_PACKAGES {
        let names = packages(&["--package", name]);
        assert!(names.len() <= *most, "{name}: {} packages: {names:#?}", names.len());
    }
}

fn packages(of: &[&str]) -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .arg("tree")
        .args(of)
        .args(["--locked", "--offline", "--prefix", "none", "--edges", "normal,build"])
        .args(["--target", "x86_64-unknown-linux-gnu", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    text.lines()
        .map(|line| line.trim_end_matches(" (*)").to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}
