//! Opens a path of a team file once, and tells what it is and where it really is.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, Access, AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// File systems that are the kernel's own: what is in them is no data, and may steer the host. By the
/// magic numbers of `linux/magic.h`.
const KERNELS: [u64; 17] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0xde5e_81e4, // efivarfs
    0x6165_676c, // pstore
    0x6265_6570, // configfs
    0x4249_4e4d, // binfmt_misc
    0x6e73_6673, // nsfs
    0xf97c_ff8c, // selinuxfs
    0x1980_0202, // mqueue
    0x6573_5543, // fusectl
];

/// What can be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory with all that is below it.
    Directory,
    /// One regular file.
    File,
}

/// Something that is open, without the right to read (`O_PATH`).
#[derive(Debug)]
pub struct Opened {
    /// It.
    pub descriptor: OwnedFd,
    /// Where it was when it was opened; for the lists and for messages.
    pub real: PathBuf,
    /// What it is.
    pub kind: Kind,
}

/// Why a path can't be opened: what, and what to do.
pub type Fault = (String, &'static str);

/// Opens a path, relative to a directory. Symbolic links are followed, here and never again.
///
/// # Errors
/// It is not there, can't be reached, or is neither a directory nor a regular file.
pub fn open(base: impl AsFd, path: &str) -> Result<Opened, Fault> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let descriptor =
        sys::openat2(base, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).map_err(why)?;
    let stat = sys::fstat(&descriptor).map_err(why)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File,
        _ => {
            return Err((
                "it is neither a directory nor a regular file".to_owned(),
                "name a directory or a file: devices, sockets and FIFOs are not shared",
            ));
        }
    };
    if stat.st_nlink == 0 {
        return Err(why(Errno::NOENT));
    }
    let system = sys::fstatfs(&descriptor).map_err(why)?;
    // The magic numbers have 32 bits, whatever sign the kernel's structure gives them.
    if KERNELS.contains(&(system.f_type.cast_unsigned() & 0xffff_ffff)) {
        return Err((
            "it is of a file system of the kernel".to_owned(),
            "name a directory or a file with data in it",
        ));
    }
    let real = real_path(&descriptor).map_err(why)?;
    Ok(Opened { descriptor, real, kind })
}

impl Opened {
    /// Whether this user may read it, or write to it too.
    ///
    /// # Errors
    /// The user may not.
    pub fn permitted(&self, writable: bool) -> Result<(), Fault> {
        let mut access = Access::READ_OK;
        if writable {
            access |= Access::WRITE_OK;
        }
        if self.kind == Kind::Directory {
            access |= Access::EXEC_OK;
        }
        let path = self.by_descriptor();
        sys::accessat(sys::CWD, path, access, AtFlags::empty()).map_err(|error| {
            let act = if writable { "write to" } else { "read" };
            (
                format!("you may not {act} it ({})", io::Error::from(error)),
                "change its permissions, or share something else",
            )
        })
    }

    /// A descriptor to read a file by.
    ///
    /// # Errors
    /// It can't be read, or is a directory.
    pub fn reader(&self) -> Result<File, Fault> {
        if self.kind != Kind::File {
            return Err(("it is a directory".to_owned(), "name a file"));
        }
        File::open(self.by_descriptor()).map_err(|error| {
            (format!("it can't be read ({error})"), "change its permissions, or name another file")
        })
    }
}

impl Opened {
    /// A path that leads to the descriptor's file, whatever is at its old path by now.
    fn by_descriptor(&self) -> String {
        format!("/proc/self/fd/{}", self.descriptor.as_raw_fd())
    }
}

/// Where a descriptor's file is.
pub(in crate::team) fn real_path(descriptor: impl AsFd) -> Result<PathBuf, Errno> {
    use std::os::unix::ffi::OsStringExt as _;
    let link = format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd());
    let target = sys::readlink(link, Vec::new())?.into_bytes();
    let path = PathBuf::from(std::ffi::OsString::from_vec(target));
    // "(unreachable)…", of a mount that this process does not see.
    if path.is_absolute() { Ok(path) } else { Err(Errno::NOENT) }
}

/// Whether a path is there below a directory, without a symbolic link on the way, and what it is.
pub(in crate::team) fn below(base: impl AsFd, path: &Path) -> Option<FileType> {
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let found = sys::openat2(base, path, flags, Mode::empty(), inside).ok()?;
    Some(FileType::from_raw_mode(sys::fstat(found).ok()?.st_mode))
}

fn why(error: Errno) -> Fault {
    match error {
        Errno::NOENT => (
            "there is no such file or directory".to_owned(),
            "make it first: nothing of the host is created for a team",
        ),
        Errno::NOTDIR => (
            "a file is in the way, where the path has a directory".to_owned(),
            "write the path of a directory or a file that is there",
        ),
        Errno::LOOP => (
            "its symbolic links go in a circle, or through /proc".to_owned(),
            "write the path of a directory or a file that is there",
        ),
        Errno::ACCESS => (
            "you may not go there".to_owned(),
            "change the permissions of the directories on the way, or share something else",
        ),
        error => (
            format!("it can't be opened ({})", io::Error::from(error)),
            "write the path of a directory or a file that is there",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn base(path: &Path) -> OwnedFd {
        OwnedFd::from(File::open(path).unwrap())
    }

    #[test]
    fn links_are_followed_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("one")).unwrap();
        fs::create_dir(at("two")).unwrap();
        fs::write(at("one/f"), "first").unwrap();
        fs::write(at("two/f"), "second").unwrap();
        symlink("one", at("link")).unwrap();
        let opened = open(base(folder.path()), "link/f").unwrap();
        assert_eq!(opened.real, fs::canonicalize(at("one/f")).unwrap());
        fs::remove_file(at("link")).unwrap();
        symlink("two", at("link")).unwrap();
        assert_eq!(io::read_to_string(opened.reader().unwrap()).unwrap(), "first");
        assert!(opened.permitted(false).is_ok());
    }

    #[test]
    fn what_is_not_shared() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "").unwrap();
        symlink("circle", at("circle")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        sys::mknodat(sys::CWD, at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        for (path, what) in [
            ("missing", "no such file"),
            ("file/x", "a file is in the way"),
            ("circle", "in a circle"),
            ("socket", "neither a directory nor a regular file"),
            ("fifo", "neither a directory nor a regular file"),
            ("/dev/null", "neither"),
            ("/proc/self/status", "file system of the kernel"),
            ("/sys/kernel", "file system of the kernel"),
            ("/proc/self/root", "through /proc"),
        ] {
            let (got, remedy) = open(base(folder.path()), path).unwrap_err();
            assert!(got.contains(what) && !remedy.is_empty(), "{path}: {got}");
        }
    }
}
