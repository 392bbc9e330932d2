//! Templates and machines that go on from them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use cloister_tests::Call;
use cloister_tests::prefix::Prefix;
use tempfile::TempDir;

use crate::programs::is_slow;
use crate::team_bed::Bed;

/// Where the lab has a file system of its own, on which a template is not read over a wire.
fn folder() -> TempDir {
    let lab = PathBuf::from("/run/lab");
    if lab.is_dir() { TempDir::new_in(lab) } else { TempDir::new() }.unwrap()
}

fn sized(folder: &TempDir, cpus: &str) -> Call {
    let sized = Call::run().option("--memory", "128M").option("--cpus", cpus);
    sized.option("--templates", folder.path().join("t"))
}

fn run(folder: &TempDir, cpus: &str, script: &str) -> Call {
    sized(folder, cpus).shell(script)
}

fn build(folder: &TempDir, cpus: &str) {
    let place = folder.path().join("t");
    let build = ["template", "build", "--memory", "128M", "--cpus", cpus, "--templates"];
    Call::cloister(build).argument(place).output().exits(0);
}

/// Numbers that no two machines may share; whether the clocks are right; and that all of it works.
const CHECK: &str = "cat /proc/sys/kernel/random/boot_id; cat /proc/sys/kernel/random/uuid
    head -c 16 /dev/urandom | od -An -tx1
    cat /proc/uptime; a=$(cut -d' ' -f1 /proc/uptime | tr -d .); sleep 0.2
    b=$(cut -d' ' -f1 /proc/uptime | tr -d .); [ $b -gt $a ] || echo the clock stands still
    date +%s
    [ $((6*7)) = 42 ] && [ $(nproc) = $1 ] || echo wrong
    trap 'echo trapped' USR1; kill -USR1 $$
    echo data > /tmp/f; [ $(cat /tmp/f) = data ] && [ ! -e /tmp/g ] && touch /tmp/g && echo done";

#[test]
fn forks_are_machines_of_their_own_and_all_of_them_works() {
    let folder = folder();
    let forks = if is_slow() { 250 } else { 2 };
    let mut seen = BTreeSet::new();
    for cpus in ["1", "2"] {
        build(&folder, cpus);
        for _ in 0..forks {
            let script = format!("set -- {cpus}; {CHECK}");
            let outcome = run(&folder, cpus, &script).output().exits(0).says_nothing();
            let text = outcome.text();
            let lines: Vec<&str> = text.lines().collect();
            let [boot_id, uuid, random, uptime, date, "trapped", "done"] = lines.as_slice() else {
                panic!("{text}");
            };
            for number in [boot_id, uuid, random] {
                assert!(seen.insert((*number).to_owned()), "{number} comes twice: {text}");
            }
            // As old as its template: it did not boot.
            let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
            assert!(uptime < 60.0, "{uptime}");
            let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
            let date: u64 = date.parse().unwrap();
            assert!(now.abs_diff(date) < 30, "{date} in the machine, {now} here");
        }
    }
    assert_eq!(seen.len(), 2 * forks * 3);
}

#[test]
fn a_damaged_template_is_built_anew_with_a_word() {
    let folder = folder();
    // Nobody built one: it boots, and leaves nothing.
    run(&folder, "1", "echo yes").output().exits(0).prints("yes\n").says_nothing();
    assert!(!folder.path().join("t").exists());
    build(&folder, "1");
    let name = fs::read_dir(folder.path().join("t")).unwrap();
    let name = name.map(|entry| entry.unwrap().path()).find(|path| path.join("state").exists());
    let state = name.unwrap().join("state");
    let mut bytes = fs::read(&state).unwrap();
    bytes[1000] ^= 1;
    fs::remove_file(&state).unwrap();
    fs::write(&state, bytes).unwrap();
    run(&folder, "1", "echo yes").output().exits(0).prints("yes\n").says("built anew");
    run(&folder, "1", "echo yes").output().exits(0).prints("yes\n").says_nothing();
    let place = folder.path().join("t");
    Call::cloister(["template", "rm", "--all", "--templates"]).argument(&place).output().exits(0);
    run(&folder, "1", "echo yes").output().exits(0).prints("yes\n").says_nothing();
}

#[test]
fn a_template_is_built_on_first_need_where_that_was_asked_for() {
    let folder = folder();
    let place = folder.path().join("t");
    let first = || {
        let sized = Call::run().option("--memory", "128M").option("--templates", &place);
        sized.option("--template", "build").shell("echo yes")
    };
    let listed = || {
        let list = Call::cloister(["template", "ls", "--json", "--templates"]).argument(&place);
        list.output().exits(0).text().matches("\"memory_mib\": 128").count()
    };
    first().output().exits(0).prints("yes\n").says_nothing();
    assert_eq!(listed(), 1);
    let made = || fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path());
    let before: BTreeSet<_> = made().collect();
    first().output().exits(0).prints("yes\n").says_nothing();
    assert_eq!(made().collect::<BTreeSet<_>>(), before);
}

#[test]
fn a_machine_with_another_kernel_leaves_the_template_of_the_usual_one() {
    let folder = folder();
    build(&folder, "1");
    let templates = || {
        let all = fs::read_dir(folder.path().join("t")).unwrap().map(|entry| entry.unwrap());
        all.map(|entry| entry.file_name()).collect::<BTreeSet<_>>()
    };
    let before = templates();
    // A kernel like the usual one, with something after it that nobody loads.
    let kernel = folder.path().join("kernel");
    let mut bytes = fs::read(Prefix::built().kernel()).unwrap();
    bytes.push(0);
    fs::write(&kernel, bytes).unwrap();
    let other = sized(&folder, "1").option("--kernel", &kernel).shell("echo yes");
    other.output().exits(0).prints("yes\n").says_nothing();
    assert_eq!(templates(), before);
}

#[test]
fn a_full_disk_is_told_and_the_machine_boots() {
    let folder = folder();
    let place = folder.path().join("t");
    fs::create_dir(&place).unwrap();
    let place = place.to_str().unwrap();
    // A small file system that only this call sees, and what is on it afterwards.
    let small = "mount -t tmpfs -o size=2m,mode=700 small \"$0\" && \"$@\" && ls \"$0\"";
    let call = Call::run().option("--templates", place).option("--template", "build");
    let call = call.through(&["unshare", "--mount", "sh", "-c", small, place]);
    let outcome = call.option("--memory", "128M").shell("echo yes").output();
    outcome.exits(0).prints("yes\ndigests\nlock\n").says("boots").says("No space left");
}

#[test]
fn a_team_goes_on_from_a_template_as_its_file_says() {
    let bed = Bed::new();
    let folder = folder();
    let place = folder.path().join("t");
    let start = |choice: &str, words: &[&str]| {
        let file = bed.path("team/team.toml");
        let text = format!(
            "name = \"t\"\ntemplate = \"{choice}\"\n[agents.a]\nimage = \"tools\"\n\
             command = [\"sleep\", \"1000\"]\nmemory = \"32MiB\"\n"
        );
        fs::write(&file, text).unwrap();
        let up = bed.call(&["up", "-d"]).variable("CLOISTER_TEMPLATES", &place);
        let up = words.iter().fold(up, |up, word| up.argument(word)).argument(&file);
        up.output().exits(0);
        let events = bed.call(&["logs", "--events", "t"]).output().exits(0).text();
        bed.down();
        events
    };
    assert!(start("auto", &[]).contains("booted") && !place.exists());
    assert!(start("build", &[]).contains("from a template"));
    assert!(start("auto", &[]).contains("from a template"));
    assert!(start("build", &["--cold"]).contains("booted"));
    assert!(start("none", &["--template", "auto"]).contains("from a template"));
}
