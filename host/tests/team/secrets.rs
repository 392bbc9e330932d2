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

const TOKENS: [&str; 4] = ["--oauth", "https://auth.example.com/token", "--client", "cl"];

#[test]
fn grants_are_kept_from_lines_and_files_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let file = folder.path().join("key");
    std::fs::write(&file, "s3cr3t-3\n").unwrap();
    let own = "--client-credentials";
    let from = ["--client-secret-file", file.to_str().unwrap()];
    for (name, words, input) in [
        ("public", vec!["--scope", "a b"], "s3cr3t\n"),
        ("with-secret", vec!["--client-secret-in-body"], "s3cr3t\r\ns3cr3t-2\r\n"),
        ("from-file", from.to_vec(), "s3cr3t"),
        ("own", vec![own], "s3cr3t-2\n"),
        ("own-from-file", vec![own, from[0], from[1]], ""),
    ] {
        let words = [&["set", name][..], &TOKENS, &words].concat();
        let output = run(&state, &words, input);
        assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{words:?}: {output:?}");
    }
    let text = String::from_utf8(run(&state, &["ls"], "").stdout).unwrap();
    assert_eq!(text.matches("client cl, refresh token").count(), 3, "{text}");
    assert_eq!(text.matches("client cl, own credentials").count(), 2, "{text}");
    assert!(text.contains("oauth https://auth.example.com/token") && !text.contains("s3cr3t"));
    for entry in std::fs::read_dir(state.join("secrets")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|six| six == b"s3cr3t"));
    }
    assert!(run(&state, &["rm", "own", "public"], "").status.success());
}

#[test]
fn what_is_no_grant_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let url = |url| ["--oauth", url, "--client", "cl"].to_vec();
    let more = |more: &[&'static str]| [&TOKENS, more].concat();
    for (words, input, what, remedy) in [
        (url("http://auth.example.com/token"), "s3cr3t", "without TLS", "write https://"),
        (url("http://localhost/token"), "s3cr3t", "without TLS", "127.0.0.1"),
        (url("auth.example.com"), "s3cr3t", "no https://", "https://auth.example.com/token"),
        (url("https:/auth.example.com"), "s3cr3t", "is no URL", "https://auth.example.com/token"),
        (url("ftp://auth.example.com/"), "s3cr3t", "no https://", "https://auth.example.com"),
        (url("https://me@auth.example.com/"), "s3cr3t", "a user or a fragment", "--client"),
        (url("https://auth.example.com/#a"), "s3cr3t", "a user or a fragment", "take it out"),
        (TOKENS.to_vec(), "", "no refresh token on its first line", "--client-credentials"),
        (TOKENS.to_vec(), "\ns3cr3t", "no refresh token on its first line", "write it there"),
        (TOKENS.to_vec(), "s3cr3t\na\nb", "more lines than are read: 2", "each on one line"),
        (TOKENS.to_vec(), "s3cr\t3t", "printable ASCII", "one line of text"),
        (TOKENS.to_vec(), "s3cr3t\n\u{e9}", "printable ASCII", "one line of text"),
        (more(&["--scope", "a\nb"]), "s3cr3t", "the scope is", "--scope"),
        (more(&["--client-credentials"]), "", "neither a refresh token nor", "standard input"),
        (
            more(&["--client-credentials"]),
            "s3cr3t\nb",
            "more lines than are read: 1",
            "each on one line",
        ),
        (more(&["--client-secret-file", "/no/such"]), "s3cr3t", "/no/such", "the file"),
        (more(&["--file", "/etc/hostname"]), "s3cr3t", "cannot be used with", "Usage"),
        (more(&["--", "true"]), "s3cr3t", "cannot be used with", "Usage"),
        (TOKENS[..2].to_vec(), "s3cr3t", "--client", "Usage"),
        (vec!["--client", "cl"], "s3cr3t", "--oauth", "Usage"),
        (vec!["--scope", "a"], "s3cr3t", "--oauth", "Usage"),
        (["--oauth", TOKENS[1], "--client", ""].to_vec(), "s3cr3t", "client's name", "--client"),
    ] {
        let words = [&["set", "a"][..], &words].concat();
        let output = run(&state, &words, input);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{words:?}: {text}");
        assert!(text.contains(what) && text.contains(remedy), "{words:?} {input:?}: {text}");
        assert!(!text.contains("s3cr"), "{words:?}: {text}");
    }
    assert!(!state.join("secrets/a").exists());
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
