//! The system calls of the jailer, each behind a safe function that returns the error's number.
#![expect(unsafe_code, reason = "namespaces, mounts, Landlock and seccomp have no safe interface")]

use std::ffi::CStr;

/// The number of a system error.
pub type Errno = i32;

fn last_errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

pub(crate) fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

/// A system call whose arguments are numbers or pointers to values that outlive it.
macro_rules! call {
    ($number:expr $(, $argument:expr)* $(,)?) => {{
        // SAFETY: every pointer among the arguments is to a live value of the type that the call
        // takes, borrowed for the call by the enclosing function; the kernel keeps none of them.
        $crate::sys::check(unsafe { libc::syscall($number $(, $argument)*) })
    }};
}

pub(crate) use call;

/// Closes every descriptor from `first` on.
///
/// # Errors
/// The system's.
pub fn close_from(first: i32) -> Result<(), Errno> {
    let first = libc::c_uint::try_from(first).map_err(|_| libc::EINVAL)?;
    call!(libc::SYS_close_range, first, libc::c_uint::MAX, 0).map(drop)
}

/// Closes one descriptor; one that is not open is no error.
pub fn close(fd: i32) {
    call!(libc::SYS_close, fd).ok();
}

/// Reads up to the length of `buffer` from the start of a file.
///
/// # Errors
/// The system's.
pub fn read_start(fd: i32, buffer: &mut [u8]) -> Result<usize, Errno> {
    let count = call!(libc::SYS_pread64, fd, buffer.as_mut_ptr(), buffer.len(), 0)?;
    usize::try_from(count).map_err(|_| libc::EIO)
}

/// Waits for one byte; `false`: the other end is closed.
///
/// # Errors
/// The system's.
pub fn wait_for_byte(fd: i32) -> Result<bool, Errno> {
    let mut byte = [0_u8; 1];
    call!(libc::SYS_read, fd, byte.as_mut_ptr(), byte.len()).map(|count| count == 1)
}

/// Writes all of `bytes` at once.
///
/// # Errors
/// The system's, or it took less.
pub fn write(fd: i32, bytes: &[u8]) -> Result<(), Errno> {
    let count = call!(libc::SYS_write, fd, bytes.as_ptr(), bytes.len())?;
    if usize::try_from(count) == Ok(bytes.len()) { Ok(()) } else { Err(libc::EIO) }
}

/// Writes a file that exists, beneath the directory `folder`, at once.
///
/// # Errors
/// The system's.
pub fn write_beneath(folder: i32, name: &CStr, bytes: &[u8]) -> Result<(), Errno> {
    let flags = libc::O_WRONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    let fd = call!(libc::SYS_openat, folder, name.as_ptr(), flags, 0)?;
    let fd = i32::try_from(fd).map_err(|_| libc::EIO)?;
    let written = write(fd, bytes);
    close(fd);
    written
}

/// Marks a descriptor to be closed by the execution of a program, or not.
///
/// # Errors
/// It is not open.
pub fn set_close_on_exec(fd: i32, close: bool) -> Result<(), Errno> {
    let flag = if close { libc::FD_CLOEXEC } else { 0 };
    call!(libc::SYS_fcntl, fd, libc::F_SETFD, flag).map(drop)
}

/// The seals of a memory file.
///
/// # Errors
/// It is none.
pub fn seals(fd: i32) -> Result<i32, Errno> {
    let seals = call!(libc::SYS_fcntl, fd, libc::F_GET_SEALS)?;
    i32::try_from(seals).map_err(|_| libc::EIO)
}

/// The kind of a descriptor's file: the `S_IFMT` bits.
///
/// # Errors
/// It is not open.
pub fn kind(fd: i32) -> Result<u32, Errno> {
    // SAFETY: all zeros is a value of this structure of numbers.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    call!(libc::SYS_fstat, fd, &raw mut status)?;
    Ok(status.st_mode & libc::S_IFMT)
}

/// Whether a descriptor is of the control group file system, version 2.
///
/// # Errors
/// It is not open.
pub fn is_cgroup(fd: i32) -> Result<bool, Errno> {
    // SAFETY: all zeros is a value of this structure of numbers.
    let mut status: libc::statfs = unsafe { std::mem::zeroed() };
    call!(libc::SYS_fstatfs, fd, &raw mut status)?;
    Ok(status.f_type == libc::CGROUP2_SUPER_MAGIC)
}

/// A pipe, closed on exec: read end and write end.
///
/// # Errors
/// The system's.
pub fn pipe() -> Result<(i32, i32), Errno> {
    let mut ends = [-1; 2];
    call!(libc::SYS_pipe2, ends.as_mut_ptr(), libc::O_CLOEXEC)?;
    let [read, write] = ends;
    Ok((read, write))
}

/// The parent's process id; 0 if it is outside of this process namespace.
#[must_use]
pub fn parent() -> u32 {
    call!(libc::SYS_getppid).ok().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0)
}

/// A descriptor for a process.
///
/// # Errors
/// There is none with this id.
pub fn open_process(pid: u32) -> Result<i32, Errno> {
    let fd = call!(libc::SYS_pidfd_open, pid, 0)?;
    i32::try_from(fd).map_err(|_| libc::EIO)
}

/// Whether the process of such a descriptor has ended.
///
/// # Errors
/// The system's.
pub fn has_ended(process: i32) -> Result<bool, Errno> {
    let mut poll = libc::pollfd { fd: process, events: libc::POLLIN, revents: 0 };
    call!(libc::SYS_poll, &raw mut poll, 1, 0).map(|ready| ready > 0)
}

/// `prctl` with plain numbers.
///
/// # Errors
/// The system's.
pub fn prctl(option: i32, a: u64, b: u64) -> Result<(), Errno> {
    call!(libc::SYS_prctl, option, a, b, 0_u64, 0_u64).map(drop)
}

/// Like fork: a child in new namespaces and in the control group of the directory `group`, and a
/// child of our parent. 0 in the child.
///
/// The child of a process without threads, so it may do whatever its parent may.
///
/// # Errors
/// The system's.
pub fn clone_into(group: i32, namespaces: i32) -> Result<i32, Errno> {
    let flags = u64::try_from(libc::CLONE_PARENT | namespaces).map_err(|_| libc::EINVAL)?;
    // SAFETY: all zeros is a value of this structure of numbers.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    // CLONE_INTO_CGROUP; with CLONE_PARENT the signal at the end is the jailer's own, SIGCHLD.
    arguments.flags = flags | 0x2_0000_0000;
    arguments.cgroup = u64::try_from(group).map_err(|_| libc::EBADF)?;
    let pid = call!(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>())?;
    i32::try_from(pid).map_err(|_| libc::EIO)
}

/// Makes one more namespace.
///
/// # Errors
/// The system's.
pub fn unshare(namespace: i32) -> Result<(), Errno> {
    call!(libc::SYS_unshare, namespace).map(drop)
}

/// All three user ids, and all three group ids.
///
/// # Errors
/// The system's.
pub fn set_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    // By number: the C library's functions would speak to its threads first.
    call!(libc::SYS_setresgid, gid, gid, gid)?;
    call!(libc::SYS_setresuid, uid, uid, uid).map(drop)
}

/// Gives up every supplementary group.
///
/// # Errors
/// The system's.
pub fn clear_groups() -> Result<(), Errno> {
    call!(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()).map(drop)
}

/// A session of one's own.
///
/// # Errors
/// The system's.
pub fn new_session() -> Result<(), Errno> {
    call!(libc::SYS_setsid).map(drop)
}

/// No signal is ignored, handled or held back.
///
/// # Errors
/// The system's.
pub fn default_signals() -> Result<(), Errno> {
    // The kernel's structure: handler, flags, restorer, mask.
    let default = [libc::SIG_DFL, 0, 0, 0];
    for signal in (1..=64).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)) {
        call!(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0_usize, 8_usize)?;
    }
    let none = 0_u64;
    call!(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0_usize, 8_usize).map(drop)
}

/// Host and domain name of the namespace.
///
/// # Errors
/// The system's.
pub fn set_names(host: &[u8], domain: &[u8]) -> Result<(), Errno> {
    call!(libc::SYS_sethostname, host.as_ptr(), host.len())?;
    call!(libc::SYS_setdomainname, domain.as_ptr(), domain.len()).map(drop)
}

/// A new file system with options, not mounted anywhere yet; `attributes` are of the mount.
///
/// # Errors
/// The system's.
pub fn new_file_system(
    kind: &CStr,
    options: &[(&CStr, Option<&CStr>)],
    attributes: u64,
) -> Result<i32, Errno> {
    const SET_FLAG: u32 = 0;
    const SET_STRING: u32 = 1;
    const CREATE: u32 = 6;
    const CLOSE_ON_EXEC: u32 = 1;
    let context = call!(libc::SYS_fsopen, kind.as_ptr(), CLOSE_ON_EXEC)?;
    for (key, value) in options {
        let (command, value) = match value {
            Some(value) => (SET_STRING, value.as_ptr()),
            None => (SET_FLAG, std::ptr::null()),
        };
        call!(libc::SYS_fsconfig, context, command, key.as_ptr(), value, 0)?;
    }
    let none = std::ptr::null::<u8>();
    call!(libc::SYS_fsconfig, context, CREATE, none, none, 0)?;
    let mount = call!(libc::SYS_fsmount, context, CLOSE_ON_EXEC, attributes)?;
    close(i32::try_from(context).map_err(|_| libc::EIO)?);
    i32::try_from(mount).map_err(|_| libc::EIO)
}

/// Mounts it.
///
/// # Errors
/// The system's.
pub fn mount_at(mount: i32, place: &CStr) -> Result<(), Errno> {
    const FROM_EMPTY_PATH: u32 = 4;
    let from = c"".as_ptr();
    call!(libc::SYS_move_mount, mount, from, libc::AT_FDCWD, place.as_ptr(), FROM_EMPTY_PATH)
        .map(drop)
}

/// Makes a directory the working directory.
///
/// # Errors
/// The system's.
pub fn enter(folder: i32) -> Result<(), Errno> {
    call!(libc::SYS_fchdir, folder).map(drop)
}

/// Makes the working directory the root, and puts the old root there too, on top.
///
/// # Errors
/// The system's.
pub fn pivot_here() -> Result<(), Errno> {
    call!(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()).map(drop)
}

/// Takes away what is mounted on the working directory, with everything beneath.
///
/// # Errors
/// The system's.
pub fn detach_here() -> Result<(), Errno> {
    call!(libc::SYS_umount2, c".".as_ptr(), libc::MNT_DETACH).map(drop)
}

/// Makes the root the working directory.
///
/// # Errors
/// The system's.
pub fn enter_root() -> Result<(), Errno> {
    call!(libc::SYS_chdir, c"/".as_ptr()).map(drop)
}

/// A resource limit, soft and hard; never more than the hard limit there is if `at_most`.
///
/// # Errors
/// The system's.
pub fn limit(resource: u32, value: u64, at_most: bool) -> Result<(), Errno> {
    let none = std::ptr::null::<[u64; 2]>();
    let mut value = value;
    if at_most {
        let mut now = [0_u64; 2];
        call!(libc::SYS_prlimit64, 0, resource, none, now.as_mut_ptr())?;
        value = value.min(now[1]);
    }
    let new = [value, value];
    call!(libc::SYS_prlimit64, 0, resource, new.as_ptr(), none).map(drop)
}

/// Empties the effective, permitted and inheritable sets of capabilities.
///
/// # Errors
/// The system's.
pub fn drop_capabilities() -> Result<(), Errno> {
    // _LINUX_CAPABILITY_VERSION_3, this process; then three sets in two halves.
    let header = [0x2008_0522_u32, 0];
    let sets = [0_u32; 6];
    call!(libc::SYS_capset, header.as_ptr(), sets.as_ptr()).map(drop)
}

/// Landlock's version on this kernel.
///
/// # Errors
/// There is none.
pub fn landlock_version() -> Result<u32, Errno> {
    const VERSION: u32 = 1;
    let none = std::ptr::null::<u8>();
    let version = call!(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION)?;
    u32::try_from(version).map_err(|_| libc::EIO)
}

/// Restricts the process for ever to what `handled` leaves: rights of files, of the network, scopes.
///
/// # Errors
/// The system's.
pub fn landlock_restrict(handled: &[u64]) -> Result<(), Errno> {
    let length = size_of_val(handled);
    let rules = call!(libc::SYS_landlock_create_ruleset, handled.as_ptr(), length, 0)?;
    call!(libc::SYS_landlock_restrict_self, rules, 0)?;
    close(i32::try_from(rules).map_err(|_| libc::EIO)?);
    Ok(())
}

/// Installs a filter of system calls for the process and what it executes.
///
/// # Errors
/// The system's.
pub fn filter(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let length = libc::c_ushort::try_from(program.len()).map_err(|_| libc::E2BIG)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    call!(libc::SYS_seccomp, mode, 0, &raw const program).map(drop)
}

/// Executes the program behind a descriptor, with its name as only argument and no environment.
/// Returns only an error.
#[must_use]
pub fn execute(program: i32, name: &CStr) -> Errno {
    let arguments = [name.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null::<libc::c_char>()];
    let (arguments, environment) = (arguments.as_ptr(), environment.as_ptr());
    let (path, flag) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    match call!(libc::SYS_execveat, program, path, arguments, environment, flag) {
        Err(errno) => errno,
        // It does not return otherwise.
        Ok(_) => libc::EIO,
    }
}

/// Ends the process without running anything of its parent's.
pub fn leave(status: i32) -> ! {
    loop {
        call!(libc::SYS_exit_group, status).ok();
    }
}
