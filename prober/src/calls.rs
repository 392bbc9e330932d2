//! System calls as an attacker makes them: any number with any arguments, and what came of it.
#![expect(unsafe_code, reason = "attacks are raw system calls, most of which no library offers")]

use std::ffi::CStr;
use std::io;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use libc::c_long;

use crate::wire::End;

/// What came of an attack: what was got, or how it ended.
pub(crate) type Tried = Result<String, End>;

/// The number of the call that a filter refused; -1: none since it was last asked for.
static REFUSED: AtomicI64 = AtomicI64::new(-1);

/// Where to go on behind a refused call: instruction, stack, frame, and the one other register that the compiler
/// does not lend. Zeros: no attack is being tried.
struct Resume([AtomicU64; 4]);

static RESUME: Resume = Resume([const { AtomicU64::new(0) }; 4]);

/// An argument of a system call.
pub(crate) trait Word {
    /// As the processor passes it.
    fn word(self) -> c_long;
}

impl Word for i32 {
    fn word(self) -> c_long {
        self.into()
    }
}

impl Word for u32 {
    fn word(self) -> c_long {
        self.into()
    }
}

impl Word for c_long {
    fn word(self) -> c_long {
        self
    }
}

impl Word for u64 {
    fn word(self) -> c_long {
        self.cast_signed()
    }
}

impl Word for usize {
    fn word(self) -> c_long {
        (self as u64).cast_signed()
    }
}

impl Word for &CStr {
    fn word(self) -> c_long {
        self.as_ptr().word()
    }
}

impl<T> Word for *const T {
    fn word(self) -> c_long {
        self.expose_provenance().word()
    }
}

impl<T> Word for *mut T {
    fn word(self) -> c_long {
        self.expose_provenance().word()
    }
}

/// A system call: its result, or how it ended.
macro_rules! call {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        $crate::calls::call_with(
            $number,
            &[$($crate::calls::Word::word($argument)),*],
        )
    };
}

pub(crate) use call;

/// See [`call!`].
pub(crate) fn call_with(number: c_long, arguments: &[c_long]) -> Result<c_long, End> {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    REFUSED.store(-1, Ordering::SeqCst);
    let result: c_long;
    // SAFETY: the tables of this program pass null, strings and arrays that live for the call; the memory that a
    // call of theirs maps is nobody else's. Where `on_refusal` goes on is behind the call, with the registers that
    // hold this frame as they were; all others count as changed.
    unsafe {
        std::arch::asm!(
            "lea r12, [rip + 2f]",
            "mov [r13], r12",
            "mov [r13 + 8], rsp",
            "mov [r13 + 16], rbp",
            "mov [r13 + 24], rbx",
            "syscall",
            "2:",
            inlateout("r13") RESUME.0.as_ptr() => _,
            inlateout("rax") number => result,
            inlateout("rdi") argument(0) => _,
            inlateout("rsi") argument(1) => _,
            inlateout("rdx") argument(2) => _,
            inlateout("r10") argument(3) => _,
            inlateout("r8") argument(4) => _,
            inlateout("r9") argument(5) => _,
            out("r12") _,
            out("r14") _,
            out("r15") _,
            clobber_abi("C"),
        );
    }
    RESUME.0[0].store(0, Ordering::SeqCst);
    if REFUSED.swap(-1, Ordering::SeqCst) >= 0 {
        return Err(End::Trapped);
    }
    // The kernel's errors are the last page of numbers.
    match i32::try_from(-result) {
        Ok(errno @ 1..=4095) => Err(End::Errno(errno)),
        _ => Ok(result),
    }
}

/// Notes a refused call and goes on behind it, where the real programs' handlers end the process: so that many
/// attacks can be tried in one process. That it runs at all is the kernel's refusal. It does not return, as the
/// filters let few threads call `rt_sigreturn`.
extern "C" fn on_refusal(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // `si_syscall` of a SIGSYS: after three numbers, padding and the caller's address.
    const OFFSET: usize = 24;
    // SAFETY: the kernel hands over a whole siginfo_t, of which this is an aligned member.
    let number = unsafe { info.cast::<u8>().wrapping_add(OFFSET).cast::<u32>().read() };
    REFUSED.store(number.into(), Ordering::SeqCst);
    if RESUME.0[0].load(Ordering::SeqCst) == 0 {
        // A call of a library's, not an attack. As returning may be refused as well: tell it, and end as the real
        // programs' handlers do, by a call that every filter kills for.
        let words = *b"a library called:";
        let digits = (0..4_u32)
            .map(|place| b'0' + u8::try_from(number / 10_u32.pow(3 - place) % 10).unwrap_or(0));
        let mut line = [b' '; 22];
        line.iter_mut().zip(words.into_iter().chain(digits)).for_each(|(to, from)| *to = from);
        // SAFETY: a live array.
        unsafe { libc::syscall(libc::SYS_write, 2, line.as_ptr(), line.len()) };
        // SAFETY: it does not come back.
        unsafe { libc::syscall(c_long::from(cloister_jailer::policy::LAST_CALL)) };
    }
    // SAFETY: `call_with` stored these for its own frame, which the signal interrupted.
    unsafe {
        std::arch::asm!(
            "mov rsp, [r13 + 8]",
            "mov rbp, [r13 + 16]",
            "mov rbx, [r13 + 24]",
            "jmp [r13]",
            in("r13") RESUME.0.as_ptr(),
            options(noreturn),
        );
    }
}

/// Takes SIGSYS, and ignores what would end the process where a limit can be told by an error as well. Before the
/// filters, which let nobody change a handler.
pub(crate) fn take_signals() -> io::Result<()> {
    // SAFETY: all zeros is a value of this structure.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_refusal;
    action.sa_sigaction = handler as libc::sighandler_t;
    // The handler leaves by a jump, so the signal must not stay blocked.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    // SAFETY: a live structure; the handler only reads what the kernel gives it and stores a number.
    if unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    action.sa_sigaction = libc::SIG_IGN;
    // SAFETY: a live structure that names no handler.
    if unsafe { libc::sigaction(libc::SIGXFSZ, &raw const action, std::ptr::null_mut()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A system call by the entry of 32-bit programs: `getpid` of i386.
pub(crate) fn call_by_interrupt() -> c_long {
    const GETPID_I386: c_long = 20;
    let mut result = GETPID_I386;
    // SAFETY: takes no argument and touches nothing but the result's register and those that the entry may change.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inout("rax") result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    result
}

/// Writes into fresh memory, a byte in each page, and returns how many bytes; ends sooner only with the process.
pub(crate) fn touch_memory(bytes: usize) -> Result<usize, End> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let place = call!(libc::SYS_mmap, 0, bytes, protection, flags, -1, 0)?;
    let start = std::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(place).unwrap_or(0));
    for page in (0..bytes).step_by(4096) {
        // SAFETY: within the mapping that was just made.
        unsafe { start.wrapping_add(page).write_volatile(1) };
    }
    Ok(bytes)
}

/// Makes a child that waits for its end; its number.
pub(crate) fn fork_waiting() -> Result<c_long, End> {
    let child = call!(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)?;
    if child == 0 {
        loop {
            call!(libc::SYS_pause).ok();
        }
    }
    Ok(child)
}

/// Names of host and domain.
pub(crate) fn names() -> Result<[String; 2], End> {
    // SAFETY: all zeros is a value of this structure of bytes.
    let mut names: libc::utsname = unsafe { std::mem::zeroed() };
    call!(libc::SYS_uname, &raw mut names)?;
    let text = |bytes: &[libc::c_char]| -> String {
        let bytes = bytes.iter().take_while(|byte| **byte != 0);
        bytes.map(|byte| char::from(byte.cast_unsigned())).collect()
    };
    Ok([text(&names.nodename), text(&names.domainname)])
}

/// Sends a packet with a descriptor.
pub(crate) fn send_with_descriptor(socket: i32, bytes: &[u8], descriptor: i32) -> Result<(), End> {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // The control message: length, level, type, the descriptor, and its padding.
    let length: u64 = 20;
    let mut control = [0_u64; 3];
    control[0] = length;
    let level = u64::from(libc::SOL_SOCKET.unsigned_abs());
    control[1] = level | u64::from(libc::SCM_RIGHTS.unsigned_abs()) << 32;
    control[2] = u64::from(descriptor.unsigned_abs());
    // SAFETY: all zeros is a value of this structure.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = 20;
    call!(libc::SYS_sendmsg, socket, &raw const header, libc::MSG_NOSIGNAL).map(drop)
}

/// Takes over a descriptor that is known by its number.
pub(crate) fn own(fd: i32) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd as _;
    // SAFETY: called once for each number that the host put in place, before anything else uses it.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_call_is_noted_and_the_next_one_is_made() {
        // SAFETY: the child makes system calls alone and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            take_signals().ok();
            let step = |code: u16, jt: u8, jf: u8, k: u32| libc::sock_filter { code, jt, jf, k };
            let filter = [
                step(0x20, 0, 0, 0),
                step(0x15, 1, 0, 272),
                step(0x15, 0, 1, 15),
                step(0x06, 0, 0, libc::SECCOMP_RET_TRAP),
                step(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
            ];
            let program = libc::sock_fprog { len: 5, filter: filter.as_ptr().cast_mut() };
            call!(libc::SYS_prctl, 38, 1, 0, 0, 0).ok();
            call!(libc::SYS_prctl, 22, 2, &raw const program).ok();
            let first = call!(libc::SYS_unshare, 0) == Err(End::Trapped);
            let second = call!(libc::SYS_unshare, 0) == Err(End::Trapped);
            let third = call!(libc::SYS_getppid).is_ok();
            let fourth = call!(libc::SYS_close, -1) == Err(End::Errno(libc::EBADF));
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!(first && second && third && fourth))) };
        }
        let mut status = 0;
        // SAFETY: a live number.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0);
    }
}
