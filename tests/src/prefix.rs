//! Where the built programs and images are: `$CLOISTER_PREFIX`, else `out/` of this repository.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A prefix: programs in `bin`, kernel and root image in `lib/cloister`.
#[derive(Clone, Debug)]
pub struct Prefix(PathBuf);

impl Prefix {
    /// What `make build` made.
    ///
    /// # Panics
    /// It made nothing yet.
    #[must_use]
    pub fn built() -> Self {
        let out = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../out");
        let prefix = Self(env::var_os("CLOISTER_PREFIX").map_or_else(out, PathBuf::from));
        let program = prefix.program();
        assert!(program.exists(), "{} is not there: run `make build`", program.display());
        prefix
    }

    /// The command `cloister`.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.0.join("bin/cloister")
    }

    /// The virtual machine monitor.
    #[must_use]
    pub fn vmm(&self) -> PathBuf {
        self.0.join("bin/cloister-vmm")
    }

    /// The program that starts it in its jail.
    #[must_use]
    pub fn jailer(&self) -> PathBuf {
        self.0.join("bin/cloister-jailer")
    }

    /// The program that serves shared directories.
    #[must_use]
    pub fn file_server(&self) -> PathBuf {
        self.0.join("bin/cloister-file-server")
    }

    /// The program with the attacks of `cloister prove`.
    #[must_use]
    pub fn prober(&self) -> PathBuf {
        self.0.join("bin/cloister-prober")
    }

    /// The guest's kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.0.join("lib/cloister/vmlinux")
    }

    /// The guest's root image.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.0.join("lib/cloister/rootfs.cpio")
    }

    /// A copy in a directory that every user can reach: the built one may lie in somebody's home.
    ///
    /// # Panics
    /// The files can't be copied.
    #[must_use]
    pub fn copied(&self) -> (TempDir, Self) {
        let directory = TempDir::new().expect("a temporary directory");
        let copy = Self(directory.path().to_path_buf());
        for folder in ["", "bin", "lib", "lib/cloister"] {
            let folder = directory.path().join(folder);
            fs::create_dir_all(&folder).expect("a folder");
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("its mode");
        }
        for (from, to) in [
            (self.program(), copy.program()),
            (self.vmm(), copy.vmm()),
            (self.jailer(), copy.jailer()),
            (self.file_server(), copy.file_server()),
            (self.prober(), copy.prober()),
            (self.kernel(), copy.kernel()),
            (self.root(), copy.root()),
        ] {
            fs::copy(&from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        }
        (directory, copy)
    }
}
