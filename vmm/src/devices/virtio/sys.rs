//! The system calls that no safe wrapper offers: random bytes, and stream I/O on guest memory.

#![expect(
    unsafe_code,
    reason = "system calls on guest memory, which must never be a Rust reference"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// Most pieces of memory in one call. More is a short transfer, which every caller expects.
const MAX_PIECES: usize = 64;
/// Most reads of a discard: 1 MiB, five times a socket's usual buffer, in which the rest of what the
/// peer wrote lies.
const MAX_DISCARDS: usize = 64;

/// Fills `buffer` from the host kernel's random number generator.
///
/// # Errors
/// The system call's.
pub fn fill_random(buffer: &mut [u8]) -> io::Result<()> {
    let mut rest = buffer;
    while !rest.is_empty() {
        // SAFETY: `rest` is a live exclusive borrow of exactly the length that is passed.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        let got = transferred(got)?;
        let (_, unfilled) = std::mem::take(&mut rest).split_at_mut(got);
        rest = unfilled;
    }
    Ok(())
}

/// The first `limit` bytes of these pieces, as far as one call reaches.
#[must_use]
pub fn first_bytes<'a>(pieces: &[VolatileSlice<'a>], limit: usize) -> Vec<VolatileSlice<'a>> {
    let mut left = limit;
    let mut first = Vec::with_capacity(pieces.len().min(MAX_PIECES));
    for piece in pieces.iter().take(MAX_PIECES) {
        let length = piece.len().min(left);
        left -= length;
        match piece.subslice(0, length) {
            Ok(piece) if length > 0 => first.push(piece),
            _ => break,
        }
    }
    first
}

/// Writes memory to a stream socket without waiting; may be short.
///
/// # Errors
/// `WouldBlock` when the socket is full; else the stream is broken.
pub fn send(stream: BorrowedFd<'_>, pieces: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let guards: Vec<_> = pieces.iter().take(MAX_PIECES).map(VolatileSlice::ptr_guard).collect();
    let mut vectors: Vec<_> = guards
        .iter()
        .map(|guard| libc::iovec {
            iov_base: guard.as_ptr().cast_mut().cast(),
            iov_len: guard.len(),
        })
        .collect();
    let message = message(&mut vectors);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `message` names `vectors`, which name the memory that `guards` keep mapped and which
    // the kernel only reads; the guest changing it meanwhile changes only what is sent.
    retry(|| unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, flags) })
}

/// Reads from a stream socket into memory without waiting; may be short; 0 is the end.
///
/// # Errors
/// `WouldBlock` when nothing is there; else the stream is broken.
pub fn receive(stream: BorrowedFd<'_>, pieces: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let guards: Vec<_> = pieces.iter().take(MAX_PIECES).map(VolatileSlice::ptr_guard_mut).collect();
    let mut vectors: Vec<_> = guards
        .iter()
        .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
        .collect();
    let mut message = message(&mut vectors);
    // SAFETY: `message` names `vectors`, which name the memory that `guards` keep mapped; it is guest
    // memory or a buffer that the caller borrows exclusively, so no Rust reference sees the write.
    // There is no control buffer: descriptors that the peer sends are closed by the kernel.
    retry(|| unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })
}

/// Empties a stream socket that was shut for reading. Closing it full would show its peer an error
/// (`ECONNRESET`) after the last data instead of the end.
pub fn discard(stream: BorrowedFd<'_>) {
    let mut scratch = [0_u8; 16 << 10];
    for _ in 0..MAX_DISCARDS {
        if !receive(stream, &[VolatileSlice::from(&mut scratch[..])]).is_ok_and(|count| count > 0) {
            break;
        }
    }
}

/// A message of nothing but these pieces of memory.
fn message(vectors: &mut [libc::iovec]) -> libc::msghdr {
    libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: vectors.as_mut_ptr(),
        msg_iovlen: vectors.len(),
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match transferred(call()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn transferred(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
