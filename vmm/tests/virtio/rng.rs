//! The entropy device: bytes, bounds, rate.

use cloister_vmm::devices::virtio::registers::Phase;
use cloister_vmm::devices::virtio::{Fault, Rng};
use vm_memory::{Bytes, GuestAddress};

use crate::driver::{BUFFERS, Guest, readable, writable};

fn draw(guest: &mut Guest<Rng>, length: u32) -> u32 {
    guest.rings[0].add(&guest.memory, &[writable(BUFFERS, length)]);
    guest.notify(0);
    guest.run(100);
    guest.rings[0].take_used(&guest.memory).map_or(0, |(_, written)| written)
}

#[test]
fn fills_buffers_and_interrupts() {
    for event_index in [false, true] {
        let mut guest = Guest::new(Rng::new().unwrap());
        guest.start(event_index);
        guest.run(10);
        let mut seen = Vec::new();
        for _ in 0..20 {
            assert_eq!(draw(&mut guest, 64), 64);
            let mut bytes = [0; 64];
            guest.memory.read_slice(&mut bytes, GuestAddress(BUFFERS)).unwrap();
            assert!(!seen.contains(&bytes));
            seen.push(bytes);
            assert_eq!(guest.take_interrupt(), Some(1));
            guest.rings[0].ask_interrupt(&guest.memory);
        }
        assert_eq!(guest.transport.device().served_bytes(), 20 * 64);
        assert_eq!(guest.transport.rejected_accesses(), 0);
    }
}

#[test]
fn a_request_is_cut_and_the_rate_is_kept() {
    let mut guest = Guest::started(Rng::new().unwrap());
    guest.run(10);
    let mut total = 0;
    for _ in 0..4 {
        let got = draw(&mut guest, 1 << 20);
        assert_eq!(got, 64 << 10);
        total += got;
    }
    assert_eq!(total, 256 << 10);
    // The burst is used up: what comes now comes at 1 MiB a second, and without a spin.
    let start = std::time::Instant::now();
    let turns = guest.turns;
    let mut later = u64::from(draw(&mut guest, 64 << 10));
    while later < 100 << 10 {
        if guest.rings[0].in_flight() == 0 {
            guest.rings[0].add(&guest.memory, &[writable(BUFFERS, 64 << 10)]);
            guest.notify(0);
        }
        assert!(guest.turn(1000), "the device waits for ever");
        while let Some((_, written)) = guest.rings[0].take_used(&guest.memory) {
            later += u64::from(written);
        }
    }
    let most = start.elapsed().as_micros() as u64 * (1 << 20) / 1_000_000 + (8 << 10);
    assert!(later <= most, "{later} of {most}");
    assert!(guest.turns - turns < 100, "{}", guest.turns - turns);
}

#[test]
fn buffers_span_pieces_and_regions_end() {
    let mut guest = Guest::started(Rng::new().unwrap());
    guest.run(10);
    let end = crate::driver::LOW_BYTES;
    let high = crate::driver::HIGH_START + crate::driver::HIGH_BYTES;
    let pieces = [writable(end - 16, 16), writable(BUFFERS, 5), writable(high - 1, 1)];
    guest.rings[0].add(&guest.memory, &pieces);
    guest.notify(0);
    guest.run(10);
    assert_eq!(guest.rings[0].take_used(&guest.memory).unwrap().1, 22);
    let mut bytes = [0; 16];
    guest.memory.read_slice(&mut bytes, GuestAddress(end - 16)).unwrap();
    assert_ne!(bytes, [0; 16]);
}

#[test]
fn a_readable_buffer_is_the_guests_fault() {
    let mut guest = Guest::started(Rng::new().unwrap());
    guest.run(10);
    guest.rings[0].add(&guest.memory, &[readable(BUFFERS, 8)]);
    guest.notify(0);
    guest.run(10);
    assert_eq!(guest.transport.phase(), Phase::NeedsReset);
    assert_eq!(guest.take_interrupt(), Some(2));
    assert!(matches!(guest.transport.take_fault(), Some(Fault::Guest(_))));
    guest.start(true);
    guest.run(10);
    assert_eq!(draw(&mut guest, 32), 32);
}
