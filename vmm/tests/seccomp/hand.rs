//! A traced vmm whose toy guest does with its devices what the test says, over a mailbox in its memory.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cloister_jailer::spec::Role;
use cloister_jailer::{filter, policy};
use cloister_vmm::control::{Command, Event};
use cloister_vmm::devices::virtio::offset;
use cloister_vmm::devices::virtio::registers::FEATURE_VERSION_1;
use cloister_vmm::spec::{SHARE_SLOT_BYTES, SHARE_SLOTS, SavedSpec, VmSpec, WorkingSet};
use cloister_vmm::toy::{self, Note};
use cloister_vmm::x86_64::layout;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use crate::driver::{Piece, Ring};
use crate::process::{self, Files};
use crate::tracer::{Seen, Traced};

/// How long anything may take; only a failing test ever waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The mailbox: turn, what to do, where, value, the last turn that was done.
const MAILBOX: u32 = 0x0030_0000;
/// Where the queues of the devices lie, a part for each device.
const QUEUES: u64 = 0x0040_0000;
const QUEUES_OF_EACH: u64 = 0x10_0000;

pub(crate) const VSOCK: u64 = 0;
pub(crate) const RNG: u64 = 1;
pub(crate) const BALLOON: u64 = 2;
pub(crate) const FS: u64 = 3;

/// Writes to a register, reads one, writes to a port: all that the guest can do.
const WRITE: u32 = 0;
const READ: u32 = 1;
const PORT: u32 = 2;

/// The guest: waits for a turn, does it, says so.
fn code() -> Vec<u8> {
    let at = |field: u32| (MAILBOX + 4 * field).to_le_bytes();
    let with = |bytes: &[u8], field: u32| [bytes, &at(field)].concat();
    let read = [vec![0x8b, 0x0b], with(&[0x89, 0x0d], 3)].concat(); // ecx = [ebx]; value = ecx
    let port = vec![0x89, 0xda, 0x88, 0xc8, 0xee]; // edx = ebx; al = cl; out dx, al
    let write = vec![0x89, 0x0b]; // [ebx] = ecx
    let skip = |code: &[u8]| vec![0xeb, u8::try_from(code.len()).unwrap()];
    // write; skip port and read. port; skip read. read.
    let after_port = [port.clone(), skip(&read)].concat();
    let after_write = {
        let rest = [after_port.clone(), read.clone()].concat();
        [write, skip(&rest)].concat()
    };
    let jump = |code: u8, over: usize| vec![code, u8::try_from(over).unwrap()];
    let is = |what: u32| [vec![0x3c], vec![u8::try_from(what).unwrap()]].concat(); // al == what?
    let test_port = [is(PORT), jump(0x74, after_write.len())].concat();
    let test_read = {
        let over = test_port.len() + after_write.len() + after_port.len();
        [is(READ), jump(0x74, over)].concat()
    };
    let mut code = [
        with(&[0xa1], 0),       // eax = turn
        with(&[0x3b, 0x05], 4), // eax == done?
    ]
    .concat();
    code.extend([0x74, 0u8.wrapping_sub(13)]); // then again
    code.extend([with(&[0x8b, 0x1d], 2), with(&[0x8b, 0x0d], 3), with(&[0xa1], 1)].concat());
    // al is what to do; the value stays in ecx.
    code.extend([test_read, test_port, after_write, after_port, read].concat());
    code.extend([with(&[0xa1], 0), with(&[0xa3], 4)].concat()); // done = turn
    let back = 0i8.wrapping_sub_unsigned(u8::try_from(code.len() + 2).unwrap());
    code.extend([0xeb, back.cast_unsigned()]);
    code
}

fn shape() -> VmSpec {
    VmSpec { vcpus: 2, memory_mib: 64, extra_cmdline: String::new() }
}

fn saved_spec(vm: VmSpec) -> SavedSpec {
    SavedSpec { vm, fingerprint: [1; 32], shared: true }
}

pub(crate) struct Hand {
    pub(crate) traced: Traced,
    pub(crate) control: UnixDatagram,
    pub(crate) memory: GuestMemoryMmap,
    file: File,
    pub(crate) rings: Vec<Vec<Ring>>,
    /// The file server's ends.
    pub(crate) server: Option<UnixDatagram>,
    pub(crate) area: File,
    log: File,
    turn: u32,
}

impl Hand {
    /// A machine with shares whose guest awaits its orders.
    pub(crate) fn start() -> Self {
        let mut hand = Self::start_with(&code());
        assert!(matches!(hand.event(), Event::Running(_)));
        hand
    }

    /// A machine with shares and this guest.
    pub(crate) fn start_with(code: &[u8]) -> Self {
        Self::start_by(code, Command::StartShared)
    }

    /// A machine that can be saved, whose guest awaits its orders.
    pub(crate) fn start_savable() -> Self {
        let mut hand = Self::start_by(&code(), |vm| Command::StartSavable(saved_spec(vm)));
        assert!(matches!(hand.event(), Event::Running(_)));
        hand
    }

    fn start_by(code: &[u8], command_of: impl FnOnce(VmSpec) -> Command) -> Self {
        let spec = shape();
        let files = Files::new(&spec, &toy::elf(code, Note::Pvh));
        let bytes = usize::try_from(spec.memory_bytes()).unwrap();
        let file = files.memory.try_clone().unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let ranges = [(GuestAddress(0), bytes, Some(offset))];
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges).unwrap();
        let area = SHARE_SLOT_BYTES as u64 * u64::from(SHARE_SLOTS);
        let area = process::sealed_file("area", area);
        let (server, theirs) = process::seqpacket_pair();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let (command, control) = process::command();
        let traced = Traced::start(command, jails_filter());
        let mut descriptors = files.descriptors().to_vec();
        descriptors.extend([area.as_raw_fd(), theirs.as_raw_fd()]);
        process::send(&control, &command_of(spec), &descriptors);
        let (server, rings) = (Some(server), (0..4).map(|_| Vec::new()).collect());
        let log = files.into_log();
        Self { traced, control, memory, file, rings, server, area, log, turn: 0 }
    }

    /// Saves the machine, which is paused: its memory, its state, and when that was.
    pub(crate) fn save(&mut self) -> (File, File, Instant) {
        let state = process::empty_file();
        process::send(&self.control, &Command::Save, &[state.as_raw_fd()]);
        assert!(matches!(self.event(), Event::Saved { .. }));
        let saved = Instant::now();
        (self.file.try_clone().unwrap(), state, saved)
    }

    /// Saves the machine, which is paused, with its memory, of which nothing is kept.
    pub(crate) fn save_whole(&mut self) {
        let (state, (mut from, to)) = (process::empty_file(), process::pipe());
        let reader = std::thread::spawn(move || std::io::copy(&mut from, &mut std::io::sink()));
        let descriptors = [state.as_raw_fd(), to.as_raw_fd()];
        process::send(&self.control, &Command::SaveWhole, &descriptors);
        drop(to);
        assert!(matches!(self.event(), Event::Saved { .. }));
        assert!(reader.join().unwrap().unwrap() > 4096);
    }

    /// Whether the vmm has nothing to say for a moment.
    pub(crate) fn is_silent(&self) -> bool {
        let moment = Duration::from_millis(200);
        self.control.set_read_timeout(Some(moment)).unwrap();
        let silent = self.control.recv(&mut [0; 16 << 10]).is_err();
        self.control.set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }

    /// A machine that goes on from a saved one and can be saved again.
    pub(crate) fn fork_savable(memory: File, state: &File, saved: Instant) -> Self {
        let command = Command::ForkSavable(saved_spec(shape()), WorkingSet::default());
        Self::go_on(&command, memory, state, saved)
    }

    /// A machine that goes on from a saved one. Its guest hears no orders: its memory is its own.
    pub(crate) fn fork(memory: File, state: &File, saved: Instant) -> Self {
        let command = Command::Fork(saved_spec(shape()), WorkingSet::default());
        Self::go_on(&command, memory, state, saved)
    }

    /// The same to find out which pages it writes.
    pub(crate) fn rehearse(memory: File, state: &File, saved: Instant) -> Self {
        Self::go_on(&Command::Rehearse(saved_spec(shape())), memory, state, saved)
    }

    fn go_on(first: &Command, memory: File, state: &File, saved: Instant) -> Self {
        process::seal_writes(&memory);
        let files = Files::new(&shape(), &[]);
        let log = files.log_writer.as_raw_fd();
        let (server, theirs) = process::seqpacket_pair();
        let area = SHARE_SLOT_BYTES as u64 * u64::from(SHARE_SLOTS);
        let area = process::sealed_file("area", area);
        let kvm = process::kvm();
        let (command, control) = process::command();
        let traced = Traced::start(command, jails_filter());
        // As late as can be: a second later it would not do.
        let state = process::state_by_now(state, saved);
        let descriptors = [&kvm, &memory, &state].map(|file| file.as_raw_fd());
        let descriptors = [&descriptors[..], &[log, area.as_raw_fd(), theirs.as_raw_fd()]].concat();
        process::send(&control, first, &descriptors);
        let rings = (0..4).map(|_| Vec::new()).collect();
        let bytes = usize::try_from(shape().memory_bytes()).unwrap();
        let unused = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)]).unwrap();
        let (server, file) = (Some(server), memory);
        let log = files.into_log();
        Self { traced, control, memory: unused, file, rings, server, area, log, turn: 0 }
    }

    /// A vmm that is asked for a probe: its report; then as [`Self::finish`].
    pub(crate) fn probe() -> (Event, (BTreeSet<Seen>, i32)) {
        let (command, control) = process::command();
        let traced = Traced::start(command, jails_filter());
        let kvm = File::options().read(true).write(true).open("/dev/kvm").unwrap();
        process::send(&control, &Command::Probe, &[kvm.as_raw_fd()]);
        (process::receive(&control), traced.finish())
    }

    pub(crate) fn event(&mut self) -> Event {
        process::receive(&self.control)
    }

    pub(crate) fn send(&self, command: &Command) {
        process::send(&self.control, command, &[]);
    }

    /// Sends a message and awaits the answer; `false`: the vmm is gone.
    pub(crate) fn try_ask(&self, command: &Command) -> bool {
        let bytes = postcard::to_allocvec(command).unwrap();
        let mut answer = [0; 16 << 10];
        self.control.send(&bytes).is_ok() && self.control.recv(&mut answer).is_ok_and(|got| got > 0)
    }

    pub(crate) fn send_stream(&self, command: &Command) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        // The kernel's least: what the host does not read waits in the vmm.
        small_buffer(&theirs);
        process::send(&self.control, command, &[OwnedFd::from(theirs).as_raw_fd()]);
        ours
    }

    /// Gives the guest an order; nobody waits for it.
    fn order(&mut self, what: u32, address: u32, value: u32) {
        self.turn += 1;
        for (field, word) in [(1, what), (2, address), (3, value)] {
            self.memory.write_obj(word, GuestAddress(u64::from(MAILBOX) + 4 * field)).unwrap();
        }
        let turn = GuestAddress(u64::from(MAILBOX));
        self.memory.store(self.turn, turn, Ordering::SeqCst).unwrap();
    }

    /// The same, done; what was read.
    fn act(&mut self, what: u32, address: u32, value: u32) -> u32 {
        self.order(what, address, value);
        let done = GuestAddress(u64::from(MAILBOX) + 16);
        let turn = self.turn;
        // A guest that shares nothing but memory has no event to wait for.
        wait_until("the guest's answer", || {
            self.memory.load::<u32>(done, Ordering::SeqCst).unwrap() == turn
        });
        self.memory.read_obj(GuestAddress(u64::from(MAILBOX) + 12)).unwrap()
    }

    /// Writes to a port.
    pub(crate) fn out(&mut self, port: u16, value: u8) {
        self.act(PORT, port.into(), value.into());
    }

    /// The same for a port that ends the machine.
    pub(crate) fn out_at_last(&mut self, port: u16, value: u8) {
        self.order(PORT, port.into(), value.into());
    }

    fn register(device: u64, at: u64) -> u32 {
        let address = layout::VIRTIO_MMIO_BASE + device * layout::VIRTIO_MMIO_STRIDE + at;
        u32::try_from(address).unwrap()
    }

    pub(crate) fn set(&mut self, device: u64, at: u64, value: u32) {
        self.act(WRITE, Self::register(device, at), value);
    }

    pub(crate) fn get(&mut self, device: u64, at: u64) -> u32 {
        self.act(READ, Self::register(device, at), 0)
    }

    /// Starts a device with queues of these sizes, as a driver does.
    pub(crate) fn start_device(&mut self, device: u64, sizes: &[u16]) {
        for status in [0, 1, 3] {
            self.set(device, offset::STATUS, status);
        }
        for half in [0, 1] {
            self.set(device, offset::DRIVER_FEATURES_SEL, half);
            let wanted = (FEATURE_VERSION_1 >> (32 * half)) as u32;
            self.set(device, offset::DRIVER_FEATURES, wanted);
        }
        self.set(device, offset::STATUS, 11);
        assert_eq!(self.get(device, offset::STATUS), 11);
        let mut rings = Vec::new();
        for (index, size) in (0..).zip(sizes) {
            let mut ring = Ring::new(index, *size, false);
            let base = QUEUES + device * QUEUES_OF_EACH;
            ring.descriptors += base;
            ring.driver_area += base;
            ring.device_area += base;
            self.set(device, offset::QUEUE_SEL, index);
            self.set(device, offset::QUEUE_NUM, u32::from(*size));
            for (at, start) in [
                (offset::QUEUE_DESC_LOW, ring.descriptors),
                (offset::QUEUE_DRIVER_LOW, ring.driver_area),
                (offset::QUEUE_DEVICE_LOW, ring.device_area),
            ] {
                self.memory.write_slice(&[0; 0x4000], GuestAddress(start)).unwrap();
                self.set(device, at, u32::try_from(start).unwrap());
                self.set(device, at + 4, 0);
            }
            self.set(device, offset::QUEUE_READY, 1);
            rings.push(ring);
        }
        self.set(device, offset::STATUS, 15);
        assert_eq!(self.get(device, offset::STATUS), 15);
        self.rings[usize::try_from(device).unwrap()] = rings;
    }

    fn ring(&mut self, device: u64, queue: usize) -> (&mut Ring, &GuestMemoryMmap) {
        (&mut self.rings[usize::try_from(device).unwrap()][queue], &self.memory)
    }

    /// Offers a buffer without notifying.
    pub(crate) fn offer(&mut self, device: u64, queue: usize, pieces: &[Piece]) {
        let (ring, memory) = self.ring(device, queue);
        ring.add(memory, pieces);
    }

    pub(crate) fn notify(&mut self, device: u64, queue: usize) {
        self.set(device, offset::QUEUE_NOTIFY, u32::try_from(queue).unwrap());
    }

    /// Waits for a buffer to come back; its head and length.
    #[track_caller]
    pub(crate) fn used(&mut self, device: u64, queue: usize) -> (u16, u32) {
        let (ring, memory) = self.ring(device, queue);
        let mut found = None;
        wait_until("a buffer", || {
            found = ring.take_used(memory);
            found.is_some()
        });
        found.unwrap()
    }

    /// Waits for the process; what it called, and its status as `waitpid` tells it.
    pub(crate) fn finish(self) -> (BTreeSet<Seen>, i32) {
        let Self { traced, control, mut log, server, .. } = self;
        let result = traced.finish();
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        drop((control, server));
        result
    }

    /// The host goes away.
    pub(crate) fn hang_up(self) -> (BTreeSet<Seen>, i32) {
        let Self { traced, control, server, .. } = self;
        drop(control);
        let result = traced.finish();
        drop(server);
        result
    }

    /// Answers the next job of the device as a file server would.
    pub(crate) fn serve(&mut self, reply: &[u8]) {
        use std::os::unix::fs::FileExt as _;
        let server = self.server.as_ref().unwrap();
        let mut job = [0; 12];
        assert_eq!(server.recv(&mut job).unwrap(), job.len());
        let slot = u32::from_le_bytes(job[..4].try_into().unwrap());
        let at = u64::from(slot) * SHARE_SLOT_BYTES as u64;
        self.area.write_all_at(reply, at).unwrap();
        let length = u32::try_from(reply.len()).unwrap();
        let done = [slot.to_le_bytes(), length.to_le_bytes()].concat();
        assert_eq!(server.send(&done).unwrap(), done.len());
    }
}

/// As little room in the kernel for what this end sends as there can be.
#[expect(unsafe_code, reason = "sets an option of a socket")]
fn small_buffer(stream: &UnixStream) {
    let least: libc::c_int = 1;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_SNDBUF);
    // SAFETY: a live number and its size.
    let set = unsafe {
        libc::setsockopt(stream.as_raw_fd(), level, option, (&raw const least).cast(), 4)
    };
    assert_eq!(set, 0);
}

/// What confines the vmm from its execution on, as the jail does; the test executes it by a path.
fn jails_filter() -> Vec<libc::sock_filter> {
    let mut table = policy::of(Role::Vmm);
    let execution = table.iter().find(|line| i64::from(line.call) == libc::SYS_execveat).unwrap();
    table.push(policy::Line { call: u32::try_from(libc::SYS_execve).unwrap(), ..*execution });
    filter::compile(&table).unwrap()
}

/// Waits for something that tells nobody.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

/// Writes all of it, however long the other side takes.
pub(crate) fn feed(stream: &mut UnixStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
}
