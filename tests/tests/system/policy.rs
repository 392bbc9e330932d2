//! Rules that are learned from an observed run, and rules that change while a team runs, in whole machines. It needs the lab, as [`crate::egress`] does.

use std::time::Duration;

use crate::egress::{TRY, lab, prepare, serve_pages};
use crate::team_bed::Bed;

/// The servers' address is private, so it is named; their names are not.
const OBSERVING: &str = r#"
name = "t"
egress-mode = "observe"
[agents.one]
image = "programs"
command = ["sleep", "100000"]
[[agents.one.egress]]
cidr = "10.77.0.1"
ports = [8080]
[[agents.one.egress]]
host = "open.test"
ports = [8080]
methods = ["GET"]
paths = ["/v1/**"]
[[agents.one.egress]]
host = "bad.wild.test"
action = "deny"
"#;

/// What an agent's tries come to, each in a line.
fn try_all(bed: &Bed, tries: &[&str]) -> Vec<String> {
    let call = bed.call(&["exec", "t/one"]).limit(Duration::from_secs(900));
    let outcome = call.command(["python3", "-c", TRY, &tries.join(",")]).output();
    let lines: Vec<String> = outcome.text().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), tries.len(), "{outcome:?}");
    lines
}

fn assert_all(bed: &Bed, cases: &[(&str, &str)]) {
    let tries: Vec<&str> = cases.iter().map(|case| case.0).collect();
    for (case, said) in cases.iter().zip(try_all(bed, &tries)) {
        assert!(said.contains(case.1), "{}: {said:?}, not {:?}", case.0, case.1);
    }
}

#[test]
fn what_was_observed_is_enough_when_it_is_enforced() {
    if !lab() {
        return;
    }
    let _turn = prepare();
    serve_pages("10.77.0.1:8080");
    let bed = Bed::with_programs();
    let file = bed.path("team/team.toml");
    std::fs::write("/etc/cloister/egress.toml", "observe = false\n").unwrap();
    std::fs::write(&file, OBSERVING).unwrap();
    let up = bed.call(&["up", "-d"]).argument(&file).output();
    assert!(up.stderr.contains("the operator forbids observing"), "{up:?}");
    crate::egress::name_server_alone();
    let up = bed.call(&["up", "-d"]).argument(&file).output().exits(0);
    assert!(up.stderr.contains("team t OBSERVES"), "{up:?}");
    let ps = bed.call(&["ps"]).output().exits(0);
    assert!(ps.text().contains("OBSERVES"), "{ps:?}");
    let needed = [
        ("page web.test 8080", "10.77.0.1:8080 GET /x HTTP/1.0"),
        ("page a.wild.test 8080", "10.77.0.1:8080 GET /x HTTP/1.0"),
        ("asks open.test 8080 /v1/x", "10.77.0.1:8080 GET /v1/x HTTP/1.1"),
        ("asks open.test 8080 /v2/x", "10.77.0.1:8080 GET /v2/x HTTP/1.1"),
    ];
    assert_all(&bed, &needed);
    // What observing does not open either.
    assert_all(
        &bed,
        &[
            ("page bad.wild.test 8080", "Name or service not known"),
            ("page loop.test 8080", "reset"),
            ("page cloud.test 80", "reset"),
            ("page web.test 9999", "Connection refused"),
            ("page 10.77.0.2 8080", "Network is unreachable"),
        ],
    );
    let learned = bed.call(&["policy", "learn", "t"]).output().exits(0).text();
    for rule in [
        "host = \"web.test\"\nports = [8080]\n",
        "host = \"open.test\"\nports = [8080]\nmethods = [\"GET\"]\npaths = [\"/v2/x\"]\n",
    ] {
        assert!(learned.contains(rule), "{learned}");
    }
    assert_eq!(learned.matches("[[agents.one.egress]]").count(), 3, "{learned}");
    bed.down();
    // The log is there still, and tells the same.
    assert_eq!(bed.call(&["policy", "learn", "t"]).output().exits(0).text(), learned);

    bed.up(&(OBSERVING.replace("\"observe\"", "\"enforce\"") + &learned));
    assert_all(&bed, &needed);
    assert_all(
        &bed,
        &[
            ("page other.test 8080", "Name or service not known"),
            ("asks open.test 8080 /v3/x", "denied: no rule allows this request"),
        ],
    );
    let learned = bed.call(&["policy", "learn", "t"]).output();
    assert!(learned.stderr.contains("did not observe in its last run"), "{learned:?}");
    bed.down();
}

/// A team whose agent reaches one host by name, and its address.
fn enforcing(more: &str) -> String {
    let head =
        "name = \"t\"\n[agents.one]\nimage = \"programs\"\ncommand = [\"sleep\", \"100000\"]\n";
    let rule = |rule: &str| format!("[[agents.one.egress]]\n{rule}\nports = [8080]\n");
    format!("{head}{}{more}", rule("cidr = \"10.77.0.1\""))
}

/// Reads what a server sends a byte at a time until the end, and tells how that came.
const FOLLOW: &str = r#"
import socket
stream = socket.create_connection(("web.test", 8082))
print("begun", flush=True)
try:
    while stream.recv(1):
        pass
    print("ended", flush=True)
except OSError as error:
    print(type(error).__name__, flush=True)
"#;

/// A server that sends a byte and then nothing, and says how its first connection ended.
fn serve_slowly() -> std::thread::JoinHandle<bool> {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("10.77.0.1:8082").unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"x").unwrap();
        stream.read(&mut [0]).unwrap_or(0) == 0
    })
}

/// Puts the rules of another file in place.
fn apply(bed: &Bed, team: &str) -> cloister_tests::Outcome {
    let file = bed.path("team/new.toml");
    std::fs::write(&file, team).unwrap();
    bed.call(&["policy", "apply", "t"]).argument(&file).output()
}

#[test]
fn rules_are_changed_while_the_team_runs_as_a_whole_or_not_at_all() {
    if !lab() {
        return;
    }
    let _turn = prepare();
    serve_pages("10.77.0.1:8083");
    let bed = Bed::with_programs();
    crate::egress::name_server_alone();
    let rule = |host: &str, ports: &str| {
        format!("[[agents.one.egress]]\nhost = \"{host}\"\nports = [{ports}]\n")
    };
    let address = "[[agents.one.egress]]\ncidr = \"10.77.0.1\"\nports = [8082, 8083]\n";
    let first = enforcing(&format!("{address}{}", rule("web.test", "8082, 8083")));
    bed.up(&first);
    let page = "10.77.0.1:8083 GET /x";
    assert_all(&bed, &[("page web.test 8083", page)]);
    // A connection that is under way when its host is denied.
    let server = serve_slowly();
    let following = bed
        .call(&["exec", "t/one"])
        .limit(Duration::from_secs(900))
        .command(["python3", "-c", FOLLOW])
        .spawn();
    bed.await_event("egress-allowed web.test:8082");
    // What is wrong changes nothing.
    for (wrong, why) in [
        (first.replace("ports = [8080]", "ports = []"), "is empty"),
        (first.replace("sleep\", \"100000", "sleep\", \"1"), "agents.one.command"),
        (first.replace("name = \"t\"", "name = \"u\""), "name"),
        (format!("{first}methods = [\"GET\"]\n"), "does not trust the team's certificates"),
    ] {
        let outcome = apply(&bed, &wrong).exits(125);
        assert!(outcome.stderr.contains(why), "{why}: {outcome:?}");
    }
    assert_all(&bed, &[("page web.test 8083", page), ("page other.test 8083", "not known")]);
    // Another host in place of the first.
    let other = enforcing(&format!("{address}{}", rule("other.test", "8083")));
    let applied = apply(&bed, &other).exits(0);
    assert!(applied.text().contains("sha256:"), "{applied:?}");
    assert!(server.join().unwrap(), "the server's connection was not cut");
    let followed = following.finish().text();
    assert!(followed.contains("begun") && followed.contains("ConnectionResetError"), "{followed}");
    assert_all(
        &bed,
        &[
            ("page other.test 8083", page),
            ("page web.test 8083", "not known"),
            ("page 10.77.0.1 8083", page),
        ],
    );
    // And back.
    let _applied = apply(&bed, &first).exits(0);
    assert_all(&bed, &[("page web.test 8083", page), ("page other.test 8083", "not known")]);
    let log = bed.call(&["audit", "show", "t"]).output().exits(0).text();
    assert_eq!(log.matches("policy-applied sha256:").count(), 2, "{log}");
    assert_eq!(log.matches("policy-refused").count(), 3, "{log}");
    // The agent's next container has them too.
    let _other = apply(&bed, &other).exits(0);
    let _restarted = bed.call(&["restart", "t/one"]).output().exits(0);
    assert_all(&bed, &[("page other.test 8083", page), ("page web.test 8083", "not known")]);
    ask(&bed, &first, page);
    bed.down();
}

/// A rule that asks: the connection waits, and goes on with a yes.
fn ask(bed: &Bed, rules: &str, page: &str) {
    let asking = rules.replace("host = \"web.test\"", "host = \"web.test\"\naction = \"ask\"");
    let _asking = apply(bed, &asking).exits(0);
    let waiting = bed.call(&["exec", "t/one"]).limit(Duration::from_secs(900));
    let waiting = waiting.command(["python3", "-c", TRY, "page web.test 8083"]).spawn();
    bed.await_event("egress-asked question 1: web.test:8083");
    let questions = bed.call(&["policy", "questions", "t"]).output().exits(0).text();
    assert!(questions.contains("web.test:8083") && questions.contains("answer t 1"), "{questions}");
    let answered = bed.call(&["policy", "answer", "t", "1", "allow"]).output().exits(0).text();
    assert!(answered.contains("one may reach web.test:8083, this one time"), "{answered}");
    let page_of_waiting = waiting.finish().text();
    assert!(page_of_waiting.contains(page), "{page_of_waiting}");
    let log = bed.call(&["audit", "show", "t", "--kind", "answer"]).output().exits(0).text();
    assert!(log.contains("answer allow web.test:8083 [user 0"), "{log}");
}
