//! Every bound on what a team file can say, and every default that is a number. Each names what it stops.

use cloister_protocol::limits::MAX_TIMEOUT_MS;
use cloister_vmm::spec::{MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// The least and the most that a value may be, and what it is when nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Included.
    pub least: u64,
    /// Included.
    pub most: u64,
    /// The default, if it is a number and always the same.
    pub usual: Option<u64>,
}

impl Bounds {
    const fn new(least: u64, most: u64, usual: u64) -> Self {
        Self { least, most, usual: Some(usual) }
    }

    const fn without_default(least: u64, most: u64) -> Self {
        Self { least, most, usual: None }
    }

    /// Whether a value is in them.
    #[must_use]
    pub const fn hold(&self, value: u64) -> bool {
        self.least <= value && value <= self.most
    }
}

/// Largest team file and largest file of variables, in bytes. A team of the most agents, each written
/// out in full, has about 100 KiB. Stops a file from making every later bound large.
pub const MAX_FILE: u64 = 256 * KIB;
/// Most mistakes that are told at once: more are no help to anybody, and each holds a line of the file.
pub const MAX_MISTAKES: usize = 100;
/// Bytes that an agent's connections may carry in one direction, if they are bounded. No more than a disk or a year's
/// traffic; less than a few KiB carries no TLS.
pub const QUOTA: Bounds = Bounds::without_default(4 * KIB, 1024 * TIB);
/// Most agents of a team: each is a control group, six namespaces and a supervisor's process or two.
pub const MAX_AGENTS: usize = 64;
/// Most mounts of an agent: each is a share of the file server, and a mount of the container.
pub const MAX_MOUNTS: usize = 64;
/// Most volumes of a team.
pub const MAX_VOLUMES: usize = 64;
/// Most outputs of an agent.
pub const MAX_OUTPUTS: usize = 64;
/// Most mounts, and most outputs, of all agents of a team together. Each holds a descriptor: with two for
/// each image they stay below the usual 1024 of a process.
pub const MAX_TEAM_MOUNTS: usize = 256;
/// Most paths in `executables` or `writable-directories`: each is a rule of Landlock.
pub const MAX_PATHS: usize = 256;
/// Most variables in `variables` or its file.
pub const MAX_TEAM_VARIABLES: usize = 1024;
/// Longest name of a team, an agent or a volume, in bytes: they become names of directories, control
/// groups and hosts.
pub const MAX_NAME: usize = 32;
/// Longest text, in bytes, after its variables were put in.
pub const MAX_TEXT: usize = 32 << 10;
/// Longest path, in bytes: Linux's PATH_MAX without its NUL.
pub const MAX_PATH: usize = 4095;
/// Longest name in a path, in bytes: Linux's NAME_MAX.
pub const MAX_PATH_NAME: usize = 255;
/// Most bytes of an agent's command, arguments and environment together: with all the rest they must
/// fit into one frame of the protocol (256 KiB).
pub const MAX_SPEC_TEXT: usize = 128 << 10;
/// Largest user or group id: an agent's user namespace has 65,536 of each.
pub const MAX_ID: u32 = 65_535;
/// Most supplementary groups of a user that are taken from an image.
pub const MAX_GROUPS: usize = 64;
/// Largest `/etc/passwd` or `/etc/group` that is read, of an image or of the host, in bytes.
pub const MAX_ACCOUNTS: u64 = MIB;
/// Most places in the operator's list of mounts.
pub const MAX_PLACES: usize = 1024;

/// vCPUs of the machine: what a vmm can have. The default is what the agents' shares come to.
pub const MACHINE_CPUS: Bounds = Bounds::without_default(1, MAX_VCPUS as u64);
/// Memory of the machine, in bytes: what a vmm can have. The default is what its agents may use and
/// [`machine_overhead`].
pub const MACHINE_MEMORY: Bounds =
    Bounds::without_default((MIN_MEMORY_MIB as u64) * MIB, (MAX_MEMORY_MIB as u64) * MIB);
/// What the machine needs beside its agents, in bytes: kernel, supervisor, and the cache of the files
/// that agents share.
pub const MACHINE_BASE: u64 = 96 * MIB;

/// CPU of an agent, in thousandths of a CPU. Less than a hundredth is under the scheduler's own slice
/// (1 ms of 100 ms), more than the machine can have is nothing.
pub const CPUS: Bounds = Bounds::new(10, MAX_VCPUS as u64 * 1000, 500);
/// Memory of an agent, in bytes. A shell alone needs a few MiB.
pub const MEMORY: Bounds = Bounds::new(8 * MIB, TIB, 256 * MIB);
/// Processes and threads of an agent. Stops a fork bomb; 32,768 is the kernel's usual count for all.
pub const PIDS: Bounds = Bounds::new(1, 32_768, 128);
/// `/tmp` of an agent, in bytes; it lies in the agent's memory. The default is a quarter of the memory,
/// at most 64 MiB.
pub const TMP: Bounds = Bounds::without_default(64 * KIB, TIB);
/// See [`TMP`].
pub const USUAL_TMP: u64 = 64 * MIB;
/// What a writable root may hold, in bytes; it lies in the agent's memory.
pub const WRITABLE_ROOT: Bounds = Bounds::without_default(64 * KIB, TIB);
/// Files and directories in `/tmp`, and as many in a writable root. Each costs the guest's kernel about
/// 1 KiB that no file's size counts.
pub const FILES: Bounds = Bounds::new(16, 10_000_000, 16_384);
/// Open files of each of an agent's processes. 1,048,576 is the most that the kernel gives.
pub const OPEN_FILES: Bounds = Bounds::new(16, 1_048_576, 1024);
/// Largest file that an agent can write, in bytes. Stops a runaway log from filling the host's disk
/// through one file of a mount.
pub const FILE_SIZE: Bounds = Bounds::new(4 * KIB, 16 * TIB, GIB);
/// How long an agent may run, in milliseconds. The most is the protocol's.
pub const TIME_LIMIT: Bounds = Bounds::without_default(100, MAX_TIMEOUT_MS);
/// How often an agent is started again. An agent that fails a thousand times will not succeed.
pub const RESTARTS: Bounds = Bounds::without_default(1, 1000);
/// A TCP port.
pub const PORT: Bounds = Bounds::without_default(1, 65_535);
/// The pause before the first restart, in milliseconds; it doubles each time, up to the bound. Stops an
/// agent that fails at once from costing a whole CPU.
pub const BACK_OFF: Bounds = Bounds::new(100, 3_600_000, 1000);

/// What a machine needs beside `agents` bytes of its agents' memory: the base, and the kernel's table of
/// pages (64 bytes for each page of 4 KiB), rounded up generously.
#[must_use]
pub const fn machine_overhead(agents: u64) -> u64 {
    MACHINE_BASE.saturating_add(agents / 32)
}

/// The memory of a machine for agents that may use `agents` bytes: whole MiB.
#[must_use]
pub const fn machine_memory(agents: u64) -> u64 {
    let bytes = agents.saturating_add(machine_overhead(agents));
    bytes.div_ceil(MIB).saturating_mul(MIB)
}
