//! Wrong team files: each mistake is told with its line, its column, what it is and what to do.

use super::bed::{agent, parse};

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

fn syntax() -> Vec<Case> {
    vec![
        whole("name = research\n", 1, 8, "not TOML", "quotation marks"),
        whole("name = \"a\n", 1, 10, "not TOML", "quotation marks"),
        whole("name = \"a\"\nname = \"b\"\n", 2, 1, "duplicate key", "take one of the two out"),
        whole("[agents.a\nimage = \"i\"\n", 1, 10, "not TOML", "write it as TOML"),
        whole("name \"a\"\n", 1, 6, "not TOML", "KEY = VALUE"),
        whole("name = \"\\q\"\n", 1, 10, "not TOML", "backslash"),
        whole("x = [1, 2\n", 1, 10, "not TOML", "TOML"),
        whole("name = \"a\"\n[agents.a]\n[agents.a]\n", 3, 9, "duplicate key", "take one"),
        whole(
            &format!("x = {}1{}\n", "[".repeat(90), "]".repeat(90)),
            1,
            85,
            "recursion",
            "nothing in a team file lies that deep",
        ),
    ]
}

fn keys() -> Vec<Case> {
    vec![
        whole("[agents.a]\nimage = \"i\"\n", 1, 1, "`name` is missing", "add name = "),
        whole("name = \"t\"\n", 1, 1, "`agents` is missing", "[agents.NAME]"),
        whole("name = \"t\"\n[agents.a]\n", 2, 9, "`image` is missing", "add image = "),
        whole(
            &format!("name = \"t\"\nmemroy = \"1GiB\"\n{REST}"),
            2,
            1,
            "no key `memroy`",
            "did you mean `memory`?",
        ),
        whole(
            &format!("name = \"t\"\nservices = 1\n{REST}"),
            2,
            1,
            "no key `services`",
            "did you mean `agents`?",
        ),
        whole(
            &format!("name = \"t\"\n{REST}[volume.x]\n"),
            4,
            2,
            "no key `volume`",
            "did you mean `volumes`?",
        ),
        whole(
            &format!("name = \"t\"\n{REST}[volumes.v]\nsize = \"1GiB\"\n"),
            5,
            1,
            "a volume has no key `size`",
            "has no keys",
        ),
        of_agent(
            "memoyr = \"1GiB\"",
            4,
            1,
            "an agent has no key `memoyr`",
            "did you mean `memory`?",
        ),
        of_agent("env = {}", 4, 1, "no key `env`", "did you mean `environment`?"),
        of_agent("workdir = \"/\"", 4, 1, "no key `workdir`", "did you mean `directory`?"),
        of_agent("open_files = 3", 4, 1, "no key `open_files`", "did you mean `open-files`?"),
        of_agent(
            "privileged = true",
            4,
            1,
            "no key `privileged`",
            "take it out; an agent has the keys `image`",
        ),
        of_agent(
            "mounts = [{ source = \"a\", target = \"/a\", readonly = true }]",
            4,
            42,
            "a mount has no key `readonly`",
            "did you mean `writable`?",
        ),
        of_agent("mounts = [{ source = \"a\" }]", 4, 11, "`target` is missing", "add target = "),
        of_agent("outputs = [{ path = \"/a\" }]", 4, 12, "`to` is missing", "add to = "),
        of_agent(
            "restart = { back-off = \"1s\" }",
            4,
            1,
            "`on-failure` is missing",
            "add on-failure = 1",
        ),
        of_agent(
            "root = { size = \"1M\", writable = \"1MiB\" }",
            4,
            10,
            "a writable root has no key `size`",
            "the keys `writable`",
        ),
        of_agent(
            "after = [{ condition = \"started\" }]",
            4,
            10,
            "`agent` is missing",
            "add agent = ",
        ),
    ]
}

fn values() -> Vec<Case> {
    vec![
        of_agent(
            "memory = 256",
            4,
            10,
            "`memory` is a number, and must be a size in quotes",
            "memory = \"256MiB\"",
        ),
        of_agent("memory = \"256\"", 4, 10, "which is no size", "a whole number and a unit"),
        of_agent("memory = \"1.5GiB\"", 4, 10, "which is no size", "like \"64KiB\""),
        of_agent(
            "memory = \"1MiB\"",
            4,
            10,
            "it can be 8MiB to 1TiB",
            "write a whole number and a unit",
        ),
        of_agent("memory = \"9999999999999999999999T\"", 4, 10, "it can be 8MiB to 1TiB", "write"),
        of_agent("tmp = \"1MB1\"", 4, 7, "which is no size", "write"),
        of_agent("tmp = \"1KiB\"", 4, 7, "it can be 64KiB to 1TiB", "write"),
        of_agent("cpus = 0", 4, 8, "`cpus` is 0; it can be 0.01 to 32", "like 0.5"),
        of_agent("cpus = 0.0005", 4, 8, "it can be 0.01 to 32", "three decimals"),
        of_agent("cpus = -1", 4, 8, "it can be 0.01 to 32", "number of CPUs"),
        of_agent("cpus = nan", 4, 8, "it can be 0.01 to 32", "number of CPUs"),
        of_agent(
            "cpus = \"half\"",
            4,
            8,
            "is a string, and must be a number of CPUs",
            "cpus = 0.5",
        ),
        of_agent("pids = 0", 4, 8, "it can be 1 to 32768", "whole number"),
        of_agent("pids = 99999999999999999999", 4, 8, "it can be 1 to 32768", "whole number"),
        of_agent("pids = 1.5", 4, 8, "is a number, and must be a whole number", "pids = 128"),
        of_agent("open-files = 3", 4, 14, "it can be 16 to 1048576", "whole number"),
        of_agent("files = -5", 4, 9, "it can be 16 to 10000000", "whole number"),
        of_agent("file-size = \"1KiB\"", 4, 13, "it can be 4KiB to 16TiB", "write"),
        of_agent("time-limit = \"10\"", 4, 14, "which is no time", "\"30s\""),
        of_agent("time-limit = \"31d\"", 4, 14, "it can be 100ms to 30d", "write"),
        of_agent("time-limit = 10", 4, 14, "must be a time in quotes", "time-limit = "),
        of_agent(
            "root = \"readonly\"",
            4,
            8,
            "it can be \"read-only\"",
            "did you mean \"read-only\"?",
        ),
        of_agent(
            "root = true",
            4,
            8,
            "is true or false, and must be a string or a table",
            "root = \"read-only\"",
        ),
        of_agent("root = { writable = \"1B\" }", 4, 21, "which is no size", "write"),
        of_agent("restart = \"always\"", 4, 11, "it can be \"never\"", "write \"never\""),
        of_agent("restart = { on-failure = 0 }", 4, 26, "it can be 1 to 1000", "whole number"),
        of_agent(
            "restart = { on-failure = 1, back-off = \"1ms\" }",
            4,
            40,
            "it can be 100ms to 1h",
            "write",
        ),
        of_agent(
            "mounts = [{ source = \"a\", target = \"/a\", writable = \"yes\" }]",
            4,
            53,
            "must be true or false",
            "writable = true",
        ),
        of_agent(
            "mounts = { source = \"a\", target = \"/a\" }",
            4,
            10,
            "`mounts` is a table, and must be a list",
            "mounts = [{ source = ",
        ),
        of_agent("command = \"python3 x\"", 4, 11, "must be a list", "command = [\"text\"]"),
        of_agent("command = [1]", 4, 12, "is a number, and must be a string", "\"text\""),
        of_agent(
            "environment = { A = 1 }",
            4,
            21,
            "`A` is a number, and must be a string",
            "A = \"text\"",
        ),
        of_agent("user = 1000", 4, 8, "must be a string", "user = \"1000:1000\""),
        of_agent(
            "directory = 1979-05-27",
            4,
            13,
            "is a date, and must be a string",
            "directory = \"/work\"",
        ),
        whole(
            &format!("name = \"t\"\ncpus = 33\n{REST}"),
            2,
            8,
            "it can be 1 to 32",
            "whole number",
        ),
        whole(
            &format!("name = \"t\"\nlifetime = \"persistant\"\n{REST}"),
            2,
            12,
            "\"ephemeral\" or \"persistent\"",
            "did you mean \"persistent\"?",
        ),
        whole(
            &format!("name = \"t\"\ntemplate = \"default\"\n{REST}"),
            2,
            12,
            "it can be \"auto\" or \"build\" or \"none\"",
            "write \"auto\" or \"build\" or \"none\"",
        ),
        whole(
            "name = \"t\"\nagents = []\n",
            2,
            10,
            "`agents` is a list, and must be a table",
            "agents = { scout = ",
        ),
        whole(
            "name = \"t\"\nagents.a = 1\n",
            2,
            12,
            "`a` is a number, and must be a table",
            "image = ",
        ),
    ]
}

fn names_and_paths() -> Vec<Case> {
    let path = |text: &str, what, remedy| {
        of_agent(
            &format!("mounts = [{{ source = \"a\", target = \"{text}\" }}]"),
            4,
            36,
            what,
            remedy,
        )
    };
    vec![
        whole(&format!("name = \"My Team\"\n{REST}"), 1, 8, "it is no name", "lower-case letters"),
        whole(
            &format!("name = \"{}\"\n{REST}", "n".repeat(33)),
            1,
            8,
            "a name of 33 bytes",
            "1 to 32",
        ),
        whole(
            "name = \"t\"\n[agents.\"../x\"]\nimage = \"i\"\n",
            2,
            9,
            "`../x` in `agents`: it is no name",
            "lower-case letters",
        ),
        of_agent("image = \"i\"", 4, 1, "duplicate key", "take one"),
        whole(
            "name = \"t\"\n[agents.a]\nimage = \"Not An Image\"\n",
            3,
            9,
            "no name of an image",
            "cloister image ls",
        ),
        whole(
            "name = \"t\"\n[agents.a]\nimage = \"i@sha256:12\"\n",
            3,
            9,
            "not a digest",
            "cloister image ls",
        ),
        path("docs", "not absolute", "absolute path"),
        path("/a/../b", "`.` or `..`", "absolute path"),
        path("/a//b", "a slash too many", "absolute path"),
        path("/proc/sys", "/proc is the supervisor's", "another target"),
        path("/sys", "/sys is the supervisor's", "another target"),
        path("/dev/shm", "/dev is the supervisor's", "another target"),
        path("/", "where the image is", "below it"),
        path("/tmp", "which every agent has", "below it"),
        path("/a\\u0000b", "there is a NUL", "take it out"),
        path("/a\\tb", "control character", "one line"),
        of_agent(
            &format!("directory = \"/{}\"", "d".repeat(256)),
            4,
            13,
            "more than 255 bytes",
            "shorter",
        ),
        of_agent("directory = \"${NEWLINE}\"", 4, 13, "control character", "one line"),
        of_agent(
            "mounts = [{ source = \"~/docs\", target = \"/a\" }]",
            4,
            22,
            "`~` is no directory",
            "${HOME}",
        ),
        of_agent(
            "mounts = [{ source = \"\", target = \"/a\" }]",
            4,
            22,
            "the path is empty",
            "like \"./docs\"",
        ),
        of_agent("user = \"root!\"", 4, 8, "it is no user", "1000:1000"),
        of_agent("user = \"70000\"", 4, 8, "too large", "0 to 65535"),
        of_agent(
            "environment = { \"A-B\" = \"x\" }",
            4,
            17,
            "it is no name of a variable",
            "underscores",
        ),
        of_agent("environment = { A = \"x\\u0000\" }", 4, 21, "there is a NUL", "take it out"),
        of_agent("command = [\"\\u0000\"]", 4, 12, "there is a NUL", "take it out"),
        of_agent(
            &format!("command = [\"{}\"]", "x".repeat(40_000)),
            4,
            12,
            "it has 40000 bytes",
            "mount that",
        ),
    ]
}

fn together() -> Vec<Case> {
    let two = |first: &str, second: &str| {
        format!(
            "name = \"t\"\n[agents.scout]\nimage = \"i\"\n{first}\n[agents.writer]\nimage = \"i\"\n{second}\n"
        )
    };
    let many = |count: usize| -> String {
        let agents = (0..count).map(|number| format!("[agents.a{number}]\nimage = \"i\"\n"));
        format!("name = \"t\"\n{}", agents.collect::<String>())
    };
    let mounts = |count: usize| -> String {
        let mounts = (0..count).map(|n| format!("{{ source = \"x\", target = \"/m{n}\" }}"));
        format!("mounts = [{}]", mounts.collect::<Vec<_>>().join(", "))
    };
    vec![
        whole("name = \"t\"\n[agents]\n", 2, 2, "there is no agent", "[agents.NAME]"),
        whole(
            &two("", "after = [\"scuot\"]"),
            7,
            10,
            "there is no agent `scuot`",
            "did you mean `scout`?",
        ),
        whole(
            &two("", "after = [\"nobody\"]"),
            7,
            10,
            "there is no agent `nobody`",
            "the agents are `scout`, `writer`",
        ),
        whole(&two("", "after = [\"scout\", { agent = \"scout\" }]"), 7, 29, "twice", "take one"),
        whole(
            &two("after = [\"writer\"]", "after = [\"scout\"]"),
            4,
            10,
            "scout waits for writer waits for scout",
            "out of the circle",
        ),
        of_agent("after = [\"a\"]", 4, 10, "a waits for a", "out of the circle"),
        whole(
            &format!("name = \"t\"\nmemory = \"256MiB\"\n{REST}"),
            2,
            10,
            "is more than its 256MiB",
            "more `memory`",
        ),
        whole(
            &format!("name = \"t\"\nmemory = \"524289KiB\"\n{REST}"),
            2,
            10,
            "no whole number of MiB",
            "MiB or GiB",
        ),
        whole(
            &format!("name = \"t\"\ncpus = 1\n{REST}cpus = 1.5\n"),
            5,
            8,
            "`cpus` is 1.5, and the machine has 1",
            "or the agent less",
        ),
        of_agent(
            "memory = \"64MiB\"\ntmp = \"65MiB\"",
            5,
            7,
            "do not fit into the agent's memory (64MiB)",
            "more `memory`",
        ),
        of_agent("root = { writable = \"200MiB\" }", 4, 21, "do not fit", "more `memory`"),
        of_agent(
            "mounts = [{ source = \"a\", target = \"/a\" }, { source = \"b\", target = \"/a\" }]",
            4,
            69,
            "another mount is already",
            "another target",
        ),
        of_agent(
            "mounts = [{ target = \"/a\" }]",
            4,
            11,
            "neither `source` nor `volume`",
            "source = \"PATH\"",
        ),
        of_agent(
            "mounts = [{ source = \"a\", volume = \"v\", target = \"/a\" }]\n[volumes.v]",
            4,
            36,
            "both `source` and `volume`",
            "source = \"PATH\"",
        ),
        of_agent(
            "mounts = [{ volume = \"cahce\", target = \"/a\" }]\n[volumes.cache]",
            4,
            22,
            "there is no volume `cahce`",
            "did you mean `cache`?",
        ),
        of_agent(
            "mounts = [{ volume = \"v\", target = \"/a\" }]",
            4,
            22,
            "there is no volume `v`",
            "[volumes.v]",
        ),
        whole(
            &two(
                "outputs = [{ path = \"/a\", to = \"x\" }]",
                "outputs = [{ path = \"/b\", to = \"x\" }]",
            ),
            7,
            32,
            "which agent `scout` writes already",
            "a name of its own",
        ),
        of_agent(
            "outputs = [{ path = \"/proc/1/maps\", to = \"x\" }]",
            4,
            21,
            "nothing of /proc is a file",
            "a file that the agent writes",
        ),
        of_agent(
            "outputs = [{ path = \"/\", to = \"x\" }]",
            4,
            21,
            "the whole root",
            "a file or a directory",
        ),
        of_agent("executables = []", 2, 9, "nothing could be started", "name programs"),
        of_agent("command = []", 4, 11, "names no program", "the program first"),
        of_agent("command = [\"\"]", 4, 11, "names no program", "the program first"),
        of_agent(
            "writable-directories = [\"/srv\"]",
            4,
            25,
            "nothing lets the agent write to \"/srv\"",
            "only narrows",
        ),
        of_agent(
            "writable-directories = [\"/a/b\"]\nmounts = [{ source = \"a\", target = \"/a\" }]",
            4,
            25,
            "nothing lets the agent write",
            "writable = true",
        ),
        whole(&many(65), 2, 2, "`agents` has 65 entries; at most 64", "take some out"),
        of_agent(&mounts(65), 4, 10, "`mounts` has 65 entries; at most 64", "take some out"),
        whole(
            &many(5).replace("image = \"i\"\n", &format!("image = \"i\"\n{}\n", mounts(60))),
            1,
            8,
            "300 mounts together; at most 256",
            "share directories",
        ),
        of_agent(
            &format!("command = [{}]", vec![format!("\"{}\"", "x".repeat(30_000)); 5].join(",")),
            2,
            9,
            "150005 bytes; at most 131072",
            "mount that",
        ),
    ]
}

fn variables() -> Vec<Case> {
    vec![
        of_agent(
            "environment = { A = \"${UNSET}\" }",
            4,
            21,
            "the variable UNSET is not set",
            "set it in the environment",
        ),
        of_agent(
            "environment = { A = \"${OWM}\" }\n[variables]\nOWN = \"x\"",
            4,
            21,
            "OWM is not set",
            "did you mean ${OWN}?",
        ),
        of_agent("directory = \"/${\"", 4, 13, "without its `}`", "$${"),
        of_agent("directory = \"/${A B}\"", 4, 13, "`${A B}` is no variable", "like ${HOME}"),
        of_agent("[variables]\n\"A B\" = \"x\"", 5, 1, "no name of a variable", "underscores"),
        of_agent("[variables]\nA = 1", 5, 5, "must be a string", "A = \"text\""),
        whole(
            &format!("name = \"t\"\nvariables-file = \"missing\"\n{REST}"),
            2,
            18,
            "it is not there",
            "make it",
        ),
    ]
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
