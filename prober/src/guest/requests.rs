//! Attacks by requests for files, as the device of shared directories passes them on.
#![expect(clippy::too_many_lines, reason = "tables of attacks")]

use super::Guest;
use super::interpreter as order;
use super::script::{BUFFERS, FS, NEXT, NOTIFY, SIZE, Script, WRITE, place};

const FRAMES: &str = "what comes for shared directories is checked by length and place in the vmm, and by meaning in the \
                      file server";
const TX: u32 = 1;

fn new() -> Script {
    Script::default()
}

/// A FUSE request (linux/fuse.h): header of 40 bytes, then its body.
fn request(length: u32, operation: u32, node: u32, body: &[u32]) -> Script {
    let header = [length, operation, 7, 0, node, 0, 1000, 1000, 1, 0];
    new()
        .words(BUFFERS, &header)
        .words(BUFFERS + 40, body)
        .device(FS, 2)
        .descriptor(TX, 0, [BUFFERS, 0, 4096, NEXT | 1 << 16])
        .descriptor(TX, 1, [BUFFERS + 0x1_0000, 0, 4096, WRITE])
        .offer(FS, TX, 1)
        .settle()
}

pub(super) fn guests() -> Vec<Guest> {
    // "../../../../etc/passwd", with its end.
    const UPWARDS: [u32; 6] =
        [0x2f2e_2e2f, 0x2f2e_2e2f, 0x2f2e_2e2f, 0x6374_652f, 0x7361_702f, 0x0064_7773];
    vec![
        Guest::new(
            "fuse-upwards",
            "looks up a file outside of the share by '..'",
            FRAMES,
            request(64, 1, 1, &UPWARDS),
        )
        .shares(),
        Guest::new(
            "fuse-length-lies",
            "sends a request whose length is not its own",
            FRAMES,
            request(u32::MAX, 1, 1, &UPWARDS),
        )
        .shares(),
        Guest::new(
            "fuse-short",
            "sends a request that is shorter than its header",
            FRAMES,
            request(8, 26, 0, &[]),
        )
        .shares(),
        Guest::new(
            "fuse-operations",
            "sends requests with operations that there are not",
            FRAMES,
            [0, 7, 19, 200, 4096, 0x8000_0000, u32::MAX].into_iter().fold(
                new().device(FS, 2),
                |script, operation| {
                    script
                        .words(BUFFERS, &[64, operation, 7, 0, 1, 0, 0, 0, 1, 0])
                        .descriptor(TX, 0, [BUFFERS, 0, 64, NEXT | 1 << 16])
                        .descriptor(TX, 1, [BUFFERS + 0x1_0000, 0, 4096, WRITE])
                        .offer(FS, TX, 1)
                        .settle()
                },
            ),
        )
        .shares(),
        Guest::new(
            "fuse-before-start",
            "reads and writes before it has introduced itself, by handles that it made up",
            FRAMES,
            request(80, 15, 0xdead_beef, &[u32::MAX, u32::MAX, 0, 0, u32::MAX, 0, 0, 0, 0, 0]),
        )
        .shares(),
        Guest::new(
            "fuse-write-lies",
            "writes with a size that its buffers have not got",
            FRAMES,
            {
                // FUSE_INIT 7.31, then FUSE_WRITE to handle 0 with a size of 4 GiB.
                new()
                    .words(BUFFERS, &[104, 26, 1, 0, 0, 0, 0, 0, 1, 0, 7, 31, 0x10_0000, 0])
                    .device(FS, 2)
                    .descriptor(TX, 0, [BUFFERS, 0, 104, NEXT | 1 << 16])
                    .descriptor(TX, 1, [BUFFERS + 0x1_0000, 0, 4096, WRITE])
                    .offer(FS, TX, 1)
                    .settle()
                    .words(
                        BUFFERS,
                        &[80, 16, 2, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, u32::MAX, 0, 0, 0, 0, 0],
                    )
                    .available(TX, 2)
                    .write(FS + NOTIFY, TX)
                    .settle()
            },
        )
        .shares(),
        Guest::new(
            "fuse-no-answer-room",
            "sends requests with no room for an answer, and with room of 4 GiB",
            FRAMES,
            new()
                .words(BUFFERS, &[56, 26, 1, 0, 0, 0, 0, 0, 1, 0, 7, 31, 0x10_0000, 0])
                .device(FS, 2)
                .descriptor(TX, 0, [BUFFERS, 0, 56, 0])
                .offer(FS, TX, 1)
                .settle()
                .device(FS, 2)
                .descriptor(TX, 0, [BUFFERS, 0, 56, NEXT | 1 << 16])
                .descriptor(TX, 1, [BUFFERS + 0x1_0000, 0, u32::MAX, WRITE])
                .offer(FS, TX, 1)
                .settle(),
        )
        .shares(),
        Guest::new(
            "fuse-flood",
            "sends requests without end",
            "the file server's slots are a fixed number, and the rest waits in the guest",
            {
                let script = (0..SIZE / 2).fold(
                    new()
                        .words(BUFFERS, &[104, 26, 1, 0, 0, 0, 0, 0, 1, 0, 7, 31, 0x10_0000, 0])
                        .device(FS, 2),
                    |script, pair| {
                        script
                            .descriptor(
                                TX,
                                2 * pair,
                                [BUFFERS, 0, 104, NEXT | (2 * pair + 1) << 16],
                            )
                            .descriptor(TX, 2 * pair + 1, [BUFFERS + 0x1_0000, 0, 4096, WRITE])
                    },
                );
                let script = script.many(order::WRITE_16, place(TX) + 0x4004, 0, [SIZE, 2, 2]);
                let here = script.here();
                script
                    .many(order::WRITE_16, place(TX) + 0x4002, 8, [1000, 0, 8])
                    .write(FS + NOTIFY, TX)
                    .again(here, 0)
            },
        )
        .shares()
        .goes_on(),
    ]
}
