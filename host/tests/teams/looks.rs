//! Looking at teams and working in them.

use crate::bed::{Bed, first_line, lines_of, one};
use crate::harness::text;

#[test]
fn commands_run_beside_an_agent_with_its_surroundings() {
    let bed = Bed::new();
    bed.up(&format!(
        "{}environment = {{ COLOUR = \"blue\" }}\ndirectory = \"/work\"\n",
        one("sleep 1000")
    )
    .replace("/work", "/tmp"));
    assert_eq!(bed.ok(&["exec", "t/a", "--", "sh", "-c", "echo $COLOUR; pwd"]), "blue\n/tmp\n");
    let more =
        ["exec", "-e", "COLOUR=red", "-w", "/", "t/a", "--", "sh", "-c", "echo $COLOUR; pwd"];
    assert_eq!(bed.ok(&more), "red\n/\n");
    assert_eq!(bed.run(&["exec", "t/a", "--", "sh", "-c", "exit 9"]).status.code(), Some(9));
    bed.fails(&["exec", "t/a", "--", "no-such-program"], 127);
    let told = bed.fails(&["exec", "t/nobody", "--", "true"], 125);
    assert!(told.contains("has no agent \"nobody\"") && told.contains("cloister ps"), "{told}");
    let mut cat = bed.cloister(&["exec", "t/a", "--", "cat"]);
    cat.stdin(std::fs::File::open("/etc/hostname").unwrap());
    assert_eq!(cat.output().unwrap().stdout, std::fs::read("/etc/hostname").unwrap());
    bed.ok(&["down", "t"]);
}

#[test]
fn logs_are_there_while_a_team_runs_and_after_its_end() {
    let bed = Bed::new();
    bed.up(&one("for i in 1 2 3; do echo line $i; done; printf half; sleep 1000"));
    let follower = bed.start(&["logs", "-f", "t"]);
    bed.await_that("lines", |bed| bed.ok(&["logs", "t/a"]).contains("line 3"));
    assert_eq!(bed.ok(&["logs", "-n", "1", "t/a"]), "line 3\n");
    assert_eq!(bed.ok(&["logs", "-n", "0", "t/a"]), "");
    let timed = bed.ok(&["logs", "--timestamps", "t/a"]);
    assert!(timed.lines().all(|line| line.contains('T') && line.contains("Z line ")), "{timed}");
    bed.ok(&["stop", "t"]);
    // It ends with the team, and has all of it.
    let followed = follower.wait_with_output().unwrap();
    assert_eq!(text(&followed.stdout), "a | line 1\na | line 2\na | line 3\na | half\n");
    assert_eq!(bed.ok(&["logs", "t/a"]), "line 1\nline 2\nline 3\nhalf");
    bed.fails(&["logs", "nobody"], 125);
}

#[test]
fn attach_shows_what_comes_from_now_on() {
    let bed = Bed::new();
    let gate = bed.path("gate");
    let gate = gate.display();
    let words = "while read word <&3; do echo $word; [ $word != stop ] || break; done";
    bed.up(&one(&format!("echo before; mkfifo {gate}; exec 3<> {gate}; {words}; echo after")));
    bed.await_that("the gate", |bed| bed.path("gate").exists());
    let mut attached = bed.start(&["attach", "t"]);
    let lines = lines_of(attached.stdout.take().unwrap());
    let say =
        |word: &str| bed.ok(&["exec", "t/a", "--", "sh", "-c", &format!("echo {word} > {gate}")]);
    let line = first_line(&lines, |number| {
        say(&number.to_string());
    });
    assert!(line.strip_prefix("a | ").is_some_and(|word| word.parse::<u32>().is_ok()), "{line}");
    say("stop");
    let rest: Vec<_> = lines.iter().skip_while(|line| line != "a | stop").collect();
    assert_eq!(rest, ["a | stop", "a | after"]);
    assert_eq!(attached.wait().unwrap().code(), Some(0));
}

#[test]
fn use_is_shown_for_people_and_programs() {
    let bed = Bed::new();
    bed.up(&one("sleep 1000"));
    let table = bed.ok(&["stats", "--no-stream", "t"]);
    assert!(table.contains("5.00 MiB") && table.contains("0.0 %"), "{table}");
    let line = bed.ok(&["stats", "--no-stream", "--json", "t/a"]);
    let usage: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&usage["agent"], &usage["pids"]), (&"a".into(), &2.into()));
    bed.ok(&["down", "t"]);
}

#[test]
fn names_that_are_none_are_refused_at_once() {
    let bed = Bed::new();
    for words in [
        &["ps", "../t"][..],
        &["logs", "T"],
        &["down", "t/a"],
        &["exec", "t", "--", "true"],
        &["cp", "/a", "/b"],
        &["cp", "t/a:relative", "/b"],
    ] {
        let told = bed.fails(words, 125);
        assert!(told.contains("TEAM") || told.contains("team"), "{words:?}: {told}");
    }
}

#[test]
fn who_waits_for_no_answer_is_told() {
    let bed = Bed::new();
    bed.fails(&["policy", "questions", "t"], 125);
    bed.up(&one("sleep 1000"));
    assert_eq!(bed.ok(&["policy", "questions", "t"]), "t: nobody waits for an answer\n");
    let listed: serde_json::Value =
        serde_json::from_str(&bed.ok(&["policy", "questions", "--json", "t/a"])).unwrap();
    assert_eq!((&listed["team"], &listed["questions"]), (&"t".into(), &serde_json::json!([])));
    let told = bed.fails(&["policy", "answer", "t", "1", "allow"], 125);
    assert!(told.contains("no agent of the team has a way outside"), "{told}");
    bed.fails(&["policy", "answer", "t/a", "1", "deny"], 125);
    bed.ok(&["down", "t"]);
}
