//! Which extended attributes a guest may see, set and remove: those of users, but for what programs of
//! the host obey.

/// Within `user.`: owners of images, and what overlays and Cloister itself keep.
const RESERVED: [&[u8]; 4] =
    [b"user.containers.", b"user.overlay.", b"user.fuseoverlayfs.", b"user.cloister."];

/// Whether the name is the guest's. All else would mean something to the host: file capabilities and
/// labels (`security.`), access lists (`system.`), overlays (`trusted.`).
#[must_use]
pub fn is_allowed(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        && name.len() > b"user.".len()
        && !RESERVED.iter().any(|prefix| name.starts_with(prefix))
}

/// The allowed ones of a list in which each ends with a NUL.
#[must_use]
pub fn allowed_of(list: &[u8]) -> Vec<u8> {
    let names = list.split_inclusive(|byte| *byte == 0);
    names
        .filter(|name| is_allowed(name.strip_suffix(&[0]).unwrap_or(name)))
        .flatten()
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_attributes_of_users_are_seen() {
        for good in ["user.a", "user.mime_type", "user.containersx"] {
            assert!(is_allowed(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "user",
            "user.",
            "security.capability",
            "trusted.overlay.opaque",
            "system.posix_acl_access",
            "user.containers.override_stat",
            "user.overlay.whiteout",
            "user.fuseoverlayfs.opaque",
            "user.cloister.x",
            "USER.a",
        ] {
            assert!(!is_allowed(bad.as_bytes()), "{bad}");
        }
        let list = b"security.selinux\0user.a\0user.containers.override_stat\0user.b\0";
        assert_eq!(allowed_of(list), b"user.a\0user.b\0");
        assert_eq!(allowed_of(b""), b"");
    }
}
