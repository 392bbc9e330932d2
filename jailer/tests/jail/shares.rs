//! Mounts of shares: what the kernel lets their holder do, and what is refused.
#![expect(unsafe_code, reason = "sends and receives a descriptor")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use cloister_jailer::mount_calls::{receive_one, send_one};
use cloister_jailer::share::{ARGUMENT, REPLY_LEN, Reply, Stage, WRITABLE};

use super::harness::{jailer, socket_pair};

/// Asks for the mount of what lies at `path`.
fn mount(path: &Path, flags: u8) -> (Reply, Option<OwnedFd>) {
    let source = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: a C string; the result is a new descriptor.
    let source = unsafe { libc::open(source.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    assert!(source >= 0, "{path:?}");
    // SAFETY: it is new and nobody else's.
    let source = unsafe { OwnedFd::from_raw_fd(source) };
    let (ours, theirs) = socket_pair();
    send_one(ours.as_raw_fd(), &mut [flags], Some(source.as_raw_fd())).unwrap();
    let mut command = Command::new(jailer());
    command.arg(ARGUMENT).stdin(Stdio::null()).stderr(Stdio::null());
    let their = theirs.as_raw_fd();
    // SAFETY: the function makes one system call.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, move || put_in_place(their));
    }
    command.status().unwrap();
    drop(theirs);
    let mut buffer = [0; REPLY_LEN];
    match receive_one(ours.as_raw_fd(), &mut buffer) {
        // SAFETY: it is new and nobody else's.
        Ok((_, fd)) => (Reply::decode(&buffer).unwrap(), Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(_) => (Reply::decode(&buffer).unwrap(), None),
    }
}

/// In the child.
fn put_in_place(socket: i32) -> io::Result<()> {
    // SAFETY: duplicates a descriptor of our own.
    if unsafe { libc::dup2(socket, 3) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The path of a name beneath a mount, by this process's descriptors.
fn beneath(mount: &OwnedFd, name: &str) -> std::path::PathBuf {
    format!("/proc/self/fd/{}/{name}", mount.as_raw_fd()).into()
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn a_directory_is_read_only_unless_asked_otherwise() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("sub")).unwrap();
    fs::write(place.path().join("sub/file"), "data").unwrap();
    let (reply, mounted) = mount(place.path(), 0);
    assert_eq!(reply, Reply::Directory);
    let mounted = mounted.unwrap();
    assert_eq!(fs::read(beneath(&mounted, "sub/file")).unwrap(), b"data");
    assert_eq!(errno(File::create(beneath(&mounted, "sub/new"))), Some(libc::EROFS));
    assert_eq!(errno(fs::remove_file(beneath(&mounted, "sub/file"))), Some(libc::EROFS));
    let writable = File::options().write(true).open(beneath(&mounted, "sub/file"));
    assert_eq!(errno(writable), Some(libc::EROFS));

    let (reply, mounted) = mount(place.path(), WRITABLE);
    assert_eq!(reply, Reply::Directory);
    let mounted = mounted.unwrap();
    fs::write(beneath(&mounted, "new"), "#!/bin/sh\n").unwrap();
    assert_eq!(fs::read(place.path().join("new")).unwrap(), b"#!/bin/sh\n");
    // Nothing beneath it is executed, not even by who may.
    let program = beneath(&mounted, "new");
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(errno(Command::new(program).status()), Some(libc::EACCES));
}

#[test]
fn a_file_comes_alone_in_a_directory_of_its_own() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("one"), "1").unwrap();
    fs::write(place.path().join("two"), "2").unwrap();
    for flags in [0, WRITABLE] {
        let (reply, mounted) = mount(&place.path().join("one"), flags);
        assert_eq!(reply, Reply::File);
        let mounted = mounted.unwrap();
        let names = fs::read_dir(beneath(&mounted, "")).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
        assert_eq!(fs::read(beneath(&mounted, "file")).unwrap(), b"1");
        let written = fs::write(beneath(&mounted, "file"), "1");
        assert_eq!(errno(written), (flags == 0).then_some(libc::EROFS));
    }
}

#[test]
fn nothing_else_is_shared() {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [socket.as_path(), Path::new("/dev/null")] {
        let (reply, mounted) = mount(path, 0);
        assert_eq!(reply, Reply::Failed { stage: Stage::Kind, errno: libc::EINVAL });
        assert!(mounted.is_none());
    }
    let (reply, _) = mount(place.path(), 2);
    assert_eq!(reply, Reply::Failed { stage: Stage::Message, errno: libc::EINVAL });
}
