//! Attacks by ports, registers, memory and the processor itself.
#![expect(clippy::too_many_lines, reason = "tables of attacks")]

use super::interpreter as order;
use super::script::{ACKNOWLEDGE, CONFIG, FS, NOTIFY, QUEUE_READY, RNG, STATUS, Script, VSOCK};
use super::{GUEST_FAULT, Guest, HALTED, KVM_INTERNAL, PANIC, RESET, STOPPED, TRIPLE_FAULT};

const IGNORED: &str = "an access that no correct driver makes is ignored and counted";
/// Of guests whose faults are many: some KVMs can't emulate the return from a fault, and end the guest as documented.
const FAULTS: &[u8] = &[STOPPED, TRIPLE_FAULT, KVM_INTERNAL];
const ENDS: &str = "a guest can end itself, and nothing else";
const SERIAL: u32 = 0x3f8;
const GAP: u32 = 0xc000_0000;

fn new() -> Script {
    Script::default()
}

/// Every port but those that end the machine.
fn ports(script: Script, order: u32) -> Script {
    script
        .many(order, 0, 0xa5a5_a5a5, [0x505 - 3, 1, 7])
        .many(order, 0x506, 0xa5a5_a5a5, [0x600 - 0x506 - 3, 1, 7])
        .many(order, 0x605, 0xa5a5_a5a5, [0xfff8 - 0x605, 1, 7])
}

pub(super) fn guests() -> Vec<Guest> {
    let mut guests = ports_and_memory();
    guests.extend(registers());
    guests.extend(processor());
    guests
}

fn ports_and_memory() -> Vec<Guest> {
    vec![
        Guest::new(
            "ports-read",
            "reads every port, by all widths",
            IGNORED,
            new()
                .many(order::IN_8, 0, 0, [0xffff, 1, 0])
                .many(order::IN_16, 0, 0, [0xfffe, 1, 0])
                .many(order::IN_32, 0, 0, [0xfffc, 1, 0]),
        ),
        Guest::new(
            "ports-write",
            "writes every port by bytes, but those that end it",
            IGNORED,
            ports(new(), order::OUT_8),
        ),
        Guest::new(
            "ports-write-wide",
            "writes every port by words of 2 and 4 bytes",
            IGNORED,
            ports(ports(new(), order::OUT_16), order::OUT_32),
        ),
        Guest::new(
            "ports-odd",
            "uses ports of old hardware: A20, keyboard, CMOS, DMA, PCI, system management, debug",
            IGNORED,
            [
                0x92, 0x60, 0x64, 0x70, 0x71, 0x00, 0x0f, 0xcf8, 0xcfc, 0xb2, 0xb3, 0x80, 0x402,
                0xf4, 0x510, 0x511, 0x518,
            ]
            .into_iter()
            .fold(new(), |script, port| {
                script
                    .many(order::OUT_8, port, 0, [255, 0, 1])
                    .one(order::IN_8, port, 0)
                    .one(order::OUT_32, port, 0x8000_0000)
                    .one(order::IN_32, port, 0)
            }),
        ),
        Guest::new(
            "port-strings",
            "writes strings of three pages to a port where nothing is, and to the serial port",
            "port accesses are bounded pieces",
            new().many(order::OUT_STRING, 0x10_0000, 0x80, [0x3000, 0, 0]).many(
                order::OUT_STRING,
                0x10_0000,
                SERIAL,
                [0x3000, 0, 0],
            ),
        ),
        Guest::new(
            "serial-flood",
            "writes to the serial port without end",
            "the log is limited in rate and size, what does not fit is dropped and counted",
            {
                let script = new();
                let here = script.here();
                script.many(order::OUT_8, SERIAL, b'x'.into(), [1000, 0, 0]).again(here, 0)
            },
        )
        .goes_on(),
        Guest::new(
            "serial-registers",
            "writes every register of the serial port with every value",
            IGNORED,
            (0..8).fold(new(), |script, register| {
                script.many(order::OUT_8, SERIAL + register, 0, [256, 0, 1]).many(
                    order::IN_8,
                    SERIAL + register,
                    0,
                    [16, 0, 0],
                )
            }),
        ),
        Guest::new(
            "memory-gap",
            "reads and writes all over the gap where devices are, by all widths",
            IGNORED,
            [
                order::READ_8,
                order::READ_16,
                order::READ_32,
                order::WRITE_8,
                order::WRITE_16,
                order::WRITE_32,
            ]
            .into_iter()
            .fold(new(), |script, order| {
                script.many(order, GAP, 0xffff_ffff, [1000, 0x0c_4ab5, 3])
            }),
        ),
        Guest::new(
            "memory-end",
            "reads and writes on both sides of its memory's end",
            "memory has bounds of its own, and guard pages on the host",
            new()
                .many(order::READ_32, 0x3ff_fff0, 0, [64, 1, 0])
                .many(order::WRITE_32, 0x400_0000, 0, [64, 0x1000, 1])
                .many(order::READ_8, 0xbfff_fff0, 0, [16, 1, 0]),
        ),
        Guest::new(
            "memory-wide",
            "reads and writes registers 8 bytes at a time",
            IGNORED,
            new().many(order::READ_64, VSOCK, 0, [64, 8, 0]).many(
                order::WRITE_64,
                VSOCK,
                0x5a,
                [64, 8, 1],
            ),
        )
        .ends(&[STOPPED, KVM_INTERNAL]),
        Guest::new(
            "beyond-devices",
            "reads and writes registers of devices that are not there",
            IGNORED,
            new().many(order::READ_32, FS + 0x1000, 0, [500, 0x100, 0]).many(
                order::WRITE_32,
                FS + 0x1000,
                0xffff_ffff,
                [500, 0x100, 1],
            ),
        ),
        Guest::new(
            "execute-devices",
            "executes a device's registers",
            ENDS,
            new().call(&[0xb8, 0, 0, 0, 0xd0, 0xff, 0xe0]),
        )
        .ends(&[KVM_INTERNAL, TRIPLE_FAULT, GUEST_FAULT]),
        Guest::new(
            "interrupt-controllers",
            "writes all registers of the interrupt controllers",
            "they are KVM's; nothing of the vmm reads them",
            new()
                .many(order::WRITE_32, 0xfec0_0000, 0, [32, 4, 0x1011])
                .many(order::WRITE_32, 0xfee0_0080, 0, [32, 0x10, 1])
                .many(order::READ_32, 0xfee0_0000, 0, [64, 0x10, 0]),
        ),
    ]
}

fn registers() -> Vec<Guest> {
    let each = |what: fn(Script, u32) -> Script| [VSOCK, RNG].into_iter().fold(new(), what);
    vec![
        Guest::new("registers-read", "reads every register of every device by all widths, at odd places too", IGNORED,
            each(|script, device| script.many(order::READ_8, device, 0, [0x1000, 1, 0]).many(order::READ_16, device, 0, [0xffe, 1, 0]).many(order::READ_32, device, 0, [0xffc, 1, 0]))),
        Guest::new("registers-write", "writes every register of every device by all widths, at odd places too", IGNORED,
            each(|script, device| script.many(order::WRITE_8, device, 0xff, [0x1000, 1, 0]).many(order::WRITE_16, device, 0xffff, [0xffe, 1, 0]).many(order::WRITE_32, device, 0xffff_ffff, [0xffc, 1, 0x0101_0101]))
                .settle()),
        Guest::new("status-nonsense", "sets a device's status to every value, forwards and backwards", "states follow each other in one way only, and all else is ignored",
            each(|script, device| script.many(order::WRITE_32, device + STATUS, 0, [512, 0, 1]).many(order::WRITE_32, device + STATUS, 255, [256, 0, u32::MAX]))),
        Guest::new("ready-without-set-up", "says that it is ready without features and queues, and notifies", "states follow each other in one way only",
            each(|script, device| script.write(device + STATUS, 15).many(order::WRITE_32, device + NOTIFY, 0, [64, 0, 1])).settle()),
        Guest::new("feature-nonsense", "asks for every feature there could be", "a feature that was not offered is refused",
            each(|script, device| (0..8).fold(script.write(device + STATUS, 0).write(device + STATUS, 3), |script, page| script.write(device + 0x24, page).write(device + 0x20, u32::MAX)).write(device + STATUS, 11).write(device + STATUS, 15))),
        Guest::new("queue-numbers", "selects queues that are not there, and sets them up", "a queue's number is checked where it is used",
            each(|script, device| [3, 4, 255, 256, 0x7fff_ffff, u32::MAX].into_iter().fold(script.begin(device), |script, queue| script.queue_at(device, queue, 64, [0x20_0000, 0x20_4000, 0x20_8000])).write(device + STATUS, 15))),
        Guest::new("change-when-ready", "changes a queue's size and place while the device uses it", "a queue's configuration is frozen when the driver is ready",
            new().device(VSOCK, 3).queue_at(VSOCK, 1, 0x8000, [0xffff_fff0, 0xffff_fff0, 0xffff_fff0]).write(VSOCK + NOTIFY, 1).settle()),
        Guest::new("reset-while-busy", "resets a device between its notifications, thousands of times", "a reset drops what was under way", {
            let script = new();
            let here = script.here();
            script.device(VSOCK, 3).write(VSOCK + NOTIFY, 1).write(VSOCK + STATUS, 0).write(VSOCK + NOTIFY, 0).again(here, 300).settle()
        }),
        Guest::new("notify-storm", "notifies every queue without end", "notifications are counted by the kernel, and a device has a budget for each turn of the loop", {
            let script = new().device(VSOCK, 3).device(RNG, 1);
            let here = script.here();
            script.many(order::WRITE_32, VSOCK + NOTIFY, 0, [1000, 0, 0]).many(order::WRITE_32, RNG + NOTIFY, 0, [1000, 0, 0]).write(VSOCK + NOTIFY, 1).again(here, 0)
        })
        .goes_on(),
        Guest::new("acknowledge-storm", "acknowledges interrupts that there are not", IGNORED,
            each(|script, device| script.many(order::WRITE_32, device + ACKNOWLEDGE, 0, [4096, 0, 0x1111]))),
        Guest::new("configuration-space", "reads and writes far behind a device's configuration", IGNORED,
            each(|script, device| script.many(order::READ_32, device + CONFIG, 0, [900, 4, 0]).many(order::WRITE_32, device + CONFIG, u32::MAX, [900, 4, 0]).many(order::WRITE_8, device + QUEUE_READY, 1, [16, 0, 0]))),
    ]
}

fn processor() -> Vec<Guest> {
    vec![
        Guest::new("model-registers-read", "reads 13,000 model-specific registers", "KVM refuses those that it does not know; the vmm takes no part",
            new().many(order::READ_MODEL_REGISTER, 0, 0, [4096, 1, 0]).many(order::READ_MODEL_REGISTER, 0x4000_0000, 0, [512, 1, 0]).many(order::READ_MODEL_REGISTER, 0x4b56_4d00, 0, [256, 1, 0]).many(order::READ_MODEL_REGISTER, 0xc000_0000, 0, [4096, 1, 0]).many(order::READ_MODEL_REGISTER, 0xc001_0000, 0, [4096, 1, 0]))
            .ends(FAULTS),
        Guest::new("model-registers-write", "writes model-specific registers: clocks of KVM at bad addresses, Hyper-V's, of the processor's features", "KVM checks them; the vmm takes no part",
            new().many(order::WRITE_MODEL_REGISTER, 0x4b56_4d00, 0xffff_ffff, [16, 1, 0]).many(order::WRITE_MODEL_REGISTER, 0x4000_0000, 0xffff_ffff, [256, 1, 0]).many(order::WRITE_MODEL_REGISTER, 0x10, 0, [1, 0, 0]).many(order::WRITE_MODEL_REGISTER, 0x175, 0xdead_0000, [64, 1, 0x111]))
            .ends(FAULTS),
        Guest::new("processor-ids", "asks for every leaf of the processor's identification", "KVM answers out of the table that it was given",
            new().many(order::PROCESSOR_ID, 0, 0, [64, 1, 0]).many(order::PROCESSOR_ID, 0x4000_0000, 0, [64, 1, 0]).many(order::PROCESSOR_ID, 0x8000_0000, 0, [64, 1, 0]).many(order::PROCESSOR_ID, 0xd, 0, [64, 0, 1])),
        Guest::new("debug-registers", "sets debug registers upon its own memory and devices", "KVM keeps the guest's apart from the host's",
            // mov eax, 0xd0000000; mov dr0, eax; mov eax, 0xf03; mov dr7, eax; ret
            new().call(&[0xb8, 0, 0, 0, 0xd0, 0x0f, 0x23, 0xc0, 0xb8, 0x03, 0x0f, 0, 0, 0x0f, 0x23, 0xf8, 0xc3]).many(order::READ_32, VSOCK, 0, [16, 4, 0]))
            .ends(&[STOPPED, TRIPLE_FAULT]),
        Guest::new("self-modifying", "changes the code that it is executing", "the processor's and KVM's matter; the vmm takes no part",
            // call 1f; 1: pop eax; mov byte [eax+10], 0x90; jmp 2f; 2: hlt -> nop; ret
            new().call(&[0xe8, 0, 0, 0, 0, 0x58, 0xc6, 0x40, 0x07, 0x90, 0xeb, 0x00, 0xf4, 0xc3]))
            .ends(&[STOPPED, HALTED]),
        Guest::new("undefined-instruction", "executes an undefined instruction, thousands of times", ENDS, {
            let script = new();
            let here = script.here();
            script.call(&[0x0f, 0x0b, 0xc3]).again(here, 3000)
        })
        .ends(FAULTS),
        Guest::new("hypercalls", "makes hypercalls with every number, without end", "KVM answers those that it knows; the vmm takes no part", {
            let script = new();
            let here = script.here();
            // xor ecx, ecx; 1: mov eax, ecx; push ecx; vmmcall (KVM makes it the processor's own); pop ecx; inc ecx; cmp ecx, 512; jne 1b; ret
            script.call(&[0x31, 0xc9, 0x89, 0xc8, 0x51, 0x0f, 0x01, 0xd9, 0x59, 0x41, 0x81, 0xf9, 0, 2, 0, 0, 0x75, 0xf0, 0xc3]).again(here, 0)
        })
        .goes_on()
        .ends(FAULTS),
        Guest::new("triple-fault", "has no handler for a fault of a fault", ENDS,
            // lidt of six zero bytes; ud2
            new().write(0x5000, 0).write(0x5004, 0).call(&[0x0f, 0x01, 0x1d, 0x00, 0x50, 0x00, 0x00, 0x0f, 0x0b]))
            .ends(&[TRIPLE_FAULT]),
        Guest::new("halt", "halts with interrupts off", "the watchdog sees that it can never run again", new().call(&[0xfa, 0xf4, 0xeb, 0xfc]))
            .ends(&[HALTED]),
        Guest::new("endless-loop", "does nothing but loop", "the control group's limit on processor time; the event loop is another thread", new().call(&[0xeb, 0xfe])).goes_on(),
        Guest::new("interrupt-storm", "interrupts itself without end", "KVM's matter; the event loop is another thread", {
            let script = new();
            let here = script.here();
            // int 0x40; sti; int 0x41; cli; ret
            script.call(&[0xcd, 0x40, 0xfb, 0xcd, 0x41, 0xfa, 0xc3]).again(here, 0)
        })
        .goes_on()
        .ends(FAULTS),
        Guest::new("reset", "resets the machine", ENDS, new().one(order::OUT_8, 0x604, 1)).ends(&[RESET]),
        Guest::new("panic", "says that it panicked", ENDS, new().one(order::OUT_8, 0x505, 1)).ends(&[PANIC]),
        Guest::new("to-real-mode", "leaves protected mode in the middle of its code", ENDS,
            // mov eax, cr0; and al, 0xfe; mov cr0, eax; hlt
            new().call(&[0x0f, 0x20, 0xc0, 0x24, 0xfe, 0x0f, 0x22, 0xc0, 0xf4]))
            .ends(&[HALTED, TRIPLE_FAULT, KVM_INTERNAL, GUEST_FAULT]),
        Guest::new("paging-nonsense", "switches paging on with tables at an address that is not there", ENDS,
            // mov eax, 0xfffff000; mov cr3, eax; mov eax, cr0; or eax, 0x80000000; mov cr0, eax; ret
            new().call(&[0xb8, 0, 0xf0, 0xff, 0xff, 0x0f, 0x22, 0xd8, 0x0f, 0x20, 0xc0, 0x0d, 0, 0, 0, 0x80, 0x0f, 0x22, 0xc0, 0xc3]))
            .goes_on()
            .ends(FAULTS),
        Guest::new("other-processors", "wakes processors that are not there", "there are as many as were asked for",
            new().write(0xfee0_0310, 0xff00_0000).many(order::WRITE_32, 0xfee0_0300, 0x000c_4500, [64, 0, 0x100]).many(order::WRITE_32, 0xfee0_0300, 0x000c_4600, [64, 0, 1])),
    ]
}
