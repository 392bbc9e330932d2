//! Wrong team files: each mistake is told with its line, its column, what it is and what to do.

mod keys;

mod values;

mod together;

use crate::bed::{agent, parse};
use keys::{keys, syntax};
use together::{together, variables};
use values::{names_and_paths, values};

/// A text, the place of its one mistake, words of what is wrong, and words of what to do.
struct Case(String, u32, u32, &'static str, &'static str);

/// A mistake in the lines of an agent, which begin at line 4.
fn of_agent(lines: &str, line: u32, column: u32, what: &'static str, remedy: &'static str) -> Case {
    Case(agent(lines), line, column, what, remedy)
}

/// A mistake in a whole file.
fn whole(text: &str, line: u32, column: u32, what: &'static str, remedy: &'static str) -> Case {
    Case(text.to_owned(), line, column, what, remedy)
}

fn check(cases: Vec<Case>) -> usize {
    let count = cases.len();
    let mut complaints = Vec::new();
    for Case(text, line, column, what, remedy) in cases {
        let Err(mistakes) = parse(&text) else {
            complaints.push(format!("taken: {text}"));
            continue;
        };
        let [mistake] = mistakes.list() else {
            complaints.push(format!("not one mistake: {text}\n{mistakes}"));
            continue;
        };
        let place = (mistake.place.line, mistake.place.column);
        if mistake.file != "team.toml"
            || place != (line, column)
            || !mistake.what.contains(what)
            || !mistake.remedy.contains(remedy)
        {
            complaints.push(format!("expected {line}:{column} {what:?} {remedy:?}\n{mistakes}"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n----\n"));
    count
}

const REST: &str = "[agents.a]\nimage = \"i\"\n";

#[test]
fn sixty_and_more() {
    let all = [syntax(), keys(), values(), names_and_paths(), together(), variables()];
    let count = check(all.into_iter().flatten().collect());
    assert!(count >= 60, "{count} cases");
}

#[test]
fn all_mistakes_are_told_at_once_and_in_order() {
    let mistakes = parse("nmae = \"t\"\n[agents.a]\nmemory = 3\nafter = [\"b\"]\n").unwrap_err();
    let found: Vec<(u32, &str)> =
        mistakes.list().iter().map(|mistake| (mistake.place.line, mistake.what.as_str())).collect();
    let lines: Vec<u32> = found.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 1, 2, 3, 4], "{mistakes}");
    assert!(mistakes.to_string().ends_with("5 mistakes; nothing was started"));
}

#[test]
fn a_mistake_is_shown_with_its_line_and_a_caret() {
    let mistakes = parse(&agent("memoyr = \"1GiB\"")).unwrap_err();
    assert_eq!(
        mistakes.to_string(),
        "team.toml:4:1: an agent has no key `memoyr`\n  4 | memoyr = \"1GiB\"\n    | ^^^^^^\n  \
         What to do: did you mean `memory`?\n\n1 mistake; nothing was started"
    );
}
