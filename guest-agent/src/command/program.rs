//! A program with everything that `execve` needs, prepared before the fork.

use std::ffi::{CStr, CString};

use cloister_protocol::message::Exec;
use rustix::io::Errno;

use crate::sys::{self, StringList};

/// Where a program is looked for when the command's environment has no `PATH`.
const USUAL_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The kernel's `PATH_MAX`, with the NUL: no longer path can be executed.
const MAX_PATH: usize = 4096;

/// What a command runs.
pub(crate) struct Program {
    name: CString,
    arguments: StringList,
    environment: StringList,
    /// The directories to look into, with colons between; `None`: `name` is a path.
    search: Option<Vec<u8>>,
    directory: CString,
}

/// Why no program was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExecuteError {
    /// The kernel's answer.
    Refused(Errno),
    /// The program is there, but not the interpreter that it names.
    NoInterpreter,
}

impl Program {
    /// Takes a command that was validated. `None`: a NUL in a string, so it was not.
    pub(crate) fn new(exec: Exec) -> Option<Self> {
        let search = exec
            .environment
            .iter()
            .find(|(name, _)| name == b"PATH")
            .map_or_else(|| USUAL_PATH.to_vec(), |(_, value)| value.clone());
        let name = CString::new(exec.arguments.first()?.as_slice()).ok()?;
        let search = if name.to_bytes().contains(&b'/') { None } else { Some(search) };
        let arguments =
            exec.arguments.into_iter().map(CString::new).collect::<Result<_, _>>().ok()?;
        let environment = exec
            .environment
            .into_iter()
            .map(|(name, value)| CString::new([name, value].join(&b'=')))
            .collect::<Result<_, _>>()
            .ok()?;
        Some(Self {
            name,
            arguments: StringList::new(arguments),
            environment: StringList::new(environment),
            search,
            directory: CString::new(exec.directory).ok()?,
        })
    }

    pub(crate) fn directory(&self) -> &CStr {
        &self.directory
    }

    /// As the command has it.
    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// Becomes the program; returns only when that failed. Does not allocate.
    ///
    /// The search is that of shells: a directory that is missing or has no such program is passed
    /// over, one that must not be executed too, but is remembered.
    pub(crate) fn execute(&self) -> ExecuteError {
        let Some(search) = &self.search else { return self.execute_path(&self.name) };
        let mut result = ExecuteError::Refused(Errno::NOENT);
        for directory in search.split(|byte| *byte == b':') {
            let mut room = [0; MAX_PATH];
            let Some(path) = join(directory, self.name.to_bytes(), &mut room) else { continue };
            match self.execute_path(path) {
                ExecuteError::Refused(Errno::NOENT | Errno::NOTDIR) => {}
                ExecuteError::Refused(Errno::ACCESS) => {
                    result = ExecuteError::Refused(Errno::ACCESS);
                }
                other => return other,
            }
        }
        result
    }

    fn execute_path(&self, path: &CStr) -> ExecuteError {
        match sys::execute(path, &self.arguments, &self.environment) {
            // The kernel says the same when the interpreter is missing.
            Errno::NOENT if rustix::fs::access(path, rustix::fs::Access::EXISTS).is_ok() => {
                ExecuteError::NoInterpreter
            }
            error => ExecuteError::Refused(error),
        }
    }
}

/// `directory/name` as a C string; an empty directory is the present one. `None`: too long.
fn join<'a>(directory: &[u8], name: &[u8], room: &'a mut [u8; MAX_PATH]) -> Option<&'a CStr> {
    let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
    let mut places = room.iter_mut();
    for byte in directory.iter().chain(slash).chain(name).chain(b"\0") {
        *places.next()? = *byte;
    }
    CStr::from_bytes_until_nul(room).ok()
}

#[cfg(test)]
mod tests {
    use super::{MAX_PATH, join};

    #[test]
    fn paths_are_joined_within_the_limit() {
        let mut room = [1; MAX_PATH];
        assert_eq!(join(b"/bin", b"sh", &mut room), Some(c"/bin/sh"));
        assert_eq!(join(b"", b"sh", &mut room), Some(c"sh"));
        let longest = vec![b'a'; MAX_PATH - 4];
        assert!(join(b"/b", &longest, &mut room).is_some());
        assert!(join(b"/bi", &longest, &mut room).is_none());
    }
}
