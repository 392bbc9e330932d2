//! Whom the guest sees as a file's owner, and with which mode.

use crate::spec::Owner;

/// Where an image's files keep their owner, group and mode: `uid:gid:octal mode`.
pub const RECORD: &std::ffi::CStr = c"user.containers.override_stat";
/// Longest record that is looked at: two ids and a mode have at most 28 characters.
pub const MAX_RECORD: u32 = 64;

/// Set user id and set group id: never shown and never made.
pub const SET_ID: u32 = 0o6000;
const PERMISSIONS: u32 = 0o1777;
/// The kernel's "no id".
const NO_ID: u32 = u32::MAX;

/// What one file is shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The permissions; `None`: the file's own.
    pub permissions: Option<u32>,
}

impl Shown {
    /// A file without a record of its own.
    #[must_use]
    pub const fn by(owner: Owner) -> Self {
        match owner {
            Owner::Image { first_id } => Self { uid: first_id, gid: first_id, permissions: None },
            Owner::All { uid, gid } => Self { uid, gid, permissions: None },
        }
    }

    /// A file of an image with the record that was found on it. A record that is none is as good as no
    /// record: root's, with the file's own mode.
    #[must_use]
    pub fn of_image(first_id: u32, record: &[u8]) -> Self {
        parse(record)
            .and_then(|(uid, gid, mode)| {
                Some(Self {
                    uid: shift(first_id, uid)?,
                    gid: shift(first_id, gid)?,
                    permissions: Some(mode & PERMISSIONS),
                })
            })
            .unwrap_or(Self::by(Owner::Image { first_id }))
    }

    /// The mode that is shown for a file of this mode.
    #[must_use]
    pub fn mode(&self, mode: u32) -> u32 {
        let kind = mode & libc::S_IFMT;
        kind | self.permissions.unwrap_or(mode & PERMISSIONS)
    }
}

fn shift(first_id: u32, id: u32) -> Option<u32> {
    first_id.checked_add(id).filter(|id| *id != NO_ID)
}

/// Anything else than two decimal numbers and an octal one, each of 32 bits, is nothing.
fn parse(record: &[u8]) -> Option<(u32, u32, u32)> {
    let text = std::str::from_utf8(record).ok()?;
    let mut words = text.split(':');
    let (uid, gid, mode) = (words.next()?, words.next()?, words.next()?);
    let digits = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    if words.next().is_some() || ![uid, gid, mode].into_iter().all(digits) {
        return None;
    }
    let mode = u32::from_str_radix(mode, 8).ok()?;
    Some((uid.parse().ok()?, gid.parse().ok()?, mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_shown_with_its_ids_moved() {
        let shown = Shown::of_image(100_000, b"33:4:4755");
        assert_eq!(shown, Shown { uid: 100_033, gid: 100_004, permissions: Some(0o755) });
        assert_eq!(shown.mode(libc::S_IFREG | 0o644), libc::S_IFREG | 0o755);
        assert_eq!(Shown::of_image(7, b"0:0:1777").mode(libc::S_IFDIR), libc::S_IFDIR | 0o1777);
    }

    #[test]
    fn hostile_records_are_root_with_the_files_own_mode() {
        let plain = Shown { uid: 5, gid: 5, permissions: None };
        let bad: [&[u8]; 14] = [
            b"",
            b":",
            b"::",
            b"1:2",
            b"1:2:3:4",
            b"-1:2:644",
            b"+1:2:644",
            b"1:2:9",
            b"1:2:0o644",
            b"4294967295:0:644",
            b"0:4294967290:644",
            b"99999999999:0:644",
            b"\xff:0:644",
            b"1: 2:644",
        ];
        for record in bad {
            assert_eq!(Shown::of_image(5, record), plain, "{record:?}");
        }
        assert_eq!(plain.mode(libc::S_IFREG | 0o6755), libc::S_IFREG | 0o755);
    }
}
