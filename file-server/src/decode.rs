//! The first look at a request: which operations there are, what each must hold, and its names.
//!
//! It works on the server's own copy, before the library reads the same bytes: what comes through has a
//! known operation, the length that it claims, and names that are one component each.

use crate::limits::{MAX_NAME, MAX_TARGET};

/// Bytes of a request's header.
pub const HEADER: usize = 40;
/// Where in the header each of these lies.
const LENGTH_AT: usize = 0;
const OPCODE_AT: usize = 4;
const UNIQUE_AT: usize = 8;
const NODE_AT: usize = 16;
const UID_AT: usize = 24;
/// Bytes of the arguments of a write, before its data.
pub const WRITE_ARGUMENTS: usize = 40;

/// In place of a process id, for the library to hand on: the entries of a directory are being looked up
/// one by one, so one that is gone meanwhile is no error.
pub const LISTING: u32 = 1;

/// The operations of the FUSE protocol that are named elsewhere (linux/fuse.h).
pub mod opcode {
    #![expect(missing_docs, reason = "names of linux/fuse.h")]
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const SYMLINK: u32 = 6;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const INIT: u32 = 26;
    pub const GETLK: u32 = 31;
    pub const SETLK: u32 = 32;
    pub const SETLKW: u32 = 33;
    pub const READDIRPLUS: u32 = 44;
}

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The library decodes it and asks the router.
    Serve,
    /// The same, and there is no reply.
    Silent,
    /// It is one of locks, which the library does not know.
    Lock,
    /// It is answered with this error.
    Refuse(i32),
    /// It is not answered, and nothing happens.
    Ignore,
}

/// The names of an operation, after its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    None,
    /// One, to the end.
    One,
    /// Two, to the end.
    Two,
    /// One, then what a kernel may add (groups of the caller).
    OneAndMore,
    /// One, then a link's target, then what a kernel may add.
    OneAndTarget,
    /// An extended attribute's.
    Attribute,
    /// An extended attribute's, then its value.
    AttributeAndValue,
}

struct Line {
    opcode: u32,
    way: Way,
    /// Least bytes of arguments.
    arguments: usize,
    names: Names,
}

const fn line(opcode: u32, way: Way, arguments: usize, names: Names) -> Line {
    Line { opcode, way, arguments, names }
}

/// Every operation; one that is not here is refused (`ENOSYS`).
const TABLE: &[Line] = &[
    line(opcode::LOOKUP, Way::Serve, 0, Names::One),
    line(opcode::FORGET, Way::Silent, 8, Names::None),
    line(3, Way::Serve, 16, Names::None), // GETATTR
    line(4, Way::Serve, 88, Names::None), // SETATTR
    line(5, Way::Serve, 0, Names::None),  // READLINK
    line(opcode::SYMLINK, Way::Serve, 0, Names::OneAndTarget),
    line(8, Way::Serve, 16, Names::OneAndMore), // MKNOD
    line(9, Way::Serve, 8, Names::OneAndMore),  // MKDIR
    line(10, Way::Serve, 0, Names::One),        // UNLINK
    line(11, Way::Serve, 0, Names::One),        // RMDIR
    line(12, Way::Serve, 8, Names::Two),        // RENAME
    line(13, Way::Serve, 8, Names::One),        // LINK
    line(14, Way::Serve, 8, Names::None),       // OPEN
    line(opcode::READ, Way::Serve, 40, Names::None),
    line(opcode::WRITE, Way::Serve, WRITE_ARGUMENTS, Names::None),
    line(17, Way::Serve, 0, Names::None),              // STATFS
    line(18, Way::Serve, 24, Names::None),             // RELEASE
    line(20, Way::Serve, 16, Names::None),             // FSYNC
    line(21, Way::Serve, 8, Names::AttributeAndValue), // SETXATTR
    line(22, Way::Serve, 8, Names::Attribute),         // GETXATTR
    line(23, Way::Serve, 8, Names::None),              // LISTXATTR
    line(24, Way::Serve, 0, Names::Attribute),         // REMOVEXATTR
    line(25, Way::Serve, 24, Names::None),             // FLUSH
    line(opcode::INIT, Way::Serve, 16, Names::None),
    line(27, Way::Serve, 8, Names::None),  // OPENDIR
    line(28, Way::Serve, 40, Names::None), // READDIR
    line(29, Way::Serve, 24, Names::None), // RELEASEDIR
    line(30, Way::Serve, 16, Names::None), // FSYNCDIR
    line(opcode::GETLK, Way::Lock, 48, Names::None),
    line(opcode::SETLK, Way::Lock, 48, Names::None),
    line(opcode::SETLKW, Way::Lock, 48, Names::None),
    // ACCESS: the guest's kernel checks modes itself, by the owners that it is shown.
    line(34, Way::Refuse(libc::ENOSYS), 8, Names::None),
    line(35, Way::Serve, 16, Names::OneAndMore), // CREATE
    // INTERRUPT: nothing here waits for an event that may never come.
    line(36, Way::Ignore, 8, Names::None),
    line(37, Way::Refuse(libc::ENOSYS), 0, Names::None), // BMAP: block devices
    line(38, Way::Silent, 0, Names::None),               // DESTROY
    line(39, Way::Refuse(libc::ENOTTY), 0, Names::None), // IOCTL: the host's file systems'
    line(40, Way::Refuse(libc::ENOSYS), 0, Names::None), // POLL
    line(41, Way::Refuse(libc::ENOSYS), 0, Names::None), // NOTIFY_REPLY: none is sent
    line(42, Way::Silent, 8, Names::None),               // BATCH_FORGET
    line(43, Way::Serve, 32, Names::None),               // FALLOCATE
    line(opcode::READDIRPLUS, Way::Serve, 40, Names::None),
    line(45, Way::Serve, 16, Names::Two),  // RENAME2
    line(46, Way::Serve, 24, Names::None), // LSEEK
    line(47, Way::Serve, 56, Names::None), // COPY_FILE_RANGE
    line(48, Way::Refuse(libc::ENOSYS), 0, Names::None), // SETUPMAPPING: no shared window
    line(49, Way::Refuse(libc::ENOSYS), 0, Names::None), // REMOVEMAPPING
    // SYNCFS: would write out everything of the host's file system, others' files too.
    line(50, Way::Refuse(libc::ENOSYS), 0, Names::None),
    line(51, Way::Refuse(libc::EOPNOTSUPP), 0, Names::None), // TMPFILE
];

/// What a request's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which operation.
    pub opcode: u32,
    /// The guest's number of the request.
    pub unique: u64,
    /// The file that it is about.
    pub node: u64,
    /// What becomes of it.
    pub way: Way,
}

/// A request that is answered with an error, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// With this error.
    Error {
        /// The guest's number of the request.
        unique: u64,
        /// The error's number.
        errno: i32,
    },
    /// There is not even a number to answer to.
    Silently,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The operation of a request, if it is there; a hint, to know what to copy.
#[must_use]
pub fn opcode_of(bytes: &[u8]) -> Option<u32> {
    word(bytes, OPCODE_AT)
}

/// How many bytes a read or a write is about, by its arguments.
#[must_use]
pub fn data_bytes(bytes: &[u8]) -> Option<usize> {
    // After the handle and the offset.
    usize::try_from(word(bytes, HEADER + 16)?).ok()
}

/// Checks the server's copy of a request: `bytes` is all of it, or all but a write's data, and `total`
/// its whole length. The caller's ids are replaced: the guest's own mean nothing here.
///
/// # Errors
/// It is malformed or not served.
pub fn check(bytes: &mut [u8], total: usize) -> Result<Head, Refused> {
    let unique = long(bytes, UNIQUE_AT).ok_or(Refused::Silently)?;
    let refuse = |errno| Refused::Error { unique, errno };
    let invalid = refuse(libc::EINVAL);
    let length = word(bytes, LENGTH_AT).ok_or(Refused::Silently)?;
    let opcode = word(bytes, OPCODE_AT).ok_or(Refused::Silently)?;
    let node = long(bytes, NODE_AT).ok_or(invalid)?;
    let Some(line) = TABLE.iter().find(|line| line.opcode == opcode) else {
        return Err(refuse(libc::ENOSYS));
    };
    let silent = matches!(line.way, Way::Silent | Way::Ignore);
    let invalid = if silent { Refused::Silently } else { invalid };
    if usize::try_from(length) != Ok(total) {
        return Err(invalid);
    }
    let body = bytes.get(HEADER..).ok_or(invalid)?;
    let rest = body.get(line.arguments..).ok_or(invalid)?;
    check_names(line.names, rest).map_err(|errno| if silent { invalid } else { refuse(errno) })?;
    // What is written is all that follows; the library would take the rest for data as well.
    if opcode == opcode::WRITE && data_bytes(bytes) != total.checked_sub(HEADER + WRITE_ARGUMENTS) {
        return Err(invalid);
    }
    match line.way {
        Way::Refuse(errno) => return Err(refuse(errno)),
        Way::Ignore => return Err(Refused::Silently),
        Way::Serve | Way::Silent | Way::Lock => {}
    }
    // User, group and process id of the caller; then how much a kernel has added.
    let ids = bytes.get_mut(UID_AT..UID_AT + 12).ok_or(invalid)?;
    ids.fill(0);
    if opcode == opcode::READDIRPLUS
        && let Some(process) = ids.get_mut(8..)
    {
        process.copy_from_slice(&LISTING.to_le_bytes());
    }
    Ok(Head { opcode, unique, node, way: line.way })
}

/// Splits after the first NUL; the name comes without it.
fn name(bytes: &[u8]) -> Result<(&[u8], &[u8]), i32> {
    let end = bytes.iter().position(|byte| *byte == 0).ok_or(libc::EINVAL)?;
    let (name, rest) = bytes.split_at(end);
    Ok((name, rest.get(1..).unwrap_or_default()))
}

/// One component of a path, and none that leads elsewhere.
fn component(name: &[u8]) -> Result<(), i32> {
    match name {
        [] | b"." | b".." => Err(libc::EINVAL),
        _ if name.len() > MAX_NAME => Err(libc::ENAMETOOLONG),
        _ if name.contains(&b'/') => Err(libc::EINVAL),
        _ => Ok(()),
    }
}

fn attribute(name: &[u8]) -> Result<(), i32> {
    match name.len() {
        0 => Err(libc::EINVAL),
        length if length > MAX_NAME => Err(libc::ERANGE),
        _ => Ok(()),
    }
}

fn nothing(rest: &[u8]) -> Result<(), i32> {
    if rest.is_empty() { Ok(()) } else { Err(libc::EINVAL) }
}

fn check_names(names: Names, bytes: &[u8]) -> Result<(), i32> {
    if names == Names::None {
        return Ok(());
    }
    let (first, rest) = name(bytes)?;
    match names {
        Names::None => Ok(()),
        Names::One => component(first).and(nothing(rest)),
        Names::OneAndMore => component(first),
        Names::Two => {
            let (second, rest) = name(rest)?;
            component(first).and(component(second)).and(nothing(rest))
        }
        Names::OneAndTarget => {
            component(first)?;
            let (target, _) = name(rest)?;
            match target.len() {
                0 => Err(libc::ENOENT),
                length if length > MAX_TARGET => Err(libc::ENAMETOOLONG),
                _ => Ok(()),
            }
        }
        Names::Attribute => attribute(first).and(nothing(rest)),
        Names::AttributeAndValue => attribute(first),
    }
}

#[cfg(test)]
#[path = "decode_test.rs"]
mod tests;
