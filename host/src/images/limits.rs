//! Every bound on what an image can make this host do. Each names what it stops.

/// Most layers of an image. Docker builds no more than 127.
pub const MAX_LAYERS: usize = 128;
/// Most files, directories and links that an image may make, counted over all layers. Stops an image
/// from using up the host's inodes. A full desktop distribution has about half a million.
pub const MAX_ENTRIES: u64 = 1_000_000;
/// Longest path of an entry, in bytes: Linux's PATH_MAX without its NUL.
pub const MAX_PATH: usize = 4095;
/// Longest name in a path, in bytes: Linux's NAME_MAX.
pub const MAX_NAME: usize = 255;
/// Most names in a path. Each level of a tree costs a descriptor when the tree is walked.
pub const MAX_DEPTH: usize = 256;
/// Largest file, and largest image over all layers, in bytes; holes count. Stops an image from
/// filling the disk, and from claiming a size that no reader can take.
pub const MAX_IMAGE_BYTES: u64 = 64 << 30;
/// Largest blob, in bytes, as it is stored or sent.
pub const MAX_BLOB_BYTES: u64 = 32 << 30;
/// What a layer may unpack to whatever its size, in bytes.
pub const FREE_EXPANSION: u64 = 256 << 20;
/// Beyond [`FREE_EXPANSION`], how many times its size a layer may unpack to. Stops small files that
/// unpack to huge ones: gzip reaches 1032, zstd more. Programs and text stay under 20.
pub const MAX_RATIO: u64 = 200;
/// Most bytes of one extended header of a tar archive (a long name, or attributes).
pub const MAX_EXTENSION: u64 = 1 << 20;
/// Most pieces of a sparse file.
pub const MAX_PIECES: usize = 65_536;
/// Most extended attributes of one entry that are kept.
pub const MAX_XATTRS: usize = 64;
/// Largest value of an extended attribute: Linux's XATTR_SIZE_MAX.
pub const MAX_XATTR_VALUE: usize = 65_536;
/// Largest manifest, configuration or index, in bytes. Registries take no larger manifest than this.
pub const MAX_JSON: u64 = 4 << 20;
/// Most manifests looked at in an index, and deepest nesting of indexes.
pub const MAX_INDEX: usize = 256;
/// An index of an index of a manifest is the most that tools make.
pub const MAX_NESTING: usize = 3;
/// Most members of an OCI or Docker archive: blobs and their folders.
pub const MAX_MEMBERS: usize = 10_000;
/// Most names in a store.
pub const MAX_NAMES: usize = 10_000;
/// Most bytes of the file of names: the most names, each with its digest and its times.
pub const MAX_NAMES_FILE: u64 = 16 << 20;
/// Largest logarithm of the window of a zstd frame, in bytes: 128 MiB of memory to unpack.
pub const MAX_ZSTD_WINDOW_LOG: u32 = 27;
/// Latest time of a file, in seconds: what ext4 can hold (year 2446). Others are moved to the bound.
pub const MAX_TIME: i64 = (1 << 34) - (1 << 31) - 1;

/// The bounds that a test sets lower than the constants.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// See [`MAX_ENTRIES`].
    pub entries: u64,
    /// See [`MAX_IMAGE_BYTES`].
    pub bytes: u64,
    /// See [`FREE_EXPANSION`].
    pub free_expansion: u64,
    /// See [`MAX_RATIO`].
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: MAX_ENTRIES,
            bytes: MAX_IMAGE_BYTES,
            free_expansion: FREE_EXPANSION,
            ratio: MAX_RATIO,
        }
    }
}
