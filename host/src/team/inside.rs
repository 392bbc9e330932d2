//! Looks into an image's unpacked root: by descriptor, and never out of it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::mounts::open::real_path;
use crate::egress::limits::MAX_CERTIFICATES_FILE;
use crate::images::files::read_bounded;

/// Links are followed as in a container: an absolute one begins at the root.
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// How often a path is tried that somebody's renaming makes unsure: each takes microseconds.
const MAX_TRIES: u32 = 1000;

/// What is at a path of a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// What it is.
    pub(super) kind: FileType,
    /// Where it is, links followed: absolute, as in the container.
    pub(super) path: PathBuf,
}

/// Reads a regular file of at most `most` bytes.
pub(super) fn read_inside(root: &OwnedFd, path: &str, most: u64) -> io::Result<Vec<u8>> {
    // Not to wait for the writer of a FIFO.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(open(root, path, flags)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    read_bounded(file, most)
}

/// What is at a path, if anything is.
pub(super) fn find_inside(root: &OwnedFd, path: &str) -> Option<Found> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = open(root, path, flags).ok()?;
    let kind = FileType::from_raw_mode(sys::fstat(&found).ok()?.st_mode);
    let real = real_path(&found).ok()?;
    let below = real.strip_prefix(real_path(root).ok()?).ok()?;
    Some(Found { kind, path: Path::new("/").join(below) })
}

fn open(root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut tries = 0;
    loop {
        tries += 1;
        match sys::openat2(root, path, flags, Mode::empty(), INSIDE) {
            // Of a path with `..` in it, or in a link: something was renamed or mounted meanwhile, anywhere (openat2(2)).
            Err(Errno::AGAIN) if tries < MAX_TRIES => {}
            result => return result,
        }
    }
}

/// Where programs look for the list of certificate authorities: those of Debian and Alpine, of Red Hat, and of the
/// BSDs and Alpine.
const LISTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// The certificate authorities that an image trusts, as PEM, and the files that hold them, links followed.
///
/// # Errors
/// A file that is there can't be read, or is too large.
pub(crate) fn certificates_of(root: &OwnedFd) -> io::Result<(Vec<u8>, Vec<String>)> {
    let (mut list, mut places) = (Vec::new(), Vec::new());
    for path in LISTS {
        let Some(found) = find_inside(root, path) else { continue };
        let place = found.path.to_str().map(str::to_owned);
        let Some(place) = place.filter(|place| !places.contains(place)) else { continue };
        let bytes = read_inside(root, path, MAX_CERTIFICATES_FILE)?;
        if list.is_empty() {
            list = bytes;
        }
        places.push(place);
    }
    Ok((list, places))
}

/// Where the Javas of Debian and of Eclipse Temurin's images have their list.
const JAVA_STORES: [&str; 2] =
    ["/etc/ssl/certs/java/cacerts", "/opt/java/openjdk/lib/security/cacerts"];
/// Where a Java has it below its own directory, the second up to Java 8.
const BELOW_HOME: [&str; 2] = ["lib/security/cacerts", "jre/lib/security/cacerts"];

/// The files of an image in which Java looks for certificate authorities, links followed; `home`: its `JAVA_HOME`.
pub(crate) fn java_stores_of(root: &OwnedFd, home: Option<&str>) -> Vec<String> {
    let usual = JAVA_STORES.map(str::to_owned).into_iter();
    let named = home.into_iter().flat_map(|home| BELOW_HOME.map(|below| format!("{home}/{below}")));
    let mut places = Vec::new();
    for path in usual.chain(named) {
        let found = find_inside(root, &path).filter(|found| found.kind == FileType::RegularFile);
        let place = found.and_then(|found| found.path.to_str().map(str::to_owned));
        places.extend(place.filter(|place| !places.contains(place)));
    }
    places
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn javas_lists_are_found_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let root = || OwnedFd::from(File::open(folder.path()).unwrap());
        assert!(java_stores_of(&root(), Some("/usr/lib/jvm/x")).is_empty());
        for directory in
            ["etc/ssl/certs/java", "usr/lib/jvm/x/lib/security", "own/jre/lib/security"]
        {
            fs::create_dir_all(at(directory)).unwrap();
        }
        let debians = "/etc/ssl/certs/java/cacerts";
        fs::write(at(&debians[1..]), "").unwrap();
        symlink(debians, at("usr/lib/jvm/x/lib/security/cacerts")).unwrap();
        fs::write(at("own/jre/lib/security/cacerts"), "").unwrap();
        fs::create_dir_all(at("opt/java/openjdk/lib/security/cacerts")).unwrap();
        assert_eq!(java_stores_of(&root(), Some("/usr/lib/jvm/x")), [debians]);
        let own = java_stores_of(&root(), Some("/own/"));
        assert_eq!(own, [debians, "/own/jre/lib/security/cacerts"]);
    }

    #[test]
    fn a_file_is_found_whatever_is_renamed_meanwhile() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("file"), "found").unwrap();
        fs::write(&one, "").unwrap();
        let root = OwnedFd::from(File::open(folder.path()).unwrap());
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    fs::rename(&one, &other).unwrap();
                    fs::rename(&other, &one).unwrap();
                }
            });
            let read = || read_inside(&root, "/sub/../sub/../sub/../file", 100);
            let found = (0..1000).all(|_| read().is_ok_and(|bytes| bytes == b"found"));
            ended.store(true, Ordering::Relaxed);
            assert!(found);
        });
    }

    #[test]
    fn links_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("root/usr/bin")).unwrap();
        fs::write(at("secret"), "outside").unwrap();
        fs::write(at("root/usr/bin/python3.11"), "it").unwrap();
        symlink("usr/bin", at("root/bin")).unwrap();
        symlink("/bin/python3.11", at("root/usr/bin/python3")).unwrap();
        symlink("../../../../secret", at("root/out")).unwrap();
        symlink(at("secret"), at("root/absolute")).unwrap();
        let root = OwnedFd::from(File::open(at("root")).unwrap());
        let found = find_inside(&root, "/bin/python3").unwrap();
        assert_eq!(found.kind, FileType::RegularFile);
        assert_eq!(found.path, Path::new("/usr/bin/python3.11"));
        assert_eq!(read_inside(&root, "bin/python3", 10).unwrap(), b"it");
        assert!(read_inside(&root, "bin/python3", 1).is_err());
        for path in ["out", "absolute", "../secret", "usr/bin/none", "usr/bin/python3/x"] {
            assert_eq!(find_inside(&root, path), None, "{path}");
            assert!(read_inside(&root, path, 100).is_err(), "{path}");
        }
        assert!(read_inside(&root, "usr", 100).is_err());
    }
}
