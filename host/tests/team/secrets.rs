//! `cloister secret` as a process: what it keeps, what it shows, and what it refuses.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn run(state: &Path, words: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cloister"))
        .arg("secret")
        .args(words)
        .env("CLOISTER_STATE", state)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses its arguments reads nothing.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    child.wait_with_output().unwrap()
}

#[test]
fn secrets_are_kept_listed_and_removed_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let file = folder.path().join("key");
    std::fs::write(&file, "s3cr3t-3\n").unwrap();
    let file = file.to_str().unwrap();
    for (words, input) in [
        (&["set", "token"][..], "s3cr3t\n"),
        (&["set", "token"], "s3cr3t-2"),
        (&["set", "from-file", "--file", file], ""),
        (&["set", "from-command", "--", "vault", "read", "s3cr3t-path"], ""),
    ] {
        let output = run(&state, words, input);
        assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
    }
    let output = run(&state, &["ls"], "");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Vec<&str>> =
        text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines[1..],
        [
            vec!["from-command", "command", "vault"],
            vec!["from-file", "file", file],
            vec!["token", "value"]
        ]
    );
    let json: serde_json::Value =
        serde_json::from_slice(&run(&state, &["ls", "--json"], "").stdout).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["secrets"][2]["name"], "token");
    assert!(run(&state, &["rm", "token", "from-file"], "").status.success());
    assert!(!String::from_utf8(run(&state, &["ls"], "").stdout).unwrap().contains("token"));
}

#[test]
fn what_is_no_secret_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let long = "x".repeat(8193);
    for (words, input, what, remedy) in [
        (&["set", "a"][..], "", "it is empty", "one line of text"),
        (&["set", "a"], "\n", "it is empty", "one line of text"),
        (&["set", "a"], "s3cr3t\r\nX-Evil: 1\n", "printable ASCII on one line", "one line of text"),
        (&["set", "a"], "s3cr3t\n\n", "printable ASCII on one line", "one line of text"),
        (&["set", "a"], "s3cr3t\u{7f}", "printable ASCII on one line", "one line of text"),
        (&["set", "a"], "sécret", "printable ASCII on one line", "one line of text"),
        (&["set", "a"], " s3cr3t", "begins or ends with a space", "one line of text"),
        (&["set", "a"], &long, "longer than 8 KiB", "one line of text"),
        (&["set", "A"], "s3cr3t", "lower-case letters", "--help"),
        (&["set", "../a"], "s3cr3t", "lower-case letters", "--help"),
        (&["set", "host.key"], "s3cr3t", "lower-case letters", "--help"),
        (&["set", ""], "s3cr3t", "lower-case letters", "--help"),
        (&["set", "a", "--file", "x", "--", "y"], "", "cannot be used with", "Usage"),
        (&["set", "a", "--file", "/no/such"], "", "can't open /no/such", "the file is there"),
        (&["set", "a", "--file", "/"], "", "not a regular file", "the file is there"),
        (&["set", "a", "--file", "/dev/null"], "", "not a regular file", "the file is there"),
        (&["set", "a", "--file", "/etc/passwd"], "", "on one line", "one line of text"),
        (&["set"], "", "required", "Usage"),
        (&["rm", "none"], "", "there is no secret \"none\"", "cloister secret ls"),
        (&["show", "a"], "", "unrecognized subcommand", "Usage"),
    ] {
        let output = run(&state, words, input);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{words:?}: {text}");
        assert!(text.contains(what) && text.contains(remedy), "{words:?} {input:?}: {text}");
        assert!(!text.contains("s3cr3t"), "{words:?}: {text}");
    }
}
