//! Devices that take on the state of another machine's: what goes on, what is told anew, what is refused.

use cloister_vmm::control::Event;
use cloister_vmm::devices::virtio::fault::QueueFault;
use cloister_vmm::devices::virtio::registers::Phase;
use cloister_vmm::devices::virtio::saved::{DeviceState, StateFault};
use cloister_vmm::devices::virtio::vsock::packet::Operation;
use cloister_vmm::devices::virtio::{Rng, Vsock};
use vm_memory::{Bytes, GuestAddress};

use crate::driver::{BUFFERS, Guest, writable};
use crate::peer::{Peer, operations, packet};

/// The queue of events, and where its buffers lie.
const EVENTS: usize = 2;
const EVENT_BUFFERS: u64 = BUFFERS + 0x20_0000;

fn draw(guest: &mut Guest<Rng>) -> u32 {
    guest.rings[0].add(&guest.memory, &[writable(BUFFERS, 64)]);
    guest.notify(0);
    guest.run(100);
    guest.rings[0].take_used(&guest.memory).map_or(0, |(_, written)| written)
}

#[test]
fn a_device_goes_on_where_its_driver_left_it() {
    for event_index in [false, true] {
        let mut guest = Guest::new(Rng::new().unwrap());
        guest.start(event_index);
        guest.run(10);
        for _ in 0..21 {
            assert_eq!(draw(&mut guest), 64);
        }
        // A request whose notification nobody has seen.
        guest.rings[0].add(&guest.memory, &[writable(BUFFERS, 32)]);
        let state = guest.transport.state().unwrap();
        assert_eq!((state.queues[0].next_available, state.queues[0].next_used), (21, 21));
        let mut guest = guest.forked(Rng::new().unwrap());
        guest.transport.take_state(&state).unwrap();
        assert_eq!(guest.transport.state().unwrap(), state);
        guest.run(10);
        assert_eq!(guest.rings[0].take_used(&guest.memory), None);
        guest.transport.kick();
        guest.run(10);
        assert_eq!(guest.rings[0].take_used(&guest.memory).unwrap().1, 32);
        assert_eq!(guest.take_interrupt(), Some(1));
        assert_eq!(draw(&mut guest), 64);
    }
}

#[test]
fn every_phase_of_a_driver_goes_on() {
    let steps: [u32; 4] = [0, 1, 3, 0x80];
    for status in steps {
        let mut guest = Guest::new(Rng::new().unwrap());
        for step in steps.iter().take_while(|step| **step <= status) {
            guest.set(0x70, *step);
        }
        let state = guest.transport.state().unwrap();
        let mut next = guest.forked(Rng::new().unwrap());
        next.transport.take_state(&state).unwrap();
        assert_eq!(next.transport.state().unwrap(), state);
        next.start(true);
        assert_eq!(draw(&mut next), 64);
    }
}

#[test]
fn a_state_that_no_driver_reaches_is_refused() {
    let mut guest = Guest::started(Rng::new().unwrap());
    guest.run(10);
    let good = guest.transport.state().unwrap();
    let fault = |change: &dyn Fn(&mut DeviceState)| {
        let mut state = good.clone();
        change(&mut state);
        let mut next = guest.forked(Rng::new().unwrap());
        next.transport.take_state(&state).unwrap_err()
    };
    assert_eq!(fault(&|s| s.id = 19), StateFault::Device { got: 19, want: 4 });
    for status in [2, 5, 7, 16, 0x4f | 0x100, 0x82] {
        assert_eq!(fault(&|s| s.status = status), StateFault::Status { status });
    }
    assert!(matches!(fault(&|s| s.driver_features = 0), StateFault::Features { .. }));
    assert!(matches!(fault(&|s| s.driver_features |= 1 << 40), StateFault::Features { .. }));
    assert_eq!(fault(&|s| s.queues.clear()), StateFault::Queues { got: 0, want: 1 });
    assert_eq!(fault(&|s| s.interrupt_status = 4), StateFault::Interrupts { status: 4 });
    // The validator of live drivers.
    let queue = |change: &dyn Fn(&mut DeviceState)| match fault(change) {
        StateFault::Queue(fault) => fault,
        other => panic!("{other}"),
    };
    assert_eq!(queue(&|s| s.queues[0].ready = false), QueueFault::NotReady);
    assert!(matches!(queue(&|s| s.queues[0].size = 3), QueueFault::Size { .. }));
    assert!(matches!(queue(&|s| s.queues[0].size = 16), QueueFault::Size { .. }));
    assert!(matches!(queue(&|s| s.queues[0].descriptors = 8), QueueFault::Area { .. }));
    assert!(matches!(queue(&|s| s.queues[0].device_area = u64::MAX - 3), QueueFault::Area { .. }));
    let overlapping = |s: &mut DeviceState| s.queues[0].driver_area = s.queues[0].descriptors;
    assert_eq!(queue(&overlapping), QueueFault::AreasOverlap);
}

#[test]
fn a_wrong_place_in_a_ring_is_found_when_it_is_used() {
    let mut guest = Guest::started(Rng::new().unwrap());
    guest.run(10);
    assert_eq!(draw(&mut guest), 64);
    let mut state = guest.transport.state().unwrap();
    state.queues[0].next_available = 0x8000;
    let mut next = guest.forked(Rng::new().unwrap());
    next.transport.take_state(&state).unwrap();
    next.transport.kick();
    next.run(10);
    assert_eq!(next.transport.phase(), Phase::NeedsReset);
}

/// A guest with event buffers and a connection, and the same in a fork that was not looked at yet.
fn forked() -> Peer {
    let mut peer = Peer::new();
    for slot in 0..8 {
        let pieces = [writable(EVENT_BUFFERS + 8 * slot, 8)];
        peer.guest.rings[EVENTS].add(&peer.guest.memory, &pieces);
    }
    peer.guest.notify(EVENTS);
    peer.run();
    drop(peer.connect_to_host(5000, 1));
    let state = peer.guest.transport.state().unwrap();
    let mut next = peer.guest.forked(Vsock::new().unwrap());
    next.transport.take_state(&state).unwrap();
    next.transport.begin_anew();
    peer.guest = next;
    peer
}

#[test]
fn a_fork_gets_nothing_before_it_knows_that_its_connections_are_gone() {
    let mut peer = forked();
    peer.guest.memory.write_obj(u32::MAX, GuestAddress(EVENT_BUFFERS)).unwrap();
    peer.guest.transport.kick();
    peer.run();
    assert_eq!(peer.guest.take_interrupt(), Some(1));
    let (head, length) = peer.guest.rings[EVENTS].take_used(&peer.guest.memory).unwrap();
    assert_eq!(length, 4);
    assert_eq!(peer.guest.memory.read_obj::<u32>(GuestAddress(EVENT_BUFFERS)).unwrap(), 0);
    assert!(peer.guest.rings[EVENTS].take_used(&peer.guest.memory).is_none(), "{head}");

    // A packet of a connection that is gone, a new one of the guest's, and one of the host's: all wait.
    peer.send(&packet(Operation::CreditUpdate, 5000, 1), &[]);
    peer.send(&packet(Operation::Request, 5001, 1), &[]);
    let events = peer.guest.transport.take_events();
    let [Event::Incoming { id, port: 1 }] = events.as_slice() else { panic!("{events:?}") };
    let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    peer.guest.transport.accept(*id, theirs.into());
    let (_mine, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    peer.guest.transport.connect(7, 50, theirs.into());
    peer.run();
    assert_eq!(operations(&peer.packets(true)), []);

    // The driver gives the buffer back and says so, as Linux does after it has handled the event.
    let pieces = [writable(EVENT_BUFFERS, 8)];
    peer.guest.rings[EVENTS].add(&peer.guest.memory, &pieces);
    assert!(peer.guest.rings[EVENTS].must_notify(&peer.guest.memory), "the device would miss it");
    peer.guest.transport.queue_events()[EVENTS].write(1).unwrap();
    peer.run();
    let got = operations(&peer.packets(true));
    assert_eq!(got, [Operation::Reset, Operation::Response, Operation::Request]);
}

#[test]
fn a_fork_without_event_buffers_waits_for_one() {
    let peer = Peer::new();
    let state = peer.guest.transport.state().unwrap();
    let mut next = peer.guest.forked(Vsock::new().unwrap());
    next.transport.take_state(&state).unwrap();
    next.transport.begin_anew();
    let mut peer = Peer::over(next);
    peer.guest.transport.kick();
    peer.run();
    for expected in [1, 0] {
        let pieces = [writable(EVENT_BUFFERS, 8)];
        peer.guest.rings[EVENTS].add(&peer.guest.memory, &pieces);
        peer.guest.transport.queue_events()[EVENTS].write(1).unwrap();
        peer.run();
        let told = peer.guest.rings[EVENTS].take_used(&peer.guest.memory);
        assert_eq!(usize::from(told.is_some()), expected);
    }
}

#[test]
fn a_driver_that_begins_anew_is_told_nothing() {
    let mut peer = forked();
    peer.guest.start(true);
    peer.run();
    for slot in 0..8 {
        let pieces = [writable(EVENT_BUFFERS + 8 * slot, 8)];
        peer.guest.rings[EVENTS].add(&peer.guest.memory, &pieces);
    }
    peer.guest.transport.queue_events()[EVENTS].write(1).unwrap();
    peer.run();
    assert!(peer.guest.rings[EVENTS].take_used(&peer.guest.memory).is_none());
}
