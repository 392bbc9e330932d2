//! Toy guests: 32-bit protected mode, entered at their first byte, no stack, interrupts off.

use cloister_vmm::x86_64::layout;

const HLT: u8 = 0xf4;
/// `jmp $`
const SPIN: [u8; 2] = [0xeb, 0xfe];

/// `mov dx, port; mov al, value; out dx, al`
fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee]
}

fn power_off() -> Vec<u8> {
    out(layout::SLEEP_CONTROL_PORT, (1 << 5) | (layout::SLEEP_TYPE_OFF << 2))
}

pub(crate) fn print_and_power_off(text: &[u8]) -> Vec<u8> {
    let mut code: Vec<u8> = text.iter().flat_map(|byte| out(layout::SERIAL_PORT, *byte)).collect();
    code.extend(power_off());
    code.extend(SPIN);
    code
}

pub(crate) fn reset() -> Vec<u8> {
    [out(layout::RESET_PORT, layout::RESET_VALUE), SPIN.to_vec()].concat()
}

pub(crate) fn panic() -> Vec<u8> {
    [out(layout::PANIC_PORT, 1), SPIN.to_vec()].concat()
}

/// A page fault without an interrupt table: `lidt [empty]; ud2`.
pub(crate) fn triple_fault() -> Vec<u8> {
    // lidt [eip-independent absolute address of six zero bytes at 0x5000]; ud2
    vec![0x0f, 0x01, 0x1d, 0x00, 0x50, 0x00, 0x00, 0x0f, 0x0b]
}

/// Jumps into the MMIO gap, where there is nothing to fetch.
pub(crate) fn execute_from_nowhere() -> Vec<u8> {
    vec![0xb8, 0x00, 0x00, 0x00, 0xd8, 0xff, 0xe0] // mov eax, 0xd8000000; jmp eax
}

pub(crate) fn halt_for_ever() -> Vec<u8> {
    vec![0xfa, HLT, 0xeb, 0xfd] // cli; hlt; jmp back to hlt
}

pub(crate) fn spin() -> Vec<u8> {
    SPIN.to_vec()
}

pub(crate) fn print_for_ever(byte: u8) -> Vec<u8> {
    let mut code = out(layout::SERIAL_PORT, byte);
    code.extend([0xeb, 0xfd]); // jmp back to `out dx, al` (one byte before)
    code
}

/// Reads and writes every port but the ones that end the machine, then memory all over the gap;
/// prints `k` and powers off.
pub(crate) fn sweep_ports_and_memory() -> Vec<u8> {
    let mut code = Vec::new();
    for port in (0..=u16::MAX).step_by(251) {
        let ends = [layout::SLEEP_CONTROL_PORT, layout::RESET_PORT, layout::PANIC_PORT];
        let serial = layout::SERIAL_PORT..layout::SERIAL_PORT_END;
        if ends.contains(&port) || serial.contains(&port) {
            continue;
        }
        let [low, high] = port.to_le_bytes();
        code.extend([0x66, 0xba, low, high, 0xec, 0xee, 0xed, 0xef]); // in/out al, in/out eax
    }
    let start = u32::try_from(layout::MMIO_GAP_START).unwrap();
    for address in (start..0xfe00_0000).step_by(0x123_4567) {
        let [a, b, c, d] = address.to_le_bytes();
        code.extend([0xa1, a, b, c, d, 0xa3, a, b, c, d]); // mov eax, [address]; mov [address], eax
    }
    code.extend(print_and_power_off(b"k"));
    code
}
