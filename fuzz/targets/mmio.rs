//! Register accesses in any order and width, with any content of guest memory, on all devices but that of shared directories:
//! nothing panics, nothing hangs, and after a reset the device can be brought up again.
#![no_main]

use cloister_vmm::devices::virtio::{Balloon, Device, Rng, Transport, Vsock, offset};
use cloister_vmm::memory::Giver;
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Guest memory: rings and buffers at low addresses, so that few input bytes reach them.
const MEMORY_BYTES: usize = 8 << 20;
/// Most queues of a device. Settings of one that there is not are ignored.
const MAX_QUEUES: u32 = 3;
/// Most operations of one input: bounds its time, not what it can reach.
const MAX_OPERATIONS: usize = 512;
/// Status bits of VIRTIO 1.2, 2.1: acknowledge, driver, features ok, driver ok.
const BRING_UP: [u32; 4] = [1, 3, 11, 15];

/// Takes numbers off the front of the input; zeros after its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn short(&mut self) -> u64 {
        u64::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)])
        .expect("a small mapping");
    match input.byte() % 3 {
        0 => drive(Vsock::new(), memory, &mut input),
        1 => drive(Rng::new(), memory, &mut input),
        _ => drive(Ok(Balloon::new(Giver::saved(&memory))), memory, &mut input),
    }
});

fn drive<D: Device>(
    device: std::io::Result<D>,
    memory: GuestMemoryMmap,
    input: &mut Input<'_>,
) {
    let interrupt = EventFd::new(EFD_NONBLOCK).expect("a descriptor");
    let mut transport =
        Transport::new(device.expect("a device"), memory.clone(), interrupt).expect("descriptors");
    for _ in 0..MAX_OPERATIONS {
        if input.0.is_empty() {
            break;
        }
        step(&mut transport, &memory, input);
    }
    // Whatever happened: a reset makes it a fresh device.
    write(&mut transport, offset::STATUS, 0);
    assert_eq!(read(&mut transport, offset::STATUS), 0);
    bring_up(&mut transport, 64);
    assert_eq!(read(&mut transport, offset::STATUS), 15);
}

fn step<D: Device>(transport: &mut Transport<D>, memory: &GuestMemoryMmap, input: &mut Input<'_>) {
    match input.byte() % 8 {
        0 => write(transport, u64::from(input.byte()) * 4, input.word()),
        1 => {
            let mut data = [0; 8];
            let width = usize::from(input.byte() % 9);
            transport.read(input.short(), &mut data[..width]);
        }
        2 => {
            let data = input.word().to_le_bytes();
            let width = usize::from(input.byte() % 5);
            transport.write(input.short(), &data[..width]);
        }
        3 | 4 => {
            let sources = transport.event_sources();
            let pick = usize::from(input.byte()) % sources.len().max(1);
            if let Some((_, token)) = sources.get(pick) {
                transport.process(*token);
            }
        }
        5 => {
            // A descriptor, a ring index or a packet: anything, anywhere.
            let address = GuestAddress(input.short() * 4);
            let count = usize::from(input.byte() % 64);
            let bytes: Vec<u8> = (0..count).map(|_| input.byte()).collect();
            memory.write_slice(&bytes, address).ok();
        }
        6 => bring_up(transport, u32::from(input.byte()).next_power_of_two().min(128)),
        _ => transport.kick(),
    }
}

/// The steps of a correct driver: each queue with `size` entries at low addresses.
fn bring_up<D: Device>(transport: &mut Transport<D>, size: u32) {
    write(transport, offset::STATUS, 0);
    write(transport, offset::STATUS, BRING_UP[0]);
    write(transport, offset::STATUS, BRING_UP[1]);
    write(transport, offset::DRIVER_FEATURES_SEL, 1);
    write(transport, offset::DRIVER_FEATURES, 1); // VIRTIO_F_VERSION_1
    write(transport, offset::STATUS, BRING_UP[2]);
    for queue in 0..MAX_QUEUES {
        write(transport, offset::QUEUE_SEL, queue);
        let most = read(transport, offset::QUEUE_NUM_MAX);
        write(transport, offset::QUEUE_NUM, size.min(most));
        write(transport, offset::QUEUE_DESC_LOW, 0x1000 + queue * 0x4000);
        write(transport, offset::QUEUE_DRIVER_LOW, 0x2000 + queue * 0x4000);
        write(transport, offset::QUEUE_DEVICE_LOW, 0x3000 + queue * 0x4000);
        write(transport, offset::QUEUE_READY, 1);
    }
    write(transport, offset::STATUS, BRING_UP[3]);
}

fn write<D: Device>(transport: &mut Transport<D>, offset: u64, value: u32) {
    transport.write(offset, &value.to_le_bytes());
}

fn read<D: Device>(transport: &mut Transport<D>, offset: u64) -> u32 {
    let mut data = [0; 4];
    transport.read(offset, &mut data);
    u32::from_le_bytes(data)
}
