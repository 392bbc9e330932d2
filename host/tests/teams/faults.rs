//! Every process of a team is killed at each of its steps, at random: nothing is left, or the next command
//! cleans up; another team of the same user lives on.
//!
//! A step is a system call that others could see. `CLOISTER_SEED` repeats a run; `CLOISTER_TESTS=slow` makes
//! it 500 kills, `CLOISTER_KILLS` any number.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::bed::Bed;
use crate::harness::text;
use crate::killer::{Point, ROLES, Role, follow};

/// Kills in the ordinary suite: a minute or so.
const KILLS: usize = 24;
/// The same when time does not matter.
const SLOW_KILLS: usize = 500;
/// A life of a team that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// How long what was killed may still be seen.
pub(crate) const SETTLING: Duration = Duration::from_secs(20);
/// How often it is looked at: nothing tells when a process is gone that is nobody's child.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// A whole life: started, used, ended. Each command does what it can after what happened before.
const LIFE: &str = "up -d team.toml; exec t/a -- true; down t";

/// Where its commands' standard error goes.
pub(crate) const TOLD: &str = "told";

/// Numbers that look random (xorshift64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new() -> Self {
        let seed = std::env::var("CLOISTER_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_nanos();
        let seed = seed.unwrap_or(u64::try_from(now % u128::from(u64::MAX)).expect("64 bits"));
        println!("CLOISTER_SEED={seed}");
        Self(seed.max(1))
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).expect("a number")).expect("a number")
    }
}

/// What there is of teams on this host, but for what runs for the other team.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traces {
    pub(crate) processes: BTreeSet<i32>,
    groups: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
    mounts: BTreeSet<String>,
}

impl Traces {
    pub(crate) fn of(bed: &Bed) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        // The state and the store are directories of records: what is in them is looked at by commands.
        let mut files = entries(&bed.path("."));
        files.extend(entries(&bed.path("state")).into_iter().filter(|path| !is_record(path)));
        files.extend(entries(&bed.path("state/teams")));
        files.extend(entries(&bed.path("volumes")));
        Self {
            processes: processes(bed),
            groups: entries(&group(bed)).into_iter().filter(|path| path.is_dir()).collect(),
            files,
            mounts: mounts.lines().map(str::to_owned).collect(),
        }
    }

    /// What is there that was not there before.
    pub(crate) fn since(&self, before: &Self) -> Vec<String> {
        let mut left = Vec::new();
        left.extend(self.processes.difference(&before.processes).map(|one| {
            let words = fs::read(format!("/proc/{one}/cmdline")).unwrap_or_default();
            format!("process {one} {}", String::from_utf8_lossy(&words))
        }));
        left.extend(self.groups.difference(&before.groups).map(|one| format!("group {one:?}")));
        left.extend(self.files.difference(&before.files).map(|one| format!("file {one:?}")));
        left.extend(self.mounts.difference(&before.mounts).map(|one| format!("mount {one}")));
        left
    }
}

/// The database's own files come and go.
fn is_record(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("state.db"))
}

fn entries(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn group(bed: &Bed) -> PathBuf {
    let command = bed.cloister(&[]);
    let found = command.get_envs().find(|(name, _)| *name == "CLOISTER_CGROUP");
    found.and_then(|(_, value)| value).expect("a group").into()
}

/// Those of programs of this installation, and all in its control groups.
fn processes(bed: &Bed) -> BTreeSet<i32> {
    let installed = bed.path("bin");
    let group = group(bed);
    let name = group.file_name().expect("a name").to_string_lossy().into_owned();
    let ours = |pid: i32| {
        let exe = fs::read_link(format!("/proc/{pid}/exe"));
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let dead = fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")));
        !dead && (exe.is_ok_and(|exe| exe.starts_with(&installed)) || groups.contains(&name))
    };
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    all.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|pid| ours(*pid))
        .collect()
}

/// Of this installation's commands, the shell that starts them, and what it has made to become one.
fn shells(bed: &Bed) -> BTreeSet<i32> {
    let installed = bed.path("bin").to_string_lossy().into_owned();
    let words = |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    all.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|pid| String::from_utf8_lossy(&words(pid)).contains(&installed))
        .collect()
}

/// The life as one command, so that one tracer sees all of it.
pub(crate) fn life(bed: &Bed, life: &str) -> Command {
    let cloister = bed.path("bin/cloister");
    let words = life.split("; ").map(|words| format!("{} {words}", cloister.display()));
    let script = words.collect::<Vec<_>>().join("\n");
    let like = bed.cloister(&[]);
    let mut command = Command::new("/bin/sh");
    command.env_clear().args(["-c", &script]).stdin(Stdio::null());
    let told = fs::File::create(bed.path(TOLD)).expect("a file");
    command.stdout(Stdio::null()).stderr(told).current_dir(bed.path("team"));
    command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// A process that was just born when its tracer let go would stand still for ever: tracing had stopped it.
pub(crate) fn go_on(bed: &Bed, before: &BTreeSet<i32>) {
    for process in processes(bed).union(&shells(bed)).filter(|one| !before.contains(*one)) {
        let process = rustix::process::Pid::from_raw(*process).expect("a process");
        // Gone meanwhile.
        rustix::process::kill_process(process, rustix::process::Signal::CONT).ok();
    }
}

/// Does something, while whatever stands still goes on: a stop that tracing left may come late, and then whoever is asked
/// something would never answer.
pub(crate) fn attended<T>(bed: &Bed, before: &BTreeSet<i32>, act: impl FnOnce() -> T) -> T {
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_done = AtomicBool::new(false);
    let attend = || {
        while !is_done.load(Ordering::Relaxed) {
            go_on(bed, before);
            std::thread::sleep(LOOK);
        }
    };
    std::thread::scope(|scope| {
        let _done = Done(&is_done);
        scope.spawn(attend);
        act()
    })
}

pub(crate) fn ends(bed: &Bed, mut child: Child, what: &str, before: &BTreeSet<i32>) {
    let end = Instant::now() + LIMIT;
    // The tracer has collected the end itself, if nothing was killed.
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > end {
            child.kill().ok();
        }
        assert!(Instant::now() < end, "hangs: {what}");
        go_on(bed, before);
        std::thread::sleep(LOOK);
    }
}

fn team(name: &str) -> String {
    format!(
        "name = \"{name}\"\n[agents.a]\nimage = \"tools\"\ncommand = [\"sleep\", \"1000\"]\n\
         mounts = [{{ source = \"./shared\", target = \"/shared\", writable = true }}]\n"
    )
}

/// What the next commands do about what was left; what they said.
fn clean_up(bed: &Bed) -> String {
    let mut said = String::new();
    let teams = bed.ps();
    let there =
        teams["teams"].as_array().is_some_and(|all| all.iter().any(|team| team["name"] == "t"));
    if there {
        let output = bed.run(&["down", "t"]);
        said = text(&output.stderr);
        assert!(output.status.success(), "down: {said}");
    }
    said
}

#[test]
fn every_process_is_killed_at_each_of_its_steps() {
    let bed = Bed::new();
    fs::create_dir_all(bed.path("team/shared")).expect("a folder");
    bed.up(&team("other"));
    bed.file(&team("t"));
    // A life without a kill tells how many steps there are.
    let never = Point { role: Role::Other, step: usize::MAX };
    let (whole, child) = follow(life(&bed, LIFE), never);
    ends(&bed, child, "a life without a kill", &BTreeSet::new());
    let before = Traces::of(&bed);
    let mut dice = Dice::new();
    let slow = std::env::var("CLOISTER_TESTS").is_ok_and(|wish| wish == "slow");
    let wished = std::env::var("CLOISTER_KILLS").ok().and_then(|kills| kills.parse().ok());
    let wished: usize = wished.unwrap_or(if slow { SLOW_KILLS } else { KILLS });
    let (mut kills, mut cleaned) = (BTreeMap::<Role, usize>::new(), 0);
    for role in ROLES {
        let told = fs::read_to_string(bed.path(TOLD)).unwrap_or_default();
        let steps = whole.steps.get(&role).is_some_and(|steps| *steps > 0);
        assert!(steps, "{role:?} had no step: {told}");
    }
    for number in 0..wished {
        let role = ROLES[number % ROLES.len()];
        let step = 1 + dice.below(whole.steps[&role]);
        let start = Instant::now();
        let (followed, child) = follow(life(&bed, LIFE), Point { role, step });
        let what = format!("{role:?} killed at step {step}, before call {:?}", followed.killed);
        ends(&bed, child, &what, &before.processes);
        *kills.entry(role).or_default() += usize::from(followed.killed.is_some());
        let took = start.elapsed();
        let told = fs::read_to_string(bed.path(TOLD)).unwrap_or_default();
        let mut said = told + &attended(&bed, &before.processes, || clean_up(&bed));
        let end = Instant::now() + SETTLING;
        loop {
            let left = Traces::of(&bed).since(&before);
            if left.is_empty() {
                break;
            }
            // A control group whose last process was still dying when the team was taken back is for the next
            // command that looks for such.
            if left.iter().all(|one| one.starts_with("group")) {
                said += &text(&bed.run(&["doctor"]).stderr);
            }
            let left = left.join("\n");
            assert!(Instant::now() < end, "left over, {what}:\n{left}\nsaid: {said}");
            go_on(&bed, &before.processes);
            std::thread::sleep(LOOK);
        }
        println!("{number}: {what}, after {took:.1?}");
        cleaned += usize::from(said.contains("removed what a killed command had left"));
        let alive = bed.run(&["exec", "other/a", "--", "echo", "alive"]);
        assert_eq!(text(&alive.stdout), "alive\n", "{what}: {}", text(&alive.stderr));
    }
    println!("steps: {:?}", whole.steps);
    println!("killed: {kills:?}; the next command cleaned up {cleaned} times");
    bed.ok(&["down", "other"]);
    bed.assert_nothing_left();
}

#[test]
fn a_mounter_that_is_killed_is_noticed_at_once() {
    let bed = Bed::new();
    fs::create_dir_all(bed.path("team/shared")).expect("a folder");
    bed.file(&team("t"));
    let start = Instant::now();
    let (followed, child) = follow(life(&bed, LIFE), Point { role: Role::Mounter, step: 10 });
    assert!(followed.killed.is_some());
    ends(&bed, child, "a killed mounter", &BTreeSet::new());
    // Its time limit is thirty.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let told = fs::read_to_string(bed.path(TOLD)).expect("what was told");
    assert!(told.contains("cloister-jailer did not answer"), "{told}");
    bed.assert_nothing_left();
}
