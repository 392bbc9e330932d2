//! The balloon device: what is reported goes, what is not stays, and nothing else is ever done.

use cloister_vmm::devices::virtio::registers::Phase;
use cloister_vmm::devices::virtio::{Balloon, Fault};
use cloister_vmm::memory::Giver;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::driver::{BUFFERS, Guest, HIGH_START, LOW_BYTES, Piece, memory, readable, writable};

const MIB: u64 = 1 << 20;
const INFLATE: usize = 0;
const REPORTS: usize = 2;

fn guest() -> Guest<Balloon> {
    let memory = memory();
    let mut guest = Guest::in_memory(Balloon::new(Giver::saved(&memory)), memory);
    guest.start(true);
    guest.run(10);
    guest
}

/// Writes a number at each of these addresses.
fn mark(memory: &GuestMemoryMmap, places: &[u64]) {
    places.iter().for_each(|place| memory.write_obj(*place, GuestAddress(*place)).unwrap());
}

/// Which of the addresses hold it still.
fn marked(memory: &GuestMemoryMmap, places: &[u64]) -> Vec<u64> {
    let read = |place: &u64| memory.read_obj::<u64>(GuestAddress(*place)).unwrap();
    places.iter().copied().filter(|place| read(place) == *place).collect()
}

fn post(guest: &mut Guest<Balloon>, queue: usize, pieces: &[Piece]) {
    guest.rings[queue].add(&guest.memory, pieces);
    guest.notify(queue);
}

fn at(place: u64) -> u64 {
    BUFFERS + place * MIB
}

#[test]
fn what_is_reported_is_given_back_before_the_driver_goes_on() {
    let mut guest = guest();
    let places = [3, 5, 6, 7, 8, 9].map(at);
    mark(&guest.memory, &places);
    let turns = guest.turns;
    // From 4 to 8 MiB, and 4 KiB of what follows.
    post(&mut guest, REPORTS, &[writable(at(3), 4 << 20), writable(at(7), 4096)]);
    assert_eq!(guest.rings[REPORTS].take_used(&guest.memory).map(|(_, written)| written), Some(0));
    assert_eq!((guest.turns, guest.take_interrupt()), (turns, Some(1)));
    assert_eq!(marked(&guest.memory, &places), [7, 8, 9].map(at));
    assert_eq!(guest.transport.device().given_bytes(), 4 * MIB);
    // It can be used again, and given again.
    mark(&guest.memory, &places);
    assert_eq!(marked(&guest.memory, &places), places);
    post(&mut guest, REPORTS, &[writable(at(3), 4 << 20)]);
    assert_eq!(marked(&guest.memory, &places), [7, 8, 9].map(at));
    assert_eq!(guest.transport.rejected_accesses(), 0);
}

#[test]
fn the_longest_report_of_a_driver_is_taken_and_a_longer_one_breaks_the_device() {
    let mut guest = guest();
    let places = [at(3), at(9)];
    mark(&guest.memory, &places);
    // More than other devices take.
    post(&mut guest, REPORTS, &[writable(at(3), 5 << 20), writable(at(0), 2 << 20)]);
    assert_eq!(guest.transport.phase(), Phase::DriverOk);
    let long = vec![writable(at(8), (4 << 20) + 4096); 32];
    while guest.rings[REPORTS].take_used(&guest.memory).is_some() {}
    post(&mut guest, REPORTS, &long);
    assert_eq!(guest.transport.phase(), Phase::NeedsReset);
    assert!(matches!(guest.transport.take_fault(), Some(Fault::Guest(_))));
    assert_eq!(marked(&guest.memory, &places), [at(9)]);
    guest.start(true);
    post(&mut guest, REPORTS, &[writable(at(9), 2 << 20)]);
    assert_eq!(marked(&guest.memory, &places), [0; 0]);
}

#[test]
fn reports_of_what_is_no_memory_or_to_be_read_are_the_guests_fault() {
    for piece in [
        writable(LOW_BYTES - MIB, 2 << 20),
        writable(HIGH_START - MIB, 2 << 20),
        writable(u64::MAX - MIB, 2 << 20),
        readable(at(3), 2 << 20),
    ] {
        let mut guest = guest();
        let places = [at(3), LOW_BYTES - MIB, HIGH_START];
        mark(&guest.memory, &places);
        post(&mut guest, REPORTS, &[piece]);
        assert_eq!(guest.transport.phase(), Phase::NeedsReset, "{piece:?}");
        assert!(matches!(guest.transport.take_fault(), Some(Fault::Guest(_))), "{piece:?}");
        assert_eq!(marked(&guest.memory, &places), places, "{piece:?}");
    }
}

#[test]
fn a_guest_that_gives_the_rings_away_harms_itself_alone() {
    let mut guest = guest();
    post(&mut guest, REPORTS, &[writable(0, 16 << 20)]);
    // They read as empty now.
    for _ in 0..4 {
        guest.transport.kick();
        guest.run(10);
    }
    guest.start(true);
    guest.run(10);
    let places = [at(3)];
    mark(&guest.memory, &places);
    post(&mut guest, REPORTS, &[writable(at(3), 2 << 20)]);
    assert_eq!(marked(&guest.memory, &places), [0; 0]);
}

#[test]
fn what_is_put_into_the_balloon_unasked_stays() {
    let mut guest = guest();
    let places = [at(3)];
    mark(&guest.memory, &places);
    // The number of its page, as a driver says it.
    guest.memory.write_obj(u32::try_from(at(3) >> 12).unwrap(), GuestAddress(BUFFERS)).unwrap();
    post(&mut guest, INFLATE, &[readable(BUFFERS, 4)]);
    post(&mut guest, 1, &[writable(at(3), 2 << 20)]);
    for queue in [INFLATE, 1] {
        let used = guest.rings[queue].take_used(&guest.memory);
        assert_eq!(used.map(|(_, written)| written), Some(0));
    }
    assert_eq!(marked(&guest.memory, &places), places);
    assert_eq!(guest.transport.device().given_bytes(), 0);
}

#[test]
fn many_reports_at_once_come_to_an_end() {
    let mut guest = guest();
    for _ in 0..32 {
        guest.rings[REPORTS].add(&guest.memory, &[writable(at(3), 2 << 20)]);
    }
    guest.notify(REPORTS);
    guest.run(40);
    let mut count = 0;
    while guest.rings[REPORTS].take_used(&guest.memory).is_some() {
        count += 1;
    }
    assert_eq!(count, 32);
}
