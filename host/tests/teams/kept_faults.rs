//! What becomes of a team that is kept, or goes on, when somebody is killed, interrupted or out of space: it runs, is
//! suspended and can be resumed, or is shown as crashed, and nothing else is left.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::bed::{Bed, one, one_with};
use crate::faults::{Dice, LOOK, SETTLING, TOLD, Traces, attended, ends, go_on, life};
use crate::harness::text;
use crate::kept::status;
use crate::killer::{Point, Role, follow};

/// Kills in the ordinary suite: half a minute or so. `CLOISTER_KILLS` makes it any number.
const KILLS: usize = 12;
const LIFE: &str = "up -d team.toml; suspend t; resume t; checkpoint t try; resume try";
/// How long a start of one of four teams takes at most.
const LONG: Duration = Duration::from_secs(60);

fn team() -> String {
    let mounts = "mounts = [{ volume = \"v\", target = \"/work\", writable = true }]";
    one_with("sleep 1000", mounts) + "[volumes.v]\n"
}

/// What stands is what may stand, and all of it can be removed.
fn settle(bed: &Bed, what: &str) -> [String; 2] {
    let stands = ["t", "try"].map(|team| {
        let stands = status(bed, team);
        let may = ["running", "suspended", "crashed", "nowhere"].contains(&stands.as_str());
        assert!(may, "{what}: {team} is {stands}: {}", bed.ps());
        let saved = bed.path("state/teams").join(team).join("saved").exists();
        assert_eq!(saved, stands == "suspended", "{what}: {team} is {stands}");
        if stands == "suspended" {
            let resumed = bed.run(&["resume", team]);
            assert!(resumed.status.success(), "{what}: {team}: {}", text(&resumed.stderr));
            assert_eq!(status(bed, team), "running", "{what}");
            assert!(!bed.path("state/teams").join(team).join("saved").exists(), "{what}");
        } else if stands == "crashed" {
            let told = bed.run(&["resume", team]);
            assert_eq!(told.status.code(), Some(125), "{what}: {team} is resumed once more");
        }
        stands
    });
    for (team, stands) in ["t", "try"].iter().zip(&stands) {
        if stands != "nowhere" {
            bed.ok(&["down", team]);
        }
    }
    stands
}

#[test]
fn whoever_keeps_a_team_is_killed_at_each_of_its_steps() {
    let bed = Bed::new();
    bed.file(&team());
    bed.ok(&["ps"]);
    fs::create_dir_all(bed.path("volumes")).expect("a folder");
    let before = Traces::of(&bed);
    let never = Point { role: Role::Other, step: usize::MAX };
    let (whole, child) = follow(life(&bed, LIFE), never);
    ends(&bed, child, "a life without a kill", &before.processes);
    let told = fs::read_to_string(bed.path(TOLD)).unwrap_or_default();
    let stands = attended(&bed, &before.processes, || settle(&bed, &told));
    assert_eq!(stands, ["running", "running"], "{told}");
    let before = Traces::of(&bed);
    let mut dice = Dice::new();
    let wished = std::env::var("CLOISTER_KILLS").ok().and_then(|kills| kills.parse().ok());
    for number in 0..wished.unwrap_or(KILLS) {
        let role = [Role::Warden, Role::Keeper][number % 2];
        let step = 1 + dice.below(whole.steps[&role]);
        let (followed, child) = follow(life(&bed, LIFE), Point { role, step });
        let what = format!("{role:?} killed at step {step}, before call {:?}", followed.killed);
        ends(&bed, child, &what, &before.processes);
        let told = fs::read_to_string(bed.path(TOLD)).unwrap_or_default();
        let end = Instant::now() + SETTLING;
        // Whoever lost its command still works.
        while ["t", "try"].iter().any(|team| status(&bed, team) == "starting") {
            assert!(Instant::now() < end, "{what}: {}: {told}", bed.ps());
            go_on(&bed, &before.processes);
        }
        let tell = format!("{what}: {told}");
        let stands = attended(&bed, &before.processes, || settle(&bed, &tell));
        loop {
            let left = Traces::of(&bed).since(&before);
            if left.is_empty() {
                break;
            }
            if left.iter().all(|one| one.starts_with("group")) {
                bed.run(&["doctor"]);
            }
            assert!(Instant::now() < end, "left over, {what}: {left:?}\n{told}");
            go_on(&bed, &before.processes);
            std::thread::sleep(LOOK);
        }
        println!("{number}: {what}: {stands:?}");
    }
    println!("steps: {:?}", whole.steps);
    bed.assert_nothing_left();
}

/// A small file system, as long as this lives.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir_all(&at).expect("a folder");
        let options = ["-t", "tmpfs", "-o", "size=16m,mode=0700", "none"];
        let mounted = Command::new("mount").args(options).arg(&at).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[test]
fn a_full_disk_is_told_and_the_team_runs_on() {
    let bed = Bed::with("ordinary saves-much");
    let Some(_mount) = Small::mount(bed.path("state")) else {
        println!("skipped: only root can mount");
        return;
    };
    bed.up(&one("sleep 1000"));
    let room = rustix::fs::statvfs(bed.path("state")).expect("its room");
    let free = usize::try_from(room.f_bavail * room.f_frsize).expect("a size");
    // Enough for records, too little for its memory.
    let fill = bed.path("state/fill");
    fs::write(&fill, vec![1; free - (1 << 20)]).expect("a file that fits");
    for words in
        [&["suspend", "t"][..], &["checkpoint", "-n", "4", "t", "new"], &["fork", "t", "new-1"]]
    {
        let told = bed.fails(words, 125);
        assert!(told.contains("No space left"), "{words:?}: {told}");
        assert_eq!(["t", "new-1"].map(|team| status(&bed, team)), ["running", "nowhere"]);
        for left in ["t/saved", "t/saved-new", "new-1", "new-4"] {
            assert!(!bed.path("state/teams").join(left).exists(), "{words:?}: {left}");
        }
        assert_eq!(bed.ok(&["exec", "t/a", "--", "echo", "yes"]), "yes\n");
    }
    fs::remove_file(&fill).expect("a file");
    bed.ok(&["suspend", "t"]);
    bed.ok(&["resume", "t"]);
    bed.ok(&["down", "t"]);
    bed.assert_nothing_left();
}

#[test]
fn who_is_interrupted_leaves_a_team_that_stands() {
    let bed = Bed::new();
    bed.file(&team());
    for (words, delay) in [
        (&["suspend", "t"][..], 5),
        (&["checkpoint", "-n", "3", "t", "try"], 3),
        (&["fork", "-n", "3", "t", "try"], 40),
        (&["resume", "t"], 10),
    ] {
        for delay in [0, delay, 4 * delay] {
            bed.ok(&["up", "-d", "team.toml"]);
            if words[0] == "resume" {
                bed.ok(&["suspend", "t"]);
            }
            let mut child = bed.start(words);
            // Any moment will do.
            std::thread::sleep(Duration::from_millis(delay));
            let id =
                Pid::from_raw(i32::try_from(child.id()).expect("a process")).expect("a process");
            kill_process(id, Signal::INT).expect("our child");
            let outcome = child.wait().expect("an end");
            let what = format!("{words:?} after {delay} ms: {outcome:?}");
            let code = outcome.code();
            assert!(code.is_none_or(|code| [0, 125, 130].contains(&code)), "{what}");
            let end = Instant::now() + LONG;
            let stands = |team: &str| loop {
                let stands = status(&bed, team);
                if stands != "starting" {
                    return stands;
                }
                assert!(Instant::now() < end, "{what}");
            };
            let all = ["t", "try-1", "try-2", "try-3"].map(|team| (team, stands(team)));
            println!("{what}: {all:?}");
            for (team, stands) in all {
                let may = ["running", "suspended", "nowhere"].contains(&stands.as_str());
                assert!(may, "{what}: {team} is {stands}");
                if words[0] == "checkpoint" && code != Some(0) && team != "t" {
                    assert_eq!(stands, "nowhere", "{what}: {team}");
                }
                if stands != "nowhere" {
                    // What goes on with a suspension is waited for.
                    bed.ok(&["suspend", team]);
                    bed.ok(&["resume", team]);
                    bed.ok(&["down", team]);
                }
            }
            bed.assert_nothing_left();
            let left = fs::read_dir(bed.path("volumes")).expect("a folder").count();
            assert_eq!(left, 0, "{what}");
        }
    }
}

#[test]
fn a_guest_that_does_not_answer_is_ended_and_nothing_of_it_kept() {
    let bed = Bed::with("ordinary deaf-to-detach");
    bed.up(&one("sleep 1000"));
    let told = bed.fails(&["suspend", "t"], 125);
    assert!(told.contains("30 s") && told.contains("it was ended"), "{told}");
    bed.await_that("its end", |bed| status(bed, "t") == "failed");
    assert!(!bed.path("state/teams/t/saved").exists());
    bed.ok(&["rm", "t"]);
    bed.assert_nothing_left();
}
