//! The transport's registers as a driver sees them, right and wrong.

use cloister_vmm::devices::virtio::fault::QueueFault;
use cloister_vmm::devices::virtio::queue::MAX_CHAIN_BYTES;
use cloister_vmm::devices::virtio::registers::Phase;
use cloister_vmm::devices::virtio::{Device, Fault, Rng, Vsock, offset};

use crate::driver::{BUFFERS, Guest, HIGH_START, INDIRECT, LOW_BYTES, NEXT, WRITE, writable};

fn fault<D: Device>(guest: &mut Guest<D>) -> QueueFault {
    match guest.transport.take_fault() {
        Some(Fault::Guest(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn identity_and_absent_registers() {
    let mut guest = Guest::new(Rng::new().unwrap());
    assert_eq!(guest.get(offset::MAGIC_VALUE), 0x7472_6976);
    assert_eq!(guest.get(offset::VERSION), 2);
    assert_eq!(guest.get(offset::DEVICE_ID), 4);
    assert_eq!(guest.get(offset::SHM_LEN_LOW), u32::MAX);
    assert_eq!(guest.get(offset::SHM_BASE_HIGH), u32::MAX);
    assert_eq!(guest.get(offset::CONFIG_GENERATION), 0);
    guest.set(offset::QUEUE_SEL, 1);
    assert_eq!(guest.get(offset::QUEUE_NUM_MAX), 0);
    assert_eq!(guest.transport.rejected_accesses(), 0);
    assert_eq!(guest.get(offset::CONFIG), 0);
    assert_eq!(guest.get(offset::QUEUE_NUM), 0);
    assert_eq!(guest.transport.rejected_accesses(), 2);
}

#[test]
fn only_aligned_words_reach_a_register() {
    let mut guest = Guest::new(Vsock::new().unwrap());
    let mut data = [0xff; 16];
    for (at, width) in [(0, 1), (0, 2), (0, 8), (1, 4), (2, 2), (0x72, 4), (u64::MAX, 4)] {
        data.fill(0xff);
        guest.transport.read(at, &mut data[..width]);
        assert!(data[..width].iter().all(|byte| *byte == 0));
    }
    guest.transport.write(offset::STATUS, &[1]);
    guest.transport.write(offset::STATUS, &[1, 0]);
    guest.transport.write(offset::STATUS, &1_u64.to_le_bytes());
    guest.transport.write(offset::STATUS, &[]);
    guest.transport.write(offset::CONFIG, &[1, 0, 0, 0]);
    assert_eq!(guest.get(offset::STATUS), 0);
    assert_eq!(guest.transport.rejected_accesses(), 12);
    for width in [1, 2, 4, 8] {
        guest.transport.read(offset::CONFIG, &mut data[..width]);
        assert_eq!(data[0], 3);
    }
    assert_eq!(guest.transport.rejected_accesses(), 12);
    guest.transport.read(offset::CONFIG + 4, &mut data[..8]);
    assert_eq!(data[..8], [0; 8]);
    assert_eq!(guest.transport.rejected_accesses(), 13);
}

#[test]
fn features_stick_only_when_acceptable() {
    // Without version 1; with a bit that is not offered.
    for features in [1_u64 << 29, (1 << 32) | 1] {
        let mut guest = Guest::new(Rng::new().unwrap());
        guest.set(offset::STATUS, 1);
        guest.set(offset::STATUS, 3);
        for half in [0, 1] {
            guest.set(offset::DRIVER_FEATURES_SEL, half);
            guest.set(offset::DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        guest.set(offset::STATUS, 11);
        assert_eq!(guest.get(offset::STATUS), 3);
        guest.set(offset::STATUS, 15);
        assert_eq!(guest.transport.phase(), Phase::Driver);
        guest.set(offset::STATUS, 3 | 128);
        assert_eq!(guest.get(offset::STATUS), 131);
    }
}

#[test]
fn a_running_queue_cannot_be_changed() {
    let mut guest = Guest::started(Rng::new().unwrap());
    guest.run(10);
    let registers = [0x38, 0x44, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0x20, 0x24];
    for at in registers {
        guest.set(offset::QUEUE_SEL, 0);
        guest.set(at, 0);
        guest.set(at, 0xffff_fff0);
    }
    assert_eq!(guest.transport.rejected_accesses(), 2 * registers.len() as u64);
    assert_eq!(guest.get(offset::QUEUE_READY), 1);
    guest.rings[0].add(&guest.memory, &[writable(BUFFERS, 64)]);
    guest.notify(0);
    guest.run(10);
    assert_eq!(guest.rings[0].take_used(&guest.memory).unwrap().1, 64);
}

/// Brings the device up to FEATURES_OK.
fn configurable(guest: &mut Guest<Rng>) {
    guest.start(true);
    guest.set(offset::STATUS, 0);
    guest.set(offset::STATUS, 1);
    guest.set(offset::STATUS, 3);
    guest.set(offset::DRIVER_FEATURES_SEL, 1);
    guest.set(offset::DRIVER_FEATURES, 1);
    guest.set(offset::STATUS, 11);
}

#[test]
fn a_bad_configuration_breaks_the_device_until_reset() {
    let good = [8, 0x1_0000, 0x1_4000, 0x1_8000];
    let end = LOW_BYTES;
    let cases: [([u64; 4], bool); 16] = [
        (good, true),
        ([0, good[1], good[2], good[3]], false),
        ([3, good[1], good[2], good[3]], false),
        ([16, good[1], good[2], good[3]], false),
        ([8, good[1] + 8, good[2], good[3]], false),
        ([8, good[1], good[2] + 1, good[3]], false),
        ([8, good[1], good[2], good[3] + 2], false),
        ([8, 0, good[2], good[3]], false),
        ([8, end - 128, good[2], good[3]], true),
        ([8, end - 112, good[2], good[3]], false),
        ([8, good[1], end - 20, good[3]], false),
        ([8, good[1], good[2], HIGH_START - 4], false),
        ([8, good[1], good[2], HIGH_START], true),
        ([8, 0xffff_ffff_ffff_fff0, good[2], good[3]], false),
        ([8, good[1], good[1] + 112, good[3]], false),
        ([8, good[1], good[1] + 128, good[3]], true),
    ];
    let mut guest = Guest::new(Rng::new().unwrap());
    for (case, works) in cases {
        configurable(&mut guest);
        while guest.take_interrupt().is_some() {}
        guest.set(offset::QUEUE_SEL, 0);
        guest.set(offset::QUEUE_NUM, case[0] as u32);
        for (at, value) in [(0x80, case[1]), (0x90, case[2]), (0xa0, case[3])] {
            guest.set(at, value as u32);
            guest.set(at + 4, (value >> 32) as u32);
        }
        guest.set(offset::QUEUE_READY, 1);
        guest.set(offset::STATUS, 15);
        assert_eq!(guest.get(offset::STATUS), if works { 15 } else { 15 | 64 }, "{case:x?}");
        assert_eq!(guest.take_interrupt(), if works { None } else { Some(2) }, "{case:x?}");
        assert_eq!(guest.transport.take_fault().is_some(), !works);
        guest.run(10);
    }
    configurable(&mut guest);
    guest.set(offset::STATUS, 15);
    assert_eq!(fault(&mut guest), QueueFault::NotReady);
}

#[test]
fn every_bad_chain_is_the_guests_fault() {
    let far = 1 << 40;
    // Descriptors from index 0 on: address, length, flags, next.
    type Raw = (u64, u32, u16, u16);
    let cases: [(&[Raw], QueueFault); 10] = [
        (&[(BUFFERS, 0, WRITE, 0)], QueueFault::ZeroLength),
        (&[(BUFFERS, 8, WRITE | NEXT, 0)], QueueFault::Loop),
        (&[(BUFFERS, 8, WRITE | NEXT, 1), (BUFFERS + 8, 8, WRITE | NEXT, 0)], QueueFault::Loop),
        (&[(BUFFERS, 8, WRITE | NEXT, 8)], QueueFault::DescriptorIndex { index: 8 }),
        (&[(BUFFERS, 16, WRITE | INDIRECT, 0)], QueueFault::Indirect),
        (&[(far, 8, WRITE, 0)], QueueFault::NotInMemory { address: far, length: 8 }),
        (
            &[(LOW_BYTES - 4, 8, WRITE, 0)],
            QueueFault::NotInMemory { address: LOW_BYTES - 4, length: 8 },
        ),
        (
            &[(u64::MAX - 3, 8, WRITE, 0)],
            QueueFault::NotInMemory { address: u64::MAX - 3, length: 8 },
        ),
        (&[(BUFFERS, MAX_CHAIN_BYTES + 1, WRITE, 0)], QueueFault::ChainBytes),
        (&[(BUFFERS, 8, WRITE | NEXT, 1), (BUFFERS + 8, 8, 0, 0)], QueueFault::Direction),
    ];
    let mut guest = Guest::new(Rng::new().unwrap());
    for (descriptors, expected) in cases {
        guest.start(true);
        guest.run(10);
        for (index, raw) in (0..).zip(descriptors) {
            guest.rings[0].set_descriptor(&guest.memory, index, *raw);
        }
        guest.rings[0].offer(&guest.memory, 0);
        guest.notify(0);
        guest.run(10);
        assert_eq!(fault(&mut guest), expected);
        assert_eq!(guest.get(offset::STATUS), 15 | 64);
        assert_eq!(guest.take_interrupt(), Some(2));
        assert_eq!(guest.transport.rejected_accesses(), 0);
    }
}

#[test]
fn bad_ring_indices_are_the_guests_fault() {
    let mut guest = Guest::started(Rng::new().unwrap());
    guest.run(10);
    guest.rings[0].set_available(&guest.memory, 9);
    guest.notify(0);
    guest.run(10);
    assert_eq!(fault(&mut guest), QueueFault::AvailableIndex);
    guest.start(true);
    guest.run(10);
    guest.rings[0].offer(&guest.memory, 8);
    guest.notify(0);
    guest.run(10);
    assert_eq!(fault(&mut guest), QueueFault::DescriptorIndex { index: 8 });
    // Notifications of a device that stopped are no fault of the driver, and no work.
    guest.set(offset::QUEUE_NOTIFY, 0);
    guest.run(10);
    assert_eq!(guest.transport.rejected_accesses(), 0);
    guest.set(offset::QUEUE_NOTIFY, 1);
    assert_eq!(guest.transport.rejected_accesses(), 1);
}

#[test]
fn notifications_by_register_work_too() {
    let mut guest = Guest::started(Rng::new().unwrap());
    guest.run(10);
    guest.rings[0].add(&guest.memory, &[writable(BUFFERS, 10)]);
    guest.set(offset::QUEUE_NOTIFY, 0);
    guest.run(10);
    assert_eq!(guest.rings[0].take_used(&guest.memory).unwrap().1, 10);
}

#[test]
fn interrupts_are_suppressed_as_the_driver_asks() {
    let mut guest = Guest::started(Rng::new().unwrap());
    guest.run(10);
    let mut interrupts = 0;
    // `used_event` stays 0: one interrupt, for the first buffer.
    for _ in 0..100 {
        guest.rings[0].add(&guest.memory, &[writable(BUFFERS, 4)]);
        guest.notify(0);
        guest.run(10);
        assert!(guest.rings[0].take_used(&guest.memory).is_some());
        interrupts += u32::from(guest.take_interrupt().is_some());
    }
    assert_eq!(interrupts, 1);
    // Without event indices: the flag.
    let mut guest = Guest::new(Rng::new().unwrap());
    guest.start(false);
    guest.run(10);
    for wanted in [true, false, true] {
        let flags = u16::from(!wanted);
        let at = vm_memory::GuestAddress(guest.rings[0].driver_area);
        vm_memory::Bytes::write_obj(&guest.memory, flags, at).unwrap();
        guest.rings[0].add(&guest.memory, &[writable(BUFFERS, 4)]);
        guest.notify(0);
        guest.run(10);
        assert!(guest.rings[0].take_used(&guest.memory).is_some());
        assert_eq!(guest.take_interrupt().is_some(), wanted);
    }
}
