//! Starting the jailer with its descriptors at their numbers, and with nothing else of ours.
#![expect(unsafe_code, reason = "posix_spawn with descriptors put in place is a C interface")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::ptr;

use cloister_jailer::spec::{CONTROL_FD, GROUP_FD, PROGRAM_FD, REPORT_FD, SPEC_FD};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::process::Pid;
use tokio::io::unix::AsyncFd;

use super::jail::Cell;
use super::process::ProcessError;

/// Sources lie above all places, so that putting one in place never overwrites another.
const ABOVE_PLACES: RawFd = 16;

/// What the jailer gets, and at which numbers.
///
/// # Errors
/// The program can't be read, or the system refuses a descriptor.
pub fn descriptors(
    program: &Path,
    cell: &Cell,
    control: OwnedFd,
    report: OwnedFd,
) -> Result<Vec<(OwnedFd, RawFd)>, ProcessError> {
    let code = program_file(program)
        .map_err(|source| ProcessError::Program { path: program.to_owned(), source })?;
    let wrap = ProcessError::Descriptor;
    let spec = sealed("jail", &cell.spec.encode()).map_err(wrap)?;
    let group = cell.group.unlocked().map_err(wrap)?;
    [
        (control, CONTROL_FD),
        (spec, SPEC_FD),
        (report, REPORT_FD),
        (code, PROGRAM_FD),
        (group, GROUP_FD),
    ]
    .into_iter()
    .map(|(fd, place)| {
        let high = rustix::io::fcntl_dupfd_cloexec(&fd, ABOVE_PLACES);
        high.map(|fd| (fd, place)).map_err(|errno| wrap(errno.into()))
    })
    .collect()
}

/// The program as a memory file that nobody can change, and that its user may execute and not read:
/// so the kernel lets nobody look into the process either.
fn program_file(program: &Path) -> io::Result<OwnedFd> {
    let mut source = File::open(program)?;
    let mut copy = memory_file("cloister-vmm", true)?;
    io::copy(&mut source, &mut copy)?;
    copy.set_permissions(fs::Permissions::from_mode(0o111))?;
    seal(copy)
}

/// A memory file of these bytes that nobody can change.
///
/// # Errors
/// The system has no memory for it.
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = memory_file(name, false)?;
    file.write_all(bytes)?;
    seal(file)
}

fn memory_file(name: &str, executable: bool) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Linux 6.3 and later want to be told.
    let kind = if executable { MemfdFlags::EXEC } else { MemfdFlags::NOEXEC_SEAL };
    let file = match memfd_create(name, flags | kind) {
        Err(Errno::INVAL) => memfd_create(name, flags),
        made => made,
    };
    Ok(File::from(file?))
}

/// From now on nobody can write, map for writing or resize it. It is new and never was mapped, so F_SEAL_FUTURE_WRITE
/// says the same as F_SEAL_WRITE, which besides waits until the kernel itself has let go of every page, and gives up
/// with EBUSY after 150 ms on a busy host.
fn seal(file: File) -> io::Result<OwnedFd> {
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    fcntl_add_seals(&file, all)?;
    Ok(file.into())
}

/// Starts a program with these descriptors, its standard error, no argument and no environment. It is
/// a child of the calling thread, which must wait for it.
///
/// # Errors
/// The system refuses.
pub fn spawn(program: &Path, places: &[(OwnedFd, RawFd)], stderr: &OwnedFd) -> io::Result<Pid> {
    spawn_with(program, None, places, stderr)
}

/// A descriptor of the same that lies above all places.
///
/// # Errors
/// The system refuses.
pub fn high(fd: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, ABOVE_PLACES)?)
}

/// The same with one argument.
///
/// # Errors
/// The system refuses.
pub fn spawn_with(
    program: &Path,
    argument: Option<&str>,
    places: &[(OwnedFd, RawFd)],
    stderr: &OwnedFd,
) -> io::Result<Pid> {
    let argument = argument.map(CString::new).transpose()?;
    let path = CString::new(program.as_os_str().as_bytes())?;
    let stderr = rustix::io::fcntl_dupfd_cloexec(stderr, ABOVE_PLACES)?;
    let mut actions = FileActions::new()?;
    actions.open_null(0, libc::O_RDONLY)?;
    actions.open_null(1, libc::O_WRONLY)?;
    actions.place(stderr.as_raw_fd(), 2)?;
    for (fd, place) in places {
        actions.place(fd.as_raw_fd(), *place)?;
    }
    let argument = argument.as_ref().map_or(ptr::null_mut(), |text| text.as_ptr().cast_mut());
    let arguments = [path.as_ptr().cast_mut(), argument, ptr::null_mut()];
    let environment = [ptr::null_mut()];
    let mut pid = 0;
    // SAFETY: every pointer is to a live, NUL-terminated string or list, and the call keeps none.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            path.as_ptr(),
            &raw const actions.0,
            ptr::null(),
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    };
    check(error)?;
    Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// What the child does before it executes the program.
struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: initialises the list that it is given.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: the call above succeeded, so the list is initialised.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn open_null(&mut self, place: RawFd, flags: i32) -> io::Result<()> {
        let path = c"/dev/null".as_ptr();
        // SAFETY: adds a constant path and numbers to an initialised list, which copies the path.
        check(unsafe {
            libc::posix_spawn_file_actions_addopen(&raw mut self.0, place, path, flags, 0)
        })
    }

    fn place(&mut self, from: RawFd, to: RawFd) -> io::Result<()> {
        // SAFETY: adds numbers to an initialised list.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, from, to) })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: frees an initialised list, once.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// Registers a descriptor with the runtime, which tells when it can be read.
///
/// # Errors
/// The system refuses.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is open and moves into the AsyncFd, which never gives it away again.
    let registered = unsafe { AsyncFd::register(fd) };
    registered.map_err(|refused| refused.into_parts().1)
}

/// `posix_spawn` and its kin return the error instead of setting `errno`.
fn check(error: i32) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}
