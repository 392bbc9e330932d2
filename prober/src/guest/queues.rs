//! Attacks by virtqueues: descriptors, rings, addresses.
#![expect(clippy::too_many_lines, reason = "tables of attacks")]

use super::Guest;
use super::interpreter as order;
use super::script::{
    BALLOON, BUFFERS, INDIRECT, NEXT, NOTIFY, QUEUES, RNG, SIZE, STATUS, Script, VSOCK, WRITE,
    place,
};

const CHAIN: &str = "a chain is bounded in length and bytes, its places are checked before use, and a bad one breaks its \
                     device alone";
const TX: u32 = 1;

fn new() -> Script {
    Script::default()
}

/// The vsock device with a first descriptor to be sent; and the same again for entropy.
fn sent(words: [u32; 4]) -> Script {
    let other = [words[0], words[1], words[2], words[3] | WRITE];
    new()
        .device(VSOCK, 3)
        .descriptor(TX, 0, words)
        .offer(VSOCK, TX, 1)
        .settle()
        .device(RNG, 1)
        .descriptor(0, 0, other)
        .offer(RNG, 0, 1)
        .settle()
}

pub(super) fn guests() -> Vec<Guest> {
    let mut guests = chains();
    guests.extend(rings());
    guests.extend(reports());
    guests
}

fn chains() -> Vec<Guest> {
    vec![
        Guest::new(
            "descriptor-outside",
            "gives a device a buffer beyond the guest's memory",
            CHAIN,
            sent([0x8000_0000, 0, 4096, 0]),
        ),
        Guest::new(
            "descriptor-far-outside",
            "gives a device a buffer at the end of all addresses",
            CHAIN,
            sent([0xffff_f000, 0xffff_ffff, 8192, 0]),
        ),
        Guest::new(
            "descriptor-over-end",
            "gives a device a buffer that begins in memory and ends behind it",
            CHAIN,
            sent([0x3ff_f000, 0, 0x2000, 0]),
        ),
        Guest::new(
            "descriptor-in-devices",
            "gives a device its own registers as a buffer",
            CHAIN,
            sent([VSOCK, 0, 256, 0]),
        ),
        Guest::new(
            "descriptor-empty",
            "gives a device a buffer without length",
            CHAIN,
            sent([BUFFERS, 0, 0, 0]),
        ),
        Guest::new(
            "descriptor-huge",
            "gives a device a buffer of 4 GiB",
            CHAIN,
            sent([BUFFERS, 0, u32::MAX, 0]),
        ),
        Guest::new(
            "descriptor-many-huge",
            "gives a device a chain of buffers whose lengths together overflow",
            CHAIN,
            {
                let chain = (0..SIZE - 1).fold(new().device(VSOCK, 3), |script, index| {
                    script.descriptor(TX, index, [BUFFERS, 0, u32::MAX, NEXT | (index + 1) << 16])
                });
                chain
                    .descriptor(TX, SIZE - 1, [BUFFERS, 0, u32::MAX, 0])
                    .offer(VSOCK, TX, 1)
                    .settle()
            },
        ),
        Guest::new(
            "descriptor-loop",
            "gives a device a chain that bites its own tail",
            CHAIN,
            new()
                .device(VSOCK, 3)
                .descriptor(TX, 0, [BUFFERS, 0, 64, NEXT | 1 << 16])
                .descriptor(TX, 1, [BUFFERS, 0, 64, NEXT])
                .offer(VSOCK, TX, 1)
                .settle(),
        ),
        Guest::new(
            "descriptor-next-outside",
            "gives a device a chain that goes on behind the table",
            CHAIN,
            sent([BUFFERS, 0, 64, NEXT | 0xffff << 16]),
        ),
        Guest::new(
            "descriptor-wrong-way",
            "gives a device buffers to write where it should read, and the other way round",
            CHAIN,
            new()
                .device(VSOCK, 3)
                .descriptor(TX, 0, [BUFFERS, 0, 4096, WRITE])
                .offer(VSOCK, TX, 1)
                .descriptor(0, 0, [BUFFERS, 0, 4096, 0])
                .offer(VSOCK, 0, 1)
                .device(RNG, 1)
                .descriptor(0, 0, [BUFFERS, 0, 64, 0])
                .offer(RNG, 0, 1)
                .settle(),
        ),
        Guest::new(
            "descriptor-overlapping",
            "gives a device its own ring as the buffer to write into",
            CHAIN,
            new()
                .device(RNG, 1)
                .descriptor(0, 0, [place(0), 0, 0xffff, WRITE])
                .offer(RNG, 0, 1)
                .settle()
                .write(RNG + NOTIFY, 0)
                .settle(),
        ),
        Guest::new(
            "descriptor-over-code",
            "gives a device the guest's own code to write into",
            CHAIN,
            new()
                .device(RNG, 1)
                .descriptor(0, 0, [0x3f_0000, 0, 0x1_0000, WRITE])
                .offer(RNG, 0, 1)
                .settle(),
        ),
        Guest::new(
            "indirect",
            "gives a device an indirect table, which was not agreed on",
            CHAIN,
            sent([BUFFERS, 0, 256, INDIRECT]),
        ),
        Guest::new(
            "indirect-in-indirect",
            "gives a device an indirect table within an indirect table",
            CHAIN,
            new()
                .words(BUFFERS, &[BUFFERS, 0, 64, INDIRECT | NEXT, BUFFERS, 0, 64, INDIRECT])
                .device(VSOCK, 3)
                .descriptor(TX, 0, [BUFFERS, 0, 32, INDIRECT | NEXT])
                .offer(VSOCK, TX, 1)
                .settle(),
        ),
        Guest::new(
            "descriptor-changing",
            "changes a descriptor while the device reads it, thousands of times",
            "each is copied once, checked, then used",
            {
                let script = new()
                    .device(VSOCK, 3)
                    .packet(BUFFERS, [1, 1], 0, 1)
                    .descriptor(TX, 0, [BUFFERS, 0, 44, 0])
                    .offer(VSOCK, TX, 1);
                let here = script.here();
                script
                    .descriptor(TX, 0, [BUFFERS, 0, 44, 0])
                    .offer(VSOCK, TX, 1)
                    .descriptor(TX, 0, [0xffff_0000, 0, u32::MAX, 0])
                    .offer(VSOCK, TX, 2)
                    .again(here, 500)
                    .settle()
            },
        ),
    ]
}

fn rings() -> Vec<Guest> {
    let places = |name, tries, places: [u32; 3]| {
        let script = [VSOCK, RNG].into_iter().fold(new(), |script, device| {
            script
                .begin(device)
                .queue_at(device, 0, SIZE, places)
                .write(device + STATUS, 15)
                .many(order::WRITE_32, device + NOTIFY, 0, [16, 0, 0])
                .settle()
        });
        Guest::new(name, tries, "a queue's place is checked before it is used", script)
    };
    vec![
        places(
            "queue-outside",
            "puts a queue beyond the guest's memory",
            [0x8000_0000, 0x8000_4000, 0x8000_8000],
        ),
        places(
            "queue-in-devices",
            "puts a queue into the registers of devices",
            [VSOCK, RNG, VSOCK + 0x100],
        ),
        places(
            "queue-over-end",
            "puts a queue over the end of the guest's memory",
            [0x3ff_fff0, 0x3ff_fff8, 0x3ff_fffc],
        ),
        places("queue-unaligned", "puts a queue at odd places", [0x20_0001, 0x20_4001, 0x20_8003]),
        places(
            "queue-overlapping",
            "puts all parts of a queue at one place",
            [0x20_0000, 0x20_0000, 0x20_0000],
        ),
        Guest::new(
            "queue-sizes",
            "gives queues sizes that are none: 0, 3, 65535, 4 billion",
            "sizes are powers of two up to the device's own",
            [0, 3, 0xffff, 0x8000, u32::MAX, 0x1_0040]
                .into_iter()
                .fold(new(), |script, size| {
                    script
                        .begin(VSOCK)
                        .queue_at(VSOCK, 1, size, [place(1), place(1) + 0x4000, place(1) + 0x8000])
                        .write(VSOCK + STATUS, 15)
                        .offer(VSOCK, 1, 64)
                })
                .settle(),
        ),
        Guest::new(
            "available-jump",
            "says that more is in a ring than the ring holds",
            "a ring's index may run ahead by its size, not more",
            new()
                .device(VSOCK, 3)
                .descriptor(TX, 0, [BUFFERS, 0, 44, 0])
                .offer(VSOCK, TX, 1)
                .available(TX, 0x8000)
                .write(VSOCK + NOTIFY, TX)
                .settle()
                .available(TX, 0xffff)
                .write(VSOCK + NOTIFY, TX)
                .settle(),
        ),
        Guest::new(
            "available-backwards",
            "moves a ring's index backwards",
            "a ring's index may run ahead by its size, not more",
            new()
                .device(RNG, 1)
                .descriptor(0, 0, [BUFFERS, 0, 64, WRITE])
                .offer(RNG, 0, 8)
                .settle()
                .available(0, 3)
                .write(RNG + NOTIFY, 0)
                .settle(),
        ),
        Guest::new(
            "available-outside",
            "names descriptors in a ring that the table has not got",
            CHAIN,
            new()
                .device(VSOCK, 3)
                .many(order::WRITE_16, place(TX) + 0x4004, 0xfff0, [SIZE, 2, 1])
                .available(TX, SIZE)
                .write(VSOCK + NOTIFY, TX)
                .settle(),
        ),
        Guest::new(
            "entropy-flood",
            "draws entropy without end, 64 buffers at a time",
            "entropy is limited in rate",
            {
                let script = (0..SIZE)
                    .fold(new().device(RNG, 1), |script, index| {
                        script.descriptor(0, index, [BUFFERS, 0, 0x1_0000, WRITE])
                    })
                    .many(order::WRITE_16, place(0) + 0x4004, 0, [SIZE, 2, 1]);
                let here = script.here();
                // The index is the first half of the next word; it is moved on by a piece of the ring each time.
                script
                    .many(order::WRITE_16, place(0) + 0x4002, 8, [1000, 0, 8])
                    .write(RNG + NOTIFY, 0)
                    .again(here, 0)
            },
        )
        .goes_on(),
    ]
}

fn reports() -> Vec<Guest> {
    const PLACES: &str = "only whole pieces of the guest's own memory go back to the host, which it then reads as zeros";
    const QUEUE: u32 = 2;
    let report = |words: [u32; 4]| {
        new().device(BALLOON, 3).descriptor(QUEUE, 0, words).offer(BALLOON, QUEUE, 1).settle()
    };
    vec![
        Guest::new(
            "report-outside",
            "reports memory as free that it has not got",
            PLACES,
            report([0x8000_0000, 0, 4 << 20, WRITE]),
        ),
        Guest::new(
            "report-over-end",
            "reports memory as free from its own on to what lies behind it",
            PLACES,
            report([0x3e0_0000, 0, 8 << 20, WRITE]),
        ),
        Guest::new(
            "report-queues",
            "reports the memory as free in which it reports",
            PLACES,
            report([QUEUES, 0, 2 << 20, WRITE]),
        ),
        Guest::new(
            "report-flood",
            "reports the same memory as free without end",
            "a report costs the processor that makes it, and no more of the host's mappings than there are pieces",
            {
                let script = new().device(BALLOON, 3).descriptor(
                    QUEUE,
                    0,
                    [BUFFERS + (4 << 20), 0, 16 << 20, WRITE],
                );
                let here = script.here();
                script
                    .many(order::WRITE_16, place(QUEUE) + 0x4002, 1, [1000, 0, 1])
                    .write(BALLOON + NOTIFY, QUEUE)
                    .again(here, 0)
            },
        )
        .goes_on(),
    ]
}
