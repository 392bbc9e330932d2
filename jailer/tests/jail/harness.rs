//! Starts the jailer as the host does, and reads what the kernel says of the jailed process.
#![expect(unsafe_code, reason = "puts descriptors in place in a child, and waits for a sibling")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use cloister_jailer::spec::{Ids, Role, Spec};
use cloister_jailer::step::{Failure, REPORT_LEN, Report};

/// A failing test alone waits for it.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
/// The first of the ids that tests use as root, and how many.
const FIRST_ID: u32 = 1_990_000_000;

pub(crate) fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// A control group of a test's own; removed at its end.
pub(crate) struct Group(pub(crate) PathBuf);

impl Group {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("jail-test-{}-{number}", std::process::id());
        let folder = mount_point().join(name);
        fs::create_dir(&folder).expect("a control group");
        Self(folder)
    }

    pub(crate) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Ok(mut events) = File::open(self.0.join("cgroup.events")) else { return };
        fs::write(self.0.join("cgroup.kill"), "1").unwrap();
        let mut text = String::new();
        while events.rewind().is_ok() && events.read_to_string(&mut text).is_ok() {
            if text.contains("populated 0") {
                break;
            }
            text.clear();
            let mut poll =
                libc::pollfd { fd: events.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
            // SAFETY: one entry, alive; the kernel tells when the file has changed.
            unsafe { libc::poll(&raw mut poll, 1, 20_000) };
        }
        fs::remove_dir(&self.0).unwrap();
    }
}

fn mount_point() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let found = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| place.split(' ').nth(4)).flatten()
    });
    PathBuf::from(found.expect("cgroup version 2 is mounted"))
}

/// What is handed to a jailer.
pub(crate) struct Start {
    pub(crate) spec: Vec<u8>,
    pub(crate) program: File,
    pub(crate) group: Group,
    /// Descriptors to leave out.
    pub(crate) without: Vec<RawFd>,
}

pub(crate) fn spec() -> Spec {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let id = FIRST_ID + NEXT.fetch_add(1, Ordering::Relaxed);
    let ids = if is_root() {
        Ids { uid: id, gid: id, own: true }
    } else {
        // SAFETY: takes nothing and cannot fail.
        let uid = unsafe { libc::geteuid() };
        // SAFETY: the same.
        let gid = unsafe { libc::getegid() };
        Ids { uid, gid, own: false }
    };
    Spec { host_pid: std::process::id(), ids, limits: None, role: Role::Vmm, descriptors: 2048 }
}

/// A memory file with these bytes, executable and not readable.
pub(crate) fn memory_file(bytes: &[u8], seals: i32) -> File {
    // SAFETY: the name is a constant; the result is a new descriptor.
    let fd = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_ALLOW_SEALING) };
    assert!(fd >= 0);
    // SAFETY: new, owned by nothing else.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o111)).unwrap();
    // SAFETY: adds seals to a file of our own.
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) }, 0);
    file
}

pub(crate) const SEALS: i32 =
    libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;

pub(crate) fn jailer() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_cloister-jailer"))
}

impl Start {
    pub(crate) fn new() -> Self {
        let probe = jailer().with_file_name("examples").join("jail-probe");
        let bytes = fs::read(probe).expect("built with the tests: cargo build --examples");
        let program = memory_file(&bytes, SEALS);
        Self { spec: spec().encode().into(), program, group: Group::new(), without: Vec::new() }
    }

    /// Starts the jailer; what it and the jailed process report.
    pub(crate) fn go(self) -> (Result<Jailed, Failure>, Group) {
        let (control, theirs) = socket_pair();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut reports, report) = io::pipe().unwrap();
        let folder = File::open(&self.group.0).unwrap();
        let spec = memory_file(&self.spec, SEALS);
        // Far up, so that none is overwritten before it is put in place.
        let high = |fd: RawFd| {
            // SAFETY: duplicates a descriptor of our own.
            let fd = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 100) };
            assert!(fd >= 0);
            // SAFETY: new, owned by nothing else.
            unsafe { OwnedFd::from_raw_fd(fd) }
        };
        let sources = [
            theirs.as_raw_fd(),
            spec.as_raw_fd(),
            report.as_raw_fd(),
            self.program.as_raw_fd(),
            folder.as_raw_fd(),
        ];
        let sources = sources.map(high);
        // What a careless caller leaves open, without close-on-exec.
        // SAFETY: duplicates a descriptor of our own.
        let careless = unsafe { libc::fcntl(sources[1].as_raw_fd(), libc::F_DUPFD, 90) };
        assert!(careless >= 90);
        let places: Vec<(RawFd, RawFd)> = sources.iter().map(OwnedFd::as_raw_fd).zip(3..).collect();
        let without = self.without.clone();
        let mut command = Command::new(jailer());
        // A file that a process without Landlock could execute.
        let executable = File::open(jailer()).unwrap();
        command.env("SECRET", "1").stdin(executable).stdout(Stdio::null());
        let place = move || {
            for (from, to) in &places {
                // SAFETY: numbers; the child's descriptor table is its own.
                unsafe { libc::dup2(*from, *to) };
            }
            for fd in &without {
                // SAFETY: the same.
                unsafe { libc::close(*fd) };
            }
            Ok(())
        };
        // SAFETY: only system calls between fork and exec.
        unsafe { command.pre_exec(place) };
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        drop((sources, report, theirs));
        // SAFETY: made above, owned by nothing else.
        unsafe { libc::close(careless) };
        let mut bytes = Vec::new();
        reports.read_to_end(&mut bytes).unwrap();
        child.wait().unwrap();
        let reports: Vec<Report> =
            bytes.chunks(REPORT_LEN).map(|bytes| Report::decode(bytes).unwrap()).collect();
        let mut pid = None;
        let mut failure = None;
        for report in reports {
            match report {
                Report::Started { pid: started } => pid = Some(started),
                Report::Failed(failed) => failure = failure.or(Some(failed)),
            }
        }
        let jailed = pid.map(|pid| Jailed { pid, control: Some(control), reaped: false });
        let result = match failure {
            Some(failure) => {
                if let Some(mut jailed) = jailed {
                    jailed.wait();
                }
                Err(failure)
            }
            None => Ok(jailed.expect("a process or a failure")),
        };
        (result, self.group)
    }
}

pub(crate) fn socket_pair() -> (UnixDatagram, UnixDatagram) {
    let mut fds = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }, 0);
    // SAFETY: new, owned by nothing else.
    fds.map(|fd| unsafe { UnixDatagram::from_raw_fd(fd) }).into()
}

/// A jailed probe; killed when dropped.
pub(crate) struct Jailed {
    pub(crate) pid: i32,
    control: Option<UnixDatagram>,
    reaped: bool,
}

impl Jailed {
    /// A probe in a jail, ready.
    pub(crate) fn new() -> (Self, Group) {
        let (result, group) = Start::new().go();
        let jailed = result.unwrap_or_else(|failure| {
            panic!("{failure}: {}", io::Error::from_raw_os_error(failure.errno))
        });
        assert_eq!(jailed.ask(b'.'), Some(0));
        (jailed, group)
    }

    /// Lets it try something; `None`: it was killed for it.
    pub(crate) fn ask(&self, letter: u8) -> Option<i32> {
        let control = self.control.as_ref().unwrap();
        control.send(&[letter]).unwrap();
        let mut answer = [0; 4];
        match control.recv(&mut answer) {
            Ok(4) => Some(i32::from_le_bytes(answer)),
            Ok(_) => None,
            Err(error) => panic!("no answer to {:?}: {error}", char::from(letter)),
        }
    }

    pub(crate) fn take_control(&mut self) -> UnixDatagram {
        self.control.take().unwrap()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = 0;
        // SAFETY: waits for a child of this process: the jailer makes it one.
        assert_eq!(unsafe { libc::waitpid(self.pid, &raw mut status, 0) }, self.pid);
        self.reaped = true;
        std::os::unix::process::ExitStatusExt::from_raw(status)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The fields of its status.
    pub(crate) fn status(&self) -> BTreeMap<String, String> {
        self.read("status")
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect()
    }
}

impl Drop for Jailed {
    fn drop(&mut self) {
        if !self.reaped {
            // SAFETY: a child of ours that was not waited for, so its id is its own.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            self.wait();
        }
    }
}
