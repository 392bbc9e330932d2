//! What does not fit together, and variables.

use super::{Case, REST, of_agent, whole};

pub(super) fn together() -> Vec<Case> {
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

pub(super) fn variables() -> Vec<Case> {
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
