//! Teams that are put on the disk, go on, and are the beginning of others. What goes on in a fake machine are other
//! processes, which say on their new outputs that they are there again.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::bed::{Bed, one, one_with};

/// It may be detached before it has begun; a fake's command would be ended by that.
const SLEEPER: &str = "trap '' PIPE; echo begun; sleep 1000";

/// How a team stands.
pub(crate) fn status(bed: &Bed, team: &str) -> String {
    let teams = bed.ps();
    let all = teams["teams"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|one| one["name"] == team);
    found.and_then(|one| one["status"].as_str()).unwrap_or("nowhere").to_owned()
}

fn await_line(bed: &Bed, team: &str, line: &str) {
    bed.await_that(line, |bed| bed.ok(&["logs", team]).contains(line));
}

/// Asserts that there is no trace of a team.
fn assert_no_trace(bed: &Bed, team: &str) {
    assert_eq!(status(bed, team), "nowhere");
    for place in ["state/teams", "volumes"] {
        assert!(!bed.path(place).join(team).exists(), "{place}/{team}");
    }
}

/// A team with a volume.
fn with_volume() -> String {
    let mounts = "mounts = [{ volume = \"v\", target = \"/work\", writable = true }]";
    one_with(SLEEPER, mounts) + "[volumes.v]\n"
}

fn kinds(bed: &Bed, team: &str) -> Vec<String> {
    let records = bed.ok(&["audit", "export", "--format", "records", team]);
    let kind = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let kind = record["kind"].as_str().expect("a kind").to_owned();
        if kind == "order" {
            format!("order {}", record["detail"].as_str().unwrap_or(""))
        } else {
            kind
        }
    };
    records.lines().map(kind).collect()
}

#[test]
fn a_suspended_team_is_on_the_disk_and_goes_on() {
    let bed = Bed::new();
    bed.up(&one(SLEEPER));
    await_line(&bed, "t", "begun");
    for round in 0..3 {
        bed.ok(&["suspend", "t"]);
        assert_eq!(
            (status(&bed, "t").as_str(), &bed.agent("a")["status"]),
            ("suspended", &"running".into())
        );
        assert!(bed.ok(&["ps"]).contains("cloister resume"));
        assert!(bed.path("state/teams/t/saved/memory").exists());
        // What is so already is no mistake.
        bed.ok(&["suspend", "t"]);
        for words in [
            &["start", "t"][..],
            &["restart", "t"],
            &["exec", "t/a", "--", "true"],
            &["stop", "t"],
            &["stop", "t/a"],
            &["pause", "t"],
        ] {
            let told = bed.fails(words, 125);
            assert!(
                told.contains("is suspended") && told.contains("cloister resume"),
                "{words:?}: {told}"
            );
        }
        let told = bed.fails(&["up", "-d", "team.toml"], 125);
        assert!(told.contains("there is a team \"t\" already"), "{told}");
        bed.ok(&["resume", "t"]);
        assert_eq!(status(&bed, "t"), "running");
        for left in ["saved", "saved-new", "saved-used"] {
            assert!(!bed.path("state/teams/t").join(left).exists(), "{left}");
        }
        bed.ok(&["resume", "t"]);
        assert_eq!(bed.ok(&["exec", "t/a", "--", "echo", "yes"]), "yes\n");
        bed.await_that("its output goes on", |bed| {
            bed.ok(&["logs", "t"]).matches("again").count() == round + 1
        });
    }
    // Its end is as any other's, and it starts anew.
    bed.ok(&["restart", "t/a"]);
    await_line(&bed, "t", "again");
    bed.ok(&["down", "t"]);
    let kinds = kinds(&bed, "t");
    let order = [
        "order suspend",
        "suspended",
        "machine-ended",
        "team-ended",
        "team-started",
        "carried",
        "machine-started",
    ];
    let at = kinds.iter().position(|kind| kind == order[0]).expect("an order");
    let mut rest = kinds[at..].iter();
    assert!(order.iter().all(|wanted| rest.any(|kind| kind == wanted)), "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| *kind == "carried").count(), 3, "{kinds:?}");
    bed.ok(&["audit", "verify", "t"]);
    bed.assert_nothing_left();
}

#[test]
fn a_suspended_team_is_removed_with_all_of_it() {
    let bed = Bed::new();
    for words in ["rm", "down"] {
        bed.up(&with_volume());
        bed.ok(&["suspend", "t"]);
        bed.ok(&[words, "t"]);
        assert_no_trace(&bed, "t");
        bed.assert_nothing_left();
    }
}

#[test]
fn where_agents_are_is_kept() {
    let bed = Bed::new();
    let more = "[agents.done]\nimage = \"tools\"\ncommand = [\"true\"]\n\
         [agents.late]\nimage = \"tools\"\ncommand = [\"true\"]\nafter = [{ agent = \"a\", condition = \"succeeded\" }]\n";
    bed.up(&one_with(SLEEPER, more));
    bed.await_that("it is done", |bed| bed.agent("done")["status"] == "succeeded");
    bed.ok(&["suspend", "t"]);
    bed.ok(&["resume", "t"]);
    let statuses = ["a", "done", "late"].map(|name| bed.agent(name)["status"].clone());
    assert_eq!(statuses, ["running", "succeeded", "waiting"]);
    assert_eq!(bed.agent("done")["code"], 0);
    // An agent that has ended starts anew.
    bed.ok(&["start", "t/done"]);
    bed.await_that("it is done", |bed| bed.agent("done")["status"] == "succeeded");
    bed.ok(&["down", "t"]);
}

#[test]
fn visitors_are_asked_about() {
    let bed = Bed::new();
    bed.up(&one(SLEEPER));
    for is_paused in [false, true] {
        let visit = "echo here; exec sleep 1000";
        let mut visitor = bed.start(&["exec", "t/a", "--", "sh", "-c", visit]);
        let mut word = [0; 5];
        visitor.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
        if is_paused {
            bed.ok(&["pause", "t"]);
        }
        let told = bed.fails(&["suspend", "t"], 125);
        assert!(told.contains("--end-commands"), "{told}");
        assert_eq!(status(&bed, "t"), if is_paused { "paused" } else { "running" });
        bed.ok(&["suspend", "--end-commands", "t"]);
        assert!(!visitor.wait().unwrap().success());
        bed.ok(&["resume", "t"]);
    }
    bed.ok(&["down", "t"]);
    bed.assert_nothing_left();
}

#[test]
fn all_who_have_a_team_suspended_are_told_that_it_is() {
    let bed = Bed::new();
    bed.up(&one(SLEEPER));
    for _ in 0..5 {
        // At all moments of the first.
        let commands = [(); 20].map(|()| {
            std::thread::sleep(Duration::from_millis(2));
            bed.start(&["suspend", "t"])
        });
        for command in commands {
            let output = command.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!(status(&bed, "t"), "suspended");
        bed.ok(&["resume", "t"]);
    }
    bed.ok(&["down", "t"]);
    bed.assert_nothing_left();
}

#[test]
fn forks_are_teams_of_their_own() {
    let bed = Bed::new();
    let mut team = with_volume();
    team = team.replace(
        "command",
        &format!(
            "outputs = [{{ path = \"{}\", to = \"./result\" }}]\ncommand",
            bed.path("made").display()
        ),
    );
    fs::write(bed.path("made"), "42").unwrap();
    bed.up(&team);
    await_line(&bed, "t", "begun");
    fs::write(bed.path("volumes/t/v/file"), "of the first").unwrap();
    bed.ok(&["pause", "t"]);
    assert_eq!(bed.ok(&["checkpoint", "-n", "2", "t", "kept"]), "kept-1\nkept-2\n");
    assert_eq!(status(&bed, "t"), "paused");
    bed.ok(&["resume", "t"]);
    assert_eq!(bed.ok(&["fork", "-n", "2", "t", "try"]), "try-1\ntry-2\n");
    let of = ["t", "kept-1", "kept-2", "try-1", "try-2"].map(|team| status(&bed, team));
    assert_eq!(of, ["running", "suspended", "suspended", "running", "running"]);
    for fork in ["try-1", "try-2"] {
        await_line(&bed, fork, "again");
        assert!(!bed.ok(&["logs", fork]).contains("begun"));
        let file = bed.path("volumes").join(fork).join("v/file");
        assert_eq!(fs::read_to_string(&file).unwrap(), "of the first");
        fs::write(&file, fork).unwrap();
        let kinds = kinds(&bed, fork);
        assert!(kinds.contains(&"carried".to_owned()), "{kinds:?}");
        assert!(bed.ok(&["audit", "show", fork]).contains("of team t at"));
    }
    assert_eq!(fs::read_to_string(bed.path("volumes/t/v/file")).unwrap(), "of the first");
    let kinds_of_t = kinds(&bed, "t");
    assert!(
        kinds_of_t.contains(&"order checkpoint into try-1, try-2".to_owned()),
        "{kinds_of_t:?}"
    );
    assert_eq!(kinds_of_t.iter().filter(|kind| *kind == "checkpointed").count(), 2);
    // From one that waits, which stays as it is; from a fork; and a suspended fork goes on.
    bed.ok(&["fork", "kept-1", "third"]);
    bed.ok(&["fork", "third", "fourth"]);
    bed.ok(&["suspend", "fourth"]);
    bed.ok(&["resume", "fourth"]);
    bed.ok(&["resume", "kept-2"]);
    let of = ["kept-1", "kept-2", "third", "fourth"].map(|team| status(&bed, team));
    assert_eq!(of, ["suspended", "running", "running", "running"]);
    bed.ok(&["stop", "third/a"]);
    assert_eq!(fs::read_to_string(bed.path("team/result.third")).unwrap(), "42");
    assert!(!bed.path("team/result").exists());
    for team in ["kept-1", "kept-2", "try-1", "try-2", "third", "fourth"] {
        bed.ok(&["down", team]);
        assert_no_trace(&bed, team);
    }
    assert_eq!(status(&bed, "t"), "running");
    bed.ok(&["down", "t"]);
    bed.assert_nothing_left();
}

#[test]
fn what_can_not_be_forked_leaves_nothing() {
    let bed = Bed::new();
    bed.up(&with_volume());
    let refused = |words: &[&str], why: &str| {
        let told = bed.fails(words, 125);
        assert!(told.contains(why), "{words:?}: {told}");
    };
    fs::create_dir_all(bed.path("volumes/try-2/v")).unwrap();
    for stands in ["running", "paused", "suspended"] {
        match stands {
            "paused" => drop(bed.ok(&["pause", "t"])),
            "suspended" => drop(bed.ok(&["suspend", "t"])),
            _ => {}
        }
        refused(&["fork", "t", "t"], "there is a team \"t\" already");
        refused(&["checkpoint", "-n", "3", "t", "try"], "volumes of an earlier team try-2");
        refused(&["checkpoint", "t/a", "new"], "without an agent");
        refused(&["checkpoint", "no-such", "new"], "no team");
        let long = "n".repeat(63);
        refused(&["checkpoint", "-n", "2", "t", &long], "too long");
        assert_eq!(status(&bed, "t"), stands);
        assert_no_trace(&bed, "try-1");
        assert_no_trace(&bed, "new");
    }
    bed.ok(&["resume", "t"]);
    bed.ok(&["stop", "t"]);
    refused(&["checkpoint", "t", "new"], "does not run");
    bed.ok(&["down", "t"]);

    fs::create_dir_all(bed.path("team/shared")).unwrap();
    bed.up(&one_with(
        SLEEPER,
        "mounts = [{ source = \"./shared\", target = \"/shared\", writable = true }]",
    ));
    refused(&["fork", "t", "new"], "writes to ./shared");
    bed.ok(&["suspend", "t"]);
    refused(&["fork", "t", "new"], "writes to ./shared");
    assert_no_trace(&bed, "new");
    bed.ok(&["resume", "t"]);
    bed.ok(&["down", "t"]);
    bed.assert_nothing_left();
}

#[test]
fn secrets_are_not_inherited_unless_asked_for() {
    let bed = Bed::new();
    let mut set = bed.cloister(&["secret", "set", "token"]).stdin(Stdio::piped()).spawn().unwrap();
    set.stdin.take().unwrap().write_all(b"s3cr3t").unwrap();
    assert!(set.wait().unwrap().success());
    bed.up(&one_with(
        SLEEPER,
        "[[agents.a.egress]]\nhost = \"plain.example\"\nports = [443]\n\
         [[agents.a.egress]]\nhost = \"secret.example\"\nports = [443]\nsecret = \"token\"\n",
    ));
    bed.ok(&["fork", "t", "without"]);
    bed.ok(&["fork", "--with-secrets", "t", "with"]);
    let policy = |team: &str| {
        let records = bed.ok(&["audit", "export", "--format", "records", team]);
        records.lines().filter(|line| line.contains("\"policy\"")).collect::<String>()
    };
    assert!(
        policy("without").contains("plain.example") && policy("with").contains("plain.example")
    );
    assert!(
        policy("with").contains("secret.example") && !policy("without").contains("secret.example")
    );
    // That is for good.
    bed.ok(&["suspend", "without"]);
    bed.ok(&["resume", "without"]);
    assert!(!policy("without").contains("secret.example"));
    // Agents trust the authority of the first, in the first, the forks and after a suspension.
    let trusted = |team: &str| {
        let place = bed.path("state/teams").join(team).join("certificates/a/authority.pem");
        fs::read_to_string(place).unwrap()
    };
    bed.ok(&["suspend", "t"]);
    let kept = fs::read(bed.path("state/teams/t/saved/team.json")).unwrap();
    assert!(!String::from_utf8_lossy(&kept).contains("PRIVATE KEY"));
    bed.ok(&["resume", "t"]);
    for team in ["with", "without"] {
        assert_eq!(trusted(team), trusted("t"));
    }
    bed.ok(&["down", "t", "with", "without"]);
    bed.assert_nothing_left();
}

#[test]
fn a_team_goes_on_with_other_rules_and_nothing_else() {
    let bed = Bed::new();
    let rule = "[[agents.a.egress]]\nhost = \"one.example\"\nports = [443]\n";
    let team = one_with(SLEEPER, rule);
    bed.up(&team);
    bed.ok(&["suspend", "t"]);
    let refused = |words: &str| {
        let told = bed.fails(&["resume", "t"], 125);
        assert!(told.contains(words), "{words}: {told}");
        assert_eq!(status(&bed, "t"), "suspended");
    };
    bed.file(&team.replace("command", "memory = \"64MiB\"\ncommand"));
    refused("agents.a.limits.memory");
    bed.file(&team.replace("begun", "gone"));
    refused("agents.a.command");
    bed.file(&(team.clone() + "[agents.b]\nimage = \"tools\"\ncommand = [\"true\"]\n"));
    refused("agents.b");
    bed.file(&team.replace("image = \"tools\"", "image = \"missing\""));
    refused("missing");
    fs::remove_file(bed.path("team/team.toml")).unwrap();
    refused("team.toml");
    bed.file(&team.replace("one.example", "other.example"));
    bed.ok(&["resume", "t"]);
    assert_eq!(status(&bed, "t"), "running");
    assert!(bed.ok(&["audit", "export", "--format", "records", "t"]).contains("other.example"));
    bed.ok(&["down", "t"]);
}

#[test]
fn what_is_damaged_does_not_go_on() {
    let bed = Bed::new();
    bed.up(&one(SLEEPER));
    bed.ok(&["suspend", "t"]);
    for (name, words) in [
        ("memory", "its memory has changed"),
        ("state", "its state has changed"),
        ("files", "the state of its files has changed"),
        ("team.json", "its record can't be read"),
    ] {
        let path = bed.path("state/teams/t/saved").join(name);
        let whole = fs::read(&path).unwrap();
        let write = |bytes: &[u8]| {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(&path, bytes).unwrap();
        };
        for bytes in
            [&whole[..whole.len() / 2], &[], &[&whole[..1], &[whole[1] ^ 1], &whole[2..]].concat()]
        {
            write(bytes);
            let told = bed.fails(&["resume", "t"], 125);
            assert!(told.contains(words), "{name}: {told}");
            assert_eq!(status(&bed, "t"), "suspended");
        }
        write(&whole);
    }
    bed.ok(&["resume", "t"]);
    bed.ok(&["down", "t"]);
    bed.assert_nothing_left();
}

#[test]
fn whoever_ends_a_team_that_is_being_suspended_ends_it() {
    let bed = Bed::new();
    let mut outcomes = Vec::new();
    for by in ["down", "stop", "kill"] {
        for _ in 0..3 {
            bed.up(&one(SLEEPER));
            let warden = Pid::from_raw(bed.warden("t")).expect("a process");
            let mut suspend = bed.start(&["suspend", "t"]);
            bed.await_that("it is being kept", |bed| {
                bed.path("state/teams/t/saved-new").exists()
                    || bed.path("state/teams/t/saved").exists()
            });
            match by {
                // It may be on the disk already.
                "kill" => drop(kill_process(warden, Signal::TERM)),
                _ => drop(bed.run(&[by, "t"])),
            }
            suspend.wait().unwrap();
            bed.await_that("it has ended", |bed| {
                ["suspended", "ended", "nowhere"].contains(&status(bed, "t").as_str())
            });
            let stands = status(&bed, "t");
            if stands == "suspended" {
                bed.ok(&["resume", "t"]);
            }
            outcomes.push((by, stands.clone()));
            if stands != "nowhere" {
                bed.ok(&["down", "t"]);
            }
        }
    }
    println!("{outcomes:?}");
    bed.assert_nothing_left();
}
