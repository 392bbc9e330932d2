//! An installation with an image, a state directory and team files.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Installation, text};

/// How long anything here may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Bed {
    installation: Installation,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with("ordinary")
    }

    /// With machines that do as `script` says.
    pub(crate) fn with(script: &str) -> Self {
        let bed = Self { installation: Installation::new(script) };
        let image = bed.path("image");
        for folder in ["bin", "tmp", "etc", "work"] {
            fs::create_dir_all(image.join(folder)).expect("a folder");
        }
        fs::write(image.join("etc/passwd"), "worker:x:1234:1234::/tmp:/bin/sh\n").expect("a file");
        // Only looked at: the fake's guest runs this host's.
        for program in ["sh", "cat", "echo", "sleep", "true", "false"] {
            let path = image.join("bin").join(program);
            fs::write(&path, "").expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
        }
        fs::create_dir_all(bed.path("team")).expect("a folder");
        let imported = bed.cloister(&["image", "import", "--name", "tools"]).arg(&image).output();
        let imported = imported.expect("the command");
        assert!(imported.status.success(), "{}", text(&imported.stderr));
        bed
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.installation.path(name)
    }

    /// Writes a team file.
    pub(crate) fn file(&self, content: &str) -> PathBuf {
        let path = self.path("team/team.toml");
        fs::write(&path, content).expect("a file");
        path
    }

    /// The command, with its state and its images below the installation.
    pub(crate) fn cloister(&self, words: &[&str]) -> Command {
        let mut command = self.installation.cloister();
        command
            .env("CLOISTER_STATE", self.path("state"))
            .env("CLOISTER_STORE", self.path("store"))
            .env("CLOISTER_VOLUMES", self.path("volumes"))
            .env("HOME", self.path(""))
            .current_dir(self.path("team"))
            .args(words);
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.cloister(words).output().expect("the command")
    }

    /// Standard output of a command that must succeed.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let told = text(&output.stderr);
        assert!(output.status.success(), "{words:?}: {:?}: {told}", output.status);
        text(&output.stdout)
    }

    /// Standard error of a command that must fail with this code.
    pub(crate) fn fails(&self, words: &[&str], code: i32) -> String {
        let output = self.run(words);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {told}");
        told
    }

    /// Starts a team of this file and comes back when it runs.
    pub(crate) fn up(&self, content: &str) {
        self.file(content);
        self.ok(&["up", "-d", "team.toml"]);
    }

    pub(crate) fn start(&self, words: &[&str]) -> Child {
        let mut command = self.cloister(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command")
    }

    /// What `ps` says, as JSON.
    pub(crate) fn ps(&self) -> serde_json::Value {
        serde_json::from_str(&self.ok(&["ps", "-a", "--json"])).expect("JSON")
    }

    /// How an agent stands: its object in `ps`.
    pub(crate) fn agent(&self, name: &str) -> serde_json::Value {
        let teams = self.ps();
        let agents = teams["teams"][0]["agents"].as_array().cloned().unwrap_or_default();
        agents.into_iter().find(|agent| agent["name"] == name).expect("an agent")
    }

    /// Waits until something holds. What it is, is only told by asking: it is another process's.
    pub(crate) fn await_that(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + LIMIT;
        while !holds(self) {
            assert!(Instant::now() < end, "not within {LIMIT:?}: {what}: {}", self.ps());
        }
    }

    /// The same, of a team that `child` starts; tells what it said if it ends before.
    pub(crate) fn await_start(&self, child: &mut Child, status: &str) {
        let end = Instant::now() + LIMIT;
        while self.ps()["teams"][0]["status"] != status {
            let is_alive = child.try_wait().expect("our child").is_none();
            if !is_alive || Instant::now() > end {
                child.kill().expect("our child");
                let mut told = String::new();
                child.stderr.take().expect("a pipe").read_to_string(&mut told).expect("text");
                let begun = if is_alive { "not in time" } else { "it ended" };
                unreachable!("no team that is {status}, {begun}: {}: {told}", self.ps());
            }
        }
    }

    /// The warden's process, told from its lock.
    pub(crate) fn warden(&self, team: &str) -> i32 {
        self.warden_with_lock(team).expect("a warden that holds the lock")
    }

    /// The same, if it has the lock already.
    pub(crate) fn warden_with_lock(&self, team: &str) -> Option<i32> {
        let lock = self.path("state").join("teams").join(team).join("lock");
        let lock = lock.canonicalize().expect("a lock");
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if !words.split(|byte| *byte == 0).any(|word| word == b"warden") {
                continue;
            }
            let open = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
            if open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|path| path == lock) {
                return Some(pid);
            }
        }
        None
    }

    /// Asserts that nothing of any team is left.
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.ps()["teams"], serde_json::json!([]));
        let left: Vec<_> =
            fs::read_dir(self.path("state/teams")).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// A team of one agent that does as a shell's script says.
pub(crate) fn one(script: &str) -> String {
    one_with(script, "")
}

/// The same with more lines for the agent.
pub(crate) fn one_with(script: &str, more: &str) -> String {
    format!(
        "name = \"t\"\n[agents.a]\nimage = \"tools\"\ncommand = [\"sh\", \"-c\", '''{script}''']\n{more}\n"
    )
}

/// Lines as they come.
pub(crate) fn lines_of(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The first line of a command that shows what comes from now on. Nothing tells when it listens, so `make` is called with
/// 1, 2, … to give it something to show, until it has shown something.
pub(crate) fn first_line(lines: &Receiver<String>, mut make: impl FnMut(u32)) -> String {
    let end = Instant::now() + LIMIT;
    for number in 1.. {
        make(number);
        match lines.try_recv() {
            Ok(line) => return line,
            Err(TryRecvError::Empty) => assert!(Instant::now() < end, "no line within {LIMIT:?}"),
            Err(TryRecvError::Disconnected) => break,
        }
    }
    unreachable!("it ended without a line")
}
