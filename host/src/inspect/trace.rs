//! A thread's seccomp filters, as the kernel has them. Only root may ask, and the thread stands still
//! for the moment that it takes.
#![expect(unsafe_code, reason = "ptrace has no safe wrapper that knows this request")]

use std::io;
use std::ptr;

use super::filters::Instruction;

/// linux/ptrace.h.
const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
/// Most instructions of a filter (linux/filter.h, `BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// A thread that is being traced. Dropped, it goes on.
struct Traced(libc::pid_t);

impl Drop for Traced {
    fn drop(&mut self) {
        // SAFETY: no memory is passed; a thread that is gone is an error that does not matter.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, ptr::null_mut::<u8>(), 0) };
    }
}

/// The filters of a thread, the last one that was added first.
///
/// # Errors
/// The thread is gone, or this user may not ask.
pub(super) fn filters(thread: libc::pid_t) -> io::Result<Vec<Vec<Instruction>>> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, ptr::null_mut::<u8>(), 0) })?;
    let traced = Traced(thread);
    // SAFETY: no memory is passed.
    check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, thread, ptr::null_mut::<u8>(), 0) })?;
    // SAFETY: no status is asked for; the thread is ours to wait for while it is traced.
    check(unsafe { libc::waitpid(thread, ptr::null_mut(), libc::__WALL) }.into())?;
    let mut filters = Vec::new();
    while let Some(filter) = filter(&traced, filters.len())? {
        filters.push(filter);
    }
    Ok(filters)
}

/// One filter by its place; nothing behind the last.
fn filter(traced: &Traced, place: usize) -> io::Result<Option<Vec<Instruction>>> {
    // SAFETY: with no memory the kernel only tells the length.
    let length =
        unsafe { libc::ptrace(PTRACE_SECCOMP_GET_FILTER, traced.0, place, ptr::null_mut::<u8>()) };
    let length = match check(length) {
        Ok(length) => length,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        // No filter at all.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && place == 0 => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = usize::try_from(length).unwrap_or(0).min(MAX_INSTRUCTIONS);
    let mut program = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; MAX_INSTRUCTIONS];
    // SAFETY: the kernel writes one filter, which has at most MAX_INSTRUCTIONS instructions, and there
    // is room for as many.
    check(unsafe {
        libc::ptrace(PTRACE_SECCOMP_GET_FILTER, traced.0, place, program.as_mut_ptr())
    })?;
    program.truncate(length);
    let instruction = |one: &libc::sock_filter| Instruction {
        code: one.code,
        jump_true: one.jt,
        jump_false: one.jf,
        value: one.k,
    };
    Ok(Some(program.iter().map(instruction).collect()))
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
