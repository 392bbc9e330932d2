//! A traced server with one writable share, and requests to it.
#![expect(unsafe_code, reason = "puts descriptors in place in a child")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;

use cloister_file_server::control::{CONTROL_FD, Command, Event, Job, PROC_FD};
use cloister_file_server::limits::{SLOT_BYTES, SLOTS};
use cloister_file_server::spec::{Kind, Owner, ShareSpec};
use cloister_jailer::spec::Role;
use cloister_jailer::{filter, policy};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType,
};

use crate::tracer::{Seen, Traced};

/// A traced server.
pub(crate) struct Served {
    pub(crate) traced: Traced,
    control: OwnedFd,
    vmm: OwnedFd,
    area: File,
    mount: Option<OwnedFd>,
    /// The share's root.
    pub(crate) root: u64,
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

/// What confines the server from its execution on, as the jail does; the test executes it by a path, and the
/// kernel reads the ids and groups that it may not have in a jail.
fn jails_filter() -> Vec<libc::sock_filter> {
    let mut table = policy::of(Role::FileServer);
    let execution = table.iter().find(|line| i64::from(line.call) == libc::SYS_execveat).unwrap();
    table.push(policy::Line { call: u32::try_from(libc::SYS_execve).unwrap(), ..*execution });
    filter::compile(&table).unwrap()
}

impl Served {
    pub(crate) fn sharing(path: &Path) -> Self {
        let mut served = Self::before_requests(path);
        // INIT: version 7.38, and every feature there is.
        let body = [words(&[7, 38, 1 << 17, u32::MAX]), vec![0xff; 48]].concat();
        served.ask(26, 0, &body).unwrap();
        served.root = served.lookup(1, "work");
        served
    }

    /// With its share, and asked for nothing yet.
    pub(crate) fn before_requests(path: &Path) -> Self {
        let (control, theirs) = pair();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cloister-file-server"));
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        let place = move || {
            let place = |from: i32, to: i32| {
                // SAFETY: numbers; the child's descriptor table is its own.
                if unsafe { libc::dup2(from, to) } < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            };
            place(theirs.as_raw_fd(), CONTROL_FD)?;
            // SAFETY: a constant path.
            let own = unsafe { libc::open(c"/proc/self/fd".as_ptr(), libc::O_RDONLY) };
            if own == PROC_FD { Ok(()) } else { place(own, PROC_FD) }
        };
        // SAFETY: only system calls between fork and exec.
        unsafe { command.pre_exec(place) };
        let traced = Traced::start(command, jails_filter());
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let area = File::from(rustix::fs::memfd_create("area", flags).unwrap());
        area.set_len(SLOT_BYTES as u64 * u64::from(SLOTS)).unwrap();
        rustix::fs::fcntl_add_seals(&area, SealFlags::SHRINK | SealFlags::GROW).unwrap();
        let (vmm, servers) = pair();
        let mut served = Self { traced, control, vmm, area, mount: None, root: 0 };
        let start = served.tell(&Command::Start, &[served.area.as_fd(), servers.as_fd()]);
        assert_eq!(start, Event::Ready);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        served.mount = Some(rustix::fs::open(path, flags, Mode::empty()).unwrap());
        assert_eq!(served.add(), Event::Added);
        served
    }

    /// What it leaves to another server.
    pub(crate) fn save(&self) -> File {
        let state = File::from(rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC).unwrap());
        let event = self.tell(&Command::Save, &[state.as_fd()]);
        assert_eq!(event, Event::Saved { bytes: state.metadata().unwrap().len() });
        state
    }

    /// Goes on where another one was.
    pub(crate) fn restore(&self, state: &File) {
        assert_eq!(self.tell(&Command::Restore, &[state.as_fd()]), Event::Restored);
    }

    fn add(&self) -> Event {
        let owner = Owner::All { uid: 1000, gid: 1001 };
        let spec = ShareSpec { name: "work".into(), kind: Kind::Directory, writable: true, owner };
        self.tell(&Command::Add(spec), &[self.mount.as_ref().unwrap().as_fd()])
    }

    /// Asks for the share once more, which is refused.
    pub(crate) fn add_again(&self) {
        let event = self.add();
        assert!(matches!(event, Event::Refused(_)), "{event:?}");
    }

    fn tell(&self, command: &Command, descriptors: &[std::os::fd::BorrowedFd<'_>]) -> Event {
        let bytes = postcard::to_allocvec(command).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
        let parts = [io::IoSlice::new(&bytes)];
        let flags = SendFlags::NOSIGNAL;
        rustix::net::sendmsg(&self.control, &parts, &mut ancillary, flags).unwrap();
        let mut answer = [0; 256];
        let length = rustix::net::recv(&self.control, &mut answer, RecvFlags::empty()).unwrap().0;
        postcard::from_bytes(&answer[..length]).unwrap()
    }

    /// A request; its reply's body or its error.
    pub(crate) fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        self.send(opcode, node, body);
        let mut done = [0; 8];
        let length = rustix::net::recv(&self.vmm, &mut done, RecvFlags::empty()).unwrap().0;
        assert_eq!(length, done.len(), "the server has ended");
        let mut reply = vec![0; usize::try_from(word(&done, 4)).unwrap()];
        self.area.read_exact_at(&mut reply, 0).unwrap();
        if reply.is_empty() {
            return Ok(reply);
        }
        match word(&reply, 4).cast_signed() {
            0 => Ok(reply[16..].to_vec()),
            error => Err(-error),
        }
    }

    /// The same request in every slot at once; waits for all replies.
    pub(crate) fn ask_in_every_slot(&mut self, opcode: u32, node: u64, body: &[u8]) {
        for slot in 0..SLOTS {
            self.send_in(slot, opcode, node, body);
        }
        let mut done = [0; 8];
        for _ in 0..SLOTS {
            let length = rustix::net::recv(&self.vmm, &mut done, RecvFlags::empty()).unwrap().0;
            assert_eq!(length, done.len(), "the server has ended");
        }
    }

    /// A request without waiting for the reply.
    pub(crate) fn send(&mut self, opcode: u32, node: u64, body: &[u8]) {
        self.send_in(0, opcode, node, body);
    }

    fn send_in(&self, slot: u32, opcode: u32, node: u64, body: &[u8]) {
        let length = u32::try_from(40 + body.len()).unwrap();
        let mut request = words(&[length, opcode]);
        request.extend([2_u64.to_le_bytes(), node.to_le_bytes()].concat());
        request.extend(words(&[4242, 4343, 17, 0]));
        request.extend(body);
        self.area.write_all_at(&request, u64::from(slot) * SLOT_BYTES as u64).unwrap();
        let reply_bytes = u32::try_from(SLOT_BYTES).unwrap();
        let job = Job { slot, request_bytes: length, reply_bytes };
        rustix::net::send(&self.vmm, &job.encode(), SendFlags::NOSIGNAL).unwrap();
    }

    /// Waits until the server has closed its socket.
    pub(crate) fn await_end(&self) {
        let mut message = [0; 8];
        while rustix::net::recv(&self.vmm, &mut message, RecvFlags::empty())
            .is_ok_and(|(got, _)| got > 0)
        {}
    }

    pub(crate) fn lookup(&mut self, parent: u64, name: &str) -> u64 {
        long(&self.ask(1, parent, &[name.as_bytes(), &[0]].concat()).unwrap(), 0)
    }

    /// The vmm goes away, and so does the server.
    pub(crate) fn finish(self) -> (BTreeSet<Seen>, i32) {
        let Self { traced, control, vmm, .. } = self;
        drop(vmm);
        let result = traced.finish();
        drop(control);
        result
    }

    /// The host goes away, and so does the server.
    pub(crate) fn hang_up(self) -> (BTreeSet<Seen>, i32) {
        let Self { traced, control, vmm, .. } = self;
        drop(control);
        let result = traced.finish();
        drop(vmm);
        result
    }
}

pub(crate) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(crate) fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_le_bytes()).collect()
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
