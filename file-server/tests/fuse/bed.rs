//! A worker with a bounce area, and messages by hand.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use cloister_file_server::control::{Job, Unrestored, Unsaved};
use cloister_file_server::limits::{SLOT_BYTES, SLOTS};
use cloister_file_server::memory::{Bounce, Checked};
use cloister_file_server::router::Router;
use cloister_file_server::spec::{Kind, Owner, ShareSpec};
use cloister_file_server::sys;
use cloister_file_server::worker::{Surroundings, Worker};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use virtiofsd::server::Server;

/// The directory of shares.
pub(crate) const ROOT: u64 = 1;

/// A worker and its memory.
pub(crate) struct Bed {
    pub(crate) worker: Worker,
    pub(crate) router: Router,
    pub(crate) area: File,
    unique: u64,
}

/// A reply: its error (positive) or its body.
pub(crate) type Reply = Result<Vec<u8>, i32>;

pub(crate) fn writable(name: &str) -> ShareSpec {
    let owner = Owner::All { uid: 1000, gid: 1001 };
    ShareSpec { name: name.into(), kind: Kind::Directory, writable: true, owner }
}

/// A memory file with this in it.
pub(crate) fn memory(content: &[u8]) -> File {
    let file = File::from(rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC).unwrap());
    file.write_all_at(content, 0).unwrap();
    file
}

pub(crate) fn open_directory(path: &Path) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).unwrap()
}

impl Bed {
    /// Without shares; guests can take this many descriptors.
    pub(crate) fn with_descriptors(descriptors: u64) -> Self {
        let mut bed = Self::before_requests(descriptors);
        bed.init();
        bed
    }

    /// The same, which was not asked for anything yet.
    fn before_requests(descriptors: u64) -> Self {
        // Each test is a thread, and a share's opening changes the working directory for a moment.
        sys::own_working_directory().unwrap();
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let area = File::from(rustix::fs::memfd_create("area", flags).unwrap());
        area.set_len(SLOT_BYTES as u64 * u64::from(SLOTS)).unwrap();
        rustix::fs::fcntl_add_seals(&area, SealFlags::SHRINK | SealFlags::GROW).unwrap();
        let processes = File::open("/proc/self/fd").unwrap();
        let router = Router::new(processes, descriptors);
        let surroundings = Surroundings {
            vmm: Arc::new(File::open("/dev/null").unwrap().into()),
            bounce: Bounce::new(area.try_clone().unwrap()).unwrap(),
            server: Arc::new(Server::new(router.clone())),
            router: router.clone(),
        };
        Self { worker: Worker::new(surroundings).unwrap(), router, area, unique: 0 }
    }

    /// What another server would need to go on.
    pub(crate) fn save(&self) -> Result<Vec<u8>, Unsaved> {
        let file = memory(&[]);
        let bytes = self.router.save(&file, &Arc::default())?;
        let mut state = vec![0; bytes.try_into().unwrap()];
        file.read_exact_at(&mut state, 0).unwrap();
        assert_eq!(file.metadata().unwrap().len(), bytes);
        Ok(state)
    }

    /// Another server, which goes on.
    pub(crate) fn restored(
        state: &[u8],
        descriptors: u64,
        shares: &[(ShareSpec, &Path)],
    ) -> Result<Self, Unrestored> {
        let bed = Self::before_requests(descriptors);
        for (spec, path) in shares {
            bed.router.add(spec.clone(), open_directory(path)).unwrap();
        }
        bed.router.restore(&memory(state)).map(|()| bed)
    }

    /// With one writable share of this directory, `work`; its node id.
    pub(crate) fn sharing(path: &Path) -> (Self, u64) {
        let mut bed = Self::with_descriptors(4096);
        let node = bed.share(writable("work"), path);
        (bed, node)
    }

    pub(crate) fn share(&mut self, spec: ShareSpec, path: &Path) -> u64 {
        let name = spec.name.clone();
        self.router.add(spec, open_directory(path)).unwrap();
        self.lookup(ROOT, &name).unwrap().node
    }

    fn init(&mut self) {
        // Version 7.38, and every feature there is.
        let body = [words(&[7, 38, 1 << 17, u32::MAX]), vec![0xff; 48]].concat();
        let reply = self.ask(26, 0, &body).unwrap();
        assert_eq!(word(&reply, 0), 7);
    }

    /// Puts bytes into the slot and has them handled.
    pub(crate) fn raw(&mut self, bytes: &[u8], reply_bytes: usize) -> Vec<u8> {
        self.area.write_all_at(bytes, 0).unwrap();
        let job = Job {
            slot: 0,
            request_bytes: bytes.len().try_into().unwrap(),
            reply_bytes: reply_bytes.try_into().unwrap(),
        };
        let length = self.worker.handle(Checked::new(job).unwrap()).unwrap();
        assert!(length <= reply_bytes, "{length} over {reply_bytes}");
        let mut reply = vec![0; length];
        self.area.read_exact_at(&mut reply, 0).unwrap();
        reply
    }

    pub(crate) fn message(&mut self, opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        self.unique += 2;
        let length = u32::try_from(40 + body.len()).unwrap();
        let mut bytes = words(&[length, opcode]);
        bytes.extend(self.unique.to_le_bytes());
        bytes.extend(node.to_le_bytes());
        // The guest's caller: user, group, process.
        bytes.extend(words(&[4242, 4343, 17, 0]));
        bytes.extend(body);
        bytes
    }

    pub(crate) fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Reply {
        let message = self.message(opcode, node, body);
        let reply = self.raw(&message, SLOT_BYTES);
        assert!(reply.len() >= 16, "no reply to {opcode}");
        assert_eq!(word(&reply, 0) as usize, reply.len(), "length of the reply to {opcode}");
        assert_eq!(long(&reply, 8), self.unique);
        match word(&reply, 4) {
            0 => Ok(reply[16..].to_vec()),
            error => {
                assert_eq!(reply.len(), 16);
                Err(error.wrapping_neg().try_into().unwrap())
            }
        }
    }

    pub(crate) fn lookup(&mut self, parent: u64, name: &str) -> Result<Entry, i32> {
        self.ask(1, parent, &[name.as_bytes(), &[0]].concat()).map(|body| Entry::read(&body))
    }

    pub(crate) fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        let body = words(&[flags.cast_unsigned(), 0]);
        self.ask(14, node, &body).map(|body| long(&body, 0))
    }

    pub(crate) fn create(
        &mut self,
        parent: u64,
        name: &str,
        mode: u32,
    ) -> Result<(Entry, u64), i32> {
        let flags = (libc::O_RDWR | libc::O_CREAT).cast_unsigned();
        let body = [words(&[flags, mode, 0o22, 0]), name.as_bytes().to_vec(), vec![0]].concat();
        let body = self.ask(35, parent, &body)?;
        Ok((Entry::read(&body), long(&body, 128)))
    }

    pub(crate) fn write(
        &mut self,
        node: u64,
        handle: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<u32, i32> {
        let body = [&handle.to_le_bytes()[..], &offset.to_le_bytes()].concat();
        let size = u32::try_from(data.len()).unwrap();
        let body = [body, words(&[size, 0, 0, 0, 0, 0]), data.to_vec()].concat();
        self.ask(16, node, &body).map(|body| word(&body, 0))
    }

    pub(crate) fn read(&mut self, node: u64, handle: u64, offset: u64, size: u32) -> Reply {
        self.ask(15, node, &read_body(handle, offset, size))
    }

    pub(crate) fn release(&mut self, node: u64, handle: u64) -> Reply {
        self.ask(18, node, &[&handle.to_le_bytes()[..], &[0; 16]].concat())
    }

    pub(crate) fn forget(&mut self, node: u64, count: u64) {
        let message = self.message(2, node, &count.to_le_bytes());
        assert!(self.raw(&message, SLOT_BYTES).is_empty());
    }

    pub(crate) fn getattr(&mut self, node: u64) -> Result<Attr, i32> {
        self.ask(3, node, &[0; 16]).map(|body| Attr::read(&body[16..]))
    }

    /// Names and node ids of a directory.
    pub(crate) fn list(&mut self, node: u64, plus: bool) -> Result<Vec<(String, u64)>, i32> {
        let handle = long(&self.ask(27, node, &[0; 8])?, 0);
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let opcode = if plus { 44 } else { 28 };
            let body = self.ask(opcode, node, &read_body(handle, offset, 4096))?;
            if body.is_empty() {
                break;
            }
            let mut rest = &body[..];
            while !rest.is_empty() {
                let mut child = 0;
                if plus {
                    child = long(rest, 0);
                    rest = &rest[128..];
                }
                offset = long(rest, 8);
                let length = word(rest, 16) as usize;
                names.push((String::from_utf8(rest[24..24 + length].to_vec()).unwrap(), child));
                rest = &rest[(24 + length).next_multiple_of(8)..];
            }
        }
        self.ask(29, node, &[&handle.to_le_bytes()[..], &[0; 16]].concat())?;
        names.sort();
        Ok(names)
    }
}

pub(crate) fn read_body(handle: u64, offset: u64, size: u32) -> Vec<u8> {
    let body = [&handle.to_le_bytes()[..], &offset.to_le_bytes()].concat();
    [body, words(&[size, 0, 0, 0, 0, 0])].concat()
}

pub(crate) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// What a guest learns of a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) node: u64,
    pub(crate) seconds: u64,
    pub(crate) attr: Attr,
}

/// Attributes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr {
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Entry {
    fn read(body: &[u8]) -> Self {
        Self { node: long(body, 0), seconds: long(body, 16), attr: Attr::read(&body[40..]) }
    }
}

impl Attr {
    fn read(body: &[u8]) -> Self {
        Self { size: long(body, 8), mode: word(body, 60), uid: word(body, 68), gid: word(body, 72) }
    }
}
