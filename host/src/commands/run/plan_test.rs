use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use clap::Parser as _;

use super::*;
use crate::cli::{Cli, Command};
use crate::template::Choice;

const SIZE: WindowSize = WindowSize { rows: 50, columns: 132 };

fn at_a_terminal() -> Surroundings {
    Surroundings {
        stdin_is_terminal: true,
        terminal_size: Some(SIZE),
        terminal_kind: Some("xterm-256color".into()),
    }
}

fn in_a_pipe() -> Surroundings {
    Surroundings { stdin_is_terminal: false, terminal_size: None, terminal_kind: None }
}

fn plan(words: &[&str], around: &Surroundings) -> Plan {
    let words = ["cloister", "run"].iter().chain(words);
    let Command::Run(arguments) = Cli::try_parse_from(words).unwrap().command else {
        panic!("another command")
    };
    Plan::resolve(arguments, LimitsWish::Asked, around).unwrap()
}

fn variable(plan: &Plan, name: &str) -> Option<String> {
    let (_, value) = plan.exec.environment.iter().find(|(other, _)| other == name.as_bytes())?;
    Some(String::from_utf8(value.clone()).unwrap())
}

#[test]
fn defaults() {
    let plan = plan(&["true"], &in_a_pipe());
    assert_eq!((plan.launch.vm.vcpus, plan.launch.vm.memory_mib), (1, 512));
    assert_eq!(plan.launch.start_limit, Duration::from_secs(60));
    assert_eq!(plan.exec.timeout, None);
    assert_eq!(plan.exec.directory, b"/");
    assert_eq!(plan.exec.environment, default_environment());
    assert!(!plan.verbose && plan.log.is_none());
}

#[test]
fn standard_input_passes_unless_it_is_a_terminal() {
    for (words, around, expected) in [
        (&["cat"][..], in_a_pipe(), true),
        (&["cat"], at_a_terminal(), false),
        (&["-i", "cat"], at_a_terminal(), true),
        (&["-i", "cat"], in_a_pipe(), true),
    ] {
        let plan = plan(words, &around);
        assert_eq!(plan.stdin, expected);
        assert_eq!(plan.exec.stdio, StdioSpec::Pipes { stdin: expected });
        assert!(!plan.raw && !plan.has_terminal());
    }
}

#[test]
fn a_terminal_is_raw_only_when_somebody_types() {
    for (words, around, raw, size) in [
        (&["-it", "sh"][..], at_a_terminal(), true, SIZE),
        (&["-t", "sh"], at_a_terminal(), false, SIZE),
        (&["-it", "sh"], in_a_pipe(), false, DEFAULT_SIZE),
    ] {
        let plan = plan(words, &around);
        assert_eq!(plan.raw, raw);
        assert_eq!(plan.exec.stdio, StdioSpec::Terminal(size));
        assert!(plan.has_terminal());
    }
}

#[test]
fn term_is_ours_only_with_a_terminal() {
    assert_eq!(variable(&plan(&["-t", "sh"], &at_a_terminal()), "TERM").unwrap(), "xterm-256color");
    assert_eq!(variable(&plan(&["sh"], &at_a_terminal()), "TERM").unwrap(), "dumb");
    for kind in ["", "a b", "x\x1b[2J", &"x".repeat(65)] {
        let around = Surroundings { terminal_kind: Some(OsString::from(kind)), ..at_a_terminal() };
        assert_eq!(variable(&plan(&["-t", "sh"], &around), "TERM").unwrap(), "dumb", "{kind:?}");
    }
    let named = plan(&["-t", "-e", "TERM=vt100", "sh"], &at_a_terminal());
    assert_eq!(variable(&named, "TERM").unwrap(), "vt100");
}

#[test]
fn variables_replace_and_the_last_counts() {
    let plan = plan(&["-e", "HOME=/a", "-e", "X=1", "-e", "X=2", "sh"], &in_a_pipe());
    assert_eq!(variable(&plan, "HOME").unwrap(), "/a");
    assert_eq!(variable(&plan, "X").unwrap(), "2");
    assert_eq!(plan.exec.environment.len(), 4);
}

#[test]
fn words_may_hold_any_bytes() {
    let words = [&b"cloister"[..], b"run", b"-e", b"X=\xff", b"-w", b"/\xfe", b"--", b"a\xfd"];
    let words = words.map(OsStr::from_bytes);
    let Command::Run(arguments) = Cli::try_parse_from(words).unwrap().command else {
        panic!("another command")
    };
    let plan = Plan::resolve(arguments, LimitsWish::Asked, &in_a_pipe()).unwrap();
    assert_eq!(plan.exec.arguments, [b"a\xfd"]);
    assert_eq!(plan.exec.directory, b"/\xfe");
    assert!(plan.exec.environment.contains(&(b"X".to_vec(), b"\xff".to_vec())));
}

#[test]
fn cold_boots_whatever_else_is_said() {
    let choice = |words| plan(words, &in_a_pipe()).origin.choice;
    assert_eq!(choice(&["true"]), Choice::Auto);
    assert_eq!(choice(&["--template", "build", "true"]), Choice::Build);
    assert_eq!(choice(&["--template", "none", "true"]), Choice::None);
    assert_eq!(choice(&["--cold", "true"]), Choice::None);
    assert_eq!(choice(&["--template", "build", "--cold", "true"]), Choice::None);
    let named = plan(&["--templates", "/t", "true"], &in_a_pipe());
    assert_eq!(named.origin.place, Some("/t".into()));
}
