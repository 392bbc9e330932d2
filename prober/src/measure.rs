//! What `cloister bench files` and the program in the container say to each other: how much is to be done, and how long
//! each call took.

use serde::{Deserialize, Serialize};

/// Bytes of one sequential write or read.
pub const BLOCK: u32 = 1 << 20;
/// Bytes of one random read.
pub const PAGE: u32 = 4096;
/// Pages of a block.
pub const PAGES: u32 = BLOCK / PAGE;
/// The file that is read in the read-only share.
pub const DATA: &str = "data";
/// Where the container has the writable share.
pub const WRITABLE: &str = "/writable";
/// Where it has the read-only one.
pub const READ_ONLY: &str = "/read-only";

/// How much is done in one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Sequential writes, then reads, of [`BLOCK`] bytes: one file of that length.
    pub blocks: u32,
    /// Random reads of [`PAGE`] bytes in it; at most as many as it has pages.
    pub reads: u32,
    /// Files that are made, looked at and removed.
    pub files: u32,
}

/// The time of each call, in nanoseconds by the guest's monotonic clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// The writable share.
    pub writable: Data,
    /// Sequential writes into it.
    pub write: Vec<u64>,
    /// Files made in it, and closed.
    pub create: Vec<u64>,
    /// Looked at, by their names.
    pub stat: Vec<u64>,
    /// Removed.
    pub unlink: Vec<u64>,
    /// The read-only share.
    pub read_only: Data,
}

/// Reads of one share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// Sequential reads.
    pub read: Vec<u64>,
    /// Random reads.
    pub random: Vec<u64>,
}

impl Work {
    /// How many pages the file has.
    #[must_use]
    pub fn pages(&self) -> u64 {
        u64::from(self.blocks) * u64::from(PAGES)
    }

    /// Whether these are the times of this work: exactly as many as there were calls.
    #[must_use]
    pub fn is_of(&self, times: &Times) -> bool {
        let have = |list: &Vec<u64>, count: u32| u32::try_from(list.len()) == Ok(count);
        let data = |data: &Data| have(&data.read, self.blocks) && have(&data.random, self.reads);
        data(&times.writable)
            && data(&times.read_only)
            && have(&times.write, self.blocks)
            && [&times.create, &times.stat, &times.unlink]
                .into_iter()
                .all(|list| have(list, self.files))
    }

    /// Longest text of such times. A number of 64 bits has at most 20 digits and a comma; the names take less than the
    /// rest.
    #[must_use]
    pub fn longest_text(&self) -> u64 {
        let [blocks, reads, files] = [self.blocks, self.reads, self.files].map(u64::from);
        (3 * blocks + 2 * reads + 3 * files) * 21 + 1024
    }
}

/// Writes the pages of a block of that number: each begins with its own number in the file, so that whoever reads it
/// knows that it is the right one.
pub fn number_pages(block: &mut [u8], number: u32) {
    let first = u64::from(number) * u64::from(PAGES);
    for (page, index) in block.chunks_mut(PAGE as usize).zip(first..) {
        for (byte, value) in page.iter_mut().zip(index.to_le_bytes()) {
            *byte = value;
        }
    }
}

/// Whether these bytes are whole pages of the file from this one on.
#[must_use]
pub fn are_pages(bytes: &[u8], first: u64) -> bool {
    bytes
        .chunks(PAGE as usize)
        .zip(first..)
        .all(|(page, index)| page.starts_with(&index.to_le_bytes()) && page.len() == PAGE as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work = Work { blocks: 2, reads: 3, files: 1 };

    fn times() -> Times {
        let data = Data { read: vec![u64::MAX; 2], random: vec![u64::MAX; 3] };
        let (write, file) = (vec![u64::MAX; 2], vec![u64::MAX]);
        let (create, stat, unlink) = (file.clone(), file.clone(), file);
        Times { writable: data.clone(), write, create, stat, unlink, read_only: data }
    }

    #[test]
    fn times_are_of_their_work_alone() {
        assert!(WORK.is_of(&times()));
        assert!(!WORK.is_of(&Times::default()));
        let mut more = times();
        more.read_only.random.push(1);
        assert!(!WORK.is_of(&more));
        let mut fewer = times();
        fewer.unlink.clear();
        assert!(!WORK.is_of(&fewer));
    }

    #[test]
    fn no_text_of_times_is_longer_than_it_may_be() {
        let text = |times: &Times| serde_json::to_string(times).unwrap().len() as u64;
        assert!(text(&times()) <= WORK.longest_text());
        let (count, data) = (1000, vec![u64::MAX; 1000]);
        let both = Data { read: data.clone(), random: data.clone() };
        let many = Times {
            writable: both.clone(),
            write: data.clone(),
            create: data.clone(),
            stat: data.clone(),
            unlink: data,
            read_only: both,
        };
        let work = Work { blocks: count, reads: count, files: count };
        assert!(work.is_of(&many) && text(&many) <= work.longest_text());
    }

    #[test]
    fn a_page_knows_its_number() {
        let mut block = vec![0xa5; BLOCK as usize];
        number_pages(&mut block, 3);
        assert!(are_pages(&block, 3 * u64::from(PAGES)));
        assert!(!are_pages(&block, 2 * u64::from(PAGES)));
        assert!(!are_pages(&block[..5000], 3 * u64::from(PAGES)), "half a page");
        assert!(are_pages(&block[4096..8192], 3 * u64::from(PAGES) + 1));
    }
}
