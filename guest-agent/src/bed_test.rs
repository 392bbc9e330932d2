//! A supervisor as an ordinary process, and the host's side of it, for tests.
//!
//! It is forked from the test and serves as in a machine, with Unix sockets in place of vsock, a
//! control group of its own in place of the root group, and orphans handed to it as to PID 1.
#![expect(unsafe_code, reason = "tests fork: cargo gives them no way to start this crate's code")]

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cloister_protocol::agent::Place;
use cloister_protocol::frame::{self, Decoder};
use cloister_protocol::message::{
    Attached, Event, Exec, ExitStatus, Identity, Request, Stdio, WindowSize,
};
use cloister_protocol::{CONTROL_PORT, VERSION};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Pid;

use crate::agent::{Bounds, Common, Shares};
use crate::command::Groups;
use crate::host::Host;
use crate::identity::IdentityError;
use crate::log::{Log, chain};
use crate::serve::{ServeError, Server};

/// Long enough for any machine: only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a cgroup v2 hierarchy may be.
const HIERARCHIES: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The file that tells which identity the supervisor took in last.
const IDENTITY: &str = "identity";

static BEDS: AtomicU32 = AtomicU32::new(0);

/// A running supervisor and the host's end of its control connection.
pub(crate) struct Bed {
    control: UnixStream,
    decoder: Decoder,
    received: Vec<u8>,
    directory: PathBuf,
    group: PathBuf,
    /// Whether its control groups have controllers.
    bounded: bool,
    supervisor: Option<Pid>,
    next_port: u32,
}

/// A command's streams, the host's ends.
#[derive(Default)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<UnixStream>,
    pub(crate) stdout: Option<UnixStream>,
    pub(crate) stderr: Option<UnixStream>,
}

/// Connects to Unix sockets that are named by their ports.
struct UnixHost {
    directory: PathBuf,
}

impl Host for UnixHost {
    fn connect(&self, port: u32) -> rustix::io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let address = SocketAddrUnix::new(self.directory.join(port.to_string()))?;
        rustix::net::connect(&socket, &address)?;
        Ok(socket)
    }

    fn take_in(&self, identity: &Identity) -> Result<(), IdentityError> {
        // The clock and the randomness are this machine's own.
        let word = identity.wall_ns.to_string();
        std::fs::write(self.directory.join(IDENTITY), word).unwrap();
        Ok(())
    }
}

impl Bed {
    /// A supervisor that has been greeted.
    pub(crate) fn start() -> Self {
        let mut bed = Self::start_silently();
        let hello = bed.event();
        assert!(matches!(hello, Event::Hello { version: VERSION, .. }), "{hello:?}");
        bed.send(&Request::Hello { version: VERSION, fork: None });
        bed
    }

    /// A supervisor whose greeting was not read.
    pub(crate) fn start_silently() -> Self {
        let name = format!(
            "cloister-test-{}-{}",
            std::process::id(),
            BEDS.fetch_add(1, Ordering::Relaxed)
        );
        let directory = std::env::temp_dir().join(&name);
        std::fs::create_dir(&directory).unwrap();
        std::fs::create_dir(directory.join("shares")).unwrap();
        let (group, bounded) = make_group(&name);
        let (control, theirs) = UnixStream::pair().unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        let supervisor = fork_supervisor(theirs, &directory, &group, bounded);
        Self {
            control,
            decoder: Decoder::new(),
            received: Vec::new(),
            directory,
            group,
            bounded,
            supervisor: Some(supervisor),
            next_port: 3,
        }
    }

    pub(crate) fn send(&mut self, request: &Request) {
        self.send_bytes(&frame::encode(request).unwrap());
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.control.write_all(bytes).unwrap();
    }

    pub(crate) fn control(&mut self) -> &mut UnixStream {
        &mut self.control
    }

    /// The next event; pongs too.
    pub(crate) fn event(&mut self) -> Event {
        loop {
            let mut bytes = &self.received[..];
            let event = self.decoder.decode::<Event>(&mut bytes).unwrap();
            self.received = bytes.to_vec();
            if let Some(event) = event {
                assert_eq!(event.validate(), Ok(()));
                return event;
            }
            let mut more = [0; 4096];
            let count = match self.control.read(&mut more) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                other => other.expect("an event in time"),
            };
            assert!(count > 0, "the supervisor closed the connection: {}", self.log());
            self.received.extend_from_slice(&more[..count]);
        }
    }

    /// A command with pipes. `shell` is run by `sh -c`.
    pub(crate) fn shell(&mut self, id: u32, shell: &str) -> Exec {
        let ports = self.next_port;
        self.next_port += 3;
        let arguments = ["sh", "-c", shell].map(|one| one.as_bytes().to_vec()).to_vec();
        Exec {
            id,
            place: Place::Machine,
            arguments,
            environment: vec![(b"PATH".to_vec(), b"/usr/bin:/bin".to_vec())],
            directory: b"/".to_vec(),
            stdio: Stdio::Streams { stdin: Some(ports), stdout: ports + 1, stderr: ports + 2 },
            timeout_ms: None,
        }
    }

    /// The same with a terminal.
    pub(crate) fn shell_in_terminal(&mut self, id: u32, shell: &str) -> Exec {
        let size = WindowSize { rows: 24, columns: 80 };
        let exec = self.shell(id, shell);
        Exec { stdio: Stdio::Terminal { port: self.next_port - 1, size }, ..exec }
    }

    /// Listens on the command's ports, asks for it and takes its connections. A terminal is in
    /// `stdout`.
    pub(crate) fn exec(&mut self, exec: Exec) -> Streams {
        let listeners = self.listen_for(&exec);
        self.send(&Request::Exec(exec));
        let [stdin, stdout, stderr] = listeners.map(|one| {
            one.map(|listener| {
                let stream = listener.accept().unwrap().0;
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream
            })
        });
        Streams { stdin, stdout, stderr }
    }

    /// Listens on the command's ports.
    pub(crate) fn listen_for(&self, exec: &Exec) -> [Option<UnixListener>; 3] {
        let listen = |port: u32| self.listen(port);
        match exec.stdio {
            Stdio::Terminal { port, .. } => [None, Some(listen(port)), None],
            Stdio::Streams { stdin, stdout, stderr } => {
                [stdin.map(listen), Some(listen(stdout)), Some(listen(stderr))]
            }
        }
    }

    /// A command without input.
    pub(crate) fn shell_without_input(&mut self, id: u32, shell: &str) -> Exec {
        let mut exec = self.shell(id, shell);
        if let Stdio::Streams { stdin, .. } = &mut exec.stdio {
            *stdin = None;
        }
        exec
    }

    /// Attaches commands: their new streams.
    pub(crate) fn attach(&mut self, ids: &[u32]) -> Vec<Streams> {
        let mut commands = Vec::new();
        let mut listeners = Vec::new();
        for id in ids {
            let [stdout, stderr] = [self.new_port(), self.new_port()];
            commands.push(Attached { id: *id, stdout, stderr });
            listeners.push([self.listen(stdout), self.listen(stderr)]);
        }
        self.send(&Request::Attach { commands });
        let accept = |listener: UnixListener| {
            let stream = listener.accept().unwrap().0;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            Some(stream)
        };
        let streams = listeners.into_iter().map(|[stdout, stderr]| Streams {
            stdin: None,
            stdout: accept(stdout),
            stderr: accept(stderr),
        });
        let streams = streams.collect();
        assert_eq!(self.event(), Event::Attached);
        streams
    }

    /// Ends the control connection, as a machine does that goes on from a saved one, and takes the next.
    pub(crate) fn leave(&mut self) {
        let listener = self.listen(CONTROL_PORT);
        self.control.shutdown(std::net::Shutdown::Both).unwrap();
        self.control = listener.accept().unwrap().0;
        self.control.set_read_timeout(Some(PATIENCE)).unwrap();
        self.decoder = Decoder::new();
        assert!(self.received.is_empty(), "the supervisor has spoken");
        std::fs::remove_file(self.directory.join(CONTROL_PORT.to_string())).unwrap();
        let hello = self.event();
        assert!(matches!(hello, Event::Hello { version: VERSION, .. }), "{hello:?}");
    }

    /// Greets the supervisor of a machine that goes on from a saved one.
    pub(crate) fn greet_anew(&mut self, wall_ns: u64) {
        let fork = Some(Identity { entropy: [7; 32], wall_ns });
        self.send(&Request::Hello { version: VERSION, fork });
    }

    /// Which identity the supervisor took in last.
    pub(crate) fn identity(&self) -> String {
        std::fs::read_to_string(self.directory.join(IDENTITY)).unwrap_or_default()
    }

    /// Whether the supervisor has said nothing that was not heard yet.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.control.set_nonblocking(true).unwrap();
        let silent = self.control.read(&mut [0]).is_err();
        self.control.set_nonblocking(false).unwrap();
        silent && self.received.is_empty()
    }

    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.directory.join(port.to_string())).unwrap()
    }

    /// Runs a command with its input closed: its output, its errors and its end.
    pub(crate) fn output_of(&mut self, exec: Exec) -> (String, String, ExitStatus) {
        let id = exec.id;
        let mut streams = self.exec(exec);
        streams.stdin = None;
        self.started(id);
        let (output, errors) = streams.read_all();
        (output, errors, self.exited(id))
    }

    /// The next event, which says that the command runs.
    pub(crate) fn started(&mut self, id: u32) {
        assert_eq!(self.event(), Event::Started { id });
    }

    /// The next event, which says how the command ended.
    pub(crate) fn exited(&mut self, id: u32) -> ExitStatus {
        match self.event() {
            Event::Exited { id: ended, status } if ended == id => status,
            other => panic!("{other:?} instead of the end of {id}"),
        }
    }

    /// Waits until the supervisor has ended: whether it was content, and what it logged.
    pub(crate) fn end(&mut self) -> (bool, String) {
        let supervisor = self.supervisor.take().unwrap();
        let status =
            rustix::process::waitpid(Some(supervisor), rustix::process::WaitOptions::empty());
        let (_, status) = status.unwrap().unwrap();
        (status.exit_status() == Some(0), self.log())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    pub(crate) fn group(&self) -> &Path {
        &self.group
    }

    /// Whether agents' bounds can be kept here.
    pub(crate) const fn is_bounded(&self) -> bool {
        self.bounded
    }

    /// A port of the host that was not used yet.
    pub(crate) fn new_port(&mut self) -> u32 {
        self.next_port += 1;
        self.next_port - 1
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn supervisor(&self) -> Pid {
        self.supervisor.unwrap()
    }

    /// The supervisor's memory that is backed by no file; some of it it has from the test.
    pub(crate) fn resident_kilobytes(&self) -> u32 {
        let pid = self.supervisor().as_raw_nonzero();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// How many descriptors the supervisor has open.
    pub(crate) fn descriptors(&self) -> usize {
        let pid = self.supervisor().as_raw_nonzero();
        std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ended = std::fs::write(self.group.join("cgroup.kill"), "1");
        if let Some(supervisor) = self.supervisor {
            let _ended = rustix::process::kill_process(supervisor, rustix::process::Signal::KILL);
            let none = rustix::process::WaitOptions::empty();
            let _reaped = rustix::process::waitpid(Some(supervisor), none);
        }
        eventually("the test's control groups are gone", || remove_groups(&self.group));
        let _gone = std::fs::remove_dir_all(&self.directory);
    }
}

impl Streams {
    /// Both outputs to their ends, at once as a reader of one alone could block the command.
    pub(crate) fn read_all(self) -> (String, String) {
        let errors = self.stderr.map(|mut stream| {
            std::thread::spawn(move || {
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                text
            })
        });
        let mut output = String::new();
        self.stdout.unwrap().read_to_string(&mut output).unwrap();
        (output, errors.map_or_else(String::new, |one| one.join().unwrap()))
    }

    pub(crate) fn stdin(&mut self) -> &mut UnixStream {
        self.stdin.as_mut().unwrap()
    }

    pub(crate) fn stdout(&mut self) -> &mut UnixStream {
        self.stdout.as_mut().unwrap()
    }

    /// Reads the output up to `wanted`, and gives all that came.
    pub(crate) fn read_until(&mut self, wanted: &str) -> String {
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains(wanted) {
            let mut byte = [0];
            let count = self.stdout().read(&mut byte).expect("output in time");
            assert!(count > 0, "the end before {wanted:?}: {:?}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&byte);
        }
        String::from_utf8(text).unwrap()
    }
}

/// Waits for something that no descriptor tells of.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn remove_groups(group: &Path) -> bool {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    std::fs::remove_dir(group).is_ok()
}

/// Below the root if its controllers can be had there, else below the group that the test is in,
/// which its user may own. And whether it has controllers.
fn make_group(name: &str) -> (PathBuf, bool) {
    let memberships = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = memberships.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let control = |group: &Path| {
        let file = group.join("cgroup.subtree_control");
        file.exists() && std::fs::write(file, "+cpu +memory +pids").is_ok()
    };
    let root = Path::new(HIERARCHIES[0]);
    if control(root) {
        let group = root.join(name);
        std::fs::create_dir(&group).unwrap();
        return (group.clone(), control(&group));
    }
    let group = HIERARCHIES
        .iter()
        .flat_map(|root| [Path::new(root).join(own), PathBuf::from(root)])
        .filter(|parent| parent.join("cgroup.kill").exists() || parent.join("cgroup.stat").exists())
        .map(|parent| parent.join(name))
        .find(|group| std::fs::create_dir(group).is_ok())
        .expect("these tests need a cgroup v2 hierarchy where they may make a group (as root)");
    (group, false)
}

fn fork_supervisor(control: UnixStream, directory: &Path, group: &Path, bounded: bool) -> Pid {
    control.set_nonblocking(true).unwrap();
    // SAFETY: the child has the one thread that called; glibc keeps its allocator usable in it, it
    // takes no other lock, and it leaves by `_exit`.
    let child = unsafe { libc::fork() };
    if child != 0 {
        return Pid::from_raw(child).expect("a child");
    }
    let code = std::panic::catch_unwind(|| be_supervisor(control, directory, group, bounded))
        .unwrap_or(101);
    // SAFETY: ends this process without running what belongs to the test's.
    unsafe { libc::_exit(code) }
}

/// Serves in the forked process.
fn be_supervisor(control: UnixStream, directory: &Path, group: &Path, bounded: bool) -> i32 {
    // Other tests' descriptors are inherited too; kept open here, they would never see an end.
    // SAFETY: the target descriptor is closed by it and belongs to another test's objects, whose
    // destructors never run in this process.
    let fd = unsafe { libc::dup3(control.as_raw_fd(), 3, libc::O_CLOEXEC) };
    let fd = if fd < 0 { control.as_raw_fd() } else { fd };
    assert_eq!(fd, 3);
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_close_range, 4, u32::MAX, 0) };
    std::mem::forget(control);
    // SAFETY: 3 is the control connection, just made, and has no other owner.
    let control = unsafe { std::os::fd::FromRawFd::from_raw_fd(3) };
    // SAFETY: sets a default disposition; the test program ignores the signal, as Rust's do.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    crate::sys::block_signals();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::APPEND;
    let output =
        rustix::fs::open(directory.join("log"), flags, Mode::from_raw_mode(0o600)).unwrap();
    let log = Log::to(output);
    let host = UnixHost { directory: directory.to_path_buf() };
    let groups = Groups::open(group.to_str().unwrap()).unwrap();
    let bounds = if bounded { Bounds::Kept } else { Bounds::Absent };
    let common = Common::new(Shares::Mounted(directory.join("shares")), bounds);
    let connect = || host.connect(CONTROL_PORT).map_err(ServeError::Attach);
    let server = Server::new(control, &host, &groups, &log, common);
    match server.and_then(|server| server.run(1, connect)) {
        Ok(()) => 0,
        Err(error) => {
            log.fatal(&error);
            assert!(!chain(&error).is_empty());
            1
        }
    }
}
