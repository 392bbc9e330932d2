//! Every number that bounds what a guest, a vmm or a host can make the server do.

/// Most bytes of one read or write: what one FUSE request carries at most (256 pages).
pub const MAX_DATA: usize = 1 << 20;
/// Most bytes of a request beside its data: header, arguments, two names, a symbolic link's target.
pub const MAX_REQUEST_HEAD: usize = 4 << 10;
/// Bytes of a slot of the bounce area: the longest request or the longest reply.
pub const SLOT_BYTES: usize = MAX_DATA + MAX_REQUEST_HEAD;
/// Slots: what a Linux guest has in flight in the background (12) with room for its foreground, and
/// two for the queue of forgets and interrupts. Each that was used keeps its pages: 18 MiB in all.
pub const SLOTS: u32 = 18;
/// Threads that handle requests. Each can wait for a disk, so one is too few; the guest's processors
/// are few, so many would only take memory.
pub const WORKERS: usize = 4;
/// Longest request that is not a write: an extended attribute of the kernel's largest size (64 KiB),
/// its name, and the head.
pub const MAX_PRIVATE_REQUEST: usize = (64 << 10) + MAX_REQUEST_HEAD;
/// Longest name in a directory, as Linux has it.
pub const MAX_NAME: usize = 255;
/// Longest target of a symbolic link, without its NUL, as Linux has it.
pub const MAX_TARGET: usize = 4095;
/// Descriptors that the server needs for itself: slots, shares, one for each worker's request in hand.
pub const OWN_DESCRIPTORS: u64 = 512;
/// Of the descriptors that guests can take, one in this many is for open files and locks; the others
/// are for known files, of which a guest's kernel keeps far more.
pub const HANDLE_SHARE: u64 = 8;
/// Least descriptors to start with (`RLIMIT_NOFILE`): below it a guest could not list one directory.
pub const MIN_DESCRIPTORS: u64 = 1024;
/// Most ranges of files that a share's guest has locked. Each is some memory of the server and of the host's kernel;
/// a database has a handful.
pub const MAX_LOCKED_RANGES: usize = 16 << 10;
/// Longest state of a server that another takes up: far more than what the files of the next two lines take with names
/// of usual length.
pub const MAX_STATE_BYTES: usize = 32 << 20;
/// Most known files of a state, directories on the way to them included. Finding the name of one takes some 50 µs, and all
/// their names some 100 MiB of the server.
pub const MAX_CARRIED_NODES: usize = 256 << 10;
/// Most open files of a state, those for locks included.
pub const MAX_CARRIED_OPEN: usize = 64 << 10;
/// How long the names of known files are looked for. A second for some ten thousand; where the system does not tell a file's name
/// (it has several, and lost one) the library looks through the whole share.
pub const SEARCH_SECONDS: u64 = 30;
/// Longest path that a refusal names, in bytes: it goes in one message.
pub const MAX_TOLD_PATH: usize = 512;
