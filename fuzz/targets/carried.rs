//! What a file server could be given as the state of another one: any bytes are an error or a state, of which nothing
//! outside of the share is opened or changed, nothing is cut off, and which can be written down again.
#![no_main]

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use cloister_file_server::carried::Carried;
use cloister_file_server::router::Router;
use cloister_file_server::spec::{Kind, Owner, ShareSpec};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, Mode, OFlags};

/// What lies beside the share and in it.
const SECRET: &str = "secret";
/// A state's first bytes, before its length.
const HEAD: &[u8] = b"clfstate\x01\0\0\0";

struct Bed {
    outer: PathBuf,
    state: File,
}

fn bed() -> Bed {
    let folder = std::env::var_os("FUZZ_FOLDER").expect("fuzz/run sets it");
    let outer = PathBuf::from(folder).join(format!("carried-{}", std::process::id()));
    let shared = outer.join("shared");
    fs::create_dir_all(shared.join("d/e")).expect("a folder");
    for name in ["secret", "shared/f", "shared/d/g", "shared/d/e/h"] {
        fs::write(outer.join(name), SECRET).expect("a file");
    }
    std::os::unix::fs::symlink("../secret", shared.join("l")).expect("a link");
    let state = rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC).expect("memory");
    Bed { outer, state: state.into() }
}

impl Bed {
    fn server(&self) -> Router {
        let router = Router::new(File::open("/proc/self/fd").expect("proc"), 4096);
        let owner = Owner::All { uid: 0, gid: 0 };
        let spec = ShareSpec { name: "a".into(), kind: Kind::Directory, writable: true, owner };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mount = rustix::fs::open(self.outer.join("shared"), flags, Mode::empty());
        router.add(spec, mount.expect("a share")).expect("a share");
        router
    }

    fn restore(&self, bytes: &[u8]) -> Option<Router> {
        self.state.set_len(0).expect("memory");
        self.state.write_all_at(bytes, 0).expect("memory");
        let router = self.server();
        router.restore(&self.state).ok().map(|()| router)
    }
}

thread_local! {
    static BED: RefCell<Bed> = RefCell::new(bed());
}

fuzz_target!(|input: &[u8]| {
    // As it is, and with the head that it should have.
    assert!(input.starts_with(HEAD) || Carried::parse(input).is_err());
    let body = input.get(HEAD.len() + 4..).unwrap_or_default();
    let length = u32::try_from(body.len()).expect("a short input");
    let state = [HEAD, &length.to_le_bytes(), body].concat();
    let Ok(carried) = Carried::parse(&state) else { return };
    assert_eq!(Carried::parse(&carried.encode().expect("a state")), Ok(carried));
    BED.with_borrow_mut(|bed| {
        if let Some(router) = bed.restore(&state)
            && let Ok(bytes) = router.save(&bed.state, &Arc::default())
        {
            let mut again = vec![0; usize::try_from(bytes).expect("a length")];
            bed.state.read_exact_at(&mut again, 0).expect("memory");
            drop(router);
            assert!(bed.restore(&again).is_some());
        }
        for name in ["secret", "shared/f", "shared/d/g", "shared/d/e/h"] {
            let content = fs::read(bed.outer.join(name)).expect("what was there before");
            assert_eq!(content, SECRET.as_bytes());
        }
        assert_eq!(fs::read_dir(&bed.outer).expect("a folder").count(), 2);
    });
});
