//! Shared directories: their mounts, and the file server that serves them.
//!
//! A share begins as a descriptor that the caller has opened and judged. The jailer makes a mount of it
//! that is nowhere, and the file server, in a jail of its own, is handed that mount and nothing else.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cloister_file_server::control::{Command, Event, MAX_DESCRIPTORS, MAX_MESSAGE};
use cloister_file_server::spec::{Kind, MAX_SHARES, Owner, SLOT_BYTES, SLOTS, ShareSpec};
use cloister_jailer::share::{ARGUMENT, REPLY_LEN, Reply, WRITABLE};
use cloister_jailer::spec::CONTROL_FD;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use super::share_error::ShareError;

use super::jail::Cell;
use super::place;
use super::process::{ProcessError, VmmProcess};
use crate::text::printable_line;

/// How long the jailer or the file server may take for one share. Milliseconds; seconds for one on a
/// file system of another machine.
const SHARE_LIMIT: Duration = Duration::from_secs(30);
/// How long a file server that does not answer may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(1);

/// A directory or regular file to be shared.
#[derive(Clone, Debug)]
pub struct Share {
    /// Under which the guest finds it: 1 to 64 of `[a-z0-9._-]`.
    pub name: String,
    /// The directory or file itself, opened by the caller (`O_PATH` is enough). What its path becomes
    /// later does not matter.
    pub source: Arc<OwnedFd>,
    /// Whether the guest may write.
    pub writable: bool,
    /// Whom the guest sees as owner.
    pub owner: Owner,
}

/// A share as the file server is told of it, and its mount.
type Mounted = (ShareSpec, OwnedFd);

fn system(what: &'static str) -> impl Fn(rustix::io::Errno) -> ShareError {
    move |errno| ShareError::System { what, source: errno.into() }
}

/// Checks what can be checked while nothing runs.
///
/// # Errors
/// A name or an owner is out of bounds, or a name comes twice.
pub fn check(shares: &[Share]) -> Result<(), ShareError> {
    if shares.len() > MAX_SHARES {
        return Err(ShareError::TooMany { count: shares.len() });
    }
    for (index, share) in shares.iter().enumerate() {
        share.spec(Kind::Directory).validate()?;
        if shares.iter().take(index).any(|other| other.name == share.name) {
            return Err(ShareError::Twice { name: share.name.clone() });
        }
    }
    Ok(())
}

/// Whose files are shared, as user and group: the file server acts for no other. Images belong to
/// nobody. `None`: only they are shared.
///
/// # Errors
/// Writable shares belong to different users, so no one process could write them all.
pub fn owner(shares: &[Share]) -> Result<Option<(u32, u32)>, ShareError> {
    let mut owner: Option<(&Share, (u32, u32))> = None;
    let files = shares.iter().filter(|share| matches!(share.owner, Owner::All { .. }));
    for share in files {
        let stat = rustix::fs::fstat(&share.source).map_err(system("look at a share"))?;
        let ids = (stat.st_uid, stat.st_gid);
        match owner {
            None => owner = Some((share, ids)),
            Some((first, (uid, _))) if uid != ids.0 && share.writable => {
                if first.writable {
                    let (first, second) = (first.name.clone(), share.name.clone());
                    return Err(ShareError::Owners { first, second });
                }
                owner = Some((share, ids));
            }
            Some(_) => {}
        }
    }
    Ok(owner.map(|(_, ids)| ids))
}

impl Share {
    fn spec(&self, kind: Kind) -> ShareSpec {
        ShareSpec { name: self.name.clone(), kind, writable: self.writable, owner: self.owner }
    }

    /// Has the jailer make the mount.
    async fn mount(&self, jailer: &Path) -> Result<(OwnedFd, Kind), ShareError> {
        let (ours, low) = pair()?;
        let ours = watched(ours)?;
        let spawn = |source| ProcessError::Spawn { path: jailer.to_owned(), source };
        let stderr = File::options().write(true).open("/dev/null").map_err(spawn)?;
        let theirs = place::high(&low).map_err(spawn)?;
        // The jailer alone is to have its end: else nobody would see that the jailer has gone.
        drop(low);
        let pid =
            place::spawn_with(jailer, Some(ARGUMENT), &[(theirs, CONTROL_FD)], &stderr.into());
        let _mounter = Mounter(pid.map_err(spawn)?);
        let name = || self.name.clone();
        let mode = [u8::from(self.writable) * WRITABLE];
        let asked = send(ours.get_ref().as_fd(), &mode, &[self.source.as_fd()]);
        asked.map_err(|_| ShareError::Silent { name: name() })?;
        let answer = ours.async_io(Interest::READABLE, |fd| receive_mount(fd.as_fd()));
        match timeout(SHARE_LIMIT, answer).await {
            Ok(Ok((Some(Reply::Directory), Some(mount)))) => Ok((mount, Kind::Directory)),
            Ok(Ok((Some(Reply::File), Some(mount)))) => Ok((mount, Kind::File)),
            Ok(Ok((Some(Reply::Failed { stage, errno }), _))) => {
                let source = io::Error::from_raw_os_error(errno);
                Err(ShareError::Mount { name: name(), stage, source })
            }
            _ => Err(ShareError::Silent { name: name() }),
        }
    }
}

/// The jailer's process that makes one mount. What has not answered when this is dropped has no reason
/// to live.
struct Mounter(Pid);

impl Drop for Mounter {
    fn drop(&mut self) {
        kill_process(self.0, Signal::KILL).ok();
        waitpid(Some(self.0), WaitOptions::empty()).ok();
    }
}

fn pair() -> Result<(OwnedFd, OwnedFd), ShareError> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(system("make a pair of sockets"))
}

fn watched(socket: OwnedFd) -> Result<AsyncFd<OwnedFd>, ShareError> {
    rustix::io::ioctl_fionbio(&socket, true).map_err(system("set up a socket"))?;
    place::watch(socket).map_err(|source| ShareError::System { what: "watch a socket", source })
}

/// All mounts at once, in the order of the shares.
async fn mount_all(jailer: &Path, shares: &[Share]) -> Result<Vec<Mounted>, ShareError> {
    // Dropped, it ends what it has begun.
    let mut begun = JoinSet::new();
    for (place, share) in shares.iter().cloned().enumerate() {
        let jailer = jailer.to_owned();
        begun.spawn(async move {
            let mounted = share.mount(&jailer).await;
            mounted.map(|(mount, kind)| (place, (share.spec(kind), mount)))
        });
    }
    let mut made = BTreeMap::new();
    while let Some(mounted) = begun.join_next().await {
        let lost =
            |error| ShareError::System { what: "mount a share", source: io::Error::other(error) };
        let (place, mounted) = mounted.map_err(lost)??;
        made.insert(place, mounted);
    }
    Ok(made.into_values().collect())
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_mount(socket: BorrowedFd<'_>) -> io::Result<(Option<Reply>, Option<OwnedFd>)> {
    let mut buffer = [0; REPLY_LEN + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let received = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut mount = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            mount = rights.last();
        }
    }
    Ok((buffer.get(..received.bytes).and_then(Reply::decode), mount))
}

/// The host's end of a file server's control socket. A clone is the same one.
#[derive(Clone, Debug)]
pub struct FileServer {
    control: Arc<Mutex<Control>>,
    jailer: PathBuf,
}

#[derive(Debug)]
struct Control {
    socket: AsyncFd<OwnedFd>,
    /// Whether a question was left without its answer, which may still come: nothing can be asked then.
    lost: bool,
}

/// A file server that runs, and what the vmm needs of it.
#[derive(Debug)]
pub struct Started {
    /// The process.
    pub process: VmmProcess,
    /// Takes further shares.
    pub server: FileServer,
    /// For the vmm: the bounce area, then the socket.
    pub for_vmm: [OwnedFd; 2],
}

impl FileServer {
    /// Starts the file server in its cell, and waits until it is confined and serves all of `shares`.
    ///
    /// The process is bound to the calling thread: when that ends, the kernel kills it.
    ///
    /// # Errors
    /// A share can't be mounted or is refused, or the server does not start; nothing runs then.
    pub async fn start(
        program: &Path,
        jailer: &Path,
        cell: Cell,
        shares: &[Share],
    ) -> Result<Started, ShareError> {
        let (control, control_end) = pair()?;
        let (vmm_end, server_end) = pair()?;
        let control = watched(control)?;
        let area = bounce_area()?;
        let mut process = VmmProcess::spawn(jailer, program, cell, control_end)?;
        let control = Arc::new(Mutex::new(Control { socket: control, lost: false }));
        let server = Self { control, jailer: jailer.to_owned() };
        match server.begin(area.as_fd(), server_end, shares).await {
            Ok(()) => {}
            Err(ShareError::Server) => {
                // It ended, and said why.
                let status = process.end(END_LIMIT).await;
                let said = printable_line(&String::from_utf8_lossy(&process.stderr()));
                return Err(ShareError::Ended { status, said });
            }
            Err(error) => return Err(error),
        }
        Ok(Started { process, server, for_vmm: [area, vmm_end] })
    }

    async fn begin(
        &self,
        area: BorrowedFd<'_>,
        to_vmm: OwnedFd,
        shares: &[Share],
    ) -> Result<(), ShareError> {
        let given = [area, to_vmm.as_fd()];
        if self.ask(&Command::Start, &given, SHARE_LIMIT).await? != Event::Ready {
            return Err(ShareError::Server);
        }
        for (spec, mount) in mount_all(&self.jailer, shares).await? {
            self.hand_over(spec, mount).await?;
        }
        Ok(())
    }

    /// Shares one more; the guest finds it at once.
    ///
    /// # Errors
    /// It can't be mounted, or the server refuses it; nothing has changed then.
    pub async fn add(&self, share: Share) -> Result<(), ShareError> {
        check(std::slice::from_ref(&share))?;
        let (mount, kind) = share.mount(&self.jailer).await?;
        self.hand_over(share.spec(kind), mount).await
    }

    async fn hand_over(&self, spec: ShareSpec, mount: OwnedFd) -> Result<(), ShareError> {
        let name = spec.name.clone();
        match self.ask(&Command::Add(spec), &[mount.as_fd()], SHARE_LIMIT).await? {
            Event::Added => Ok(()),
            Event::Refused(refusal) => Err(ShareError::Refused { name, refusal }),
            _ => Err(ShareError::Server),
        }
    }

    /// One question and its answer at a time.
    pub(super) async fn ask(
        &self,
        command: &Command,
        descriptors: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<Event, ShareError> {
        let bytes = postcard::to_allocvec(command).map_err(|_| ShareError::Server)?;
        let exchange = async {
            let mut control = self.control.lock().await;
            if std::mem::replace(&mut control.lost, true) {
                return Err(ShareError::Server);
            }
            let socket = &control.socket;
            let written =
                socket.async_io(Interest::WRITABLE, |fd| send(fd.as_fd(), &bytes, descriptors));
            written.await.map_err(|_| ShareError::Server)?;
            let mut buffer = [0; MAX_MESSAGE + 1];
            let read = socket.async_io(Interest::READABLE, |fd| {
                Ok(recv(fd, &mut buffer, RecvFlags::empty())?.0)
            });
            let length = read.await.map_err(|_| ShareError::Server)?;
            let packet = buffer.get(..length).filter(|packet| packet.len() <= MAX_MESSAGE);
            match packet.and_then(|packet| postcard::take_from_bytes(packet).ok()) {
                Some((event, [])) => {
                    control.lost = false;
                    Ok(event)
                }
                _ => Err(ShareError::Server),
            }
        };
        timeout(limit, exchange).await.unwrap_or(Err(ShareError::Server))
    }
}

/// What a vmm needs of a file server where there is none, and the end that has to stay open.
///
/// # Errors
/// The system refuses.
pub(super) fn unserved() -> Result<([OwnedFd; 2], OwnedFd), ShareError> {
    let (vmm_end, other) = pair()?;
    Ok(([bounce_area()?, vmm_end], other))
}

/// The slots between vmm and file server: of a fixed size, and empty pages until they are used.
fn bounce_area() -> Result<OwnedFd, ShareError> {
    let make = || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let area = memfd_create("shares", flags)?;
        rustix::fs::ftruncate(&area, u64::from(SLOTS) * SLOT_BYTES as u64)?;
        fcntl_add_seals(&area, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(area)
    };
    make().map_err(system("make the bounce area"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_acts_for_who_owns_what_it_writes() {
        let open = |path: &str| Arc::new(OwnedFd::from(File::open(path).unwrap()));
        let share = |path: &str, writable| Share {
            name: "s".into(),
            source: open(path),
            writable,
            owner: Owner::All { uid: 1, gid: 1 },
        };
        let many = vec![share("/", false); MAX_SHARES + 1];
        assert!(matches!(check(&many), Err(ShareError::TooMany { .. })));
        let image = Share { owner: Owner::Image { first_id: 1 }, ..share("/", false) };
        assert_eq!(owner(std::slice::from_ref(&image)).unwrap(), None);
        let folder = tempfile::tempdir().unwrap();
        let mine = folder.path().to_str().unwrap();
        let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let shares = [image, share("/proc/1", false), share(mine, true)];
        assert_eq!(owner(&shares).unwrap().map(|ids| ids.0), Some(me.0));
        if me.0 == 0 {
            rustix::fs::chown(mine, rustix::fs::Uid::from_raw(1234).into(), None).unwrap();
            assert_eq!(owner(&[share(mine, true)]).unwrap().map(|ids| ids.0), Some(1234));
            let two = [share(mine, true), share("/tmp", true)];
            assert!(matches!(owner(&two), Err(ShareError::Owners { .. })));
        }
    }

    #[test]
    fn vmm_and_file_server_mean_the_same_slots() {
        assert_eq!(cloister_vmm::spec::SHARE_SLOTS, SLOTS);
        assert_eq!(cloister_vmm::spec::SHARE_SLOT_BYTES, SLOT_BYTES);
        assert_eq!(cloister_jailer::spec::PROCESSES_FD, cloister_file_server::control::PROC_FD);
        let name = cloister_jailer::share::FILE_NAME.to_str().unwrap();
        assert_eq!(name, cloister_file_server::spec::FILE_NAME);
    }
}
