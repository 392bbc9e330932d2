//! A user of the lab whom an administrator has given what machines take: group kvm, and control groups.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use cloister_tests::Call;
use cloister_tests::prefix::Prefix;
use tempfile::TempDir;

/// The user, and the group that owns the lab's `/dev/kvm`.
pub(crate) const USER: u32 = 1000;
const KVM_GROUP: u32 = 108;

pub(crate) struct OrdinaryUser {
    /// The control group that is the user's to divide.
    top: PathBuf,
    _folder: TempDir,
    /// Programs where the user can read them.
    prefix: Prefix,
}

impl OrdinaryUser {
    /// `name` is the test's own. `None`: this is not the lab, and the host's device and control groups
    /// are not the test's to give away.
    pub(crate) fn new(name: &str) -> Option<Self> {
        if std::env::var_os("LAB").is_none() {
            println!("skipped: only the lab's /dev/kvm and control groups are the test's to give");
            return None;
        }
        let device = Path::new("/dev/kvm");
        chown(device, Some(0), Some(KVM_GROUP)).unwrap();
        fs::set_permissions(device, fs::Permissions::from_mode(0o660)).unwrap();
        let top = Path::new("/sys/fs/cgroup").join(name);
        for folder in [top.clone(), top.join("session")] {
            fs::create_dir(&folder).unwrap();
            for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
                chown(folder.join(file), Some(USER), Some(USER)).unwrap();
            }
        }
        let (folder, prefix) = Prefix::built().copied();
        Some(Self { top, _folder: folder, prefix })
    }

    /// Where the user's control groups are.
    pub(crate) fn top(&self) -> &Path {
        &self.top
    }

    /// The call as this user makes it, in the control group of a session.
    pub(crate) fn makes(&self, call: Call) -> Call {
        let enter = format!("echo $$ >{}/session/cgroup.procs; exec \"$@\"", self.top.display());
        let user = Self::words();
        let user: Vec<&str> = user.iter().map(String::as_str).collect();
        let before = [&["sh", "-c", &enter, "sh"], &user[..], &["--inh-caps=-all"]].concat();
        call.prefix(&self.prefix).through(&before)
    }

    /// The call without a control group of the user's own.
    pub(crate) fn makes_elsewhere(&self, call: Call) -> Call {
        let user = Self::words();
        let user: Vec<&str> = user.iter().map(String::as_str).collect();
        call.prefix(&self.prefix).through(&user)
    }

    fn words() -> [String; 7] {
        let (user, kvm) = (USER.to_string(), KVM_GROUP.to_string());
        let words = ["setpriv", "--reuid", &user, "--regid", &user, "--groups", &kvm];
        words.map(str::to_owned)
    }

    /// Asserts that nothing of the user's is left in the control groups, and removes them.
    pub(crate) fn end(self) {
        assert!(!self.top.join("cloister").exists());
        fs::remove_dir(self.top.join("session")).unwrap();
        fs::remove_dir(&self.top).unwrap();
    }
}
