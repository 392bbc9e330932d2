//! A thread that handles requests, one after the other: takes a job from the vmm, checks the request,
//! lets the library and the router serve it, and says when it is done.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{RecvFlags, SendFlags, recv, send};
use virtiofsd::fuse::{LkIn, LkOut, OutHeader};
use virtiofsd::server::Server;
use vm_memory::ByteValued;

use crate::control::{Done, Job};
use crate::decode::{self, HEADER, Head, Refused, WRITE_ARGUMENTS, Way, opcode};
use crate::limits::MAX_PRIVATE_REQUEST;
use crate::locks::Kind;
use crate::memory::{Bounce, Checked, WorkerMemory};
use crate::router::Router;

/// Bytes of a reply's header.
const REPLY_HEADER: usize = size_of::<OutHeader>();

/// Why a worker ends.
#[derive(Debug, thiserror::Error)]
pub enum WorkerEnd {
    /// The vmm has gone.
    #[error("the vmm closed its socket")]
    VmmGone,
    /// It sent something that is no job.
    #[error("the vmm sent a job that is none")]
    NoJob,
    /// The system refuses.
    #[error("the socket to the vmm")]
    Socket(#[source] io::Error),
    /// Memory can't be had or used.
    #[error("the memory of a worker")]
    Memory(#[source] io::Error),
}

/// What every worker uses.
#[derive(Clone)]
pub struct Surroundings {
    /// Where jobs come from.
    pub vmm: Arc<OwnedFd>,
    /// Their slots.
    pub bounce: Bounce,
    /// Decodes requests.
    pub server: Arc<Server<Router>>,
    /// Serves them.
    pub router: Router,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("router", &self.router).finish_non_exhaustive()
    }
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    surroundings: Surroundings,
    memory: WorkerMemory,
    copy: Vec<u8>,
}

impl Worker {
    /// A worker that has not begun.
    ///
    /// # Errors
    /// The system refuses memory.
    pub fn new(surroundings: Surroundings) -> Result<Self, WorkerEnd> {
        let memory = WorkerMemory::new(&surroundings.bounce).map_err(WorkerEnd::Memory)?;
        Ok(Self { surroundings, memory, copy: Vec::with_capacity(MAX_PRIVATE_REQUEST) })
    }

    /// Works until the vmm is gone.
    pub fn run(&mut self) -> WorkerEnd {
        loop {
            if let Err(end) = self.turn() {
                return end;
            }
        }
    }

    fn turn(&mut self) -> Result<(), WorkerEnd> {
        let vmm = Arc::clone(&self.surroundings.vmm);
        // One byte more, so that a longer message can't pass.
        let mut message = [0; Job::LEN + 1];
        let length = match recv(vmm.as_fd(), &mut message, RecvFlags::empty()) {
            Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => return Err(WorkerEnd::VmmGone),
            Ok((length, _)) => length,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(errno) => return Err(WorkerEnd::Socket(errno.into())),
        };
        let job = message.get(..length).and_then(Job::decode).ok_or(WorkerEnd::NoJob)?;
        let checked = Checked::new(job).ok_or(WorkerEnd::NoJob)?;
        let reply = self.handle(checked).map_err(WorkerEnd::Memory)?;
        let done = Done { slot: job.slot, reply_bytes: u32::try_from(reply).unwrap_or(0) };
        match send(vmm.as_fd(), &done.encode(), SendFlags::NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Err(WorkerEnd::VmmGone),
            Err(errno) => Err(WorkerEnd::Socket(errno.into())),
        }
    }

    /// Serves a request; the reply's length, 0 for none.
    ///
    /// # Errors
    /// Never with a checked job, but for the system's.
    pub fn handle(&mut self, job: Checked) -> io::Result<usize> {
        let router = self.surroundings.router.clone();
        let _turn = router.turn();
        let total = job.request_bytes();
        let mut header = [0; HEADER];
        let start = header.get_mut(..total.min(HEADER)).unwrap_or_default();
        self.memory.copy(job, start)?;
        // Only to know how much to copy; what is copied is looked at anew.
        let is_write = decode::opcode_of(&header) == Some(opcode::WRITE);
        let wanted = if is_write { HEADER + WRITE_ARGUMENTS } else { MAX_PRIVATE_REQUEST };
        let mut copy = std::mem::take(&mut self.copy);
        copy.clear();
        copy.resize(total.min(wanted), 0);
        let copied = self.memory.copy(job, &mut copy);
        let answer = copied.and_then(|()| self.answer(job, &mut copy, total));
        self.copy = copy;
        answer
    }

    fn answer(&mut self, job: Checked, copy: &mut [u8], total: usize) -> io::Result<usize> {
        let unique =
            copy.get(8..16).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        let head = match decode::check(copy, total) {
            Ok(head) => head,
            Err(Refused::Silently) => return Ok(0),
            Err(Refused::Error { unique, errno }) => return self.reply_error(job, unique, errno),
        };
        if copy.len() < total && head.opcode != opcode::WRITE {
            return match (head.way, unique) {
                (Way::Silent, _) | (_, None) => Ok(0),
                (_, Some(unique)) => self.reply_error(job, unique, libc::E2BIG),
            };
        }
        let has_reply = head.way != Way::Silent;
        // The library takes room for a reply's header for granted.
        if has_reply && job.reply_bytes() < REPLY_HEADER {
            return Ok(0);
        }
        if head.way == Way::Lock {
            return self.lock(job, &head, copy);
        }
        // The library fills all the room that there is, whatever the size that was asked for.
        let job = match decode::data_bytes(copy).filter(|_| head.opcode == opcode::READ) {
            Some(bytes) => job.with_reply(bytes.saturating_add(REPLY_HEADER)),
            None => job,
        };
        let server = Arc::clone(&self.surroundings.server);
        let (reader, writer) = self.memory.chain(job, copy)?;
        let handled = server.handle_message(reader, writer, None::<&mut ()>);
        match handled {
            Ok(length) if has_reply => Ok(length.min(job.reply_bytes())),
            Ok(_) => Ok(0),
            Err(_) if !has_reply => Ok(0),
            Err(virtiofsd::Error::EncodeMessage(_)) => {
                self.reply_error(job, head.unique, libc::ERANGE)
            }
            Err(_) => self.reply_error(job, head.unique, libc::EINVAL),
        }
    }

    fn lock(&mut self, job: Checked, head: &Head, copy: &[u8]) -> io::Result<usize> {
        let arguments = copy.get(HEADER..HEADER + size_of::<LkIn>());
        let Some(request) = arguments.and_then(read_object::<LkIn>) else {
            return self.reply_error(job, head.unique, libc::EINVAL);
        };
        let kind = if head.opcode == opcode::GETLK { Kind::Test } else { Kind::Set };
        let answer = self.surroundings.router.lock(head.node, kind, &request);
        match answer {
            Ok(None) => self.reply_bytes(job, head.unique, &[]),
            Ok(Some(lk)) => self.reply_bytes(job, head.unique, LkOut { lk }.as_slice()),
            Err(source) => {
                let errno = source.raw_os_error().unwrap_or(libc::EIO);
                self.reply_error(job, head.unique, errno)
            }
        }
    }

    fn reply_bytes(&self, job: Checked, unique: u64, body: &[u8]) -> io::Result<usize> {
        let length = REPLY_HEADER + body.len();
        if length > job.reply_bytes() {
            return self.reply_error(job, unique, libc::ERANGE);
        }
        let len = u32::try_from(length).map_err(io::Error::other)?;
        let header = OutHeader { len, error: 0, unique };
        self.memory.reply(job, &[header.as_slice(), body].concat())?;
        Ok(length)
    }

    fn reply_error(&self, job: Checked, unique: u64, errno: i32) -> io::Result<usize> {
        if job.reply_bytes() < REPLY_HEADER {
            return Ok(0);
        }
        let len = u32::try_from(REPLY_HEADER).map_err(io::Error::other)?;
        let header = OutHeader { len, error: -errno, unique };
        self.memory.reply(job, header.as_slice())?;
        Ok(REPLY_HEADER)
    }
}

fn read_object<T: ByteValued>(bytes: &[u8]) -> Option<T> {
    // The copy lies at any address.
    let mut object = T::zeroed();
    object.as_mut_slice().copy_from_slice(bytes.get(..size_of::<T>())?);
    Some(object)
}
