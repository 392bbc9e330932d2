//! All that a machine does, in a few short lives.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::Shutdown;
use std::path::Path;
use std::sync::OnceLock;

use cloister_vmm::control::{Command, Event, GUEST_CID, HOST_CID};
use cloister_vmm::devices::virtio::vsock::packet::{
    HEADER_SIZE, Header, Operation, SHUTDOWN_SEND, TYPE_STREAM,
};
use cloister_vmm::exit::ExitCode;
use cloister_vmm::x86_64::layout;
use vm_memory::{Bytes, GuestAddress};

use crate::driver::{readable, writable};
use crate::guests;
use crate::hand::{BALLOON, FS, Hand, RNG, VSOCK, feed};
use crate::tracer::{Injected, Kind, Seen, function, result};

const RX: usize = 0;
const TX: usize = 1;
/// Where packets lie.
const PACKETS: u64 = 0x0100_0000;
const STRIDE: u64 = 0x2_0000;
/// Where the guest has memory that it has no use for.
const FREE: u64 = 0x0280_0000;

/// Every call of every life. Made once for all tests.
pub(crate) fn everything() -> &'static BTreeSet<Seen> {
    static SEEN: OnceLock<BTreeSet<Seen>> = OnceLock::new();
    SEEN.get_or_init(|| {
        let lives: &[fn() -> BTreeSet<Seen>] =
            &[devices, ends, halted, host_gone, probed, saved, out_of_memory_and_aborts];
        lives.iter().flat_map(|life| life()).collect()
    })
}

/// The status of a process that ended by itself with this code.
fn exited(code: ExitCode) -> i32 {
    i32::from(code as u8) << 8
}

fn devices() -> BTreeSet<Seen> {
    let mut hand = Hand::start();
    entropy(&mut hand);
    reports(&mut hand);
    sockets(&mut hand);
    files(&mut hand);
    for _ in 0..3 {
        // The event loop's to find, when the machine goes on.
        hand.offer(BALLOON, 2, &[writable(FREE, 4 << 20)]);
        hand.send(&Command::Pause);
        assert_eq!(hand.event(), Event::Paused);
        hand.send(&Command::Stats);
        assert!(matches!(hand.event(), Event::Stats(_)));
        hand.send(&Command::Resume);
        assert_eq!(hand.event(), Event::Resumed);
        hand.used(BALLOON, 2);
    }
    for byte in b"hello\n" {
        hand.out(layout::SERIAL_PORT, *byte);
    }
    // A driver that goes, with connections open.
    hand.set(VSOCK, cloister_vmm::devices::virtio::offset::STATUS, 0);
    let off = (1 << 5) | (layout::SLEEP_TYPE_OFF << 2);
    hand.out_at_last(layout::SLEEP_CONTROL_PORT, off);
    let Event::Exited(exit) = hand.event() else { panic!("no end") };
    assert_eq!(exit.code, ExitCode::Stopped);
    let (seen, status) = hand.finish();
    assert_eq!(status, exited(ExitCode::Stopped));
    seen
}

/// More than the rate lets through at once, so the device's timer runs.
fn entropy(hand: &mut Hand) {
    hand.start_device(RNG, &[8]);
    for _ in 0..6 {
        hand.offer(RNG, 0, &[writable(PACKETS, 64 << 10)]);
    }
    hand.notify(RNG, 0);
    for _ in 0..6 {
        hand.used(RNG, 0);
    }
}

/// Memory that the guest has no use for.
fn reports(hand: &mut Hand) {
    hand.start_device(BALLOON, &[8, 8, 32]);
    // The event loop looks at the queue once, as the device has started, and may find the first report before the vCPU
    // brings it. The second is the vCPU's.
    for _ in 0..2 {
        hand.memory.write_obj(7_u64, GuestAddress(FREE)).unwrap();
        hand.offer(BALLOON, 2, &[writable(FREE, 4 << 20)]);
        hand.notify(BALLOON, 2);
        hand.used(BALLOON, 2);
        assert_eq!(hand.memory.read_obj::<u64>(GuestAddress(FREE)).unwrap(), 0);
    }
}

fn packet(operation: Operation, guest_port: u32, host_port: u32) -> Header {
    Header {
        source_cid: GUEST_CID,
        destination_cid: HOST_CID,
        source_port: guest_port,
        destination_port: host_port,
        length: 0,
        socket_type: TYPE_STREAM,
        operation: operation.code(),
        flags: 0,
        buffer: 256 << 10,
        forwarded: 0,
    }
}

fn transmit(hand: &mut Hand, header: &Header, data: &[u8]) {
    let at = PACKETS + 64 * STRIDE;
    hand.memory.write_slice(&header.to_bytes(), GuestAddress(at)).unwrap();
    hand.memory.write_slice(data, GuestAddress(at + 0x1000)).unwrap();
    let mut pieces = vec![readable(at, HEADER_SIZE as u32)];
    if !data.is_empty() {
        pieces.push(readable(at + 0x1000, data.len() as u32));
    }
    hand.offer(VSOCK, TX, &pieces);
    hand.notify(VSOCK, TX);
    hand.used(VSOCK, TX);
}

fn post(hand: &mut Hand) {
    hand.offer(VSOCK, RX, &[writable(PACKETS, STRIDE as u32)]);
    hand.notify(VSOCK, RX);
}

#[track_caller]
/// The next packet to the guest of this operation; others are passed over.
fn await_packet(hand: &mut Hand, operation: Operation) -> Header {
    loop {
        hand.used(VSOCK, RX);
        let mut raw = [0; HEADER_SIZE];
        hand.memory.read_slice(&mut raw, GuestAddress(PACKETS)).unwrap();
        post(hand);
        let header = Header::parse(&raw);
        if header.operation == operation.code() {
            return header;
        }
    }
}

fn sockets(hand: &mut Hand) {
    hand.start_device(VSOCK, &[128, 128, 8]);
    post(hand);
    // The guest connects; bytes both ways; each side closes its half.
    transmit(hand, &packet(Operation::Request, 1000, 1), &[]);
    let Event::Incoming { id, port: 1 } = hand.event() else { panic!("nobody comes in") };
    let mut stream = hand.send_stream(&Command::Accept { id });
    await_packet(hand, Operation::Response);
    feed(&mut stream, b"to the guest");
    await_packet(hand, Operation::Data);
    let data = |length| Header { length, ..packet(Operation::Data, 1000, 1) };
    transmit(hand, &data(5), b"hello");
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    // More than the socket takes, while nobody reads: the vmm keeps it and waits for room.
    let bulk = vec![7; 44 << 10];
    for _ in 0..5 {
        transmit(hand, &data(44 << 10), &bulk);
    }
    let mut bytes = vec![0; 5 * bulk.len()];
    stream.read_exact(&mut bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    await_packet(hand, Operation::Shutdown);
    let closing = Header { flags: SHUTDOWN_SEND, ..packet(Operation::Shutdown, 1000, 1) };
    transmit(hand, &closing, &[]);
    assert_eq!(stream.read(&mut bytes).unwrap(), 0);
    // The host refuses; the host connects and is refused; then it connects, and hangs up.
    transmit(hand, &packet(Operation::Request, 1001, 2), &[]);
    let Event::Incoming { id, .. } = hand.event() else { panic!("nobody comes in") };
    hand.send(&Command::Refuse { id });
    await_packet(hand, Operation::Reset);
    hand.send_stream(&Command::Connect { id: 7, port: 50 });
    let asked = await_packet(hand, Operation::Request);
    transmit(hand, &packet(Operation::Reset, 50, asked.source_port), &[]);
    assert_eq!(hand.event(), Event::Refused { id: 7 });
    let stream = hand.send_stream(&Command::Connect { id: 8, port: 51 });
    let asked = await_packet(hand, Operation::Request);
    transmit(hand, &packet(Operation::Response, 51, asked.source_port), &[]);
    assert_eq!(hand.event(), Event::Connected { id: 8 });
    drop(stream);
    await_packet(hand, Operation::Reset);
    // Many at a time: tables grow.
    for port in 2000..2400 {
        transmit(hand, &packet(Operation::Request, port, 3), &[]);
        assert!(matches!(hand.event(), Event::Incoming { .. }));
    }
}

fn files(hand: &mut Hand) {
    hand.start_device(FS, &[64, 1024]);
    for _ in 0..4 {
        let at = PACKETS + 40 * STRIDE;
        hand.memory.write_slice(&[0; 64], GuestAddress(at)).unwrap();
        hand.offer(FS, 1, &[readable(at, 64), writable(at + 0x1000, 0x4000)]);
        hand.notify(FS, 1);
        hand.serve(&[3; 128]);
        assert_eq!(hand.used(FS, 1).1, 128);
    }
}

/// What the host, the file server and the guest do wrong.
fn ends() -> BTreeSet<Seen> {
    let mut seen = BTreeSet::new();
    let mut ended = |hand: Hand, code| {
        let (calls, status) = hand.finish();
        assert_eq!(status, exited(code));
        seen.extend(calls);
    };
    let hand = Hand::start();
    hand.send(&Command::Stop);
    ended(hand, ExitCode::Stopped);
    let hand = Hand::start();
    hand.send(&Command::Connect { id: 1, port: 1 });
    ended(hand, ExitCode::Host);
    let mut hand = Hand::start();
    hand.server = None;
    ended(hand, ExitCode::FilesGone);
    for (guest, code) in
        [(guests::triple_fault(), ExitCode::TripleFault), (guests::panic(), ExitCode::Panic)]
    {
        ended(Hand::start_with(&guest), code);
    }
    seen
}

/// The watchdog finds it.
fn halted() -> BTreeSet<Seen> {
    let (seen, status) = Hand::start_with(&guests::halt_for_ever()).finish();
    assert_eq!(status, exited(ExitCode::Halted));
    seen
}

fn host_gone() -> BTreeSet<Seen> {
    let (seen, status) = Hand::start().hang_up();
    assert_eq!(status, exited(ExitCode::HostGone));
    seen
}

/// A machine that is saved, in the middle of its work, and one that goes on from it.
fn saved() -> BTreeSet<Seen> {
    let mut hand = Hand::start_savable();
    entropy(&mut hand);
    hand.start_device(VSOCK, &[128, 128, 8]);
    come_to_rest(&mut hand);
    hand.save_whole();
    let (memory, state, saved) = hand.save();
    hand.send(&Command::Stop);
    // Nobody may write the memory any more, and nobody can who has not mapped it.
    hand.memory = vm_memory::GuestMemoryMmap::default();
    let (mut seen, status) = hand.finish();
    assert_eq!(status, exited(ExitCode::Stopped));
    let mut rehearsal = Hand::rehearse(memory.try_clone().unwrap(), &state, saved);
    assert!(matches!(rehearsal.event(), Event::Running(_)));
    rehearsal.send(&Command::Pause);
    assert_eq!(rehearsal.event(), Event::Paused);
    rehearsal.save();
    rehearsal.send(&Command::Stop);
    let (calls, status) = rehearsal.finish();
    assert_eq!(status, exited(ExitCode::Stopped));
    seen.extend(calls);
    let mut again = Hand::fork_savable(memory.try_clone().unwrap(), &state, saved);
    assert!(matches!(again.event(), Event::Running(_)));
    again.send(&Command::Pause);
    assert_eq!(again.event(), Event::Paused);
    again.save_whole();
    again.send(&Command::Stop);
    let (calls, status) = again.finish();
    assert_eq!(status, exited(ExitCode::Stopped));
    seen.extend(calls);
    let mut fork = Hand::fork(memory, &state, saved);
    assert!(matches!(fork.event(), Event::Running(_)));
    fork.send(&Command::Stop);
    let (calls, status) = fork.finish();
    assert_eq!(status, exited(ExitCode::Stopped));
    seen.extend(calls);
    seen
}

/// A machine that can be saved is paused when the file server has answered what it was asked, and asks nothing more; but
/// an order to go on does not wait.
fn come_to_rest(hand: &mut Hand) {
    hand.start_device(FS, &[64, 1024]);
    let at = PACKETS + 40 * STRIDE;
    hand.memory.write_slice(&[0; 64], GuestAddress(at)).unwrap();
    let ask = |hand: &mut Hand| {
        hand.offer(FS, 1, &[readable(at, 64), writable(at + 0x1000, 0x4000)]);
        hand.notify(FS, 1);
    };
    ask(hand);
    hand.send(&Command::Pause);
    assert!(hand.is_silent(), "paused with a request under way");
    hand.send(&Command::Resume);
    assert_eq!((hand.event(), hand.event()), (Event::Paused, Event::Resumed));
    // It runs: another request is handed over.
    ask(hand);
    hand.send(&Command::Pause);
    assert!(hand.is_silent(), "paused with two requests under way");
    hand.serve(&[3; 128]);
    assert!(hand.is_silent(), "paused with a request under way");
    // This one stays in its queue.
    hand.offer(FS, 1, &[readable(at, 64), writable(at + 0x1000, 0x4000)]);
    hand.serve(&[4; 64]);
    assert_eq!(hand.event(), Event::Paused);
    assert_eq!((hand.used(FS, 1).1, hand.used(FS, 1).1), (128, 64));
    hand.send(&Command::Resume);
    assert_eq!(hand.event(), Event::Resumed);
    hand.serve(&[5; 32]);
    assert_eq!(hand.used(FS, 1).1, 32);
    hand.send(&Command::Pause);
    assert_eq!(hand.event(), Event::Paused);
}

/// The other thing that a vmm does: `cloister doctor` asks for it.
fn probed() -> BTreeSet<Seen> {
    let (report, (seen, status)) = Hand::probe();
    assert!(matches!(report, Event::Probed(_)), "{report:?}");
    assert_eq!(status, exited(ExitCode::Stopped));
    seen
}

/// What can come to either kind of thread at any time, and can't be brought about at will: that of all
/// threads this one needs the heap to grow, or finds that there is no memory, or aborts.
fn out_of_memory_and_aborts() -> BTreeSet<Seen> {
    let program = Path::new(env!("CARGO_BIN_EXE_cloister-vmm"));
    let malloc = function(program, |name| name == "malloc");
    let free = function(program, |name| name == "free");
    let sched_yield = function(program, |name| name == "sched_yield");
    let abort = function(program, |name| name == "abort");
    let no_memory = function(program, |name| name.contains("handle_alloc_error"));
    let mut seen = BTreeSet::new();
    for kind in [Kind::Main, Kind::Other] {
        let after = match kind {
            Kind::Main => libc::SYS_epoll_wait,
            Kind::Other => libc::SYS_ioctl,
        };
        for last in [abort, no_memory] {
            let mut hand = Hand::start();
            // Below what the allocator asks the kernel for as a mapping of its own.
            let arguments = [100 << 10, 0];
            let call = |function, arguments| Injected { kind, after, function, arguments };
            hand.traced.inject_all(&[
                call(malloc, arguments),
                call(malloc, arguments),
                call(malloc, arguments),
                call(free, [result(2), 0]),
                // A contended channel makes its users do so.
                call(sched_yield, [0, 0]),
            ]);
            // Both threads come out of their calls by this.
            while !hand.traced.injected_all() {
                hand.send(&Command::Pause);
                assert_eq!(hand.event(), Event::Paused);
                hand.send(&Command::Resume);
                assert_eq!(hand.event(), Event::Resumed);
            }
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            hand.traced.limit(libc::RLIMIT_AS, none);
            for _ in 0..3 {
                hand.traced.inject(Injected { kind, after, function: malloc, arguments });
            }
            let arguments = [8, 4096];
            hand.traced.inject(Injected { kind, after, function: last, arguments });
            // It ends in the middle of this.
            while hand.try_ask(&Command::Pause) && hand.try_ask(&Command::Resume) {}
            assert!(hand.traced.injected_all());
            let (calls, status) = hand.finish();
            assert_eq!(status & 0x7f, libc::SIGABRT, "{kind:?}: {status:#x}");
            seen.extend(calls);
        }
    }
    seen
}
