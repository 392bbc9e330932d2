//! `cloister validate`, `plan`, `explain` and `schema` as processes, with an image store and files of
//! their own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use cloister::team::plan::Plan;
use serde_json::Value;
use tempfile::TempDir;

const TEAM: &str = r#"name = "research"
[agents.scout]
image = "tools"
command = ["extract"]
mounts = [
  { source = "docs", target = "/docs" },
  { source = "out", target = "/out", writable = true },
]
[agents.writer]
image = "tools:latest"
command = ["/bin/extract"]
args = ["--all"]
user = "agent"
executables = ["/bin"]
mounts = [{ volume = "cache", target = "/cache", writable = true }]
outputs = [{ path = "/out/report.html", to = "report.html" }]
after = [{ agent = "scout", condition = "succeeded" }]
[volumes.cache]
"#;

/// A folder with a store and a team's files.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new(team: &str) -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        for folder in ["docs", "out", "root/bin", "root/etc", "root/srv"] {
            fs::create_dir_all(desk.path(folder)).unwrap();
        }
        fs::write(desk.path("docs/one"), "1").unwrap();
        fs::write(desk.path("root/bin/extract"), "#!").unwrap();
        fs::write(desk.path("root/etc/passwd"), "agent:x:33:44::/home/agent:/bin/sh\n").unwrap();
        desk.write(team);
        desk
    }

    fn write(&self, team: &str) {
        fs::write(self.path("team.toml"), team).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("team").join(name)
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn with_image(self) -> Self {
        let root = self.path("root");
        let output = self.run(&["image", "import", "--name", "tools", root.to_str().unwrap()]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        self
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloister"));
        command.env_clear().env("CLOISTER_STORE", self.store()).env("HOME", "/nonexistent");
        command.current_dir(self.path("")).stdin(Stdio::null()).args(words);
        command.output().unwrap()
    }

    /// Standard output of a command that must succeed and say nothing else.
    fn good(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "");
        text(&output.stdout)
    }

    /// Standard error of a command that must find mistakes.
    fn wrong(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {}", text(&output.stderr));
        text(&output.stderr)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_team_file_in_order_needs_no_image_to_be_validated() {
    let desk = Desk::new(TEAM);
    let told = desk.good(&["validate", "team.toml"]);
    assert_eq!(told, "team.toml: team research with 2 agents, in order\n");
    let told = json(&desk.good(&["validate", "--json", "team.toml"]));
    assert_eq!(told, json(r#"{"schema": 1, "ok": true, "mistakes": []}"#));
    assert!(!desk.store().exists());
}

#[test]
fn mistakes_are_told_for_people_and_for_programs() {
    let desk = Desk::new("name = \"t\"\n[agents.a]\nimage = \"i\"\nmemoyr = 3\n");
    let told = desk.wrong(&["validate", "team.toml"]);
    assert!(told.starts_with("cloister: team.toml:4:1: an agent has no key `memoyr`\n"), "{told}");
    assert!(told.contains("  4 | memoyr = 3\n    | ^^^^^^\n"), "{told}");
    assert!(told.contains("did you mean `memory`?"), "{told}");
    let output = desk.run(&["validate", "--json", "team.toml"]);
    assert_eq!(output.status.code(), Some(1));
    let told = json(&text(&output.stdout));
    assert_eq!(told["ok"], false);
    let mistake = &told["mistakes"][0];
    assert_eq!((&mistake["file"], &mistake["place"]["line"]), (&"team.toml".into(), &4.into()));
    assert_eq!(mistake["remedy"], "did you mean `memory`?");
}

#[test]
fn what_can_t_be_read_is_no_mistake_of_the_file() {
    let desk = Desk::new("");
    fs::write(desk.path("huge"), "#".repeat(300 << 10)).unwrap();
    for (name, what) in [
        ("missing.toml", "No such file"),
        ("docs", "not a regular file"),
        ("huge", "more than 262144 bytes"),
    ] {
        let output = desk.run(&["validate", name]);
        assert_eq!(output.status.code(), Some(125), "{name}");
        let told = text(&output.stderr);
        assert!(told.contains(what) && told.contains("What to do"), "{name}: {told}");
    }
    fs::write(desk.path("latin"), b"name = \"a\"\n# caf\xe9\n").unwrap();
    let told = desk.wrong(&["validate", "latin"]);
    assert!(told.contains("latin:2:6: what follows here is not UTF-8"), "{told}");
}

#[test]
fn what_the_file_names_on_the_host() {
    let desk = Desk::new("");
    fs::create_dir(desk.store()).unwrap();
    fs::create_dir(desk.path("out/.ssh")).unwrap();
    symlink("/etc", desk.path("link")).unwrap();
    symlink("docs", desk.path("good")).unwrap();
    symlink("docs", desk.path("out/link")).unwrap();
    fs::write(desk.path("secret.env"), "TOKEN\n").unwrap();
    let agent = |lines: &str| format!("name = \"t\"\n[agents.a]\nimage = \"i\"\n{lines}\n");
    let mount =
        |source: &str| agent(&format!("mounts = [{{ source = \"{source}\", target = \"/a\" }}]"));
    let two = |first: &str, second: &str| agent(&format!("mounts = [{first}, {second}]"));
    let docs = "{ source = \"docs\", target = \"/a\" }";
    let to = |to: &str| {
        agent(&format!("mounts = [{docs}]\noutputs = [{{ path = \"/a\", to = \"{to}\" }}]"))
    };
    let mut complaints = Vec::new();
    for (file, place, what) in [
        (mount("docs/none"), "4:22", "there is no such file or directory"),
        (mount("link"), "4:22", "/etc is in /etc, the host's own"),
        (mount("/"), "4:22", "contains"),
        (mount("/dev/null"), "4:22", "neither a directory nor a regular file"),
        (mount("/proc/self"), "4:22", "a file system of the kernel"),
        (mount("out/.ssh"), "4:22", "keys and credentials"),
        (mount("../store"), "4:22", "Cloister's own state"),
        (mount("/usr"), "4:22", "in no place that may be shared"),
        (two(docs, "{ source = \"out\", target = \"/a/none\" }"), "4:74", "no directory there"),
        (two(docs, "{ source = \"out\", target = \"/a/one\" }"), "4:74", "no directory there"),
        (
            two("{ source = \".\", target = \"/all\", writable = true }", docs),
            "4:74",
            "writable at \"/all/docs\"",
        ),
        (to("none/x"), "5:32", "there is no such file or directory"),
        (to("docs/x"), "5:32", "which an agent has mounted"),
        (to("docs"), "5:32", "which an agent has mounted"),
        (to("team.toml"), "5:32", "the team is made from"),
        (to("out/.."), "5:32", "it names no file"),
        (to("out/link"), "5:32", "neither a file nor a directory"),
        (to("/usr/x"), "5:32", "in no place that may be shared"),
        (format!("kernel = \"docs\"\n{}", agent("")), "1:10", "it is a directory"),
        (
            format!("variables-file = \"/etc/shadow\"\n{}", agent("")),
            "1:18",
            "/etc/shadow is in /etc",
        ),
        (
            format!("variables-file = \"secret.env\"\n{}", agent("")),
            "1:1",
            "the line is no variable",
        ),
    ] {
        desk.write(&file);
        let told = desk.wrong(&["validate", "team.toml"]);
        if !told.contains(place) || !told.contains(what) || !told.contains("1 mistake;") {
            complaints.push(format!("{place} {what}: {told}"));
        }
        assert!(!told.contains("TOKEN") && !told.contains("root:"), "{told}");
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    for file in [
        mount("good"),
        two(
            "{ source = \".\", target = \"/all\", writable = true }",
            "{ source = \"docs\", target = \"/all/docs\" }",
        ),
        to("out/report"),
        to("team.toml.out"),
    ] {
        desk.write(&file);
        desk.good(&["validate", "team.toml"]);
    }
}

#[test]
fn a_plan_is_what_would_be_started() {
    let desk = Desk::new(TEAM).with_image();
    let told = desk.good(&["plan", "team.toml"]);
    assert!(
        told.starts_with("team research: a machine with 1 vCPUs and 624MiB, ephemeral, from a template where one was built\n"),
        "{told}"
    );
    assert!(told.contains("at the end of writer: /out/report.html becomes report.html"), "{told}");
    let told = desk.good(&["plan", "--json", "team.toml"]);
    // It goes to another process, and comes there as it was.
    let plan: Plan = serde_json::from_str(&told).unwrap();
    let bytes = postcard::to_allocvec(&plan).unwrap();
    assert_eq!(postcard::from_bytes::<Plan>(&bytes).unwrap(), plan);
    let plan = json(&told);
    let agents = plan["agents"].as_array().unwrap();
    assert_eq!(
        (&agents[0]["name"]["value"], &agents[1]["name"]["value"]),
        (&"scout".into(), &"writer".into())
    );
    assert_eq!(agents[0]["user"]["value"]["uid"], 1000);
    assert_eq!(agents[1]["user"]["value"]["uid"], 33);
    assert_eq!(agents[1]["user"]["value"]["gid"], 44);
    // One image, one root, held once.
    assert_eq!(agents[0]["image"]["root"], agents[1]["image"]["root"]);
    assert_eq!(plan["volumes"], json("[\"cache\"]"));
    assert!(!desk.path("report.html").exists());
}

#[test]
fn every_setting_is_explained_with_its_origin() {
    let desk = Desk::new(TEAM).with_image();
    let told = json(&desk.good(&["explain", "--json", "team.toml", "writer"]));
    assert_eq!(told["agents"].as_array().unwrap().len(), 1);
    let settings = told["agents"][0]["settings"].as_array().unwrap();
    let find = |name: &str| settings.iter().find(|row| row["setting"] == name).unwrap();
    for (setting, value, from) in [
        ("memory", "256MiB", "default"),
        ("user", "33:44", "line 13"),
        ("executables", "/bin", "line 14"),
        ("environment HOME", "/home/agent", "derived"),
        ("mount /cache", "volume cache, writable", "line 15"),
        ("command", "/bin/extract --all", "line 11"),
    ] {
        let row = find(setting);
        assert_eq!((&row["value"], &row["from"]), (&value.into(), &from.into()), "{setting}");
    }
    let table = desk.good(&["explain", "team.toml"]);
    for words in ["agent scout", "agent writer", "below the team file's directory", "line 4"] {
        assert!(table.contains(words), "{words}: {table}");
    }
    let output = desk.run(&["explain", "team.toml", "scuot"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("did you mean scout?"));
}

#[test]
fn what_images_do_not_have() {
    let desk = Desk::new("").with_image();
    let agent = |image: &str, lines: &str| {
        format!("name = \"t\"\n[agents.a]\nimage = \"{image}\"\n{lines}\n")
    };
    let digest = format!("sha256:{}", "0".repeat(64));
    let command = "command = [\"extract\"]\n";
    for (file, place, what) in [
        (agent("other", ""), "3:9", "not in the store"),
        (agent(&format!("tools@{digest}"), ""), "3:9", "the store's image of this name is sha256:"),
        (agent(&format!("other@{digest}"), ""), "3:9", "not in the store"),
        (agent(&digest, ""), "3:9", "not in the store"),
        (agent("tools", ""), "3:9", "neither the agent nor its image says what to start"),
        (agent("tools", "command = [\"extrakt\"]"), "4:11", "no program \"extrakt\""),
        (agent("tools", "command = [\"/bin\"]"), "4:11", "no program \"/bin\""),
        (
            agent("tools", &format!("{command}directory = \"/none\"")),
            "5:13",
            "no directory \"/none\"",
        ),
        (agent("tools", &format!("{command}user = \"agnet\"")), "5:8", "no user `agnet`"),
        (agent("tools", &format!("{command}user = \"agent:none\"")), "5:8", "no group `none`"),
        (
            agent("tools", &format!("{command}executables = [\"/none\"]")),
            "5:16",
            "the image has no \"/none\"",
        ),
        (
            agent("tools", &format!("{command}executables = [\"/srv\"]")),
            "5:16",
            "does not allow what the agent starts",
        ),
    ] {
        desk.write(&file);
        let told = desk.wrong(&["plan", "team.toml"]);
        assert!(told.contains(place) && told.contains(what), "{place} {what}: {told}");
    }
    let list = json(&desk.good(&["image", "ls", "--json"]));
    let digest = list["images"][0]["digest"].as_str().unwrap().to_owned();
    for image in [format!("tools@{digest}"), format!("tools:latest@{digest}"), digest] {
        desk.write(&agent(&image, command));
        desk.good(&["plan", "team.toml"]);
    }
}

#[test]
fn without_a_store_nothing_is_made() {
    let desk = Desk::new(TEAM);
    let told = desk.wrong(&["plan", "team.toml"]);
    assert!(told.contains("there is no image store yet") && told.contains("2 mistakes"), "{told}");
    assert!(!desk.store().exists());
}

#[test]
fn the_schema_is_printed() {
    let desk = Desk::new("");
    let schema = json(&desk.good(&["schema"]));
    assert_eq!(schema["properties"]["agents"]["maxProperties"], 64);
}
