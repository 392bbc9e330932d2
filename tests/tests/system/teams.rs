//! Teams as their users have them: several agents in one machine, each in its container, working on
//! real files, bounded in everything.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::ordinary_user::{OrdinaryUser, USER};
use crate::team_bed::Bed;

const SLEEPER: &str = "image = \"tools\"\ncommand = [\"sleep\", \"100000\"]\n";

#[test]
fn agents_work_on_real_files_one_after_the_other() {
    let bed = Bed::new();
    fs::create_dir(bed.path("team/documents")).unwrap();
    fs::create_dir(bed.path("team/result")).unwrap();
    for number in 0..20 {
        fs::write(bed.path("team/documents").join(format!("{number}.txt")), "word ".repeat(number))
            .unwrap();
    }
    let team = r#"
        name = "t"
        [volumes.counts]
        [agents.counter]
        image = "tools"
        command = ["sh", "-c", "cd /in && for f in *; do wc -w $f; done > /mnt/counts; touch /in/x"]
        mounts = [
          { source = "./documents", target = "/in" },
          { volume = "counts", target = "/mnt", writable = true },
        ]
        restart = "never"
        [agents.adder]
        image = "tools"
        command = ["sh", "-c", "awk '{ n += $1 } END { print n }' /mnt/counts > /out/sum; id -u; cat /etc/secret"]
        mounts = [
          { volume = "counts", target = "/mnt" },
          { source = "./result", target = "/out", writable = true },
        ]
        after = [{ agent = "counter", condition = "succeeded" }]
    "#;
    // The counter fails for its last word: what is read-only can't be written.
    let file = bed.path("team/team.toml");
    fs::write(&file, team.replace("; touch /in/x", "")).unwrap();
    let outcome = bed.call(&["up"]).argument(&file).output().exits(0);
    let shown = outcome.text();
    assert_eq!(shown, "adder | 1000\nadder | of the image\n");
    assert_eq!(fs::read_to_string(bed.path("team/result/sum")).unwrap(), "190\n");
    bed.down();
    assert!(!bed.path("volumes/t").exists(), "an ephemeral team's volumes go");
    fs::write(
        &file,
        team.replace("after = [{ agent = \"counter\", condition = \"succeeded\" }]", ""),
    )
    .unwrap();
    let outcome = bed.call(&["up"]).argument(&file).output().exits(1);
    assert!(outcome.stderr.contains("Read-only file system"), "{}", outcome.stderr);
    bed.down();
}

#[test]
fn a_container_is_what_its_file_says() {
    let bed = Bed::new();
    bed.up(&format!(
        "name = \"t\"\n[agents.a]\n{SLEEPER}environment = {{ COLOUR = \"blue\" }}\ndirectory = \"/work\"\n\
         executables = [\"/bin/busybox\"]\n\
         [agents.b]\n{SLEEPER}root = {{ writable = \"4MiB\" }}\nuser = \"0:0\"\n"
    ));
    let says = |agent: &str, script: &str, wanted: &str| {
        let (_, said) = bed.exec(agent, script);
        assert!(said.contains(wanted), "{agent}: {script}: {said:?}, not {wanted:?}");
    };
    says("t/a", "id -u; id -g; hostname; pwd; echo $COLOUR", "1000\n1000\na\n/work\nblue\n");
    says("t/a", "touch /etc/x", "Read-only file system");
    says("t/b", "id -u; touch /etc/x && ls /etc", "0\nsecret\nssl\nx\n");
    says("t/a", "ls /etc", "secret\n");
    says("t/a", "grep CapBnd /proc/self/status", "0000000000000000");
    says("t/b", "grep CapEff /proc/self/status", "0000000000000000");
    says("t/a", "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status", "NoNewPrivs:\t1\nSeccomp:\t2\n");
    // The init is nobody's to see, and there is no /sys.
    says("t/a", "ls /sys; cat /proc/1/environ", "ls: /sys: No such file");
    says("t/a", "cat /proc/1/environ; ls -l /proc/1/exe", "can't open '/proc/1/environ'");
    says("t/b", "mount -t tmpfs x /tmp", "denied");
    says("t/b", "mknod /tmp/null c 1 3", "not permitted");
    says("t/a", "ip addr | grep -c '^[0-9]'", "1\n");
    says("t/a", "cp /bin/busybox /tmp/mine && chmod +x /tmp/mine && /tmp/mine true", "denied");
    bed.await_event("exec-denied it may not execute /tmp/mine");
    // A terminal of its own.
    let tty = bed.call(&["exec", "-t", "t/a"]).command(["sh", "-c", "tty; stty size"]);
    let tty = tty.output().exits(0);
    assert!(tty.text().starts_with("/dev/pts/"), "{tty:?}");
    // Files in both ways.
    fs::write(bed.path("team/data"), "x".repeat(300_000)).unwrap();
    let _in =
        bed.call(&["cp"]).argument(bed.path("team/data")).argument("t/a:/tmp").output().exits(0);
    says("t/a", "wc -c < /tmp/data", "300000\n");
    let back = bed.path("team/back");
    let _out = bed.call(&["cp", "t/a:/tmp/data"]).argument(&back).output().exits(0);
    assert_eq!(fs::read(back).unwrap().len(), 300_000);
    // And what the host says of its processes.
    let inspected = bed.call(&["inspect", "--security", "t"]).output().exits(0);
    let table = inspected.text();
    assert!(table.contains("vmm") && table.contains("file-server"), "{table}");
    bed.down();
}

#[test]
fn an_ordinary_users_team_works_on_its_files_and_is_confined_no_less() {
    let Some(user) = OrdinaryUser::new("of-a-teams-user") else { return };
    let bed = Bed::of(user);
    for folder in ["team/in", "team/out"] {
        fs::create_dir(bed.path(folder)).unwrap();
        chown(bed.path(folder), Some(USER), Some(USER)).unwrap();
    }
    fs::write(bed.path("team/in/note"), "read me\n").unwrap();
    bed.up(&format!(
        "name = \"t\"\n[volumes.kept]\n[agents.a]\n{SLEEPER}memory = \"32MiB\"\nmounts = [\n\
         {{ source = \"./in\", target = \"/in\" }},\n\
         {{ source = \"./out\", target = \"/out\", writable = true }},\n\
         {{ volume = \"kept\", target = \"/mnt\", writable = true }},\n]\n"
    ));
    let says = |script: &str, wanted: &str| {
        let (_, said) = bed.exec("t/a", script);
        assert!(said.contains(wanted), "{script}: {said:?}, not {wanted:?}");
    };
    says("cat /in/note; id -u; cat /etc/secret", "read me\n1000\nof the image\n");
    says("touch /in/x", "Read-only file system");
    says("echo done > /out/result && cp /out/result /mnt/ && cat /mnt/result", "done\n");
    let result = bed.path("team/out/result");
    assert_eq!(fs::read_to_string(&result).unwrap(), "done\n");
    assert_eq!(fs::metadata(&result).unwrap().uid(), USER);
    let (code, _) = bed.exec("t/a", "head -c 90000000 /dev/zero | tail -c 90000000 | wc -c");
    assert_ne!(code, 0, "its memory is bounded");
    bed.await_event("out-of-memory");
    let inspected = bed.call(&["inspect", "--security", "t"]).output().exits(0);
    let table = inspected.text();
    assert!(table.contains("vmm") && table.contains("file-server"), "{table}");
    bed.down();
    bed.into_user().unwrap().end();
}

#[test]
fn limits_hold_and_neighbours_go_on() {
    let bed = Bed::new();
    bed.up(&format!(
        "name = \"t\"\nmemory = \"512MiB\"\n\
         [agents.hog]\n{SLEEPER}memory = \"48MiB\"\npids = 32\ntmp = \"4MiB\"\nopen-files = 64\ncpus = 0.5\n\
         [agents.good]\n{SLEEPER}"
    ));
    let groups = groups_of_team(&bed);
    let good = || {
        let (code, said) = bed.exec("t/good", "echo alive");
        assert_eq!((code, said.as_str()), (0, "alive\n"));
        // The host has not even had to defend itself.
        groups.iter().for_each(|group| assert_untroubled(group));
    };
    // Memory: the whole command dies, and is told of; the agent and its neighbour live.
    let (code, said) = bed.exec("t/hog", "head -c 200000000 /dev/zero | tail -c 200000000 | wc -c");
    assert_ne!((code, said.as_str()), (0, "200000000\n"));
    bed.await_event("out-of-memory");
    good();
    let (code, _) = bed.exec("t/hog", "true");
    assert_eq!(code, 0, "the agent lives");
    // Processes.
    let (_, said) = bed.exec("t/hog", "for i in $(seq 100); do sleep 5 & done; wait");
    assert!(said.contains("can't fork"), "{said}");
    bed.await_event("too-many-processes");
    good();
    // Files in memory, and open ones.
    let (_, said) =
        bed.exec("t/hog", "head -c 20000000 /dev/zero > /tmp/x; wc -c < /tmp/x; rm /tmp/x");
    assert!(said.contains("head: ") && said.contains("4194304"), "{said}");
    let (_, said) =
        bed.exec("t/hog", "ulimit -n; for i in $(seq 3 100); do eval \"exec $i>/dev/null\"; done");
    assert!(said.starts_with("64\n") && said.len() > 3, "{said}");
    good();
    // Processor time, measured in the guest while the neighbour works too.
    let usage = || {
        let stats = bed.call(&["stats", "--no-stream", "--json", "t/hog"]).output().exits(0);
        let line = stats.text();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        (Instant::now(), value["cpu_us"].as_f64().unwrap())
    };
    let spinner = bed.call(&["exec", "t/hog"]).command(["sh", "-c", "while :; do :; done"]).spawn();
    thread::sleep(Duration::from_secs(2));
    let (begin, before) = usage();
    thread::sleep(Duration::from_secs(8));
    let (end, after) = usage();
    let share = (after - before) / 1e6 / end.duration_since(begin).as_secs_f64();
    good();
    spinner.signal(rustix::process::Signal::INT);
    drop(spinner.finish());
    assert!((0.45..0.55).contains(&share), "{share} of a processor");
    bed.down();
}

/// The control groups of the team's processes on the host.
fn groups_of_team(bed: &Bed) -> Vec<PathBuf> {
    let inspected = bed.call(&["inspect", "--json", "t"]).output().exits(0);
    let value: serde_json::Value = serde_json::from_str(&inspected.text()).unwrap();
    let processes = value["processes"].as_array().unwrap();
    let jailed = processes.iter().filter(|process| process["role"] != "warden");
    let groups: Vec<_> =
        jailed.map(|process| PathBuf::from(process["group"].as_str().unwrap())).collect();
    assert_eq!(groups.len(), 2, "vmm and file server");
    groups
}

/// Asserts that what runs in a group on the host never reached the group's limits.
fn assert_untroubled(group: &Path) {
    let read = |file: &str| fs::read_to_string(group.join(file)).unwrap();
    for (file, key) in [("memory.events", "oom"), ("pids.events", "max")] {
        let events = read(file);
        let count = events.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        assert_eq!(count, Some("0"), "{}/{file}", group.display());
    }
    let bytes = |file: &str| read(file).trim().parse::<u64>().unwrap();
    let (peak, most) = (bytes("memory.peak"), bytes("memory.max"));
    assert!(peak < most, "{}: {peak} of {most} bytes", group.display());
}

#[test]
fn output_without_end_is_bounded_on_the_disk() {
    let bed = Bed::new();
    bed.up(&format!(
        "name = \"t\"\n[agents.flood]\nimage = \"tools\"\ncommand = [\"yes\"]\n[agents.good]\n{SLEEPER}"
    ));
    thread::sleep(Duration::from_secs(5));
    let (code, said) = bed.exec("t/good", "echo alive");
    assert_eq!((code, said.as_str()), (0, "alive\n"));
    let logs = fs::read_dir(bed.logs()).unwrap();
    let bytes: u64 = logs.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes > 0 && bytes < 18 << 20, "{bytes}");
    bed.down();
}
