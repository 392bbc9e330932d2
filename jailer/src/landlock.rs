//! Landlock without a rule: everything that this kernel's version of it knows is denied. What was
//! opened before, and what the host hands over later, can be used all the same.

use crate::sys::{self, Errno};

/// How many rights of files each version knows, from version 1 on; the last counts for later ones
/// (linux/landlock.h: execution up to special files; `REFER`; `TRUNCATE`; then `IOCTL_DEV`).
const FILE_RIGHTS: [u32; 5] = [13, 14, 15, 15, 16];
/// The first version that knows `BIND_TCP` and `CONNECT_TCP`.
const NETWORK_SINCE: u32 = 4;
const NETWORK_RIGHTS: u64 = 0b11;
/// The first version that knows the scopes: abstract Unix sockets, signals.
const SCOPES_SINCE: u32 = 6;
const SCOPES: u64 = 0b11;

/// What is handled, and so denied, in the order of the kernel's structure; the structure of an older
/// kernel is shorter.
#[must_use]
pub fn handled(version: u32) -> Vec<u64> {
    let index = usize::try_from(version.saturating_sub(1)).unwrap_or(usize::MAX);
    let last = FILE_RIGHTS.len() - 1;
    let rights = FILE_RIGHTS.get(index.min(last)).copied().unwrap_or_default();
    let mut handled = vec![(1 << rights) - 1];
    if version >= NETWORK_SINCE {
        handled.push(NETWORK_RIGHTS);
    }
    if version >= SCOPES_SINCE {
        handled.push(SCOPES);
    }
    handled
}

/// Denies all of it.
pub(crate) fn deny_all() -> Result<(), Errno> {
    sys::landlock_restrict(&handled(sys::landlock_version()?))
}

/// Denies the network and what scopes know, and nothing of files. A rule on files, whichever, would also
/// forbid to move a file from one directory to another, but beneath directories that are known now; a
/// file server's come later. What it must not do with files its system calls and mounts forbid.
pub(crate) fn deny_all_but_files() -> Result<(), Errno> {
    let handled = handled_but_files(sys::landlock_version()?);
    if handled.is_empty() { Ok(()) } else { sys::landlock_restrict(&handled) }
}

fn handled_but_files(version: u32) -> Vec<u64> {
    let mut handled = handled(version);
    if let Some(files) = handled.first_mut() {
        *files = 0;
    }
    if handled.len() > 1 { handled } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_servers_has_no_rule_on_files() {
        assert_eq!(handled_but_files(3), Vec::<u64>::new());
        assert_eq!(handled_but_files(4), [0, 3]);
        assert_eq!(handled_but_files(6), [0, 3, 3]);
    }

    #[test]
    fn each_version_handles_what_it_knows() {
        assert_eq!(handled(1), [0x1fff]);
        assert_eq!(handled(2), [0x3fff]);
        assert_eq!(handled(3), [0x7fff]);
        assert_eq!(handled(4), [0x7fff, 3]);
        assert_eq!(handled(5), [0xffff, 3]);
        assert_eq!(handled(6), [0xffff, 3, 3]);
        assert_eq!(handled(99), [0xffff, 3, 3]);
    }
}
