//! An installation with the fake vmm in a folder of its own, and `cloister` run from it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use cloister::launch::group::{Place, sweep};
use tempfile::TempDir;

/// The folders that `make build` makes, with a fake in them.
pub(crate) struct Installation {
    folder: TempDir,
    /// Where its machines get their control groups, so that no test meets what another left.
    group: PathBuf,
}

impl Drop for Installation {
    fn drop(&mut self) {
        if let Ok(place) = Place::find(Some(&self.group)) {
            drop(sweep(&place));
        }
        fs::remove_dir(&self.group).ok();
    }
}

impl Installation {
    /// With a machine that does as `script` says; see `tests/fake_vmm`. Its guest runs commands on this
    /// host, so it is in no jail.
    pub(crate) fn new(script: &str) -> Self {
        Self::with("open-jailer", script)
    }

    /// The same in the jail of any other machine, where nothing can be run.
    pub(crate) fn jailed(script: &str) -> Self {
        Self::with("jailer", script)
    }

    fn with(jailer: &str, script: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let installation = Self { folder, group: new_group() };
        let (bin, lib) = (installation.path("bin"), installation.path("lib/cloister"));
        fs::create_dir_all(&bin).expect("a working file system");
        fs::create_dir_all(&lib).expect("a working file system");
        // Hard links keep the names by which a program finds itself, and copy nothing.
        let doubles = Path::new(env!("CARGO_BIN_EXE_cloister")).with_file_name("examples");
        for (double, name) in [
            ("cloister-without-limits", "cloister"),
            ("fake-vmm", "cloister-vmm"),
            (jailer, "cloister-jailer"),
            ("file-server", "cloister-file-server"),
        ] {
            let double = doubles.join(double);
            assert!(double.exists(), "build the doubles first: cargo build -p cloister --examples");
            place(&double, &bin.join(name));
        }
        fs::write(lib.join("vmlinux"), kernel()).expect("a working file system");
        fs::write(lib.join("rootfs.cpio"), format!("070701{script}"))
            .expect("a working file system");
        installation
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The control groups of its machines.
    pub(crate) fn machines(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.group).expect("a directory").flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    /// The command with nothing of this environment. A job in a shell's background ignores signals
    /// and passes that on; `cloister` respects it, so a test that sends them must not.
    pub(crate) fn cloister(&self) -> Command {
        let mut command = Command::new("/usr/bin/env");
        command.arg("--default-signal=HUP,INT,QUIT,TERM").arg(self.path("bin/cloister"));
        command.env_clear().env("CLOISTER_CGROUP", &self.group).stdin(Stdio::null());
        // Those of this machine's user must not decide what is started.
        command.env("CLOISTER_TEMPLATES", self.path("templates"));
        command
    }

    /// The command as a shell's words.
    pub(crate) fn for_shell(&self) -> String {
        let (templates, program) = (self.path("templates"), self.path("bin/cloister"));
        format!("env CLOISTER_TEMPLATES='{}' '{}'", templates.display(), program.display())
    }

    /// `cloister run` with these words after it.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.cloister().arg("run").args(words).output().expect("a working file system")
    }
}

fn new_group() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let usual = Place::find(None).expect("control groups of version 2 that are ours").folder;
    let name = format!("cloister-test-{}-{number}", std::process::id());
    let folder = usual.with_file_name(name);
    fs::create_dir(&folder).expect("a control group");
    folder
}

fn place(program: &Path, at: &Path) {
    if fs::hard_link(program, at).is_err() {
        fs::copy(program, at).expect("a working file system");
        fs::set_permissions(at, fs::Permissions::from_mode(0o755)).expect("a working file system");
    }
}

/// The least that passes for a kernel: an ELF header and one note segment with a PVH entry.
pub(crate) fn kernel() -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(4u32.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for word in [120u64, 0, 0, 20, 20, 4] {
        file.extend(word.to_le_bytes());
    }
    for word in [4u32, 4, 18] {
        file.extend(word.to_le_bytes());
    }
    file.extend(b"Xen\0");
    file.extend(0x10_0000u32.to_le_bytes());
    file
}

/// What a command wrote, as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
