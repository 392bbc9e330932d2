//! Text that is not TOML, and keys: unknown, missing, of a wrong kind.

use super::{Case, REST, of_agent, whole};

pub(super) fn syntax() -> Vec<Case> {
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

pub(super) fn keys() -> Vec<Case> {
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
