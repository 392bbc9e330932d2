//! Attacks by vsock packets.
#![expect(clippy::too_many_lines, reason = "tables of attacks")]

use super::Guest;
use super::interpreter as order;
use super::script::{BUFFERS, NOTIFY, SIZE, Script, VSOCK, WRITE, place};

const PACKETS: &str = "a packet's header is checked; one that fits to no connection is answered with a reset or dropped, \
                       and counted";
const TX: u32 = 1;
const HEADER: u32 = 44;
/// Operations: request, response, reset, shutdown, data, credit update, credit request.
const REQUEST: u32 = 1;
const DATA: u32 = 5;

/// The device, with room for what the host sends.
fn open() -> Script {
    let script = Script::default().device(VSOCK, 3);
    (0..SIZE)
        .fold(script, |script, index| {
            script.descriptor(0, index, [BUFFERS + 0x10_0000 + index * 4096, 0, 4096, WRITE])
        })
        .offer(VSOCK, 0, SIZE - 1)
}

/// Sends what is in the buffers: `count` packets of 64 bytes each.
fn send(script: Script, count: u32) -> Script {
    let script = (0..count).fold(script, |script, index| {
        script.descriptor(TX, index, [BUFFERS + 64 * index, 0, HEADER, 0])
    });
    script.offer(VSOCK, TX, count).settle()
}

pub(super) fn guests() -> Vec<Guest> {
    vec![
        Guest::new(
            "packet-operations",
            "sends packets with every operation there could be",
            PACKETS,
            send(
                (0..32).fold(open(), |script, operation| {
                    script.packet(BUFFERS + 64 * operation, [1, 5], 0, operation)
                }),
                32,
            ),
        ),
        Guest::new(
            "packet-types",
            "sends packets of types that there are not",
            PACKETS,
            send(
                (0..16).fold(open(), |script, kind| {
                    script.packet_between(
                        BUFFERS + 64 * kind,
                        [3, 2],
                        [1, 5],
                        [0, kind * 0x1111, REQUEST],
                    )
                }),
                16,
            ),
        ),
        Guest::new(
            "packet-other-ids",
            "sends packets in another guest's name, and to others than the host",
            PACKETS,
            send(
                [
                    [4, 2],
                    [2, 2],
                    [0, 0],
                    [3, 3],
                    [3, 4],
                    [3, 0xffff_ffff],
                    [1, 1],
                    [0xffff_ffff, 2],
                ]
                .into_iter()
                .zip(0..)
                .fold(open(), |script, (ids, index)| {
                    script.packet_between(BUFFERS + 64 * index, ids, [1, 5], [0, 1, REQUEST])
                }),
                8,
            ),
        ),
        Guest::new(
            "packet-forbidden-ports",
            "connects to 32 ports of the host on which nobody answers",
            "the host alone decides which connection is let in: here none",
            send(
                (0..32).fold(open(), |script, port| {
                    script.packet(BUFFERS + 64 * port, [100 + port, 1 + port * 31], 0, REQUEST)
                }),
                32,
            ),
        ),
        Guest::new(
            "packet-length-lies",
            "sends data whose length is not that of its buffer",
            PACKETS,
            send(
                [u32::MAX, 0x7fff_ffff, 0x1_0000, 1, 20].into_iter().zip(0..).fold(
                    open(),
                    |script, (length, index)| {
                        script.packet(BUFFERS + 64 * index, [1, 5], length, DATA)
                    },
                ),
                5,
            ),
        ),
        Guest::new(
            "packet-short",
            "sends packets that are shorter than a header",
            PACKETS,
            (0..44)
                .fold(open(), |script, length| {
                    script.descriptor(TX, length, [BUFFERS, 0, length, 0])
                })
                .offer(VSOCK, TX, 44)
                .settle(),
        ),
        Guest::new(
            "packet-split-header",
            "sends a header in pieces of one byte",
            PACKETS,
            (0..SIZE)
                .fold(open().packet(BUFFERS, [1, 5], 0, REQUEST), |script, index| {
                    let next = if index + 1 == HEADER { 0 } else { 1 | (index + 1) << 16 };
                    script.descriptor(TX, index, [BUFFERS + index, 0, 1, next])
                })
                .offer(VSOCK, TX, 1)
                .settle(),
        ),
        Guest::new(
            "packet-credit-lies",
            "says that it has room without end, less than none, and takes back what it said",
            "bytes on the way are bounded by the vmm's own count",
            send(
                (0..8).fold(open(), |script, index| {
                    script
                        .packet(
                            BUFFERS + 64 * index,
                            [1, 5],
                            0,
                            if index == 0 { REQUEST } else { 6 },
                        )
                        .words(
                            BUFFERS + 64 * index + 36,
                            &[if index % 2 == 0 { u32::MAX } else { 0 }, 0x8000_0000 * (index % 2)],
                        )
                }),
                8,
            ),
        ),
        Guest::new(
            "connection-flood",
            "opens connections without end, from ever new ports",
            "connections are limited in number, and in time until they are let in",
            {
                let script = (0..32).fold(open(), |script, port| {
                    script.packet(BUFFERS + 64 * port, [1000 + port, 5], 0, REQUEST)
                });
                let script = (0..32)
                    .fold(script, |script, index| {
                        script.descriptor(TX, index, [BUFFERS + 64 * index, 0, HEADER, 0])
                    })
                    .many(order::WRITE_16, place(TX) + 0x4004, 0, [SIZE, 2, 1]);
                let here = script.here();
                script
                    .many(order::WRITE_32, BUFFERS + 16, 1000, [32, 64, 1])
                    .many(order::WRITE_16, place(TX) + 0x4002, 16, [1, 0, 0])
                    .write(VSOCK + NOTIFY, TX)
                    .many(order::WRITE_32, BUFFERS + 16, 90_000, [32, 64, 77])
                    .many(order::WRITE_16, place(TX) + 0x4002, 32, [1, 0, 0])
                    .write(VSOCK + NOTIFY, TX)
                    .again(here, 0)
            },
        )
        .goes_on(),
        Guest::new(
            "no-room-for-answers",
            "asks for many answers and gives no room for one",
            "what waits for the guest is bounded",
            {
                let script = Script::default().device(VSOCK, 3);
                let script = (0..32).fold(script, |script, port| {
                    script.packet(BUFFERS + 64 * port, [1 + port, 5], 0, DATA)
                });
                let script = (0..32).fold(script, |script, index| {
                    script.descriptor(TX, index, [BUFFERS + 64 * index, 0, HEADER, 0])
                });
                let script = script.many(order::WRITE_16, place(TX) + 0x4004, 0, [SIZE, 2, 1]);
                let here = script.here();
                script
                    .many(order::WRITE_16, place(TX) + 0x4002, 8, [500, 0, 8])
                    .write(VSOCK + NOTIFY, TX)
                    .again(here, 0)
            },
        )
        .goes_on(),
        Guest::new(
            "events-written",
            "offers its own buffers on the queue of events, and notifies it",
            PACKETS,
            open()
                .descriptor(2, 0, [BUFFERS, 0, 8, WRITE])
                .offer(VSOCK, 2, 1)
                .many(order::WRITE_32, VSOCK + NOTIFY, 2, [100, 0, 0])
                .settle(),
        ),
    ]
}
