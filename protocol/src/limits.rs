//! Every bound of the protocol, with what it stops.

/// Largest frame body, in bytes: bounds what one side can make the other hold at once. An [`Exec`]
/// with all its arguments and environment must fit.
///
/// [`Exec`]: crate::message::Exec
pub const MAX_FRAME: usize = 256 << 10;
/// Random bytes that a forked machine gets: the size of the key of Linux's generator.
pub const ENTROPY_BYTES: usize = 32;
/// Most commands that run at once: bounds the supervisor's processes and streams.
pub const MAX_COMMANDS: usize = 256;
/// Most arguments of a command, program included.
pub const MAX_ARGUMENTS: usize = 4096;
/// Most environment variables of a command.
pub const MAX_VARIABLES: usize = 1024;
/// Longest detail text in an event, in bytes: it ends on somebody's terminal.
pub const MAX_DETAIL: usize = 1024;
/// Longest time limit of a command, in milliseconds (30 days): keeps timer arithmetic far from overflow.
pub const MAX_TIMEOUT_MS: u64 = 30 * 24 * 3600 * 1000;
/// Most agents of a team: bounds the supervisor's containers, and keeps their ids apart.
pub const MAX_AGENTS: u32 = 64;
/// User and group ids of each agent, from 0: all that images use, and the customary number.
pub const IDS_PER_AGENT: u32 = 65_536;
/// Longest name of an agent, in bytes: a host name's label (RFC 1035 section 2.3.4).
pub const MAX_AGENT_NAME: usize = 63;
/// Most mounts of an agent beside its root.
pub const MAX_MOUNTS: usize = 64;
/// Longest name of a share, in bytes.
pub const MAX_SHARE_NAME: usize = 64;
/// Most executables, and most writable directories, that an agent's lists name.
pub const MAX_RULES: usize = 256;
/// Longest path, in bytes: Linux's `PATH_MAX` without its NUL.
pub const MAX_PATH: usize = 4095;
/// Longest host name, in bytes, without a dot at its end (RFC 1035, section 2.3.4: 255 with lengths).
pub const MAX_HOST_NAME: usize = 253;
/// Longest part of a host name, in bytes (RFC 1035, section 2.3.4).
pub const MAX_LABEL: usize = 63;
/// Most rules of an agent about names, and most about addresses: bounds what a query is held against.
pub const MAX_EGRESS_RULES: usize = 64;
/// Most ports of a rule about what may be reached.
pub const MAX_EGRESS_PORTS: usize = 16;
/// Least prefix of a range of addresses that may be reached: each of its at most 256 addresses has a socket
/// of its own for each port.
pub const MIN_EGRESS_PREFIX: u8 = 24;
/// Most sockets that listen for an agent, those of names and of addresses together; each takes a
/// descriptor and about 2 KiB of the guest's kernel.
pub const MAX_LISTENERS: usize = 1024;
/// Most streams of one agent to the outside at once: a descriptor pair and two buffers each.
pub const MAX_STREAMS_AGENT: usize = 128;
/// Most streams of all agents of a team at once: half of the connections that the vmm keeps for a machine, so
/// that commands and their streams have the other half.
pub const MAX_STREAMS_TEAM: usize = 512;
/// Least memory of an agent, in bytes: what the kernel and the container's own file systems need to start anything.
pub const MIN_MEMORY: u64 = 4 << 20;
/// Largest size in bytes of anything of an agent (1 PiB): keeps sums far from overflow.
pub const MAX_BYTES: u64 = 1 << 50;
/// Least size of a file system in memory, in bytes: one page, as 0 would mean no limit to the kernel.
pub const MIN_FILE_SYSTEM: u64 = 4096;
/// Least processor time of an agent, in thousandths of a processor: the kernel's least of 1 ms in each 100 ms.
pub const MIN_CPU_MILLIS: u64 = 10;
/// Most processor time of an agent: a thousand processors, more than a machine has.
pub const MAX_CPU_MILLIS: u64 = 1_000_000;
/// Least number of processes of an agent: its init, and one that starts another.
pub const MIN_PIDS: u64 = 3;
/// Most processes of an agent: Linux's `PID_MAX_LIMIT`.
pub const MAX_PIDS: u64 = 1 << 22;
/// Fewest open files of a process: a dynamically linked program needs some to start.
pub const MIN_OPEN_FILES: u64 = 16;
/// Most open files of a process: what the supervisor itself may have.
pub const MAX_OPEN_FILES: u64 = 524_288;
/// Fewest files in a file system in memory: its root and some more, as 0 would mean no limit to the kernel.
pub const MIN_FILES: u64 = 16;
/// Most files in a file system in memory: more than memory would hold.
pub const MAX_FILES: u64 = 1 << 30;
