//! Starting a measured program with `posix_spawn`, so that the harness's own size is not in the
//! measurement (the child borrows its memory until exec).
#![expect(unsafe_code, reason = "posix_spawn with descriptors put in place is a C interface")]

use std::ffi::{CString, NulError};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::ptr;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// A program with its arguments, ready to be started; nothing is allocated after the clock starts.
pub struct Program {
    path: CString,
    arguments: Vec<CString>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.arguments).finish()
    }
}

impl Program {
    /// `path` is argument 0 too.
    ///
    /// # Errors
    /// An argument holds a NUL.
    pub fn new(path: &Path, arguments: &[String]) -> Result<Self, NulError> {
        let path = CString::new(path.as_os_str().as_encoded_bytes())?;
        let mut all = vec![path.clone()];
        for argument in arguments {
            all.push(CString::new(argument.as_bytes())?);
        }
        Ok(Self { path, arguments: all })
    }

    /// Starts it with an empty environment and the given descriptors at the given numbers, in
    /// ascending order; it has no others of ours that close on exec.
    ///
    /// # Errors
    /// The system refuses.
    pub fn spawn(&self, descriptors: &[(BorrowedFd<'_>, RawFd)]) -> io::Result<Running> {
        let actions = FileActions::new(descriptors)?;
        let mut arguments: Vec<_> =
            self.arguments.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
        arguments.push(ptr::null_mut());
        let environment = [ptr::null_mut()];
        let mut pid = 0;
        // SAFETY: every pointer is to a live, NUL-terminated string or list, and the call keeps none.
        let error = unsafe {
            libc::posix_spawn(
                &raw mut pid,
                self.path.as_ptr(),
                &raw const actions.0,
                ptr::null(),
                arguments.as_ptr(),
                environment.as_ptr(),
            )
        };
        check(error)?;
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Running { pid, reaped: false })
    }
}

/// The list of `dup2` calls that the child makes.
struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new(descriptors: &[(BorrowedFd<'_>, RawFd)]) -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: initialises the list that it is given.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: the call above succeeded, so the list is initialised.
        let mut actions = Self(unsafe { actions.assume_init() });
        for (from, to) in descriptors {
            let from = from.as_raw_fd();
            // SAFETY: adds numbers to an initialised list.
            check(unsafe {
                libc::posix_spawn_file_actions_adddup2(&raw mut actions.0, from, *to)
            })?;
        }
        Ok(actions)
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: frees an initialised list, once.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// `posix_spawn` and its kin return the error instead of setting `errno`.
fn check(error: i32) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// A started program. Dropped, it is killed and reaped.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    reaped: bool,
}

impl Running {
    /// A child of this process that something else has started.
    #[must_use]
    pub const fn of(pid: Pid) -> Self {
        Self { pid, reaped: false }
    }

    /// Leaves it to somebody else to end and reap it.
    #[must_use]
    pub fn into_pid(mut self) -> Pid {
        self.reaped = true;
        self.pid
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits for its end; tells how it ended.
    ///
    /// # Errors
    /// The system refuses.
    pub fn wait(mut self) -> io::Result<Option<i32>> {
        self.reaped = true;
        let ended = waitpid(Some(self.pid), WaitOptions::empty())?;
        Ok(ended.and_then(|(_, status)| status.exit_status()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            // Fails only when it has ended already.
            kill_process(self.pid, Signal::KILL).ok();
            waitpid(Some(self.pid), WaitOptions::empty()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn descriptors_are_put_in_place_and_the_end_is_told() {
        let (mut read, write) = io::pipe().unwrap();
        let null = File::open("/dev/null").unwrap();
        let arguments = ["-c".to_owned(), "echo ${#PATH} >&5; exit 7".to_owned()];
        let program = Program::new(Path::new("/bin/sh"), &arguments).unwrap();
        let running = program.spawn(&[(null.as_fd(), 0), (write.as_fd(), 5)]).unwrap();
        drop(write);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert!(text.ends_with('\n'), "{text}");
        assert_eq!(running.wait().unwrap(), Some(7));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let program = Program::new(Path::new("/nowhere/at/all"), &[]).unwrap();
        let error = program.spawn(&[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn dropped_it_is_killed() {
        let program = Program::new(Path::new("/bin/sleep"), &["1000".to_owned()]).unwrap();
        let running = program.spawn(&[]).unwrap();
        let path = format!("/proc/{}", running.id());
        assert!(Path::new(&path).exists());
        drop(running);
        assert!(!Path::new(&path).exists());
    }
}
