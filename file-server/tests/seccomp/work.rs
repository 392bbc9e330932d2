//! All that a server does, in a few short lives.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::OnceLock;

use crate::served::{Served, long, longs, words};
use crate::tracer::{Injected, Kind, Seen, function, result};

/// Every call of every life. Made once for all tests.
pub(crate) fn everything() -> &'static BTreeSet<Seen> {
    static SEEN: OnceLock<BTreeSet<Seen>> = OnceLock::new();
    SEEN.get_or_init(|| {
        let lives: &[fn() -> BTreeSet<Seen>] =
            &[files, two_after_each_other, host_gone, out_of_memory_and_aborts];
        lives.iter().flat_map(|life| life()).collect()
    })
}

fn name(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

fn files() -> BTreeSet<Seen> {
    let place = tempfile::tempdir().unwrap();
    let mut served = Served::sharing(place.path());
    let root = served.root;
    let file = [words(&[libc::O_RDWR.cast_unsigned() | 0o100, 0o644, 0o22, 0]), name("a")].concat();
    let made = served.ask(35, root, &file).unwrap();
    let (node, handle) = (long(&made, 0), long(&made, 128));
    contents(&mut served, node, handle);
    attributes(&mut served, node, handle);
    many_at_once(&mut served);
    names(&mut served, node);
    locks(&mut served, node, handle);
    directory(&mut served);
    let released = [longs(&[handle]), vec![0; 16]].concat();
    served.ask(18, node, &released).unwrap();
    served.ask(2, node, &longs(&[1])).unwrap();
    assert_eq!(served.ask(99, node, &[]), Err(libc::ENOSYS));
    let (seen, status) = served.finish();
    assert_eq!(status, 0);
    seen
}

fn write(served: &mut Served, node: u64, handle: u64, data: &[u8]) {
    let size = u32::try_from(data.len()).unwrap();
    let body = [longs(&[handle, 0]), words(&[size, 0, 0, 0, 0, 0]), data.to_vec()].concat();
    served.ask(16, node, &body).unwrap();
}

fn contents(served: &mut Served, node: u64, handle: u64) {
    write(served, node, handle, &[7; 1 << 20]);
    let read = [longs(&[handle, 0]), words(&[1 << 20, 0, 0, 0, 0, 0])].concat();
    assert_eq!(served.ask(15, node, &read).unwrap().len(), 1 << 20);
    // At the end, as the guest has opened it.
    let flags = (libc::O_WRONLY | libc::O_APPEND).cast_unsigned();
    let appending = long(&served.ask(14, node, &words(&[flags, 0])).unwrap(), 0);
    write(served, node, appending, b"more");
    let length = 4096;
    served.ask(43, node, &[longs(&[handle, 0, length]), words(&[0, 0])].concat()).unwrap();
    // SEEK_HOLE.
    served.ask(46, node, &[longs(&[handle, 0]), words(&[4, 0])].concat()).unwrap();
    served.ask(47, node, &longs(&[handle, 0, node, handle, 1 << 21, 4096, 0])).unwrap();
    for data_alone in [0, 1] {
        served.ask(20, node, &[longs(&[handle]), words(&[data_alone, 0])].concat()).unwrap();
    }
    // What the guest does when a program closes a file.
    served.ask(25, node, &longs(&[handle, 0, 1])).unwrap();
    served.ask(18, node, &[longs(&[appending]), vec![0; 16]].concat()).unwrap();
}

/// All workers list one directory by one handle, which a listing has for itself: the others wait.
fn many_at_once(served: &mut Served) {
    let root = served.root;
    let handle = long(&served.ask(27, root, &[0; 8]).unwrap(), 0);
    let body = [longs(&[handle, 0]), words(&[4096, 0, 0, 0, 0, 0])].concat();
    for _ in 0..50 {
        served.ask_in_every_slot(28, root, &body);
    }
}

fn attributes(served: &mut Served, node: u64, handle: u64) {
    served.ask(3, node, &[0; 16]).unwrap();
    // By the open file and without: mode; size; times, given and now.
    for by_handle in [0_u32, 64] {
        for what in [1, 8, 16 | 32, 128 | 256] {
            let mut body = vec![0; 88];
            body[..4].copy_from_slice(&(what | by_handle).to_le_bytes());
            body[8..16].copy_from_slice(&handle.to_le_bytes());
            body[16..24].copy_from_slice(&5_u64.to_le_bytes());
            body[68..72].copy_from_slice(&0o640_u32.to_le_bytes());
            served.ask(4, node, &body).unwrap();
        }
    }
    let set = [words(&[4, 0]), name("user.colour"), b"blue".to_vec()].concat();
    let get = [words(&[64, 0]), name("user.colour")].concat();
    served.ask(21, node, &set).unwrap();
    assert_eq!(served.ask(22, node, &get).unwrap(), b"blue");
    served.ask(23, node, &words(&[256, 0])).unwrap();
    served.ask(24, node, &name("user.colour")).unwrap();
    // A symbolic link has none of a user's; the kernel says so, when it is asked.
    let link = [name("link"), name("a")].concat();
    let link = long(&served.ask(6, served.root, &link).unwrap(), 0);
    assert_eq!(served.ask(5, link, &[]).unwrap(), b"a");
    assert!(served.ask(21, link, &set).is_err());
    assert!(served.ask(22, link, &get).is_err());
    served.ask(23, link, &words(&[256, 0])).unwrap();
    assert!(served.ask(24, link, &name("user.colour")).is_err());
}

fn names(served: &mut Served, node: u64) {
    let root = served.root;
    served.ask(9, root, &[words(&[0o755, 0o22]), name("sub")].concat()).unwrap();
    let sub = served.lookup(root, "sub");
    let regular = libc::S_IFREG | 0o644;
    served.ask(8, root, &[words(&[regular, 0, 0, 0]), name("plain")].concat()).unwrap();
    served.ask(13, root, &[longs(&[node]), name("hard")].concat()).unwrap();
    served.ask(12, root, &[longs(&[sub]), name("hard"), name("moved")].concat()).unwrap();
    // RENAME_NOREPLACE.
    let quiet = [longs(&[root]), words(&[1, 0]), name("moved"), name("back")].concat();
    served.ask(45, sub, &quiet).unwrap();
    served.ask(10, root, &name("back")).unwrap();
    served.ask(11, root, &name("sub")).unwrap();
    served.ask(17, root, &[]).unwrap();
}

fn locks(served: &mut Served, node: u64, handle: u64) {
    let lock = |kind: i32, flags| {
        let body = [longs(&[handle, 1, 10, 19]), words(&[kind.cast_unsigned(), 77, flags, 0])];
        body.concat()
    };
    // Of a part, then of the whole file (flock).
    for flags in [0, 1] {
        served.ask(32, node, &lock(libc::F_WRLCK, flags)).unwrap();
        served.ask(31, node, &lock(libc::F_WRLCK, 0)).unwrap();
        served.ask(32, node, &lock(libc::F_UNLCK, flags)).unwrap();
    }
}

fn directory(served: &mut Served) {
    let root = served.root;
    let handle = long(&served.ask(27, root, &[0; 8]).unwrap(), 0);
    for opcode in [28, 44] {
        let mut offset = 0;
        loop {
            let body = [longs(&[handle, offset]), words(&[1 << 20, 0, 0, 0, 0, 0])].concat();
            let reply = served.ask(opcode, root, &body).unwrap();
            if reply.is_empty() {
                break;
            }
            let entry = if opcode == 44 { 128 } else { 0 };
            offset = long(&reply, entry + 8);
        }
    }
    served.ask(30, root, &[longs(&[handle]), words(&[0, 0])].concat()).unwrap();
    served.ask(29, root, &[longs(&[handle]), vec![0; 16]].concat()).unwrap();
}

/// One that leaves what its guest knows, and one that goes on with it.
fn two_after_each_other() -> BTreeSet<Seen> {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("a"), "content").unwrap();
    let mut first = Served::sharing(place.path());
    let root = first.root;
    let node = first.lookup(root, "a");
    let handle = long(&first.ask(14, node, &words(&[2, 0])).unwrap(), 0);
    locks(&mut first, node, handle);
    let lock = [longs(&[handle, 1, 10, 19]), words(&[1, 77, 0, 0])].concat();
    first.ask(32, node, &lock).unwrap();
    let state = first.save();
    // The search for names was short: it may be over before the thread that limits it runs.
    first.traced.await_call(libc::SYS_clock_nanosleep);
    let (mut seen, status) = first.finish();
    assert_eq!(status, 0);
    let mut second = Served::before_requests(place.path());
    second.restore(&state);
    let read = [longs(&[handle, 3]), words(&[4, 0, 0, 0, 0, 0])].concat();
    assert_eq!(second.ask(15, node, &read).unwrap(), b"tent");
    assert_eq!(second.lookup(root, "a"), node);
    let (calls, status) = second.finish();
    assert_eq!(status, 0);
    seen.extend(calls);
    seen
}

fn host_gone() -> BTreeSet<Seen> {
    let place = tempfile::tempdir().unwrap();
    let (seen, status) = Served::sharing(place.path()).hang_up();
    assert_eq!(status, 0);
    seen
}

/// What can come to any thread at any time, and can't be brought about at will: that of all threads this
/// one needs the heap to grow, waits for another's lock, finds no memory, or aborts.
fn out_of_memory_and_aborts() -> BTreeSet<Seen> {
    let program = Path::new(env!("CARGO_BIN_EXE_cloister-file-server"));
    let malloc = function(program, |name| name == "malloc");
    let free = function(program, |name| name == "free");
    let realloc = function(program, |name| name == "realloc");
    let sched_yield = function(program, |name| name == "sched_yield");
    let abort = function(program, |name| name == "abort");
    let no_memory = function(program, |name| name.contains("handle_alloc_error"));
    let mut seen = BTreeSet::new();
    for last in [abort, no_memory] {
        let place = tempfile::tempdir().unwrap();
        let mut served = Served::sharing(place.path());
        let (kind, after) = (Kind::Main, libc::SYS_recvmsg);
        let arguments = [100 << 10, 0];
        for function in [malloc, malloc] {
            served.traced.inject(Injected { kind, after, function, arguments });
        }
        while !served.traced.injected_all() {
            served.add_again();
        }
        let (kind, after) = (Kind::Other, libc::SYS_recvfrom);
        let root = served.root;
        // Every worker has a heap of its own.
        for function in [malloc; 16].into_iter().chain([sched_yield]) {
            served.traced.inject(Injected { kind, after, function, arguments });
        }
        // What grows becomes a mapping of its own, and moves; what is given back at the heap's end shrinks it.
        let call = |function, arguments| Injected { kind, after, function, arguments };
        served.traced.inject_all(&[
            call(malloc, arguments),
            call(malloc, arguments),
            call(malloc, arguments),
            call(free, [result(2), 0]),
            call(free, [result(1), 0]),
            call(malloc, [200 << 10, 0]),
            call(realloc, [result(5), 900 << 10]),
        ]);
        while !served.traced.injected_all() {
            served.ask(3, root, &[0; 16]).unwrap();
        }
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        served.traced.limit(libc::RLIMIT_AS, none);
        let arguments = [8, 4096];
        served.traced.inject(Injected { kind, after, function: last, arguments });
        served.send(3, root, &[0; 16]);
        served.await_end();
        let (calls, status) = served.finish();
        assert_eq!(status & 0x7f, libc::SIGABRT, "{status:#x}");
        seen.extend(calls);
    }
    seen
}
