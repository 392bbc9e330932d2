//! Where the vmm, the guest's kernel and its root are, and opening them.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The file beside `cloister` that owns the machine.
const VMM: &str = "cloister-vmm";
/// The file beside `cloister` that starts it in its jail.
const JAILER: &str = "cloister-jailer";
/// The file beside it that serves shared directories.
const FILE_SERVER: &str = "cloister-file-server";
/// The file beside it with the attacks of `cloister prove` and the work of `cloister bench files`.
const PROBER: &str = "cloister-prober";
/// From the folder of `cloister` to that of the images.
const IMAGES: &str = "../lib/cloister";
const KERNEL: &str = "vmlinux";
const ROOT: &str = "rootfs.cpio";
const KVM: &str = "/dev/kvm";

/// The files that a machine is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The program that owns the machine.
    pub vmm: PathBuf,
    /// The program that starts it in its jail.
    pub jailer: PathBuf,
    /// The guest's kernel: an uncompressed ELF file with a PVH entry.
    pub kernel: PathBuf,
    /// The guest's root: an uncompressed cpio archive with the supervisor as `/init`.
    pub root: PathBuf,
    /// The device; another path only in tests.
    pub kvm: PathBuf,
}

impl Files {
    /// The files that belong to this program: the vmm beside it, and the images in
    /// `../lib/cloister`, unless `kernel` or `root` name others.
    ///
    /// # Errors
    /// The system can't tell where this program is.
    pub fn find(kernel: Option<PathBuf>, root: Option<PathBuf>) -> Result<Self, FileError> {
        let program = std::env::current_exe().map_err(FileError::OwnPath)?;
        let folder = program.parent().unwrap_or(Path::new("/"));
        Ok(Self::relative_to(folder, kernel, root))
    }

    fn relative_to(folder: &Path, kernel: Option<PathBuf>, root: Option<PathBuf>) -> Self {
        let images = match folder.parent() {
            // The same folder, without the dots in messages.
            Some(prefix) => prefix.join("lib/cloister"),
            None => folder.join(IMAGES),
        };
        Self {
            vmm: folder.join(VMM),
            jailer: folder.join(JAILER),
            kernel: kernel.unwrap_or_else(|| images.join(KERNEL)),
            root: root.unwrap_or_else(|| images.join(ROOT)),
            kvm: PathBuf::from(KVM),
        }
    }

    /// The program that serves shared directories: beside the jailer.
    #[must_use]
    pub fn file_server(&self) -> PathBuf {
        self.jailer.with_file_name(FILE_SERVER)
    }

    /// The program with the attacks of `cloister prove` and the work of `cloister bench files`: beside the jailer.
    #[must_use]
    pub fn prober(&self) -> PathBuf {
        self.jailer.with_file_name(PROBER)
    }

    /// Opens the kernel for reading.
    ///
    /// # Errors
    /// It is missing, not readable or not a regular file.
    pub fn open_kernel(&self) -> Result<File, FileError> {
        open_image(Role::Kernel, &self.kernel)
    }

    /// Opens the root for reading.
    ///
    /// # Errors
    /// It is missing, not readable or not a regular file.
    pub fn open_root(&self) -> Result<File, FileError> {
        open_image(Role::Root, &self.root)
    }

    /// Opens the KVM device.
    ///
    /// # Errors
    /// It is missing or this user may not use it.
    pub fn open_kvm(&self) -> Result<File, FileError> {
        File::options()
            .read(true)
            .write(true)
            .open(&self.kvm)
            .map_err(|source| FileError::open(Role::Kvm, &self.kvm, source))
    }
}

/// Checks that a program is there and may be executed, without starting it.
///
/// # Errors
/// It is not, or is not a regular file.
pub fn check_program(role: Role, path: &Path) -> Result<(), FileError> {
    let metadata = path.metadata().map_err(|source| FileError::open(role, path, source))?;
    if !metadata.is_file() {
        return Err(FileError::NotRegular { role, path: path.to_owned() });
    }
    // Any execute bit will do here: which of them counts is for exec to say.
    if metadata.permissions().mode() & 0o111 == 0 {
        let source = io::Error::from_raw_os_error(libc::EACCES);
        return Err(FileError::open(role, path, source));
    }
    Ok(())
}

fn open_image(role: Role, path: &Path) -> Result<File, FileError> {
    let wrap = |source| FileError::open(role, path, source);
    // Asked before opening: opening a FIFO would wait for its writer.
    if !path.metadata().map_err(wrap)?.is_file() {
        return Err(FileError::NotRegular { role, path: path.to_owned() });
    }
    File::open(path).map_err(wrap)
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The program that owns the machine.
    Vmm,
    /// The program that starts it in its jail.
    Jailer,
    /// The program that serves shared directories.
    FileServer,
    /// The guest's kernel.
    Kernel,
    /// The guest's root.
    Root,
    /// The KVM device.
    Kvm,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Vmm => "the program cloister-vmm",
            Self::Jailer => "the program cloister-jailer",
            Self::FileServer => "the program cloister-file-server",
            Self::Kernel => "the guest kernel",
            Self::Root => "the guest root",
            Self::Kvm => "the KVM device",
        })
    }
}

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system can't tell where this program is.
    #[error("can't find out where the program cloister itself is")]
    OwnPath(#[source] io::Error),
    /// It can't be opened.
    #[error("can't open {role} ({})", path.display())]
    Open {
        /// What it is for.
        role: Role,
        /// Where it should be.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is a folder, a device or the like.
    #[error("{role} ({}) is not a regular file", path.display())]
    NotRegular {
        /// What it is for.
        role: Role,
        /// Where it is.
        path: PathBuf,
    },
}

impl FileError {
    fn open(role: Role, path: &Path, source: io::Error) -> Self {
        Self::Open { role, path: path.to_owned(), source }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        let (role, source) = match self {
            Self::OwnPath(_) => return None,
            Self::Open { role, source, .. } => (*role, Some(source.kind())),
            Self::NotRegular { role, .. } => (*role, None),
        };
        Some(match (role, source) {
            (Role::Vmm | Role::Jailer | Role::FileServer, _) => {
                "it must lie beside the program cloister; `make build` puts it there"
            }
            (Role::Kernel, _) => {
                "`make kernel` builds it; --kernel or CLOISTER_KERNEL names another one"
            }
            (Role::Root, _) => {
                "`make rootfs` builds it; --rootfs or CLOISTER_ROOTFS names another one"
            }
            (Role::Kvm, Some(io::ErrorKind::NotFound)) => {
                "load the module kvm_intel or kvm_amd; in a virtual machine, switch nested \
                 virtualization on; in a container, pass the device in"
            }
            (Role::Kvm, Some(io::ErrorKind::PermissionDenied)) => {
                "join the group that owns it: `sudo usermod -aG kvm $USER`, then log in again"
            }
            (Role::Kvm, _) => "`cloister doctor` tells more about this host's KVM",
        })
    }
}

#[cfg(test)]
#[path = "files_test.rs"]
mod tests;
