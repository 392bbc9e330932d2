//! What system calls the server's threads may make while it serves: an allow-list with reasons.
//!
//! Nothing in it makes a process, a namespace or a socket, mounts, executes, or makes a device. Paths
//! are names relative to a descriptor of a share: the root of the jail is empty.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// System call number.
    pub call: i64,
    /// What its arguments must be; several lines for one call: any of them.
    pub check: Check,
    /// Why it is needed. For the reader (and the test that none is empty).
    pub reason: &'static str,
}

/// A condition on the low 32 bits of an argument.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    /// None.
    Any,
    /// The bits of the mask have this value.
    Masked {
        /// Which argument, from 0.
        argument: u8,
        /// The mask.
        mask: u32,
        /// The value.
        value: u32,
    },
    /// It is exactly this.
    Is {
        /// Which argument, from 0.
        argument: u8,
        /// Its value.
        value: u32,
    },
}

const fn line(call: i64, reason: &'static str) -> Line {
    Line { call, check: Check::Any, reason }
}

const fn line_if(call: i64, check: Check, reason: &'static str) -> Line {
    Line { call, check, reason }
}

const fn fcntl(command: i32, reason: &'static str) -> Line {
    let value = command.unsigned_abs();
    Line { call: libc::SYS_fcntl, check: Check::Is { argument: 1, value }, reason }
}

/// Protection is argument 2 of `mmap`.
const NOT_EXECUTABLE: Check =
    Check::Masked { argument: 2, mask: libc::PROT_EXEC.unsigned_abs(), value: 0 };
/// The mode is argument 2 of `mknodat`: a regular file.
const REGULAR: Check = Check::Masked { argument: 2, mask: libc::S_IFMT, value: libc::S_IFREG };
/// The whole policy. `file-server/tests/seccomp` shows of each line that a server needs it.
pub const TABLE: &[Line] = &[
    line(libc::SYS_recvfrom, "jobs from the vmm"),
    line(libc::SYS_recvmsg, "the host's messages with their descriptors"),
    line(libc::SYS_sendto, "jobs done; answers to the host"),
    line(libc::SYS_openat2, "a file by its name in a directory of a share"),
    line(libc::SYS_openat, "a known file anew, for reading or writing: by /proc/self/fd"),
    line(libc::SYS_close, "files that are not needed any more"),
    line(libc::SYS_statx, "attributes"),
    line(libc::SYS_fstatfs, "room on the file system"),
    line(libc::SYS_getdents64, "listings"),
    line(libc::SYS_lseek, "listings; holes"),
    line(libc::SYS_preadv2, "reads, straight into a slot"),
    line(libc::SYS_pwritev2, "writes, straight from a slot"),
    line(libc::SYS_fallocate, "room and holes"),
    line(libc::SYS_ftruncate, "a file's size"),
    line(libc::SYS_copy_file_range, "copies within a share"),
    line(libc::SYS_fsync, "what the guest wants on the disk"),
    line(libc::SYS_fdatasync, "the same"),
    line(libc::SYS_mkdirat, "a directory"),
    line_if(libc::SYS_mknodat, REGULAR, "a regular file; no device, FIFO or socket"),
    line(libc::SYS_symlinkat, "a symbolic link"),
    line(libc::SYS_linkat, "a hard link"),
    line(libc::SYS_unlinkat, "removal"),
    line(libc::SYS_renameat2, "another name"),
    line(
        libc::SYS_readlinkat,
        "a symbolic link's target; the names of known files, of /proc/self/fd",
    ),
    line(libc::SYS_fchmod, "permissions"),
    line(libc::SYS_fchmodat, "permissions"),
    line(libc::SYS_utimensat, "times"),
    line(libc::SYS_fgetxattr, "extended attributes"),
    line(libc::SYS_fsetxattr, "extended attributes"),
    line(libc::SYS_flistxattr, "extended attributes"),
    line(libc::SYS_fremovexattr, "extended attributes"),
    line(libc::SYS_getxattr, "those of symbolic links, by /proc/self/fd"),
    line(libc::SYS_setxattr, "those of symbolic links"),
    line(libc::SYS_listxattr, "those of symbolic links"),
    line(libc::SYS_removexattr, "those of symbolic links"),
    line(libc::SYS_fchdir, "to a share when it is opened; to /proc/self/fd and back for the above"),
    line(libc::SYS_umask, "the library clears it for each share"),
    line(libc::SYS_geteuid, "the library looks whether it would have to change its user"),
    line(libc::SYS_getegid, "the same"),
    line(libc::SYS_flock, "locks of whole files"),
    fcntl(libc::F_OFD_SETLK, "record locks"),
    fcntl(libc::F_OFD_GETLK, "record locks"),
    fcntl(libc::F_DUPFD_CLOEXEC, "/proc/self/fd for each share"),
    #[cfg(debug_assertions)]
    fcntl(libc::F_GETFD, "close, in debug builds"),
    line(libc::SYS_dup, "a file that the guest closes, so that errors of its file system show"),
    line(
        libc::SYS_name_to_handle_at,
        "is a file still the one that has its name, when a state is written",
    ),
    line(libc::SYS_read, "a state, of this server or the one before it"),
    line(libc::SYS_clock_nanosleep, "the time limit of the search for names"),
    line(libc::SYS_futex, "locks between threads"),
    line(libc::SYS_getrandom, "hash seeds"),
    line(libc::SYS_brk, "the allocator"),
    line_if(libc::SYS_mmap, NOT_EXECUTABLE, "the allocator; never executable"),
    line(libc::SYS_munmap, "the allocator"),
    line(libc::SYS_mremap, "the allocator"),
    line(libc::SYS_write, "standard error; a state"),
    line(libc::SYS_rt_sigprocmask, "abort"),
    line(libc::SYS_sched_yield, "contention"),
    line(libc::SYS_getpid, "abort"),
    line(libc::SYS_gettid, "abort"),
    line(libc::SYS_tgkill, "abort"),
    line(libc::SYS_sigaltstack, "a thread's end"),
    line(libc::SYS_exit_group, "the process's end"),
];

fn program() -> io::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for line in TABLE {
        let conditions = rules.entry(line.call).or_default();
        let (argument, operator, value) = match line.check {
            Check::Any => continue,
            Check::Masked { argument, mask, value } => {
                (argument, SeccompCmpOp::MaskedEq(mask.into()), value)
            }
            Check::Is { argument, value } => (argument, SeccompCmpOp::Eq, value),
        };
        let condition =
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into());
        let rule = SeccompRule::new(vec![condition.map_err(io::Error::other)?]);
        conditions.push(rule.map_err(io::Error::other)?);
    }
    let (trap, allow) = (SeccompAction::Trap, SeccompAction::Allow);
    let filter = SeccompFilter::new(rules, trap, allow, TargetArch::x86_64);
    filter.map_err(io::Error::other)?.try_into().map_err(io::Error::other)
}

/// Confines every thread of the process, for ever.
///
/// # Errors
/// The kernel refuses; nothing must be served then.
pub fn confine() -> io::Result<()> {
    if left_out() {
        return Ok(());
    }
    seccompiler::apply_filter_all_threads(&program()?).map_err(io::Error::other)
}

/// Never; but in builds with the feature `weaken`, for the tests which show that `cloister prove` notices: they write
/// `Files` over the dots of `MARK` in a copy of the program.
#[cfg(not(feature = "weaken"))]
const fn left_out() -> bool {
    false
}

#[cfg(feature = "weaken")]
fn left_out() -> bool {
    #[used]
    static MARK: [u8; 48] = *b"cloister-weaken:................................";
    // The compiler must not know what is in it.
    let mark: &'static [u8; 48] = std::hint::black_box(&MARK);
    mark.starts_with(b"cloister-weaken:Files.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_compiles_and_says_why() {
        assert!(TABLE.iter().all(|line| !line.reason.is_empty()));
        assert!(program().unwrap().len() > TABLE.len());
    }

    #[test]
    fn nothing_is_executed_mounted_or_connected() {
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_mount,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_unshare,
            libc::SYS_setresuid,
            libc::SYS_fchownat,
            libc::SYS_mknod,
            libc::SYS_ptrace,
            libc::SYS_ioctl,
            libc::SYS_mprotect,
            libc::SYS_open,
            libc::SYS_syncfs,
        ] {
            assert!(TABLE.iter().all(|line| line.call != call), "{call}");
        }
    }
}
