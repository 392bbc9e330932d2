//! Tries to use more than an agent has.
#![expect(clippy::too_many_lines, reason = "tables of attacks")]

use super::{Rows, made};
use crate::calls::{self, call};
use crate::wire::End;

/// Far more than any limit here.
const MANY: i64 = 100_000;
/// Above an agent's limit on processes by default (128), and on descriptors.
const MOST_PROCESSES: usize = 1024;
/// More than `/tmp` holds (64 MiB), and than an agent has of memory (256 MiB).
const TOO_MUCH: usize = 1 << 30;

pub(super) fn add(rows: &mut Rows) {
    rows.why = "the agent's control group and limits";
    rows.row("make processes without end", || {
        let mut children = Vec::new();
        let end = loop {
            match calls::fork_waiting() {
                Ok(child) => children.push(child),
                Err(end) => break Some(end),
            }
            if children.len() > MOST_PROCESSES {
                break None;
            }
        };
        for child in &children {
            call!(libc::SYS_kill, *child, libc::SIGKILL).ok();
            call!(libc::SYS_wait4, *child, 0, 0, 0).ok();
        }
        match end {
            Some(end) => Err(end),
            None => Ok(format!("{} processes", children.len())),
        }
    });
    rows.row("open files without end", || {
        let mut made = Vec::new();
        let end = loop {
            match call!(libc::SYS_dup, 0) {
                Ok(fd) => made.push(fd),
                Err(end) => break Some(end),
            }
            if i64::try_from(made.len()) == Ok(MANY * 20) {
                break None;
            }
        };
        for fd in &made {
            call!(libc::SYS_close, *fd).ok();
        }
        match end {
            Some(end) => Err(end),
            None => Ok(format!("{} descriptors", made.len())),
        }
    });
    rows.row("fill /tmp and the memory behind it", || {
        let file = call!(
            libc::SYS_openat,
            libc::AT_FDCWD,
            c"/tmp/full",
            libc::O_CREAT | libc::O_WRONLY,
            0o600
        )?;
        let chunk = vec![1_u8; 1 << 20];
        let mut written = 0;
        let end = loop {
            match call!(libc::SYS_write, file, chunk.as_ptr(), chunk.len()) {
                Ok(count) => written += usize::try_from(count).unwrap_or(0),
                Err(end) => break Some(end),
            }
            if written > TOO_MUCH {
                break None;
            }
        };
        call!(libc::SYS_close, file).ok();
        call!(libc::SYS_unlink, c"/tmp/full").ok();
        match end {
            Some(end) => Err(end),
            None => Ok(format!("{} MiB", written >> 20)),
        }
    });
    rows.row("make a file of any size in /dev/shm", || {
        let file = call!(
            libc::SYS_openat,
            libc::AT_FDCWD,
            c"/dev/shm/full",
            libc::O_CREAT | libc::O_WRONLY,
            0o600
        )?;
        let end = made!(libc::SYS_fallocate, file, 0, 0, TOO_MUCH);
        call!(libc::SYS_close, file).ok();
        call!(libc::SYS_unlink, c"/dev/shm/full").ok();
        end
    });
    let last = rows.row("take more memory than it has", || match calls::touch_memory(TOO_MUCH) {
        Ok(bytes) => Ok(format!("{} MiB", bytes >> 20)),
        Err(End::Errno(errno)) => Err(End::Errno(errno)),
        Err(other) => Err(other),
    });
    last.last = true;
}
