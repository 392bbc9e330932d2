//! What tests of teams begin with.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use cloister_tests::Call;
use tempfile::TempDir;

use crate::ordinary_user::{OrdinaryUser, USER};

/// A directory for one team, with an image of a shell and its tools.
pub(crate) struct Bed {
    /// Files and images, where extended attributes of users are: an image's owners are in these.
    folder: TempDir,
    /// Images that others made, if not the own one.
    store: Option<PathBuf>,
    /// State, where locks can be waited for: not on the lab's shared files.
    state: TempDir,
    /// Who makes the calls, if not root.
    user: Option<OrdinaryUser>,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::filled(Self::empty(None))
    }

    /// All of it an ordinary user's.
    pub(crate) fn of(user: OrdinaryUser) -> Self {
        let mut bed = Self::empty(None);
        for folder in [bed.folder.path(), &bed.path("team"), bed.state.path()] {
            chown(folder, Some(USER), Some(USER)).unwrap();
        }
        bed.user = Some(user);
        Self::filled(bed)
    }

    fn filled(bed: Self) -> Self {
        let image = bed.path("image");
        for folder in
            ["bin", "tmp", "proc", "dev", "work", "out", "in", "mnt", "etc/ssl/certs/java"]
        {
            fs::create_dir_all(image.join(folder)).unwrap();
        }
        fs::write(image.join("etc/ssl/certs/ca-certificates.crt"), "# none\n").unwrap();
        fs::write(image.join("etc/ssl/certs/java/cacerts"), "none").unwrap();
        fs::copy("/bin/busybox", image.join("bin/busybox")).unwrap();
        fs::set_permissions(image.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
        let tools = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
        for tool in String::from_utf8(tools).unwrap().lines().filter(|tool| *tool != "busybox") {
            std::os::unix::fs::symlink("busybox", image.join("bin").join(tool)).unwrap();
        }
        fs::write(image.join("etc/secret"), "of the image\n").unwrap();
        let _imported =
            bed.call(&["image", "import", "--name", "tools"]).argument(&image).output().exits(0);
        bed
    }

    /// With the images that `tests/run` has brought: Python, fio and stress-ng.
    pub(crate) fn with_programs() -> Self {
        let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("../out/tests/images");
        assert!(store.exists(), "no {}: tests/images makes it", store.display());
        Self::empty(Some(store))
    }

    fn empty(store: Option<PathBuf>) -> Self {
        let folder = TempDir::new_in("/tmp").unwrap();
        fs::create_dir(folder.path().join("team")).unwrap();
        Self { folder, store, state: TempDir::new().unwrap(), user: None }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn call(&self, words: &[&str]) -> Call {
        let call = Call::cloister(words)
            .variable("CLOISTER_STATE", self.state.path().join("state"))
            .variable("CLOISTER_STORE", self.store.clone().unwrap_or_else(|| self.path("store")))
            .variable("CLOISTER_VOLUMES", self.path("volumes"));
        match &self.user {
            Some(user) => user.makes(call),
            None => call,
        }
    }

    /// Starts a team; comes back when it runs.
    pub(crate) fn up(&self, team: &str) {
        let file = self.path("team/team.toml");
        fs::write(&file, team).unwrap();
        let _up = self.call(&["up", "-d"]).argument(&file).output().exits(0);
    }

    /// What a command in an agent's container wrote on both streams, and its code.
    pub(crate) fn exec(&self, agent: &str, script: &str) -> (i32, String) {
        let call =
            self.call(&["exec", agent]).command(["sh", "-c", &format!("{{ {script}\n}} 2>&1")]);
        let outcome = call.output();
        (outcome.status.code().unwrap_or(-1), outcome.text())
    }

    fn events(&self) -> String {
        let outcome = self.call(&["logs", "--events", "t"]).output();
        outcome.text()
    }

    pub(crate) fn await_event(&self, word: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.events().contains(word) {
            assert!(Instant::now() < end, "no {word}: {}", self.events());
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Takes the team down and asserts that nothing of it is left.
    pub(crate) fn down(&self) {
        let _down = self.call(&["down", "t"]).output().exits(0);
        let ps = self.call(&["ps", "-a", "--json"]).output().exits(0);
        assert!(ps.text().contains("\"teams\": []"));
        assert_eq!(fs::read_dir(self.state.path().join("state/teams")).unwrap().count(), 0);
    }

    /// Who made the calls.
    pub(crate) fn into_user(self) -> Option<OrdinaryUser> {
        self.user
    }

    /// Where the team's logs are.
    pub(crate) fn logs(&self) -> PathBuf {
        self.state.path().join("state/teams/t/logs")
    }
}
