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

/// Where a guest keeps numbers.
const NUMBERS: u32 = 0x0020_0000;

fn with_place(code: &[u8], offset: u32) -> Vec<u8> {
    [code, &(NUMBERS + offset).to_le_bytes()].concat()
}

/// A little of nothing: `mov ecx, rounds; 1: dec ecx; jnz 1b`
fn wait() -> Vec<u8> {
    vec![0xb9, 0x80, 0x00, 0x00, 0x00, 0x49, 0x75, 0xfd]
}

/// `jmp` to the code's first byte from its end.
fn again(mut code: Vec<u8>) -> Vec<u8> {
    let back = i32::try_from(code.len() + 5).unwrap();
    code.push(0xe9);
    code.extend((-back).to_le_bytes());
    code
}

/// `mov dx, SERIAL_PORT; out dx, al`
fn print_al() -> Vec<u8> {
    let [low, high] = layout::SERIAL_PORT.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xee]
}

/// Prints a byte that is one more each time; the number is in memory, and a copy in a register.
pub(crate) fn count_for_ever() -> Vec<u8> {
    let mut code = with_place(&[0xff, 0x05], 0); // inc dword [number]
    code.push(0x43); // inc ebx
    code.extend(with_place(&[0xa1], 0)); // mov eax, [number]
    code.extend([0x39, 0xd8]); // cmp eax, ebx
    let bad = panic();
    code.extend([0x74, u8::try_from(bad.len()).unwrap()]); // je over the panic
    code.extend(bad);
    code.extend(print_al());
    code.extend(wait());
    // The register begins with what the boot left in it: xor ebx, ebx
    [vec![0x31, 0xdb], again(code)].concat()
}

/// Writes to a page more each time, up to the end of 64 MiB, and prints a byte; panics over one that is not empty.
pub(crate) fn fill_and_count() -> Vec<u8> {
    let first = (NUMBERS + (4 << 20)).to_le_bytes();
    let bad = panic();
    let mut round = vec![0x83, 0x3f, 0x00]; // cmp dword [edi], 0
    round.extend([0x74, u8::try_from(bad.len()).unwrap()]); // je over the panic
    round.extend(bad);
    round.extend([0xc7, 0x07, 1, 0, 0, 0]); // mov dword [edi], 1
    round.extend([0x81, 0xc7, 0x00, 0x10, 0x00, 0x00]); // add edi, 4096
    round.extend([0xb0, b'.']);
    round.extend(print_al());
    // So slowly that the memory lasts for seconds: on a host with much to do a test's order to stop may take as long. By
    // the counter, as there are KVMs that emulate each instruction: rdtsc; mov ebx, eax; 1: rdtsc; sub eax, ebx; …
    round.extend([0x0f, 0x31, 0x89, 0xc3, 0x0f, 0x31, 0x29, 0xd8]);
    round.extend([0x3d, 0x00, 0x00, 0x10, 0x00, 0x72, 0xf5]); // … cmp eax, 1 << 20; jb 1b
    round.extend([0x81, 0xff]); // cmp edi, end
    round.extend((64_u32 << 20).to_le_bytes());
    round.extend([0x72, 0x02]); // jb over the end of all
    round.extend(SPIN);
    [vec![0xbf], first.to_vec(), again(round)].concat() // mov edi, first
}

/// Prints dots while the time-stamp counter goes on, and panics when it goes back.
pub(crate) fn watch_the_counter() -> Vec<u8> {
    let store = [with_place(&[0x89, 0x15], 8), with_place(&[0xa3], 4)].concat();
    let bad = panic();
    let mut code = vec![0x0f, 0x31]; // rdtsc
    // Higher, or equal and the low half not below: over the panic.
    let low = {
        let mut low = with_place(&[0x3b, 0x05], 4); // cmp eax, [low]
        low.extend([0x73, u8::try_from(bad.len()).unwrap()]); // jae over the panic
        low
    };
    let equal_test = [0x74, u8::try_from(2).unwrap()]; // je to the low half's test
    code.extend(with_place(&[0x3b, 0x15], 8)); // cmp edx, [high]
    code.extend([0x77, u8::try_from(4 + low.len() + bad.len()).unwrap()]); // ja to the store
    code.extend(equal_test);
    code.extend([0xeb, u8::try_from(low.len()).unwrap()]); // below: to the panic
    code.extend(low);
    code.extend(bad);
    code.extend(store);
    code.extend([0xb0, b'.']);
    code.extend(print_al());
    code.extend(wait());
    again(code)
}

/// `MSR_KVM_SYSTEM_TIME_NEW`: where the guest has its clock's page (KVM-specific MSRs of the kernel's documentation).
const CLOCK_PAGE: u32 = 0x4b56_4d01;
/// Where in that page the flags are, and the one that says that the guest was stopped.
const CLOCK_FLAGS: u32 = 29;
const STOPPED: u8 = 1 << 1;

/// Prints dots, and `p` once for each time that it was told that it had been stopped.
pub(crate) fn watch_the_pauses() -> Vec<u8> {
    let mut code = [vec![0xb9], CLOCK_PAGE.to_le_bytes().to_vec()].concat(); // mov ecx, CLOCK_PAGE
    code.extend(with_place(&[0xb8], 1)); // mov eax, page | on
    code.extend([0x31, 0xd2, 0x0f, 0x30]); // xor edx, edx; wrmsr
    let mut round = vec![0xb0, b'.']; // mov al, '.'
    // As the guest's kernel does it: looked at, and taken back.
    let clear = with_place(&[0x80, 0x25], CLOCK_FLAGS); // and byte [flags], …
    let told = [clear, vec![!STOPPED, 0xb0, b'p']].concat(); // … not STOPPED; mov al, 'p'
    round.extend(with_place(&[0xf6, 0x05], CLOCK_FLAGS)); // test byte [flags], …
    round.extend([STOPPED, 0x74, u8::try_from(told.len()).unwrap()]); // … STOPPED; jz over it
    round.extend(told);
    round.extend(print_al());
    round.extend(wait());
    code.extend(again(round));
    code
}

/// Sets a debug register once, and prints dots while it is as it was set.
pub(crate) fn watch_registers() -> Vec<u8> {
    let value = 0x1234_5678_u32.to_le_bytes();
    let mut code = vec![0xb8];
    code.extend(value); // mov eax, value
    code.extend([0x0f, 0x23, 0xc0]); // mov dr0, eax
    let bad = panic();
    let mut round = vec![0x0f, 0x21, 0xc0]; // mov eax, dr0
    round.extend([0x3d]);
    round.extend(value); // cmp eax, value
    round.extend([0x74, u8::try_from(bad.len()).unwrap()]); // je over the panic
    round.extend(bad);
    round.extend([0xb0, b'.']);
    round.extend(print_al());
    round.extend(wait());
    code.extend(again(round));
    code
}
