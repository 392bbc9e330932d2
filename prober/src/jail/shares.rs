//! Attacks on shared directories by a file server that was taken over.
#![expect(clippy::too_many_lines, reason = "tables of attacks")]

use super::attack::{Attack, FILES, attack};
use crate::calls::call;
use crate::wire::Group::FileServer;
use crate::wire::Stage;

use libc::{EACCES, ELOOP, ENOENT, EPERM, EROFS, EXDEV};

const READ_ONLY: &str =
    "the mount of a share that is not writable is read-only: the kernel says so, not the server";
const LEAVES: &str = "a share is a mount of its own, without anything above it";

fn got(what: &str) -> impl Fn(i64) -> String {
    move |result| format!("{what} ({result})")
}

macro_rules! on_read_only {
    ($name:literal, $tries:literal, $world:ident, $call:expr) => {
        attack($name, $tries, READ_ONLY, |$world| $call.map(got("done")))
            .only(FILES)
            .served(&[EROFS])
    };
}

macro_rules! beneath {
    ($name:literal, $tries:literal, $path:expr, $errnos:expr) => {
        attack($name, $tries, LEAVES, |world| {
            call!(libc::SYS_openat, world.share_write, $path, libc::O_RDONLY, 0)
                .map(got("opened as"))
        })
        .only(FILES)
        .served($errnos)
    };
}

/// The rows. In both shares there are a file `file`, a program `program` and a link `out` to `/etc`; see
/// `cloister prove`.
pub(super) fn rows() -> Vec<Attack> {
    let mut rows = vec![
        on_read_only!(
            "write-read-only",
            "opens a file of a read-only share for writing",
            world,
            call!(libc::SYS_openat, world.share_read, c"file", libc::O_WRONLY, 0)
        ),
        on_read_only!(
            "create-read-only",
            "makes a file in a read-only share",
            world,
            call!(
                libc::SYS_openat,
                world.share_read,
                c"new",
                libc::O_CREAT | libc::O_WRONLY,
                0o600
            )
        ),
        on_read_only!(
            "remove-read-only",
            "removes a file of a read-only share",
            world,
            call!(libc::SYS_unlinkat, world.share_read, c"file", 0)
        ),
        on_read_only!(
            "rename-read-only",
            "renames a file of a read-only share",
            world,
            call!(libc::SYS_renameat2, world.share_read, c"file", world.share_read, c"other", 0)
        ),
        on_read_only!(
            "link-read-only",
            "links a file within a read-only share",
            world,
            call!(libc::SYS_linkat, world.share_read, c"file", world.share_read, c"other", 0)
        ),
        on_read_only!(
            "symlink-read-only",
            "makes a symbolic link in a read-only share",
            world,
            call!(libc::SYS_symlinkat, c"/etc", world.share_read, c"other")
        ),
        on_read_only!(
            "mkdir-read-only",
            "makes a directory in a read-only share",
            world,
            call!(libc::SYS_mkdirat, world.share_read, c"other", 0o700)
        ),
        on_read_only!(
            "mode-read-only",
            "changes a mode in a read-only share",
            world,
            call!(libc::SYS_fchmodat, world.share_read, c"file", 0o777, 0)
        ),
        on_read_only!(
            "times-read-only",
            "changes a file's times in a read-only share",
            world,
            call!(libc::SYS_utimensat, world.share_read, c"file", 0, 0)
        ),
        beneath!(
            "share-upwards",
            "climbs out of a share by '..'",
            c"../../../../etc/passwd",
            &[ENOENT]
        ),
        beneath!(
            "share-link-out",
            "follows a link in a share that leads to the host's /etc",
            c"out/passwd",
            &[ENOENT]
        ),
        beneath!(
            "share-magic-link",
            "follows a link to itself as a process finds it",
            c"/proc/self/root/etc/passwd",
            &[ENOENT, ELOOP]
        ),
    ];
    rows.push(
        attack(
            "link-across",
            "links a file of a read-only share into a writable one, to write it there",
            READ_ONLY,
            |world| {
                call!(libc::SYS_linkat, world.share_read, c"file", world.share_write, c"taken", 0)
                    .map(got("done"))
            },
        )
        .only(FILES)
        .served(&[EXDEV]),
    );
    rows.push(
        attack(
            "reopen-read-only",
            "opens a known file of a read-only share anew, for writing, by its descriptor",
            READ_ONLY,
            |world| {
                let file = call!(libc::SYS_openat, world.share_read, c"file", libc::O_PATH, 0)?;
                let path = std::ffi::CString::new(file.to_string()).unwrap_or_default();
                let again = call!(
                    libc::SYS_openat,
                    world.own_descriptors,
                    path.as_c_str(),
                    libc::O_WRONLY,
                    0
                );
                call!(libc::SYS_close, file).ok();
                again.map(got("opened as"))
            },
        )
        .only(FILES)
        .served(&[EROFS]),
    );
    rows.push(
        attack(
            "give-away",
            "gives a file of a share to another user",
            "the filters know no such call; no capability",
            |world| {
                call!(libc::SYS_fchownat, world.share_write, c"file", 1, 1, 0).map(got("given"))
            },
        )
        .only(FILES)
        .bare(&[EPERM, libc::EINVAL]),
    );
    rows.push(
        attack(
            "trusted-attribute",
            "sets an attribute that the host's kernel obeys (trusted.*)",
            "no capability",
            |world| {
                let file = call!(libc::SYS_openat, world.share_write, c"file", libc::O_RDONLY, 0)?;
                let set = call!(libc::SYS_fsetxattr, file, c"trusted.overlay.opaque", c"y", 1, 0);
                call!(libc::SYS_close, file).ok();
                set.map(got("set"))
            },
        )
        .only(FILES)
        .served(&[EPERM, libc::EOPNOTSUPP]),
    );
    rows.push(
        attack(
            "file-capability",
            "gives a program in a share capabilities",
            "no capability; shares are mounted nosuid",
            |world| {
                // VFS_CAP_REVISION_2 with CAP_SYS_ADMIN.
                let value = [0x0200_0001_u32, 1 << 21, 0, 0, 0];
                let file =
                    call!(libc::SYS_openat, world.share_write, c"program", libc::O_RDONLY, 0)?;
                let set =
                    call!(libc::SYS_fsetxattr, file, c"security.capability", value.as_ptr(), 20, 0);
                call!(libc::SYS_close, file).ok();
                set.map(got("set"))
            },
        )
        .only(FILES)
        .served(&[EPERM, libc::EOPNOTSUPP]),
    );
    rows.push(
        attack(
            "make-fifo",
            "makes a FIFO in a share, at which a program of the host would hang",
            "the filters let regular files be made, and nothing else",
            |world| {
                call!(libc::SYS_mknodat, world.share_write, c"fifo", libc::S_IFIFO | 0o600, 0)
                    .map(got("made"))
            },
        )
        .only(FILES),
    );
    rows.push(
        attack(
            "execute-from-share",
            "executes a program out of a share",
            "shares are mounted noexec; the filters know no such call while it serves",
            |world| {
                call!(libc::SYS_execveat, world.share_write, c"program", 0, 0, 0)
                    .map(got("executed"))
            },
        )
        .only(FILES)
        .at(FileServer, Stage::Setup, &[EACCES])
        .bare(&[EACCES]),
    );
    rows
}
