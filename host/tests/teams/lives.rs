//! Lives of agents: one after another, again after a failure, within a time, ordered about.

use crate::bed::{Bed, one, one_with};
use crate::harness::text;

#[test]
fn a_team_in_the_foreground_shows_its_lines_and_its_end() {
    let bed = Bed::new();
    bed.file(&one("echo hello; echo bad >&2; printf end"));
    let output = bed.run(&["up", "team.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "a | hello\na | end\n");
    assert!(text(&output.stderr).contains("a | bad\n"), "{}", text(&output.stderr));
    let agent = bed.agent("a");
    assert_eq!((&agent["status"], &agent["code"]), (&"succeeded".into(), &0.into()));
    bed.ok(&["down", "t"]);
    bed.assert_nothing_left();
}

#[test]
fn a_failed_agent_is_the_commands_failure() {
    let bed = Bed::new();
    bed.file(&one("exit 7"));
    let told = bed.fails(&["up", "team.toml"], 1);
    assert!(told.contains("t/a: failed exit code 7"), "{told}");
    assert_eq!(bed.agent("a")["code"], 7);
}

#[test]
fn an_agent_waits_for_what_its_file_says() {
    let bed = Bed::new();
    let mark = bed.path("mark");
    let team = format!(
        "name = \"t\"
        [agents.second]
        image = \"tools\"
        command = [\"cat\", \"{mark}\"]
        after = [{{ agent = \"first\", condition = \"succeeded\" }}]
        [agents.first]
        image = \"tools\"
        command = [\"sh\", \"-c\", \"echo made > {mark}\"]
        [agents.broken]
        image = \"tools\"
        command = [\"false\"]
        [agents.never]
        image = \"tools\"
        command = [\"echo\", \"wrong\"]
        after = [{{ agent = \"broken\", condition = \"succeeded\" }}]
        ",
        mark = mark.display()
    );
    bed.file(&team);
    let output = bed.run(&["up", "team.toml"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "second | made\n");
    let never = bed.agent("never");
    assert_eq!(never["status"], "skipped");
    assert!(never["detail"].as_str().unwrap().contains("broken"), "{never}");
}

#[test]
fn a_failed_agent_is_started_again_so_often() {
    let bed = Bed::new();
    let policy = "restart = { on-failure = 2, back-off = \"100ms\" }";
    bed.file(&one_with("echo life; exit 1", policy));
    let output = bed.run(&["up", "team.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "a | life\na | life\na | life\n");
    let agent = bed.agent("a");
    assert_eq!((&agent["restarts"], &agent["status"]), (&2.into(), &"failed".into()));
    let events = bed.ok(&["logs", "--events", "t/a"]);
    let count = |kind: &str| events.matches(kind).count();
    assert_eq!((count(" started"), count(" restarting"), count(" exited")), (3, 2, 3), "{events}");
}

#[test]
fn a_time_limit_ends_an_agent_for_good() {
    let bed = Bed::new();
    let more = "time-limit = \"1s\"\nrestart = { on-failure = 5, back-off = \"100ms\" }";
    bed.file(&one_with("sleep 1000", more));
    let told = bed.fails(&["up", "team.toml"], 1);
    assert!(told.contains("time limit"), "{told}");
    let agent = bed.agent("a");
    assert_eq!((&agent["code"], &agent["restarts"]), (&124.into(), &0.into()));
}

#[test]
fn agents_are_stopped_and_started_by_order() {
    let bed = Bed::new();
    let life = "echo begin; sleep 1000";
    bed.up(&format!(
        "{}[agents.b]\nimage = \"tools\"\ncommand = [\"sleep\", \"1000\"]\n",
        one(life)
    ));
    assert_eq!(bed.agent("a")["status"], "running");
    bed.ok(&["stop", "t/a"]);
    let agent = bed.agent("a");
    assert_eq!(agent["status"], "stopped", "{agent}");
    bed.ok(&["start", "t/a"]);
    // Both come back when it is so.
    assert_eq!(bed.agent("a")["status"], "running");
    bed.ok(&["restart", "t/a"]);
    bed.ok(&["exec", "t/a", "--", "true"]);
    bed.await_that("and again", |bed| bed.ok(&["logs", "t/a"]).matches("begin").count() == 3);
    bed.ok(&["stop", "t"]);
    assert_eq!(bed.ps()["teams"][0]["status"], "ended");
    let told = bed.fails(&["exec", "t/a", "--", "true"], 125);
    assert!(told.contains("does not run"), "{told}");
    bed.ok(&["start", "t"]);
    assert_eq!(bed.agent("a")["status"], "running");
    let told = bed.fails(&["start", "t"], 125);
    assert!(told.contains("runs"), "{told}");
    bed.ok(&["restart", "t"]);
    assert_eq!(bed.agent("b")["status"], "running");
    bed.ok(&["down", "t"]);
    bed.assert_nothing_left();
}

#[test]
fn a_container_that_can_not_be_made_is_told() {
    let bed = Bed::new();
    let team = "name = \"t\"\n[agents.impossible]\nimage = \"tools\"\ncommand = [\"true\"]\n";
    bed.file(team);
    let told = bed.fails(&["up", "team.toml"], 1);
    assert!(told.contains("no space") && !told.contains('\x1b'), "{told}");
}

#[test]
fn what_the_guest_tells_of_an_agent_is_an_event() {
    let bed = Bed::new();
    let team = "name = \"t\"\n[agents.noticed]\nimage = \"tools\"\ncommand = [\"true\"]\n";
    bed.file(team);
    bed.run(&["up", "team.toml"]);
    let events = bed.ok(&["logs", "--events", "t"]);
    assert!(events.contains("noticed exec-denied it may not execute /bin/\\x1bsh"), "{events}");
    let lines = bed.ok(&["logs", "--events", "--json", "t"]);
    let kinds: Vec<_> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["kind"].clone())
        .collect();
    assert!(kinds.contains(&"exec-denied".into()) && kinds.contains(&"exited".into()), "{kinds:?}");
}
