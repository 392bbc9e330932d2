//! The program of a container's first process: five instructions, so that it has nothing to be
//! taken over, and no memory, name or descriptor of the supervisor's.
//!
//! Its signals are set before: the kernel takes dead children away, since it ignores their ends,
//! and kills it with the supervisor. It makes itself undumpable and waits for ever.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, Mode, SealFlags};
use rustix::io::Result;

/// Where the program lies in memory.
const ADDRESS: u64 = 0x40_0000;
/// Sizes of the ELF header and of one program header.
const HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;

/// x86-64 machine code.
const CODE: [u8; 23] = [
    0xbf, 4, 0, 0, 0, // mov edi, PR_SET_DUMPABLE
    0x31, 0xf6, // xor esi, esi
    0xb8, 157, 0, 0, 0, // mov eax, prctl
    0x0f, 0x05, // syscall
    0xb8, 34, 0, 0, 0, // wait: mov eax, pause
    0x0f, 0x05, // syscall
    0xeb, 0xf7, // jmp wait
];

/// The file, sealed. Nobody but the supervisor may read it, and so neither the memory of who
/// executes it: the kernel keeps that undumpable from the first instruction on.
pub(super) fn program() -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("cloister-init", flags)?;
    rustix::io::write(&file, &elf())?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o111))?;
    // Never mapped, so as good as F_SEAL_WRITE, which may fail while the kernel holds a page of it.
    let seals = SealFlags::FUTURE_WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// An executable at a fixed address with one segment (System V ABI, "ELF Header").
fn elf() -> Vec<u8> {
    let code_at = u64::from(HEADER + PROGRAM_HEADER);
    let size = code_at + CODE.len() as u64;
    let mut file = Vec::new();
    // 64 bits, little end first, version 1.
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // An executable for x86-64.
    file.extend([2_u16, 62].into_iter().flat_map(u16::to_le_bytes));
    file.extend(1_u32.to_le_bytes());
    // Entry, program headers, no section headers.
    file.extend([ADDRESS + code_at, u64::from(HEADER), 0].into_iter().flat_map(u64::to_le_bytes));
    file.extend(0_u32.to_le_bytes());
    file.extend([HEADER, PROGRAM_HEADER, 1, 0, 0, 0].into_iter().flat_map(u16::to_le_bytes));
    // Loaded, readable and executable: the whole file.
    file.extend([1_u32, 5].into_iter().flat_map(u32::to_le_bytes));
    file.extend([0, ADDRESS, ADDRESS, size, size, 4096].into_iter().flat_map(u64::to_le_bytes));
    file.extend(CODE);
    file
}
