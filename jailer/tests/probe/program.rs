//! What the tests put into a jail: does what one letter on its control socket asks for, answers with
//! the system's error or 0, and goes on. It ends with its control socket.
#![expect(unsafe_code, reason = "tries what a program that was taken over would try")]
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "a table of calls, alike in everything")]

use std::process::exit;

fn main() {
    let mut letter = [0_u8];
    loop {
        // SAFETY: one byte of a live buffer.
        let count = unsafe { libc::read(3, letter.as_mut_ptr().cast(), 1) };
        if count != 1 {
            exit(0);
        }
        let answer = act(letter[0]).to_le_bytes();
        // SAFETY: four bytes of a live buffer.
        unsafe { libc::write(3, answer.as_ptr().cast(), answer.len()) };
    }
}

fn act(letter: u8) -> i32 {
    let path = c"/".as_ptr();
    // SAFETY: each is a call with numbers and pointers to constants; most must not come back.
    let result = unsafe {
        match letter {
            b'.' => 0,
            b'p' => libc::syscall(libc::SYS_getpid),
            b'o' => libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, libc::O_RDONLY, 0),
            b'O' => libc::syscall(libc::SYS_open, path, libc::O_RDONLY, 0),
            b's' => libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0),
            b'u' => libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER),
            b'm' => libc::syscall(libc::SYS_mount, path, path, path, 0, 0),
            b'f' => libc::syscall(libc::SYS_fork),
            b'c' => libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0),
            b't' => libc::syscall(libc::SYS_ptrace, 0, 0, 0, 0),
            b'k' => libc::syscall(libc::SYS_kill, -1, 0),
            b'e' => libc::syscall(libc::SYS_execve, path, 0, 0),
            b'E' => libc::syscall(
                libc::SYS_execveat,
                0,
                c"".as_ptr(),
                [c"x".as_ptr(), std::ptr::null()].as_ptr(),
                [std::ptr::null::<u8>()].as_ptr(),
                libc::AT_EMPTY_PATH,
            ),
            b'i' => libc::syscall(libc::SYS_ioctl, 2, libc::TIOCSTI, path),
            b'x' => libc::syscall(
                libc::SYS_mmap,
                0,
                4096,
                libc::PROT_READ | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            ),
            _ => -1,
        }
    };
    match result {
        -1 => std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
        // Only `p` has a result that anybody wants.
        pid if letter == b'p' => i32::try_from(pid).unwrap_or(0),
        _ => 0,
    }
}
