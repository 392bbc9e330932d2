//! Carries messages between `/dev/fuse` and a server, as the vmm does between a guest's queue and the server.
#![expect(
    unsafe_code,
    reason = "puts descriptors in place in a child, and leaves a mount namespace"
)]

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;

use cloister_file_server::control::{CONTROL_FD, Command, Done, Event, Job, PROC_FD};
use cloister_file_server::limits::{SLOT_BYTES, SLOTS};
use cloister_file_server::spec::{Kind, Owner, ShareSpec};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType,
};
use rustix::thread::UnshareFlags;

/// A directory, served and mounted. The mount is this thread's alone.
pub(crate) struct Mounted {
    /// Where it is mounted.
    pub(crate) path: PathBuf,
    place: tempfile::TempDir,
    server: Child,
    _control: OwnedFd,
}

/// What both directions share.
struct Carrier {
    fuse: File,
    area: File,
    server: OwnedFd,
}

/// Runs a test that mounts in a thread of its own, where this machine can.
pub(crate) fn alone(test: impl FnOnce() + Send + 'static) {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        println!("skipped: needs root and /dev/fuse");
        return;
    }
    let ended = thread::spawn(|| {
        // SAFETY: no other thread depends on what this one shares no more.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .unwrap();
        test();
    });
    if let Err(panic) = ended.join() {
        std::panic::resume_unwind(panic);
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

fn start(control: OwnedFd) -> Child {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cloister-file-server"));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    let own = File::open("/proc").unwrap();
    let place = move || {
        let place = |from: i32, to: i32| {
            // SAFETY: numbers; the child's descriptor table is its own.
            if unsafe { libc::dup2(from, to) } < 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(())
            }
        };
        place(control.as_raw_fd(), CONTROL_FD)?;
        // SAFETY: a constant path, below a descriptor that is open.
        let own = unsafe { libc::openat(own.as_raw_fd(), c"self/fd".as_ptr(), libc::O_RDONLY) };
        if own == PROC_FD { Ok(()) } else { place(own, PROC_FD) }
    };
    // SAFETY: only system calls between fork and exec.
    unsafe { command.pre_exec(place) };
    command.spawn().unwrap()
}

fn tell(control: &OwnedFd, command: &Command, descriptors: &[BorrowedFd<'_>]) -> Event {
    let bytes = postcard::to_allocvec(command).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    let parts = [io::IoSlice::new(&bytes)];
    rustix::net::sendmsg(control, &parts, &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    let mut answer = [0; 256];
    let length = rustix::net::recv(control, &mut answer, RecvFlags::empty()).unwrap().0;
    postcard::from_bytes(&answer[..length]).unwrap()
}

impl Mounted {
    /// Serves a directory, writable, and mounts what is served.
    pub(crate) fn sharing(shared: &Path) -> Self {
        let (control, theirs) = pair();
        let server = start(theirs);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let area = File::from(rustix::fs::memfd_create("area", flags).unwrap());
        area.set_len(SLOT_BYTES as u64 * u64::from(SLOTS)).unwrap();
        rustix::fs::fcntl_add_seals(&area, SealFlags::SHRINK | SealFlags::GROW).unwrap();
        let (vmm, servers) = pair();
        let ready = tell(&control, &Command::Start, &[area.as_fd(), servers.as_fd()]);
        assert_eq!(ready, Event::Ready);
        drop(servers);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let shared = rustix::fs::open(shared, flags, Mode::empty()).unwrap();
        let owner = Owner::All { uid: 0, gid: 0 };
        let spec = ShareSpec { name: "work".into(), kind: Kind::Directory, writable: true, owner };
        assert_eq!(tell(&control, &Command::Add(spec), &[shared.as_fd()]), Event::Added);

        let fuse = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let place = tempfile::tempdir().unwrap();
        // As virtio-fs has it: permissions are the kernel's to check, for all users.
        let fd = fuse.as_raw_fd();
        let options = format!(
            "fd={fd},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other\0"
        );
        let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("cloister", place.path(), "fuse", flags, Some(options)).unwrap();
        carry(Arc::new(Carrier { fuse, area, server: vmm }));
        Self { path: place.path().join("work"), place, server, _control: control }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The connection ends with its only mount; then its carrier, whose socket the server waits for.
        rustix::mount::unmount(self.place.path(), UnmountFlags::DETACH).ok();
        let status = self.server.wait().unwrap();
        assert!(status.success() || thread::panicking(), "{status}");
    }
}

/// Two threads: requests to the server, replies back. Both end with the mount.
fn carry(carrier: Arc<Carrier>) {
    let (give, free) = mpsc::channel();
    for slot in 0..SLOTS {
        give.send(slot).unwrap();
    }
    let back = Arc::clone(&carrier);
    thread::spawn(move || {
        let mut done = [0; Done::LEN];
        while let Ok((Done::LEN, _)) =
            rustix::net::recv(&back.server, &mut done, RecvFlags::empty())
        {
            let Done { slot, reply_bytes } = Done::decode(&done).unwrap();
            let mut reply = vec![0; usize::try_from(reply_bytes).unwrap()];
            back.area.read_exact_at(&mut reply, u64::from(slot) * SLOT_BYTES as u64).unwrap();
            if !reply.is_empty() {
                // The kernel waits no more for what was interrupted.
                (&back.fuse).write_all(&reply).ok();
            }
            if give.send(slot).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        let mut request = vec![0; SLOT_BYTES];
        // Fails when the mount is gone.
        while let Ok(length) = (&carrier.fuse).read(&mut request) {
            let Ok(slot) = free.recv() else { break };
            let place = u64::from(slot) * SLOT_BYTES as u64;
            carrier.area.write_all_at(&request[..length], place).unwrap();
            let (request_bytes, reply_bytes) =
                (length.try_into().unwrap(), SLOT_BYTES.try_into().unwrap());
            let job = Job { slot, request_bytes, reply_bytes };
            if rustix::net::send(&carrier.server, &job.encode(), SendFlags::NOSIGNAL).is_err() {
                break;
            }
        }
        // The other direction waits for the server, which waits for this.
        rustix::net::shutdown(&carrier.server, rustix::net::Shutdown::Both).ok();
    });
}
