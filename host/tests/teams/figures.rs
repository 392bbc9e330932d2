//! `cloister metrics`: figures of teams, once and served.

use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use crate::bed::{Bed, one};

const SLEEPER: &str = "sleep 1000";

fn assert_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "no {line} in:\n{text}");
    }
}

#[test]
fn teams_and_agents_have_figures() {
    let bed = Bed::new();
    assert_lines(&bed.ok(&["metrics"]), &["cloister_teams{status=\"running\"} 0", "# EOF"]);
    bed.up(&one(SLEEPER));
    let running = bed.ok(&["metrics"]);
    assert_lines(
        &running,
        &[
            "cloister_teams{status=\"running\"} 1",
            "cloister_team_up{team=\"t\"} 1",
            "cloister_team_answered{team=\"t\"} 1",
            "cloister_agent_up{team=\"t\",agent=\"a\"} 1",
            "cloister_agent_memory_bytes{team=\"t\",agent=\"a\"} 5242880",
            "cloister_agent_processes{team=\"t\",agent=\"a\"} 2",
            "cloister_agent_restarts_total{team=\"t\",agent=\"a\"} 0",
        ],
    );
    // What it uses is in its machine, which stands still.
    bed.ok(&["pause", "t"]);
    let paused = bed.ok(&["metrics"]);
    assert_lines(
        &paused,
        &["cloister_teams{status=\"paused\"} 1", "cloister_team_up{team=\"t\"} 0"],
    );
    assert!(!paused.contains("cloister_agent_memory_bytes{"), "{paused}");
    bed.ok(&["down", "t"]);
}

/// A server, and the first line that it says.
fn serve(bed: &Bed, place: &str) -> (Child, String) {
    let mut child = bed.start(&["metrics", "--listen", place]);
    let mut said = String::new();
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe"));
    while !said.contains("serves metrics") {
        assert!(lines.read_line(&mut said).expect("text") > 0, "it ended: {said}");
    }
    (child, said)
}

fn end(mut child: Child, signal: Signal) -> Option<i32> {
    kill_process(Pid::from_child(&child), signal).expect("our child");
    child.wait().expect("our child").code()
}

fn ask(mut stream: impl std::io::Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).expect("a server");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// What comes of a request that the server does not read to its end: it answers and closes, which a reader learns as a
/// reset after the answer, and a writer in its midst as a broken pipe.
fn ask_too_much(mut stream: UnixStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8(answer).expect("text")
}

fn request(line: &str, host: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[test]
fn figures_are_served_on_a_socket_of_this_user() {
    let bed = Bed::new();
    bed.up(&one(SLEEPER));
    let path = bed.path("s");
    let place = format!("unix:{}", path.display());
    let (server, _) = serve(&bed, &place);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let asked = |text: &str| ask(UnixStream::connect(&path).unwrap(), text);
    let answer = asked(&request("GET /metrics", "anything"));
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/openmetrics-text"), "{answer}");
    assert_lines(&answer, &["cloister_agent_up{team=\"t\",agent=\"a\"} 1", "# EOF"]);
    for (line, code) in [("GET /", "404"), ("GET /metrics/../x", "404"), ("POST /metrics", "405")] {
        let answer = asked(&request(line, "x"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{line}: {answer}");
    }
    assert!(asked("nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let long = request(&format!("GET /{}", "x".repeat(70_000)), "x");
    let answer = ask_too_much(UnixStream::connect(&path).unwrap(), &long);
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    // Who says nothing holds nobody up.
    let _silent: Vec<_> = (0..4).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert!(asked(&request("GET /metrics", "x")).contains("# EOF"));
    assert!(bed.fails(&["metrics", "--listen", &place], 125).contains("can't listen"));
    assert_eq!(end(server, Signal::TERM), Some(143));
    assert!(!path.exists());
    // One that was killed leaves its socket to the next.
    let (server, _) = serve(&bed, &place);
    assert_eq!(end(server, Signal::KILL), None);
    assert!(path.exists());
    let (server, said) = serve(&bed, &place);
    assert!(said.contains("which nobody serves"), "{said}");
    assert_eq!(end(server, Signal::INT), Some(130));
    bed.ok(&["down", "t"]);
}

#[test]
fn figures_are_served_on_a_loopback_address_to_who_asks_by_it() {
    let bed = Bed::new();
    let (server, said) = serve(&bed, "127.0.0.1:0");
    let address = said.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let asked = |text: &str| ask(TcpStream::connect(address).unwrap(), text);
    assert!(asked(&request("GET /metrics", address)).contains("# EOF"));
    let answer = asked(&request("GET /metrics", "rebound.test"));
    assert!(answer.starts_with("HTTP/1.1 403 ") && !answer.contains("EOF"), "{answer}");
    assert_eq!(end(server, Signal::TERM), Some(143));
    for place in ["0.0.0.0:1", "nowhere"] {
        bed.fails(&["metrics", "--listen", place], 125);
    }
}
