//! The vmm process and the host's end of its control socket.
#![expect(unsafe_code, reason = "hands descriptors to a child and receives packets")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use cloister_vmm::control::{CONTROL_FD, Command, Event, Stats};
use cloister_vmm::exit::{Exit, ExitCode};
use cloister_vmm::snapshot::Snapshot;
use cloister_vmm::spec::VmSpec;
use cloister_vmm::toy::{self, Note};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// A vmm that does not answer for this long is broken; only a failing test ever waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Vmm {
    child: Child,
    control: UnixDatagram,
    log: Option<File>,
    /// A message that was looked at before its time.
    early: Option<Event>,
}

impl Vmm {
    /// Starts the process; nothing is sent yet.
    pub(crate) fn spawn() -> Self {
        let (mut command, control) = command();
        let child = command.spawn().unwrap();
        Self { child, control, log: None, early: None }
    }

    pub(crate) fn start(spec: VmSpec, kernel: &[u8]) -> Self {
        let mut vmm = Self::spawn();
        let files = Files::new(&spec, kernel);
        vmm.send(&Command::Start(spec), &files.descriptors());
        vmm.log = Some(files.into_log());
        vmm
    }

    pub(crate) fn start_toy(code: &[u8]) -> Self {
        let spec = VmSpec { vcpus: 1, memory_mib: 64, extra_cmdline: String::new() };
        Self::start(spec, &toy::elf(code, Note::Pvh))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn send(&mut self, command: &Command, fds: &[RawFd]) {
        send(&self.control, command, fds);
    }

    /// Reads messages up to this one.
    pub(crate) fn receive_until(&mut self, wanted: &Event) {
        while self.receive() != *wanted {}
    }

    /// Where the guest's serial log comes out.
    pub(crate) fn set_log(&mut self, log: File) {
        self.log = Some(log);
    }

    pub(crate) fn send_raw(&self, bytes: &[u8]) {
        self.control.send(bytes).unwrap();
    }

    pub(crate) fn receive(&mut self) -> Event {
        self.early.take().unwrap_or_else(|| receive(&self.control))
    }

    /// Whether its first message is that its counter could not be set to the one that was saved.
    pub(crate) fn is_late(&mut self) -> bool {
        let first = self.receive();
        let is_late = matches!(&first, Event::Exited(Exit { code: ExitCode::Kvm, detail })
            if detail.contains("did not take the saved time-stamp counter"));
        self.early = Some(first);
        is_late
    }

    pub(crate) fn stats(&mut self) -> Stats {
        self.send(&Command::Stats, &[]);
        match self.receive() {
            Event::Stats(stats) => stats,
            other => panic!("{other:?}"),
        }
    }

    /// Reads messages up to the last one.
    pub(crate) fn end(&mut self) -> Exit {
        loop {
            if let Event::Exited(exit) = self.receive() {
                return exit;
            }
        }
    }

    /// Waits for `count` bytes of the serial log.
    pub(crate) fn read_log(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.log.as_mut().unwrap().read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Empties the log pipe without waiting.
    pub(crate) fn drain_log(&mut self) {
        self.take_log();
    }

    /// What the log pipe holds.
    pub(crate) fn take_log(&mut self) -> Vec<u8> {
        let mut pending: libc::c_int = 0;
        let fd = self.log.as_ref().unwrap().as_raw_fd();
        // SAFETY: FIONREAD writes one int.
        let asked = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut pending) };
        assert_eq!(asked, 0);
        self.read_log(usize::try_from(pending).unwrap())
    }

    /// Closes the control socket, then waits.
    pub(crate) fn hang_up(self) -> (i32, String) {
        let Self { child, control, log, .. } = self;
        drop(control);
        finish(child, log)
    }

    /// Waits for the process; its exit status (128 + signal if killed) and the serial log.
    pub(crate) fn wait(self) -> (i32, String) {
        let Self { child, control, log, .. } = self;
        let result = finish(child, log);
        drop(control);
        result
    }
}

/// The program with its end of a control socket, and the host's end.
pub(crate) fn command() -> (Process, UnixDatagram) {
    let (ours, theirs) = seqpacket_pair();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = Process::new(env!("CARGO_BIN_EXE_cloister-vmm"));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    // Kept by the command until that is dropped.
    let place = move || {
        // SAFETY: both are plain numbers; the child's descriptor table is its own.
        match unsafe { libc::dup2(theirs.as_raw_fd(), CONTROL_FD) } {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(place) };
    (command, ours)
}

/// Sends a message with its descriptors.
pub(crate) fn send(control: &UnixDatagram, command: &Command, fds: &[RawFd]) {
    let bytes = postcard::to_allocvec(command).unwrap();
    control.send_with_fds(&[bytes.as_slice()], fds).unwrap();
}

/// The next message.
pub(crate) fn receive(control: &UnixDatagram) -> Event {
    let mut buffer = [0; 16 << 10];
    // With a time limit set, a stop of the whole machine (a snapshot, say) shows as EINTR.
    let bytes = loop {
        match control.recv(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            answer => break answer.expect("an answer"),
        }
    };
    assert_ne!(bytes, 0, "the vmm closed the control socket");
    postcard::from_bytes(&buffer[..bytes]).unwrap()
}

/// What a start message carries, and the host's end of the log.
pub(crate) struct Files {
    kvm: File,
    pub(crate) memory: File,
    kernel: File,
    root: File,
    pub(crate) log_writer: File,
    log: File,
}

impl Files {
    pub(crate) fn new(spec: &VmSpec, kernel: &[u8]) -> Self {
        let kvm = kvm();
        let memory = sealed_file("memory", u64::from(spec.memory_mib) << 20);
        let mut kernel_file = sealed_file("kernel", kernel.len() as u64);
        kernel_file.write_all(kernel).unwrap();
        let mut root = sealed_file("root", 4096);
        root.write_all(&[1; 4096]).unwrap();
        let (log, log_writer) = log_pipe();
        Self { kvm, memory, kernel: kernel_file, root, log_writer, log }
    }

    pub(crate) fn descriptors(&self) -> [RawFd; 5] {
        [&self.kvm, &self.memory, &self.kernel, &self.root, &self.log_writer]
            .map(AsRawFd::as_raw_fd)
    }

    /// Closes all but the log.
    pub(crate) fn into_log(self) -> File {
        self.log
    }
}

fn finish(mut child: Child, log: Option<File>) -> (i32, String) {
    let status = child.wait().unwrap();
    let mut text = String::new();
    if let Some(mut log) = log {
        log.read_to_string(&mut text).unwrap();
    }
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    (status.code().unwrap_or_else(|| 128 + signal.unwrap_or(0)), text)
}

pub(crate) fn seqpacket_pair() -> (UnixDatagram, OwnedFd) {
    let mut fds = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for the two descriptors.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) };
    assert_eq!(made, 0);
    // SAFETY: new, owned by nothing else.
    let ours = unsafe { UnixDatagram::from_raw_fd(fds[0]) };
    // SAFETY: new, owned by nothing else.
    (ours, unsafe { OwnedFd::from_raw_fd(fds[1]) })
}

pub(crate) fn sealed_file(name: &str, bytes: u64) -> File {
    let file = memory_file(name);
    file.set_len(bytes).unwrap();
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    // SAFETY: adds seals to a descriptor of our own.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
    file
}

/// A file that can be written.
pub(crate) fn empty_file() -> File {
    memory_file("empty")
}

/// A saved machine's state as it is to be when a machine goes on from it only now. There are KVMs on which nobody can
/// set a guest's time-stamp counter: it always is the host's (kvm-pvm), so its distance from that is 0. There it has
/// gone on since the state was `saved`, and the vmm takes a second of that for an error.
pub(crate) fn state_by_now(state: &File, saved: Instant) -> File {
    let mut bytes = vec![0; usize::try_from(state.metadata().unwrap().len()).unwrap()];
    state.read_exact_at(&mut bytes, 0).unwrap();
    let mut snapshot = Snapshot::decode(&bytes).unwrap();
    let body = &mut snapshot.body;
    let ticks = saved.elapsed().as_micros() * u128::from(body.tsc_khz) / 1000;
    for vcpu in body.vcpus.iter_mut().filter(|vcpu| vcpu.tsc_offset == 0) {
        vcpu.tsc += u64::try_from(ticks).unwrap();
    }
    let file = empty_file();
    file.write_all_at(&snapshot.encode().unwrap(), 0).unwrap();
    file
}

fn memory_file(name: &str) -> File {
    let name = std::ffi::CString::new(name).unwrap();
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string; the call returns a new descriptor.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    assert!(fd >= 0);
    // SAFETY: new, owned by nothing else.
    unsafe { File::from_raw_fd(fd) }
}

pub(crate) fn kvm() -> File {
    File::options().read(true).write(true).open("/dev/kvm").unwrap()
}

/// Nobody can write a memory file from now on that nobody has mapped.
pub(crate) fn seal_writes(file: &File) {
    // SAFETY: adds seals to a descriptor of our own.
    let sealed =
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_FUTURE_WRITE) };
    assert_eq!(sealed, 0, "{}", std::io::Error::last_os_error());
}

pub(crate) fn log_pipe() -> (File, File) {
    let (reader, writer) = pipe();
    // SAFETY: sets flags of a new descriptor.
    unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    (reader, writer)
}

pub(crate) fn pipe() -> (File, File) {
    let mut fds = [-1; 2];
    // SAFETY: `fds` has room for the two descriptors.
    assert_eq!(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: new, owned by nothing else.
    let reader = unsafe { File::from_raw_fd(fds[0]) };
    // SAFETY: new, owned by nothing else.
    (reader, unsafe { File::from_raw_fd(fds[1]) })
}
