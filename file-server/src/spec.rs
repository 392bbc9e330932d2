//! What a share is to be: plain data that the host sends, checked by both sides.

use serde::{Deserialize, Serialize};

/// Most shares of one team: every agent's root, with a few directories for each. Each takes a few
/// descriptors and kilobytes.
pub const MAX_SHARES: usize = 256;
/// Longest name of a share.
pub const MAX_SHARE_NAME: usize = 64;
/// Slots of the bounce area between vmm and server.
pub const SLOTS: u32 = crate::limits::SLOTS;
/// Bytes of one slot.
pub const SLOT_BYTES: usize = crate::limits::SLOT_BYTES;
/// The name of a file within the directory that the host makes around it; see [`Kind::File`].
pub const FILE_NAME: &str = "file";

/// A shared directory or file. Its descriptor, of a detached mount, comes in the same message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareSpec {
    /// Under which the guest finds it: `[a-z0-9._-]`, at most [`MAX_SHARE_NAME`], not `.` or `..`.
    pub name: String,
    /// What the descriptor is of.
    pub kind: Kind,
    /// Whether the guest may write. The mount says the same, and its word is the kernel's.
    pub writable: bool,
    /// Whom the guest sees as owner.
    pub owner: Owner,
}

/// What is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The directory of the descriptor.
    Directory,
    /// The regular file [`FILE_NAME`] in the directory of the descriptor, which holds nothing else.
    File,
}

/// Who owns the files, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    /// An image's root: owner and mode are recorded in an extended attribute of each file. Nothing of
    /// it changes while it is shared, so the guest may keep what it knows.
    Image {
        /// Added to each id.
        first_id: u32,
    },
    /// Everything belongs to one user; what the guest makes is made as the server's own user. Files
    /// change on both sides, so the guest keeps nothing.
    All {
        /// The user, as the guest counts.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

/// Why a [`ShareSpec`] is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The name has other characters, or is too long or short.
    #[error(
        "the share's name {name:?} must be 1 to {MAX_SHARE_NAME} of a-z, 0-9, \".\", \"_\" and \"-\", and not \".\" \
         or \"..\""
    )]
    Name {
        /// The name.
        name: String,
    },
    /// An id that means "none" to the kernel.
    #[error("the share {name:?} can't belong to id {id}")]
    Id {
        /// The share.
        name: String,
        /// The id.
        id: u32,
    },
    /// An image's root is never written.
    #[error("the share {name:?} is of an image, so it can't be writable")]
    WritableImage {
        /// The share.
        name: String,
    },
}

impl ShareSpec {
    /// Checks all of it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), SpecError> {
        let name = self.name.clone();
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        let fits = (1..=MAX_SHARE_NAME).contains(&name.len()) && name.bytes().all(plain);
        if !fits || name == "." || name == ".." {
            return Err(SpecError::Name { name });
        }
        let ids = match self.owner {
            Owner::Image { first_id } => [first_id, first_id],
            Owner::All { uid, gid } => [uid, gid],
        };
        if let Some(id) = ids.into_iter().find(|id| *id == u32::MAX) {
            return Err(SpecError::Id { name, id });
        }
        match self.owner {
            Owner::Image { .. } if self.writable => Err(SpecError::WritableImage { name }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str) -> ShareSpec {
        let owner = Owner::All { uid: 1, gid: 2 };
        ShareSpec { name: name.into(), kind: Kind::Directory, writable: true, owner }
    }

    #[test]
    fn names_are_plain() {
        for good in ["a", "9", "...", "_x-.y", &"z".repeat(MAX_SHARE_NAME)] {
            assert_eq!(spec(good).validate(), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "A", "a/b", "a b", "ä", "a\0", &"z".repeat(MAX_SHARE_NAME + 1)]
        {
            assert!(matches!(spec(bad).validate(), Err(SpecError::Name { .. })), "{bad}");
        }
    }

    #[test]
    fn an_image_is_not_written_and_no_id_is_none() {
        let image = ShareSpec { owner: Owner::Image { first_id: 0 }, ..spec("a") };
        assert!(matches!(image.validate(), Err(SpecError::WritableImage { .. })));
        assert_eq!(ShareSpec { writable: false, ..image }.validate(), Ok(()));
        let nobody = ShareSpec { owner: Owner::All { uid: 0, gid: u32::MAX }, ..spec("a") };
        assert!(matches!(nobody.validate(), Err(SpecError::Id { .. })));
    }
}
