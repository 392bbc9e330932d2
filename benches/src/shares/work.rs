//! What harness and guest agree on: names, and the amount of work.

use anyhow::{Context as _, bail};
use serde::Serialize;

/// By which name the guest mounts the file system.
pub const TAG: &str = "cloister";
/// Where.
pub const MOUNT: &str = "/mnt";
/// The share within it: a directory in both cases, so that paths are of the same depth.
pub const FOLDER: &str = "desk";
/// The result's file in the share.
pub const RESULT: &str = "result.json";
/// Bytes of one sequential read or write.
pub const BLOCK: usize = 1 << 20;
/// The work program in the guest's root.
pub const PROGRAM: &str = "bench-shares-work";

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Sequential writes, then reads, of [`BLOCK`] bytes.
    pub blocks: usize,
    /// Random reads of 4 KiB.
    pub reads: usize,
    /// Files that are made, looked at and removed.
    pub files: usize,
}

impl Size {
    /// As arguments of the program.
    #[must_use]
    pub fn words(&self) -> [String; 3] {
        [self.blocks, self.reads, self.files].map(|number| number.to_string())
    }

    /// Of the program's arguments.
    ///
    /// # Errors
    /// They are others.
    pub fn read(words: &[String]) -> anyhow::Result<Self> {
        let [blocks, reads, files] = words else { bail!("three numbers are needed: {words:?}") };
        let number = |word: &String| word.parse().with_context(|| format!("{word:?}: no number"));
        Ok(Self { blocks: number(blocks)?, reads: number(reads)?, files: number(files)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_amount_of_work_goes_over_a_command_line() {
        let size = Size { blocks: 3, reads: 0, files: 10_000 };
        assert_eq!(Size::read(&size.words()).unwrap(), size);
        assert!(Size::read(&[]).is_err());
        assert!(Size::read(&["1".into(), "2".into(), "x".into()]).is_err());
    }
}
