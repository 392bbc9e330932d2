//! The file system device against a file server that the test plays, honest and hostile.

use std::fs::File;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixDatagram;

use cloister_vmm::devices::virtio::registers::Phase;
use cloister_vmm::devices::virtio::saved::StateFault;
use cloister_vmm::devices::virtio::{Device as _, Fs};
use cloister_vmm::spec::{SHARE_SLOT_BYTES, SHARE_SLOTS};
use vm_memory::{Bytes, GuestAddress};

use crate::driver::{BUFFERS, Guest, Piece, readable, writable};

const URGENT: usize = 0;
const REQUESTS: usize = 1;
/// Where replies go.
const REPLIES: u64 = BUFFERS + (4 << 20);

/// The file server's side.
struct Server {
    socket: UnixDatagram,
    area: File,
}

#[expect(
    unsafe_code,
    reason = "a memory file and a pair of sockets of the kind that the host makes"
)]
fn bed() -> (Guest<Fs>, Server) {
    // SAFETY: a constant name; the call returns a new descriptor.
    let area = unsafe {
        libc::memfd_create(c"area".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
    };
    assert!(area >= 0);
    // SAFETY: it is new and nobody else's.
    let area = unsafe { File::from_raw_fd(area) };
    area.set_len(SHARE_SLOT_BYTES as u64 * u64::from(SHARE_SLOTS)).unwrap();
    let mut ends = [-1; 2];
    // SAFETY: room for two descriptors.
    let made =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, ends.as_mut_ptr()) };
    assert_eq!(made, 0);
    // SAFETY: both are new and nobody else's.
    let [ours, theirs] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let copy = area.try_clone().unwrap();
    assert!(Fs::new(copy.try_clone().unwrap(), ours.try_clone().unwrap()).is_err(), "not sealed");
    use std::os::fd::AsRawFd as _;
    // SAFETY: adds seals to a file of our own.
    let sealed = unsafe {
        libc::fcntl(area.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW)
    };
    assert_eq!(sealed, 0);
    let socket = UnixDatagram::from(ours);
    socket.set_nonblocking(true).unwrap();
    let mut guest = Guest::started(Fs::new(copy, theirs).unwrap());
    guest.run(10);
    (guest, Server { socket, area })
}

impl Server {
    /// The next job: slot, bytes of the request, room for the reply.
    fn job(&self) -> Option<[u32; 3]> {
        let mut message = [0; 16];
        match self.socket.recv(&mut message) {
            Ok(12) => {}
            other => {
                assert!(other.is_err(), "{other:?}");
                return None;
            }
        }
        let word = |at: usize| u32::from_le_bytes(message[at..at + 4].try_into().unwrap());
        Some([word(0), word(4), word(8)])
    }

    fn request(&self, [slot, bytes, _]: [u32; 3]) -> Vec<u8> {
        let mut request = vec![0; bytes as usize];
        let at = u64::from(slot) * SHARE_SLOT_BYTES as u64;
        self.area.read_exact_at(&mut request, at).unwrap();
        request
    }

    fn done(&self, slot: u32, reply: &[u8]) {
        let at = u64::from(slot) * SHARE_SLOT_BYTES as u64;
        self.area.write_all_at(reply, at).unwrap();
        self.say(slot, reply.len() as u32);
    }

    fn say(&self, slot: u32, bytes: u32) {
        let message: Vec<u8> = [slot, bytes].iter().flat_map(|word| word.to_le_bytes()).collect();
        self.socket.send(&message).unwrap();
    }
}

fn ask(guest: &mut Guest<Fs>, queue: usize, pieces: &[Piece]) -> u16 {
    let head = guest.rings[queue].add(&guest.memory, pieces);
    guest.notify(queue);
    guest.run(100);
    head
}

#[test]
fn memory_that_is_named_twice_does_no_harm() {
    let (mut guest, server) = bed();
    let request: Vec<u8> = (0..60).collect();
    guest.memory.write_slice(&request, GuestAddress(BUFFERS)).unwrap();
    // The request twice, the second time from its middle; the reply over it, over itself, and twice into one place.
    let pieces = [
        readable(BUFFERS, 60),
        readable(BUFFERS + 20, 40),
        writable(BUFFERS + 30, 8),
        writable(BUFFERS + 34, 8),
        writable(BUFFERS + 30, 8),
    ];
    ask(&mut guest, REQUESTS, &pieces);
    let job = server.job().unwrap();
    assert_eq!(server.request(job), [&request, &request[20..60]].concat());
    assert_eq!(job[2], 24);
    let reply: Vec<u8> = (100..124).collect();
    server.done(job[0], &reply);
    guest.run(100);
    assert_eq!(guest.rings[REQUESTS].take_used(&guest.memory).map(|(_, bytes)| bytes), Some(24));
    let mut memory = [0; 60];
    guest.memory.read_slice(&mut memory, GuestAddress(BUFFERS)).unwrap();
    let after = [&request[..30], &reply[16..24], &reply[12..16], &request[42..]].concat();
    assert_eq!(memory, *after);
    assert_eq!(guest.transport.phase(), Phase::DriverOk);
}

#[test]
fn who_notifies_hands_the_request_over_itself() {
    let (mut guest, server) = bed();
    // Pages from the last to the first: none follows the one before.
    let data: Vec<u8> = (0..(64 << 10) + 40_u32).map(|number| (number % 251) as u8).collect();
    let mut pieces = vec![readable(BUFFERS, 40)];
    guest.memory.write_slice(&data[..40], GuestAddress(BUFFERS)).unwrap();
    for (page, bytes) in data[40..].chunks(4096).enumerate() {
        let place = BUFFERS + 4096 * (20 - page as u64);
        guest.memory.write_slice(bytes, GuestAddress(place)).unwrap();
        pieces.push(readable(place, 4096));
    }
    pieces.push(writable(REPLIES, 100));
    guest.rings[REQUESTS].add(&guest.memory, &pieces);
    let turns = guest.turns;
    guest.notify(REQUESTS);
    let job = server.job().unwrap();
    assert_eq!(guest.turns, turns, "the event loop has done nothing");
    assert!(server.request(job) == data);
}

fn used(guest: &mut Guest<Fs>, queue: usize) -> Option<(u16, u32)> {
    guest.rings[queue].take_used(&guest.memory)
}

fn read(guest: &Guest<Fs>, address: u64, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    guest.memory.read_slice(&mut data, GuestAddress(address)).unwrap();
    data
}

#[test]
fn a_request_goes_there_and_its_reply_comes_back() {
    let (mut guest, server) = bed();
    // One MiB in pages, as Linux sends it, and its reply in two pieces.
    let data: Vec<u8> = (0..(1 << 20) + 80_u32).map(|number| (number % 251) as u8).collect();
    guest.memory.write_slice(&data, GuestAddress(BUFFERS)).unwrap();
    let mut pieces = vec![readable(BUFFERS, 80)];
    pieces.extend((0..256).map(|page| readable(BUFFERS + 80 + page * 4096, 4096)));
    pieces.extend([writable(REPLIES, 16), writable(REPLIES + 4096, 100)]);
    let head = ask(&mut guest, REQUESTS, &pieces);
    let job = server.job().unwrap();
    assert_eq!(job[1..], [(1 << 20) + 80, 116]);
    assert_eq!(server.request(job), data);
    server.done(job[0], &[7; 20]);
    guest.run(10);
    assert_eq!(used(&mut guest, REQUESTS), Some((head, 20)));
    assert_eq!(guest.take_interrupt(), Some(1));
    assert_eq!(read(&guest, REPLIES, 17), [[7; 16].as_slice(), &[0]].concat());
    assert_eq!(read(&guest, REPLIES + 4096, 5), [7, 7, 7, 7, 0]);
    // A request without a reply.
    let head = ask(&mut guest, URGENT, &[readable(BUFFERS, 48)]);
    let job = server.job().unwrap();
    assert_eq!(job[1..], [48, 0]);
    server.done(job[0], &[]);
    guest.run(10);
    assert_eq!(used(&mut guest, URGENT), Some((head, 0)));
    assert_eq!(guest.transport.device().requests(), 2);
}

#[test]
fn requests_wait_for_a_slot_and_urgent_ones_need_not() {
    let (mut guest, server) = bed();
    let ordinary = SHARE_SLOTS - 2;
    let pieces = [readable(BUFFERS, 64), writable(REPLIES, 64)];
    for _ in 0..ordinary + 10 {
        ask(&mut guest, REQUESTS, &pieces);
    }
    let mut jobs: Vec<_> = std::iter::from_fn(|| server.job()).collect();
    assert_eq!(jobs.len() as u32, ordinary);
    for _ in 0..2 {
        ask(&mut guest, URGENT, &[readable(BUFFERS, 48)]);
        jobs.push(server.job().unwrap());
    }
    ask(&mut guest, URGENT, &[readable(BUFFERS, 48)]);
    assert_eq!(server.job(), None);
    let mut slots: Vec<u32> = jobs.iter().map(|job| job[0]).collect();
    slots.sort_unstable();
    assert_eq!(slots, (0..SHARE_SLOTS).collect::<Vec<_>>());
    let mut answered = 0;
    while let Some(job) = jobs.pop() {
        server.done(job[0], &vec![1; (job[2] as usize).min(16)]);
        guest.run(100);
        jobs.extend(std::iter::from_fn(|| server.job()));
        answered += 1;
    }
    assert_eq!(answered, ordinary + 10 + 3);
    let count = |guest: &mut Guest<Fs>, queue| std::iter::from_fn(|| used(guest, queue)).count();
    assert_eq!(count(&mut guest, REQUESTS) as u32, ordinary + 10);
    assert_eq!(count(&mut guest, URGENT), 3);
}

#[test]
fn a_device_that_is_held_comes_to_rest_and_asks_nothing_more() {
    let (mut guest, server) = bed();
    let pieces = [readable(BUFFERS, 64), writable(REPLIES, 64)];
    // More than there are slots: some wait for one.
    for _ in 0..SHARE_SLOTS {
        ask(&mut guest, REQUESTS, &pieces);
    }
    let jobs: Vec<_> = std::iter::from_fn(|| server.job()).collect();
    guest.transport.device_mut().hold(true);
    ask(&mut guest, URGENT, &[readable(BUFFERS, 48)]);
    assert!(matches!(guest.transport.state(), Err(StateFault::Busy { id: 26 })));
    for job in &jobs {
        assert!(!guest.transport.device().is_at_rest());
        server.done(job[0], &[1; 16]);
        guest.run(10);
    }
    assert!(guest.transport.device().is_at_rest());
    assert_eq!(server.job(), None);
    assert!(guest.transport.state().is_ok());
    guest.transport.device_mut().hold(false);
    guest.transport.kick();
    guest.run(10);
    let later = std::iter::from_fn(|| server.job()).count();
    assert_eq!(jobs.len() + later, SHARE_SLOTS as usize + 1);
}

#[test]
fn a_reset_forgets_what_is_on_its_way_and_no_slot_is_lost() {
    let (mut guest, server) = bed();
    for round in 0..3 {
        for _ in 0..SHARE_SLOTS - 2 {
            ask(&mut guest, REQUESTS, &[readable(BUFFERS, 64), writable(REPLIES, 64)]);
        }
        let jobs: Vec<_> = std::iter::from_fn(|| server.job()).collect();
        assert_eq!(jobs.len() as u32, SHARE_SLOTS - 2, "round {round}");
        guest.memory.write_slice(&[0; 64], GuestAddress(REPLIES)).unwrap();
        guest.start(true);
        guest.run(10);
        for job in jobs {
            server.done(job[0], &[9; 64]);
        }
        guest.run(100);
        assert_eq!(read(&guest, REPLIES, 64), [0; 64]);
        assert_eq!(used(&mut guest, REQUESTS), None);
        assert_eq!(guest.transport.device().failure(), None);
    }
}

#[test]
fn a_guest_that_breaks_the_rules_breaks_the_device_alone() {
    let long = (SHARE_SLOT_BYTES + 1) as u32;
    for pieces in
        [vec![readable(BUFFERS, 39)], vec![writable(BUFFERS, 64)], vec![readable(BUFFERS, long)]]
    {
        let (mut guest, server) = bed();
        ask(&mut guest, REQUESTS, &pieces);
        assert_eq!(guest.transport.phase(), Phase::NeedsReset);
        assert_eq!(guest.transport.device().failure(), None);
        assert_eq!(server.job(), None);
        guest.start(true);
        ask(&mut guest, REQUESTS, &[readable(BUFFERS, 64), writable(REPLIES, 64)]);
        assert!(server.job().is_some());
    }
}

#[test]
fn a_file_server_that_breaks_the_rules_is_told_of() {
    type Act = fn(&Server, [u32; 3]);
    let acts: [(&str, Act); 6] = [
        ("too long", |server, job| server.say(job[0], job[2] + 1)),
        ("far too long", |server, job| server.say(job[0], u32::MAX)),
        ("no such slot", |server, _| server.say(SHARE_SLOTS, 16)),
        ("not asked", |server, job| server.say((job[0] + 1) % SHARE_SLOTS, 16)),
        ("twice", |server, job| {
            server.done(job[0], &[1; 16]);
            server.done(job[0], &[1; 16]);
        }),
        ("no message", |server, _| {
            server.socket.send(&[0; 9]).unwrap();
        }),
    ];
    for (what, act) in acts {
        let (mut guest, server) = bed();
        ask(&mut guest, REQUESTS, &[readable(BUFFERS, 64), writable(REPLIES, 64)]);
        act(&server, server.job().unwrap());
        guest.turn(0);
        // What comes after the last answer that is due is seen in the next turn.
        guest.turn(0);
        assert!(guest.transport.device().failure().is_some(), "{what}");
        assert_eq!(read(&guest, REPLIES + 64, 64), [0; 64], "{what}");
    }
}

#[test]
fn a_file_server_that_is_gone_is_told_of() {
    let (mut guest, server) = bed();
    drop(server);
    guest.turn(0);
    assert_eq!(guest.transport.device().failure(), Some("the file server has ended"));
    let (mut guest, server) = bed();
    drop(server);
    guest.rings[REQUESTS].add(&guest.memory, &[readable(BUFFERS, 64), writable(REPLIES, 64)]);
    guest.notify(REQUESTS);
    guest.turn(0);
    assert!(guest.transport.device().failure().is_some());
}
