//! Shares through the real jailer and the real file server: mounts, jail, and what a guest could do.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use cloister::launch::jail::{JailSpec, LimitsWish};
use cloister::launch::shares::{FileServer, Share, ShareError, Started};
use cloister_file_server::spec::{Owner, SLOT_BYTES};
use rustix::fs::{Mode, OFlags};

use super::harness::Installation;

/// A file server in its jail, with the test in place of a vmm.
pub(super) struct Bed {
    pub(super) started: Started,
    area: File,
}

pub(super) fn source(path: &Path) -> Arc<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Arc::new(rustix::fs::open(path, flags, Mode::empty()).expect("a source"))
}

pub(super) fn share(name: &str, path: &Path, writable: bool) -> Share {
    let owner = Owner::All { uid: 1000, gid: 1000 };
    Share { name: name.into(), source: source(path), writable, owner }
}

/// A directory that the server's own user may use.
pub(super) fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("a mode");
    folder
}

async fn start(installation: &Installation, shares: &[Share]) -> Result<Bed, ShareError> {
    let mut bed = before_requests(installation, shares).await?;
    bed.init();
    Ok(bed)
}

/// A server that was asked for nothing yet.
pub(super) async fn before_requests(
    installation: &Installation,
    shares: &[Share],
) -> Result<Bed, ShareError> {
    let jail = JailSpec { limits: LimitsWish::NotAsked, ..JailSpec::default() };
    let cell = jail.file_server_cell(None).expect("a cell");
    let program = installation.path("bin/cloister-file-server");
    let jailer = installation.path("bin/cloister-jailer");
    let started = FileServer::start(&program, &jailer, cell, shares).await?;
    let area = File::from(started.for_vmm[0].try_clone().expect("a descriptor"));
    Ok(Bed { started, area })
}

impl Bed {
    /// INIT: version 7.38 and no feature.
    pub(super) fn init(&mut self) {
        self.ask(26, 1, &[7, 0, 0, 0, 38, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).expect("a start");
    }

    pub(super) fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        let length = u32::try_from(40 + body.len()).expect("a short request");
        let mut request = [length.to_le_bytes(), opcode.to_le_bytes()].concat();
        request.extend([9_u64.to_le_bytes(), node.to_le_bytes()].concat());
        request.extend([0; 16]);
        request.extend(body);
        self.area.write_all_at(&request, 0).expect("the area");
        let room = u32::try_from(SLOT_BYTES).expect("a length");
        let job: Vec<u8> = [0, length, room].iter().flat_map(|word| word.to_le_bytes()).collect();
        let socket = self.started.for_vmm[1].as_fd();
        let flags = rustix::net::SendFlags::NOSIGNAL;
        rustix::net::send(socket, &job, flags).expect("a server");
        let mut done = [0; 8];
        let flags = rustix::net::RecvFlags::empty();
        assert_eq!(rustix::net::recv(socket, &mut done, flags).expect("a server").0, 8);
        let length = u32::from_le_bytes([done[4], done[5], done[6], done[7]]);
        let mut reply = vec![0; length as usize];
        self.area.read_exact_at(&mut reply, 0).expect("the area");
        let error = i32::from_le_bytes(reply[4..8].try_into().expect("a header"));
        if error == 0 { Ok(reply[16..].to_vec()) } else { Err(-error) }
    }

    pub(super) fn lookup(&mut self, parent: u64, name: &str) -> Result<u64, i32> {
        let body = self.ask(1, parent, &[name.as_bytes(), &[0]].concat())?;
        Ok(u64::from_le_bytes(body[..8].try_into().expect("an entry")))
    }

    /// Makes a file with this content.
    fn make(&mut self, parent: u64, name: &str, content: &[u8]) -> Result<(), i32> {
        let mut body = (libc::O_RDWR | libc::O_CREAT).to_le_bytes().to_vec();
        body.extend(0o644_u32.to_le_bytes());
        body.extend([0; 8]);
        body.extend([name.as_bytes(), &[0]].concat());
        let body = self.ask(35, parent, &body)?;
        let (node, handle) = (&body[..8], &body[128..136]);
        let node = u64::from_le_bytes(node.try_into().expect("an entry"));
        let mut write = [handle, &[0; 8]].concat();
        write.extend(u32::try_from(content.len()).expect("a length").to_le_bytes());
        write.extend([0; 20]);
        write.extend(content);
        self.ask(16, node, &write).map(drop)
    }

    fn read(&mut self, node: u64) -> Result<Vec<u8>, i32> {
        let handle = self.ask(14, node, &[0; 8])?[..8].to_vec();
        let mut body = [&handle[..], &[0; 8]].concat();
        body.extend(4096_u32.to_le_bytes());
        body.extend([0; 20]);
        self.ask(15, node, &body)
    }

    fn pid(&self) -> u32 {
        self.started.process.id().expect("a process")
    }
}

#[tokio::test(flavor = "current_thread")]
async fn shares_are_served_from_a_jail() {
    let installation = Installation::jailed("ordinary");
    let (work, docs, single) = (folder(), folder(), folder());
    fs::write(docs.path().join("guide"), "read me").expect("a file");
    fs::write(single.path().join("settings"), "a = 1").expect("a file");
    fs::write(single.path().join("other"), "no").expect("a file");
    let shares = [
        share("work", work.path(), true),
        share("docs", docs.path(), false),
        share("settings", &single.path().join("settings"), false),
    ];
    let mut bed = start(&installation, &shares).await.expect("a server");

    let node = bed.lookup(1, "work").expect("a share");
    bed.make(node, "result", b"from the guest").expect("a file");
    let result = work.path().join("result");
    assert_eq!(fs::read(&result).expect("a file"), b"from the guest");
    let jailed = fs::metadata(format!("/proc/{}", bed.pid())).expect("a process");
    if rustix::process::geteuid().is_root() {
        assert!(fs::metadata(&result).expect("a file").uid() >= 1_900_000_000);
    }
    let docs_node = bed.lookup(1, "docs").expect("a share");
    let guide = bed.lookup(docs_node, "guide").expect("a file");
    assert_eq!(bed.read(guide).expect("content"), b"read me");
    assert_eq!(bed.make(docs_node, "new", b"x"), Err(libc::EROFS));
    let settings = bed.lookup(1, "settings").expect("a share");
    assert_eq!(bed.read(settings).expect("content"), b"a = 1");
    assert!(bed.lookup(settings, "other").is_err());

    // A further one while it runs.
    let more = folder();
    fs::write(more.path().join("late"), "later").expect("a file");
    assert_eq!(bed.lookup(1, "more"), Err(libc::ENOENT));
    let server = bed.started.server.clone();
    server.add(share("more", more.path(), false)).await.expect("a share");
    let more_node = bed.lookup(1, "more").expect("a share");
    let late = bed.lookup(more_node, "late").expect("a file");
    assert_eq!(bed.read(late).expect("content"), b"later");
    let twice = server.add(share("more", more.path(), false)).await;
    assert!(matches!(twice, Err(ShareError::Refused { .. })), "{twice:?}");

    // What the kernel says of it.
    let status = fs::read_to_string(format!("/proc/{}/status", bed.pid())).expect("a process");
    for line in
        ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
    {
        assert!(status.contains(line), "{line} not in\n{status}");
    }
    let _ = jailed;

    // The vmm goes: so does the server.
    let Bed { started, .. } = bed;
    let Started { mut process, server: kept, for_vmm } = started;
    drop(for_vmm);
    let status = process.end(std::time::Duration::from_secs(10)).await.expect("an end");
    assert!(status.success(), "{status} {}", String::from_utf8_lossy(&process.stderr()));
    assert!(matches!(kept.add(share("x", more.path(), false)).await, Err(ShareError::Server)));
}

#[tokio::test(flavor = "current_thread")]
async fn what_can_not_be_shared_is_told() {
    let installation = Installation::jailed("ordinary");
    let place = folder();
    let fifo = place.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o644.into(), 0)
        .expect("a pipe");
    let gone = place.path().join("gone");
    fs::create_dir(&gone).expect("a folder");
    let removed = share("a", &gone, false);
    fs::remove_dir(&gone).expect("a folder");
    for (shares, hint) in [
        (vec![share("a", &fifo, false)], "neither a directory nor a regular file"),
        (vec![share("a", Path::new("/dev/null"), true)], "neither a directory nor a regular file"),
        (vec![removed], "could not be found again"),
        (
            vec![share("a", place.path(), false), share("a", place.path(), true)],
            "share of this name",
        ),
        (vec![share("A/b", place.path(), false)], "out of bounds"),
    ] {
        let Err(error) = start(&installation, &shares).await else { panic!("{hint}") };
        let text = cloister::report::chain(&error);
        assert!(text.contains(hint), "{text}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_server_that_is_killed_leaves_nothing_and_its_socket_says_so() {
    let installation = Installation::jailed("ordinary");
    let place = folder();
    let bed = start(&installation, &[share("a", place.path(), true)]).await.expect("a server");
    let pid = rustix::process::Pid::from_raw(bed.pid().cast_signed()).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("a process");
    let mut byte = [0; 8];
    let ended =
        rustix::net::recv(&bed.started.for_vmm[1], &mut byte, rustix::net::RecvFlags::empty());
    assert!(matches!(ended, Ok((0, _)) | Err(rustix::io::Errno::CONNRESET)), "{ended:?}");
}
