//! The system calls that no safe wrapper offers: record locks by open file, descriptors that came with
//! the process, a thread's own working directory.
#![expect(
    unsafe_code,
    reason = "record locks, inherited descriptors and unshare are raw interfaces"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A range of a file and how it is to be locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub kind: u32,
    /// The first byte.
    pub start: u64,
    /// The last byte; `i64::MAX`: to the end, wherever that will be.
    pub end: u64,
}

const END: u64 = i64::MAX.unsigned_abs();

impl Record {
    /// `None`: no such kind, or no range of a file.
    #[must_use]
    pub fn new(kind: u32, start: u64, end: u64) -> Option<Self> {
        let known = [libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK].map(i32::unsigned_abs);
        let fits = known.contains(&kind) && start <= end && end <= END;
        fits.then_some(Self { kind, start, end })
    }

    /// Whether it gives locks back.
    #[must_use]
    pub const fn is_unlock(&self) -> bool {
        self.kind == libc::F_UNLCK.unsigned_abs()
    }

    fn to_system(self) -> libc::flock {
        let length = if self.end == END { 0 } else { self.end - self.start + 1 };
        libc::flock {
            l_type: libc::c_short::try_from(self.kind).unwrap_or(0),
            l_whence: 0,
            l_start: i64::try_from(self.start).unwrap_or(i64::MAX),
            l_len: i64::try_from(length).unwrap_or(0),
            l_pid: 0,
        }
    }

    fn from_system(lock: &libc::flock) -> Option<Self> {
        let start = u64::try_from(lock.l_start).ok()?;
        let end = match u64::try_from(lock.l_len).ok()? {
            0 => END,
            length => start.checked_add(length - 1)?,
        };
        Self::new(u32::try_from(lock.l_type).ok()?, start, end)
    }
}

fn lock(file: &File, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: `lock` is a live structure of the type that these commands read and write.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets or clears a record lock of an open file, without waiting.
///
/// # Errors
/// `EAGAIN`: another lock is in the way; else the system's.
pub fn set_lock(file: &File, record: Record) -> io::Result<()> {
    lock(file, libc::F_OFD_SETLK, &mut record.to_system())
}

/// A lock that is in the way of this one.
///
/// # Errors
/// The system's.
pub fn test_lock(file: &File, record: Record) -> io::Result<Option<Record>> {
    let mut found = record.to_system();
    lock(file, libc::F_OFD_GETLK, &mut found)?;
    Ok(Record::from_system(&found).filter(|found| !found.is_unlock()))
}

/// Threads share one heap. One that gives memory of a heap of its own back asks the kernel how much it may promise
/// (`/proc/sys/vm/overcommit_memory`), and a server has no such path, nor the calls to read it.
pub fn share_one_heap() {
    // SAFETY: sets a number in the allocator, before there are threads.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Takes over a descriptor that the process was started with.
///
/// # Errors
/// It is not open.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only reads the descriptor's flags.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by the contract of `control` nothing else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives the calling thread a working directory of its own: the library changes to another and back
/// around some calls.
///
/// # Errors
/// The system's.
pub fn own_working_directory() -> io::Result<()> {
    // SAFETY: no pointer; only this thread's directory, root and mask are copied.
    if unsafe { libc::unshare(libc::CLONE_FS) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Ends every thread at once. Nothing is kept in buffers that could be lost.
pub fn leave(status: i32) -> ! {
    // SAFETY: a number; it does not return, and runs nothing of this process's.
    unsafe { libc::_exit(status) }
}

/// No system call: the jail's filter kills whoever makes it.
const LAST_CALL: libc::c_long = 0x3fff_ffff;

/// A system call that a filter does not allow: says its number and ends the process. Makes two calls and
/// nothing else (the thread may have been anywhere).
extern "C" fn on_trap(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // `si_syscall` of a SIGSYS: after three numbers, padding and the caller's address.
    const OFFSET: usize = 24;
    let mut text = *b"cloister-file-server: system call 0000 is not allowed\n";
    // SAFETY: the kernel hands over a whole siginfo_t, of which this is an aligned member.
    let mut number = unsafe { info.cast::<u8>().wrapping_add(OFFSET).cast::<u32>().read() };
    let digits = text.iter_mut().rev().filter(|byte| **byte == b'0');
    for digit in digits {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
    // SAFETY: a live buffer, and not more than its length.
    unsafe { libc::syscall(libc::SYS_write, 2, text.as_ptr(), text.len()) };
    // SAFETY: no pointer; the jail's filter kills the process for it.
    unsafe { libc::syscall(LAST_CALL) };
}

/// Lets the host see which system call ended the process. Comes before the server's own filter, which lets
/// nobody change the handler.
///
/// # Errors
/// `sigaction`'s.
pub fn install_trap_handler() -> io::Result<()> {
    // SAFETY: all zeros is a value of this structure: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_trap as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: a live structure; the handler makes only calls that are safe in one.
    let set = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_the_systems_and_back() {
        let kinds = [libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK].map(i32::unsigned_abs);
        for kind in kinds {
            for (start, end) in [(0, 0), (0, END), (7, 9), (END, END)] {
                let record = Record::new(kind, start, end).unwrap();
                assert_eq!(Record::from_system(&record.to_system()), Some(record));
            }
        }
        assert_eq!(Record::new(0, 2, 1), None);
        assert_eq!(Record::new(0, 0, END + 1), None);
        assert_eq!(Record::new(9, 0, 1), None);
    }

    #[test]
    fn locks_of_two_open_files_are_in_each_others_way() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(place.path()).unwrap();
        let (a, b) = (open(), open());
        let write = Record::new(libc::F_WRLCK.unsigned_abs(), 3, 5).unwrap();
        set_lock(&a, write).unwrap();
        assert_eq!(test_lock(&b, write).unwrap(), Some(write));
        let refused = set_lock(&b, Record { start: 5, end: END, ..write }).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EAGAIN));
        drop(a);
        set_lock(&b, write).unwrap();
    }
}
