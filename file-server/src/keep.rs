//! What a guest may keep of what it was told, and for how long.

use std::time::Duration;

use virtiofsd::passthrough::CachePolicy;

use crate::spec::{Owner, ShareSpec};

/// What never changes: a day.
pub const ALWAYS: Duration = Duration::from_secs(24 * 3600);
/// The least that a guest's kernel knows: the rest of a timer tick and the next one, 8 ms.
const LEAST: Duration = Duration::from_nanos(1);

/// A name in a directory.
#[must_use]
pub const fn names(owner: Owner) -> Duration {
    match owner {
        Owner::Image { .. } => ALWAYS,
        Owner::All { .. } => Duration::ZERO,
    }
}

/// The attributes of a file of this mode.
#[must_use]
pub const fn attributes(owner: Owner, mode: u32) -> Duration {
    match owner {
        Owner::Image { .. } => ALWAYS,
        // On the way along a path the guest's kernel asks for each directory's name, and the answer has its
        // attributes; without this it would ask for owner and mode once more, as many requests again.
        Owner::All { .. } if mode & libc::S_IFMT == libc::S_IFDIR => LEAST,
        // Both sides take turns on a file by its length and times.
        Owner::All { .. } => Duration::ZERO,
    }
}

/// A file's content, while it is open.
#[must_use]
pub const fn content(spec: &ShareSpec) -> CachePolicy {
    match spec.owner {
        Owner::Image { .. } => CachePolicy::Always,
        // Both sides write. The guest's kernel would learn of the host's changes by the time of the last
        // one, which two changes within one tick of the host's clock have in common: so it keeps
        // nothing, and every read is the host's.
        Owner::All { .. } if spec.writable => CachePolicy::Never,
        // The host alone writes: kept until the next opening, or until time or size differ.
        Owner::All { .. } => CachePolicy::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_the_host_may_change_only_a_directorys_attributes_are_kept() {
        let all = Owner::All { uid: 1, gid: 1 };
        assert!(names(all).is_zero());
        for kind in [libc::S_IFREG, libc::S_IFLNK] {
            assert!(attributes(all, kind | 0o644).is_zero());
        }
        let kept = attributes(all, libc::S_IFDIR | 0o755);
        assert!(!kept.is_zero() && kept < Duration::from_millis(1));
    }

    #[test]
    fn an_image_is_kept() {
        let image = Owner::Image { first_id: 1 };
        assert_eq!((names(image), attributes(image, libc::S_IFREG)), (ALWAYS, ALWAYS));
    }
}
