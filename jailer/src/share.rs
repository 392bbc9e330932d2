//! The second thing that the jailer does: it makes the mount of a share, and sends it back.
//!
//! Only a process that may mount can make one, and an ordinary user may in namespaces of the user's own,
//! which take a process without threads. The mount is nowhere: who holds its descriptor has it, and when
//! nobody does it is gone. It is nosuid, nodev and noexec, and read-only unless asked otherwise; a file
//! server that it is handed to can change none of that.
//!
//! Started with the argument [`ARGUMENT`] and a seqpacket socket as [`crate::spec::CONTROL_FD`]: one message
//! comes, of one byte ([`WRITABLE`] or 0) and a descriptor of what is to be shared; one goes back, a
//! [`Reply`], with a descriptor if it went well.

use std::ffi::CStr;

use crate::mount_calls as mounts;
use crate::spec::CONTROL_FD;
use crate::sys::{self, Errno};

/// The argument that asks for it.
pub const ARGUMENT: &str = "share";
/// The share may be written.
pub const WRITABLE: u8 = 1;
/// The name of a file in the directory that is made around it.
pub const FILE_NAME: &CStr = c"file";

/// nosuid, nodev, noexec (`MOUNT_ATTR_*` of linux/mount.h).
const ATTRIBUTES: u64 = 2 | 4 | 8;
const READ_ONLY: u64 = 1;
/// Of the directory around a file: room for that file's name.
const AROUND: [(&CStr, Option<&CStr>); 3] =
    [(c"size", Some(c"4096")), (c"nr_inodes", Some(c"2")), (c"mode", Some(c"555"))];

/// What comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The mount of a directory.
    Directory,
    /// The mount of a directory that holds the file as [`FILE_NAME`].
    File,
    /// Nothing.
    Failed {
        /// What was tried.
        stage: Stage,
        /// The system's error.
        errno: Errno,
    },
}

/// What is done, in order. The numbers are on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// The message.
    Message = 1,
    /// It must be a directory or a regular file.
    Kind = 2,
    /// Namespaces in which the process may mount.
    Namespaces = 3,
    /// Finding it again in them, by its path without links.
    Again = 4,
    /// What was found must be the same.
    Same = 5,
    /// The mount.
    Mount = 6,
    /// Its attributes.
    Attributes = 7,
    /// The directory around a file.
    Around = 8,
}

const STAGES: [Stage; 8] = [
    Stage::Message,
    Stage::Kind,
    Stage::Namespaces,
    Stage::Again,
    Stage::Same,
    Stage::Mount,
    Stage::Attributes,
    Stage::Around,
];

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Message => "the request could not be read",
            Self::Kind => "it is neither a directory nor a regular file",
            Self::Namespaces => "namespaces to mount in could not be made",
            Self::Again => "it could not be found again by its path",
            Self::Same => "another file lies at its path now",
            Self::Mount => "it could not be mounted",
            Self::Attributes => "its mount could not be made safe",
            Self::Around => "a directory around the file could not be made",
        })
    }
}

/// Length of an encoded [`Reply`].
pub const REPLY_LEN: usize = 8;

impl Reply {
    /// As it goes over the socket.
    #[must_use]
    pub const fn encode(&self) -> [u8; REPLY_LEN] {
        let (kind, stage, errno) = match self {
            Self::Directory => (1, 0, 0),
            Self::File => (2, 0, 0),
            Self::Failed { stage, errno } => (3, *stage as u8, *errno),
        };
        let [a, b, c, d] = errno.to_le_bytes();
        [kind, stage, 0, 0, a, b, c, d]
    }

    /// `None`: nothing that [`Self::encode`] makes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [kind, stage, 0, 0, a, b, c, d] = *bytes else { return None };
        let errno = Errno::from_le_bytes([a, b, c, d]);
        match (kind, stage, errno) {
            (1, 0, 0) => Some(Self::Directory),
            (2, 0, 0) => Some(Self::File),
            (3, _, _) => {
                let stage = STAGES.into_iter().find(|known| *known as u8 == stage)?;
                Some(Self::Failed { stage, errno })
            }
            _ => None,
        }
    }
}

type Failed = (Stage, Errno);

fn at(stage: Stage) -> impl Fn(Errno) -> Failed {
    move |errno| (stage, errno)
}

/// Answers one request.
///
/// # Errors
/// It failed; whoever asked has been told, if there is somebody.
pub fn run() -> Result<(), Failed> {
    let made = make();
    let (reply, mount) = match made {
        Ok((reply, mount)) => (reply, Some(mount)),
        Err((stage, errno)) => (Reply::Failed { stage, errno }, None),
    };
    mounts::send_one(CONTROL_FD, &mut reply.encode(), mount).map_err(at(Stage::Message))?;
    made.map(drop)
}

/// The recipe.
fn make() -> Result<(Reply, i32), Failed> {
    sys::close_from(CONTROL_FD + 1).map_err(at(Stage::Message))?;
    // One byte more, so that a longer one can't pass.
    let mut request = [0; 2];
    let (length, given) =
        mounts::receive_one(CONTROL_FD, &mut request).map_err(at(Stage::Message))?;
    let [flags, _] = request;
    if length != 1 || flags & !WRITABLE != 0 {
        return Err((Stage::Message, libc::EINVAL));
    }
    let identity = mounts::identity(given).map_err(at(Stage::Kind))?;
    let is_file = match identity.kind {
        libc::S_IFDIR => false,
        libc::S_IFREG => true,
        _ => return Err((Stage::Kind, libc::EINVAL)),
    };
    let source = enter(given, identity)?;
    let mount = mounts::clone_mount(source).map_err(at(Stage::Mount))?;
    let read_only = if flags & WRITABLE == 0 { READ_ONLY } else { 0 };
    let private = libc::MS_PRIVATE;
    mounts::set_mount(mount, ATTRIBUTES | read_only, private).map_err(at(Stage::Attributes))?;
    if is_file {
        let around = put_around(mount).map_err(at(Stage::Around))?;
        return Ok((Reply::File, around));
    }
    Ok((Reply::Directory, mount))
}

/// A mount namespace of the process's own, and in it what the descriptor is of.
fn enter(given: i32, identity: mounts::Identity) -> Result<i32, Failed> {
    let path = mounts::path_of(given).map_err(at(Stage::Again))?;
    let path = CStr::from_bytes_until_nul(&path).map_err(|_| (Stage::Again, libc::EINVAL))?;
    let (uid, gid) = mounts::own_ids();
    let namespaces = if mounts::is_root() {
        // Root may mount; in a user namespace it would be root over its own files alone.
        libc::CLONE_NEWNS
    } else {
        libc::CLONE_NEWNS | libc::CLONE_NEWUSER
    };
    let entered = sys::unshare(namespaces).and_then(|()| {
        if namespaces & libc::CLONE_NEWUSER == 0 {
            // Nothing that is mounted here is to reach the host.
            let root = mounts::open_plain(c"/")?;
            return mounts::set_mount(root, 0, libc::MS_PRIVATE);
        }
        let write =
            |name: &CStr, text: String| sys::write_beneath(libc::AT_FDCWD, name, text.as_bytes());
        write(c"/proc/self/setgroups", "deny".to_owned())?;
        write(c"/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        write(c"/proc/self/gid_map", format!("{gid} {gid} 1"))
    });
    entered.map_err(at(Stage::Namespaces))?;
    let found = mounts::open_plain(path).map_err(at(Stage::Again))?;
    let same = mounts::identity(found).map_err(at(Stage::Again))? == identity;
    if same { Ok(found) } else { Err((Stage::Same, libc::ESTALE)) }
}

/// A small read-only directory that holds the file: a file server begins at a directory.
fn put_around(file: i32) -> Result<i32, Errno> {
    let folder = sys::new_file_system(c"tmpfs", &AROUND, ATTRIBUTES)?;
    mounts::make_file(folder, FILE_NAME)?;
    // Only in a place can something be mounted on it: over the root of this process's namespace.
    sys::mount_at(folder, c"/")?;
    mounts::mount_onto(file, folder, FILE_NAME)?;
    mounts::clone_mount(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_as_they_were_written() {
        let mut replies = vec![Reply::Directory, Reply::File];
        replies.extend(STAGES.map(|stage| Reply::Failed { stage, errno: libc::EPERM }));
        for reply in replies {
            assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        }
        for bad in [&[][..], &[0; 8], &[1, 1, 0, 0, 0, 0, 0, 0], &[3, 9, 0, 0, 0, 0, 0, 0], &[1; 9]]
        {
            assert_eq!(Reply::decode(bad), None, "{bad:?}");
        }
    }
}
