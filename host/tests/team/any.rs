//! Any bytes are read without a panic, and every mistake names a place that is there.

use proptest::prelude::*;

use super::bed::parse;

/// Pieces of team files, so that more than the syntax is reached.
const PIECES: [&str; 40] = [
    "name = \"t\"\n",
    "[agents.a]\n",
    "[agents.b]\n",
    "image = \"i\"\n",
    "memory = \"1GiB\"\n",
    "cpus = 0.5\n",
    "cpus = 99999999999999999999\n",
    "after = [\"b\"]\n",
    "after = [{ agent = \"a\" }]\n",
    "mounts = [{ source = \"x\", target = \"/x\" }]\n",
    "mounts = [{ volume = \"v\", target = \"/x/y\", writable = true }]\n",
    "[volumes.v]\n",
    "[variables]\n",
    "A = \"1\"\n",
    "\"${A}\"",
    "${",
    "}",
    "=",
    "[",
    "]",
    "{",
    "\"",
    "'",
    "\n",
    ".",
    ",",
    " ",
    "#",
    "\\u0000",
    "ü",
    "\t",
    "'''",
    "\"\"\"",
    "-",
    "inf",
    "0x10",
    "1979-05-27",
    "root = { writable = \"1M\" }\n",
    "restart = { on-failure = 1 }\n",
    "a.b.c.d = 1\n",
];

fn holds(text: &str) {
    if let Err(mistakes) = parse(text) {
        let lines = text.split('\n').count();
        assert!(mistakes.count() > 0);
        assert!(mistakes.to_string().contains("mistake"));
        for mistake in mistakes.list() {
            let place = mistake.place;
            assert!((1..=lines).contains(&(place.line as usize)), "{mistake}");
            assert!(place.column > 0 && place.length > 0, "{mistake}");
            assert!(!mistake.what.is_empty() && !mistake.remedy.is_empty(), "{mistake}");
        }
    }
}

proptest! {
    #[test]
    fn any_text(text in any::<String>()) {
        holds(&text);
    }

    #[test]
    fn any_bytes_that_are_text(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        holds(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn pieces_of_team_files(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..40)) {
        holds(&pieces.concat());
    }
}

#[test]
fn depth_and_length_are_no_trouble() {
    for text in [
        "[".repeat(100_000),
        "{a=".repeat(60_000),
        "a.".repeat(100_000),
        format!("x = {}", "[".repeat(100_000)),
        format!("[{}]", "a.".repeat(100_000)),
        format!("{}=1", ["a"; 100_000].join(".")),
        "a\n".repeat(100_000),
        "\"".repeat(200_000),
        format!("name = \"{}\"", "${".repeat(100_000)),
        format!("name = \"{}\"", "x".repeat(200_000)),
        format!(
            "agents = {{ a = {{ {} }} }}",
            (0..20_000).map(|n| format!("k{n}=1,")).collect::<String>()
        ),
        (0..20_000).map(|number| format!("k{number} = 1\n")).collect(),
        (0..20_000).map(|number| format!("[k{number}]\n")).collect(),
    ] {
        holds(&text);
    }
}
