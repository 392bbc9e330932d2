//! What a guest could send to the file server: any messages in any order on a writable share. Every answer
//! is bounded, and nothing outside of the share changes.
#![no_main]

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use cloister_file_server::control::Job;
use cloister_file_server::limits::{SLOT_BYTES, SLOTS};
use cloister_file_server::memory::{Bounce, Checked};
use cloister_file_server::router::Router;
use cloister_file_server::spec::{Kind, Owner, ShareSpec};
use cloister_file_server::worker::{Surroundings, Worker};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use virtiofsd::server::Server;

/// Bytes of a message's header that the input does not choose.
const HEADER: usize = 40;
/// Most messages of one input.
const MESSAGES: usize = 32;
/// What lies beside the share.
const SECRET: &str = "secret";

struct Bed {
    worker: Worker,
    area: File,
    outer: PathBuf,
}

fn bed() -> Bed {
    let folder = std::env::var_os("FUZZ_FOLDER").expect("fuzz/run sets it");
    let outer = PathBuf::from(folder).join(format!("fuse-{}", std::process::id()));
    let shared = outer.join("shared");
    fs::create_dir_all(&shared).expect("a folder");
    fs::write(outer.join(SECRET), SECRET).expect("a file");
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let area = File::from(rustix::fs::memfd_create("area", flags).expect("memory"));
    area.set_len(SLOT_BYTES as u64 * u64::from(SLOTS)).expect("memory");
    rustix::fs::fcntl_add_seals(&area, SealFlags::SHRINK | SealFlags::GROW).expect("seals");
    let router = Router::new(File::open("/proc/self/fd").expect("proc"), 256);
    let owner = Owner::All { uid: 0, gid: 0 };
    let spec = ShareSpec { name: "a".into(), kind: Kind::Directory, writable: true, owner };
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mount: OwnedFd = rustix::fs::open(&shared, flags, Mode::empty()).expect("a share");
    router.add(spec, mount).expect("a share");
    let surroundings = Surroundings {
        vmm: Arc::new(File::open("/dev/null").expect("a file").into()),
        bounce: Bounce::new(area.try_clone().expect("memory")).expect("memory"),
        server: Arc::new(Server::new(router.clone())),
        router,
    };
    Bed { worker: Worker::new(surroundings).expect("memory"), area, outer }
}

impl Bed {
    fn handle(&mut self, message: &[u8], room: usize) {
        self.area.write_all_at(message, 0).expect("memory");
        let job = Job { slot: 0, request_bytes: message.len() as u32, reply_bytes: room as u32 };
        let job = Checked::new(job).expect("within bounds");
        let reply = self.worker.handle(job).expect("an answer");
        assert!(reply == 0 || (reply >= 16 && reply <= room), "{reply} bytes");
    }

    /// One message: operation, node, whether its length is true, body.
    fn message(&mut self, input: &[u8]) {
        let [operation, node, manners, body @ ..] = input else { return };
        let node = match node % 8 {
            0 => 1,
            low @ 1..=6 => 1 << 48 | u64::from(low),
            _ => u64::from(*node) << 48 | 1,
        };
        let lie = u32::from(*manners == 7) * 5;
        let length = (HEADER + body.len()) as u32 + lie;
        let mut bytes = [length.to_le_bytes(), u32::from(*operation).to_le_bytes()].concat();
        bytes.extend([9_u64.to_le_bytes(), node.to_le_bytes()].concat());
        bytes.extend([0; 16]);
        bytes.extend(body);
        let room = if manners % 16 == 9 { usize::from(*manners) } else { SLOT_BYTES };
        self.handle(&bytes, room);
    }
}

thread_local! {
    static BED: RefCell<Bed> = RefCell::new(bed());
}

fuzz_target!(|input: &[u8]| {
    BED.with_borrow_mut(|bed| {
        // A new start, as a guest's kernel makes it: nothing is known and nothing open.
        let mut init = [56_u32.to_le_bytes(), 26_u32.to_le_bytes()].concat();
        init.extend([0; 32]);
        init.extend([7_u32, 38, 0, 0].map(u32::to_le_bytes).concat());
        bed.handle(&init, SLOT_BYTES);
        bed.message(b"\x01\x00\x00a\0");
        let mut rest = input;
        for _ in 0..MESSAGES {
            let [length, after @ ..] = rest else { break };
            let (message, after) = after.split_at(after.len().min(usize::from(*length)));
            bed.message(message);
            rest = after;
        }
        let secret = fs::read(bed.outer.join(SECRET)).expect("what lies beside the share");
        assert_eq!(secret, SECRET.as_bytes());
        assert_eq!(fs::read_dir(&bed.outer).expect("a folder").count(), 2);
    });
});
