//! What becomes of a process that makes one system call under a filter.
#![expect(unsafe_code, reason = "forks, and makes any system call with any arguments")]

use std::io;

/// Calls with a number up to here are tried: more than any kernel has had when this was written.
pub(crate) const LAST: u64 = 470;
/// The bit that marks a call of the x32 ABI.
pub(crate) const X32: u64 = 0x4000_0000;

/// `uretprobe` and `uprobe`: newer kernels let these pass every filter, for their own tracing, and refuse or end
/// whoever makes them from anywhere but the kernel's own page of code.
const PASSED_BY_KERNEL: [u64; 2] = [335, 336];

/// A system call: its number and its arguments.
pub(crate) type Call = (u64, [u64; 6]);

/// How a process ends (as `waitpid` tells it) that is confined and then makes this call; 0 if the call fails
/// and it lives on.
pub(crate) fn end_of(confine: &dyn Fn() -> io::Result<()>, call: Call) -> i32 {
    in_child(confine, || {
        let (number, [a, b, c, d, e, f]) = call;
        // SAFETY: the child's own memory is all that it can harm, and it ends right after.
        unsafe { libc::syscall(number.cast_signed(), a, b, c, d, e, f) < 0 }
    })
}

/// The same for a call by the 32-bit entry of the kernel; the number is that of `getpid` there.
pub(crate) fn end_of_32_bits(confine: &dyn Fn() -> io::Result<()>) -> i32 {
    in_child(confine, || {
        // SAFETY: no pointer; it changes the register that holds the result.
        unsafe { std::arch::asm!("int 0x80", inout("eax") 20 => _, options(nostack)) };
        false
    })
}

fn in_child(confine: &dyn Fn() -> io::Result<()>, act: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child confines itself, acts, and ends.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let code = match confine() {
            Ok(()) if act() => 0,
            Ok(()) => 1,
            Err(_) => 99,
        };
        // An end that nobody mistakes for the filter's; the filter may not even let it exit.
        loop {
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::syscall(libc::SYS_exit_group, code) };
            // SAFETY: the same, for a thread that may end only itself.
            unsafe { libc::syscall(libc::SYS_exit, code) };
        }
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_ne!(status, 99 << 8, "the child could not be confined");
    status
}

/// Whether this is the end that a filter makes.
pub(crate) fn is_killed(status: i32) -> bool {
    libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS
}

/// Every call with any number but these is the end, by all ways into the kernel. How many were tried.
pub(crate) fn assert_all_else_kills(confine: &dyn Fn() -> io::Result<()>, known: &[u64]) -> usize {
    let mut tried = 0;
    for number in 0..=LAST {
        for number in [number, number | X32] {
            if !known.contains(&number) {
                let status = end_of(confine, (number, [0; 6]));
                let by_kernel = PASSED_BY_KERNEL.contains(&number)
                    && (status == 0 || status & 0x7f == libc::SIGILL);
                let ended = is_killed(status) || by_kernel;
                assert!(ended, "call {number:#x} is let through: {status:#x}");
                tried += 1;
            }
        }
    }
    let status = end_of_32_bits(confine);
    // A kernel without that entry ends who uses it, too.
    let faulted = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV;
    assert!(is_killed(status) || faulted, "{status:#x}");
    tried + 1
}
