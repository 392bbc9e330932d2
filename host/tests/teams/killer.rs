//! Follows a command and all that it starts, and kills one process of them right before one of its system
//! calls.
#![expect(unsafe_code, reason = "ptrace has no safe interface")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

/// Which process of a team it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// `cloister up`, which starts the warden.
    Starter,
    Warden,
    /// `cloister exec`.
    Session,
    /// `cloister down`.
    Ender,
    /// `cloister suspend`, `resume` and `checkpoint`.
    Keeper,
    /// The jailer, outside and inside the jail, up to the execution.
    Jailer,
    /// The jailer that makes the mount of a share.
    Mounter,
    FileServer,
    Vmm,
    /// What else is there: the guest's commands.
    Other,
}

/// Those that are killed.
pub(crate) const ROLES: [Role; 8] = [
    Role::Starter,
    Role::Warden,
    Role::Session,
    Role::Ender,
    Role::Jailer,
    Role::Mounter,
    Role::FileServer,
    Role::Vmm,
];

/// Where to kill: the step of all processes of this role together, from 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) role: Role,
    pub(crate) step: usize,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Followed {
    /// How many steps each role had, up to the kill.
    pub(crate) steps: BTreeMap<Role, usize>,
    /// The system call before which the process was killed.
    pub(crate) killed: Option<u64>,
}

/// Calls that change nothing that anybody else could see: no steps.
const QUIET: [i64; 40] = [
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_readv,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_geteuid,
    libc::SYS_getuid,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_epoll_wait,
    libc::SYS_poll,
    libc::SYS_arch_prctl,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
];

fn request(what: libc::c_uint, pid: i32, address: u64, data: u64) -> io::Result<()> {
    // SAFETY: for the requests used here, `data` is a number or the address of a live value of the type
    // that the request takes; it changes nothing else of this process.
    let result = unsafe { libc::ptrace(what, pid, address, data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Runs a command and kills at `point`, if it comes to that. What else runs goes on, and so does the
/// command, for which the caller waits.
pub(crate) fn follow(mut command: Command, point: Point) -> (Followed, Child) {
    // When the tracing thread ends, the kernel lets go of everything that it traced.
    let thread = std::thread::spawn(move || {
        // SAFETY: one system call between fork and exec.
        unsafe { command.pre_exec(|| request(libc::PTRACE_TRACEME, 0, 0, 0)) };
        let child = command.spawn().expect("the command");
        let pid = i32::try_from(child.id()).expect("a process");
        let mut follower = Follower {
            root: pid,
            roles: BTreeMap::new(),
            early: BTreeSet::new(),
            inside: BTreeMap::new(),
            steps: BTreeMap::new(),
            point,
        };
        let killed = follower.run();
        (Followed { steps: follower.steps, killed }, child)
    });
    thread.join().expect("the tracer")
}

struct Follower {
    root: i32,
    roles: BTreeMap<i32, Role>,
    /// New ones that stopped before their maker told of them: they wait for it. Else what it tells could come after
    /// they have executed another program, whose role would be lost.
    early: BTreeSet<i32>,
    /// Threads between the entry and the end of a call.
    inside: BTreeMap<i32, bool>,
    steps: BTreeMap<Role, usize>,
    point: Point,
}

impl Follower {
    fn run(&mut self) -> Option<u64> {
        let (first, status) = wait()?;
        assert!(first == self.root && libc::WIFSTOPPED(status), "{status:#x}");
        let options = libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEFORK
            | libc::PTRACE_O_TRACEVFORK
            | libc::PTRACE_O_TRACEEXEC;
        request(libc::PTRACE_SETOPTIONS, first, 0, u64::from(options.unsigned_abs()))
            .expect("options");
        self.roles.insert(first, Role::Other);
        request(libc::PTRACE_SYSCALL, first, 0, 0).ok();
        while let Some((thread, status)) = wait() {
            if !libc::WIFSTOPPED(status) {
                self.roles.remove(&thread);
                self.inside.remove(&thread);
                if thread == self.root {
                    return None;
                }
                // It may have been the maker of one that waits for its word.
                for new in std::mem::take(&mut self.early) {
                    request(libc::PTRACE_SYSCALL, new, 0, 0).ok();
                }
                continue;
            }
            let signal = libc::WSTOPSIG(status);
            let mut deliver = 0;
            match status >> 16 {
                0 if signal == libc::SIGTRAP | 0x80 => {
                    if let Some(call) = self.at_call(thread) {
                        return Some(call);
                    }
                }
                // The first stop of a new one.
                0 if signal == libc::SIGSTOP && !self.roles.contains_key(&thread) => {
                    self.early.insert(thread);
                    continue;
                }
                0 if signal == libc::SIGSTOP => {}
                0 => deliver = signal.unsigned_abs().into(),
                libc::PTRACE_EVENT_EXEC => {
                    self.roles.insert(thread, role(thread));
                }
                libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK => {
                    self.born(thread);
                }
                _ => {}
            }
            // Gone meanwhile: its end comes next.
            request(libc::PTRACE_SYSCALL, thread, 0, deliver).ok();
        }
        None
    }

    /// A thread has made a new one, which is what it is itself.
    fn born(&mut self, thread: i32) {
        let mut new = 0_u64;
        if request(libc::PTRACE_GETEVENTMSG, thread, 0, (&raw mut new) as u64).is_err() {
            return;
        }
        let new = i32::try_from(new).expect("a thread");
        let of = self.roles.get(&thread).copied().unwrap_or(Role::Other);
        self.roles.insert(new, of);
        if self.early.remove(&new) {
            request(libc::PTRACE_SYSCALL, new, 0, 0).ok();
        }
    }

    /// At the entry or the end of a call; the call, if it was the one.
    fn at_call(&mut self, thread: i32) -> Option<u64> {
        let inside = self.inside.entry(thread).or_default();
        *inside = !*inside;
        if !*inside {
            return None;
        }
        // SAFETY: all zeros is a value of this structure of numbers.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        request(libc::PTRACE_GETREGS, thread, 0, (&raw mut registers) as u64).ok()?;
        let call = registers.orig_rax;
        if QUIET.iter().any(|quiet| quiet.cast_unsigned() == call) {
            return None;
        }
        let role = self.roles.get(&thread).copied().unwrap_or(Role::Other);
        let steps = self.steps.entry(role).or_default();
        *steps += 1;
        if role != self.point.role || *steps != self.point.step {
            return None;
        }
        // SAFETY: numbers; the thread stands still under this tracer, so it is there.
        unsafe { libc::kill(thread_group(thread), libc::SIGKILL) };
        Some(call)
    }
}

/// The process of a thread.
fn thread_group(thread: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|id| id.trim().parse().ok()).unwrap_or(thread)
}

/// What a program that has just been executed is.
fn role(process: i32) -> Role {
    let words = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    let has = |word: &[u8]| words.contains(&word);
    let program = words.first().copied().unwrap_or_default();
    let named = |name: &[u8]| program.ends_with(name);
    if named(b"cloister-vmm") {
        Role::Vmm
    } else if named(b"cloister-file-server") {
        Role::FileServer
    } else if named(b"cloister-jailer") {
        if has(b"share") { Role::Mounter } else { Role::Jailer }
    } else if named(b"cloister") || named(b"exe") {
        match () {
            () if has(b"warden") => Role::Warden,
            () if has(b"up") => Role::Starter,
            () if has(b"exec") => Role::Session,
            () if has(b"down") => Role::Ender,
            () if has(b"suspend") || has(b"resume") || has(b"checkpoint") => Role::Keeper,
            () => Role::Other,
        }
    } else {
        Role::Other
    }
}

/// The next stop or end of what this very thread traces; `None`: there is nothing left.
fn wait() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: a live number.
    let thread = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
    (thread > 0).then_some((thread, status))
}
