//! Runs a program as its tracer and notes every system call: which thread, before or after that thread's
//! last filter, its number and arguments. Shared by the tests of the seccomp tables (`#[path]`).
//!
//! The clock's fast path is taken away at the start (the vDSO, as on a host whose clock has none), so that
//! the calls behind it are seen on every machine. A thread can be made to call a function of its own
//! program: that is how what no workload can bring about at will (an abort, a heap that must grow in this
//! thread of all) happens under the real filter.
#![expect(unsafe_code, reason = "ptrace has no safe interface")]

pub(crate) mod child;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Of the threads, those that the tables tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The first.
    Main,
    /// Every other.
    Other,
}

/// A system call that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    /// The thread's own filter was in force.
    pub(crate) confined: bool,
    pub(crate) number: u64,
    /// The low halves of its arguments, which are all that the tables look at.
    pub(crate) arguments: [u32; 6],
}

/// A call of a function of the program: where, and its first two arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Injected {
    pub(crate) kind: Kind,
    /// The thread is taken out of this call (its number), so it holds no lock of the library.
    pub(crate) after: i64,
    pub(crate) function: u64,
    pub(crate) arguments: [u64; 2],
}

/// As an argument of an injected call: what the call at this place among those of the same thread returned.
pub(crate) const fn result(place: u64) -> u64 {
    u64::MAX - place
}
/// How long a call may take to come; only a failing test ever waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// More results than any test names.
const RESULTS: u64 = 64;

/// What is shared with the tracing thread.
#[derive(Debug, Default)]
struct Shared {
    injected: Mutex<Vec<Vec<Injected>>>,
    seen: Mutex<BTreeSet<Seen>>,
    /// Something was seen for the first time.
    news: Condvar,
}

/// A program that is traced.
#[derive(Debug)]
pub(crate) struct Traced {
    pid: i32,
    shared: Arc<Shared>,
    thread: JoinHandle<i32>,
}

impl Traced {
    /// Starts `command`, confined by this filter from its execution on.
    pub(crate) fn start(mut command: Command, filter: Vec<libc::sock_filter>) -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let (told, pid) = std::sync::mpsc::channel();
        // Only the thread that starts a process can trace it in this way.
        let thread = std::thread::spawn(move || {
            let prepare = move || {
                request(libc::PTRACE_TRACEME, 0, 0, 0)?;
                confine(&filter)
            };
            // SAFETY: only system calls between fork and exec.
            unsafe { command.pre_exec(prepare) };
            let child = command.spawn().expect("the program");
            let pid = i32::try_from(child.id()).expect("a process");
            let mut tracer = Tracer::new(pid, &theirs);
            told.send(pid).expect("the test");
            let status = tracer.follow();
            // Its end has been collected here.
            drop((child, command));
            status
        });
        Self { pid: pid.recv().expect("a process"), shared, thread }
    }

    /// Has a thread call a function; it happens when the thread next comes out of the named call.
    pub(crate) fn inject(&self, injected: Injected) {
        self.inject_all(&[injected]);
    }

    /// The same for several, one right after the other in one thread.
    pub(crate) fn inject_all(&self, injected: &[Injected]) {
        self.shared.injected.lock().expect("the tracer").push(injected.to_vec());
    }

    /// Whether every function that was to be called has been.
    pub(crate) fn injected_all(&self) -> bool {
        self.shared.injected.lock().expect("the tracer").is_empty()
    }

    /// Waits for a confined thread to make this call.
    pub(crate) fn await_call(&self, number: i64) {
        let seen = self.shared.seen.lock().expect("the tracer");
        let missing = |seen: &mut BTreeSet<Seen>| {
            !seen.iter().any(|seen| seen.confined && seen.number == number.cast_unsigned())
        };
        let waited = self.shared.news.wait_timeout_while(seen, PATIENCE, missing);
        assert!(!waited.expect("the tracer").1.timed_out(), "call {number} does not come");
    }

    /// Sets a resource limit of it.
    pub(crate) fn limit(&self, resource: u32, limit: libc::rlimit) {
        // SAFETY: a live structure; nothing is written back.
        let set =
            unsafe { libc::prlimit(self.pid, resource, &raw const limit, std::ptr::null_mut()) };
        assert_eq!(set, 0, "{}", io::Error::last_os_error());
    }

    /// Waits for its end: what was called, and the status as `waitpid` tells it.
    pub(crate) fn finish(self) -> (BTreeSet<Seen>, i32) {
        let status = self.thread.join().expect("the tracer");
        (std::mem::take(&mut self.shared.seen.lock().expect("the tracer")), status)
    }
}

fn request(what: libc::c_uint, pid: i32, address: u64, data: u64) -> io::Result<i64> {
    // SAFETY: for the requests used here, `data` is a number or the address of a live value of the type
    // that the request takes; it changes nothing else of this process.
    let result = unsafe { libc::ptrace(what, pid, address, data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn confine(filter: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    // SAFETY: numbers.
    let gained = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program and its instructions live.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, mode, 0, &raw const program) };
    if gained == 0 && set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn low(argument: u64) -> u32 {
    let [a, b, c, d, ..] = argument.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

struct Thread {
    kind: Kind,
    confined: bool,
    /// The call that it is in.
    call: Option<(u64, [u64; 6])>,
    /// Where it goes on after the functions that it was made to call, which are still to come, what came of
    /// those before.
    saved: Option<libc::user_regs_struct>,
    next: VecDeque<Injected>,
    results: Vec<u64>,
}

struct Tracer<'a> {
    pid: i32,
    threads: BTreeMap<i32, Thread>,
    shared: &'a Shared,
}

/// Stops of system calls are marked with this bit (ptrace(2)).
const CALL_STOP: i32 = libc::SIGTRAP | 0x80;
/// Where a function that was injected returns to: nothing is there, and the fault tells its end.
const NOWHERE: u64 = 0x10;

impl<'a> Tracer<'a> {
    /// Of a child that has just stopped at its execution.
    fn new(pid: i32, shared: &'a Shared) -> Self {
        let (first, status) = wait(pid).expect("a child");
        assert!(first == pid && libc::WIFSTOPPED(status), "{status:#x}");
        let options =
            libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
        let options = u64::from(options.unsigned_abs());
        request(libc::PTRACE_SETOPTIONS, pid, 0, options).expect("options");
        let mut tracer = Self { pid, threads: BTreeMap::new(), shared };
        tracer.threads.insert(pid, Thread::new(Kind::Main));
        tracer.hide_fast_clock();
        request(libc::PTRACE_SYSCALL, pid, 0, 0).expect("it goes on");
        tracer
    }

    /// Of a thread that stands still.
    fn word(thread: i32, address: u64) -> u64 {
        // The C library's function returns the word itself; an error can't be told from it.
        request(libc::PTRACE_PEEKDATA, thread, address, 0).unwrap_or(-1).cast_unsigned()
    }

    /// The kernel tells a program where the vDSO lies by a pair of words above its environment.
    fn hide_fast_clock(&self) {
        const VDSO: u64 = 33;
        const IGNORE: u64 = 1;
        let mut at = self.registers(self.pid).rsp;
        at += 8 * (Self::word(self.pid, at) + 2);
        while Self::word(self.pid, at) != 0 {
            at += 8;
        }
        at += 8;
        loop {
            match Self::word(self.pid, at) {
                0 => return,
                VDSO => {
                    request(libc::PTRACE_POKEDATA, self.pid, at, IGNORE).expect("its stack");
                    return;
                }
                _ => at += 16,
            }
        }
    }

    fn registers(&self, thread: i32) -> libc::user_regs_struct {
        // SAFETY: all zeros is a value of this structure of numbers.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        request(libc::PTRACE_GETREGS, thread, 0, (&raw mut registers) as u64).expect("registers");
        registers
    }

    fn set_registers(&self, thread: i32, registers: &libc::user_regs_struct) {
        request(libc::PTRACE_SETREGS, thread, 0, std::ptr::from_ref(registers) as u64)
            .expect("registers");
    }

    /// Up to the end of the process; its status.
    fn follow(&mut self) -> i32 {
        let mut end = 0;
        while let Some((thread, status)) = wait(-1) {
            if !libc::WIFSTOPPED(status) {
                if thread == self.pid {
                    end = status;
                }
                self.threads.remove(&thread);
                continue;
            }
            let deliver = self.stopped(thread, status);
            // Gone meanwhile: its end comes next.
            request(libc::PTRACE_SYSCALL, thread, 0, deliver).ok();
        }
        end
    }

    /// Handles a stop; the signal that the thread is to get.
    fn stopped(&mut self, thread: i32, status: i32) -> u64 {
        let signal = libc::WSTOPSIG(status);
        self.threads.entry(thread).or_insert_with(|| Thread::new(Kind::Other));
        if signal == CALL_STOP {
            self.at_call(thread);
            return 0;
        }
        // The stop of a new thread, and of who made it.
        if status >> 16 != 0 || signal == libc::SIGSTOP {
            return 0;
        }
        if signal == libc::SIGSEGV && self.returned(thread) {
            return 0;
        }
        u64::from(signal.unsigned_abs())
    }

    fn at_call(&mut self, thread: i32) {
        // SAFETY: all zeros is a value of this structure of numbers.
        let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
        let size = size_of_val(&info) as u64;
        let asked = request(libc::PTRACE_GET_SYSCALL_INFO, thread, size, (&raw mut info) as u64);
        // Killed meanwhile.
        if asked.is_err() {
            return;
        }
        if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
            // SAFETY: the operation says which member the kernel filled.
            let entry = unsafe { info.u.entry };
            let Some(of) = self.threads.get_mut(&thread) else { return };
            of.call = Some((entry.nr, entry.args));
            let arguments = entry.args.map(low);
            let (kind, confined) = (of.kind, of.confined);
            let seen = Seen { kind, confined, number: entry.nr, arguments };
            if self.shared.seen.lock().expect("the test").insert(seen) {
                self.shared.news.notify_all();
            }
            let by_path = entry.nr == libc::SYS_openat.cast_unsigned()
                && arguments[0] == libc::AT_FDCWD.cast_unsigned();
            if by_path && confined {
                self.find_nothing(thread, entry.args[1]);
            }
        } else if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            // SAFETY: as above.
            let exit = unsafe { info.u.exit };
            self.left_call(thread, exit.sval);
        }
    }

    /// In a jail there is no file that a path would find: the path becomes its own end, which is empty.
    fn find_nothing(&self, thread: i32, path: u64) {
        if Self::word(thread, path) & 0xff != u64::from(b'/') {
            return;
        }
        let mut end = path;
        while Self::word(thread, end) & 0xff != 0 {
            end += 1;
        }
        let mut registers = self.registers(thread);
        registers.rsi = end;
        self.set_registers(thread, &registers);
    }

    fn left_call(&mut self, thread: i32, result: i64) {
        let Some(of) = self.threads.get_mut(&thread) else { return };
        let Some((number, arguments)) = of.call.take() else { return };
        if number == libc::SYS_seccomp.cast_unsigned() && result == 0 && arguments[0] == 1 {
            of.confined = true;
            // SECCOMP_FILTER_FLAG_TSYNC: every thread.
            if arguments[1] & 1 != 0 {
                self.threads.values_mut().for_each(|thread| thread.confined = true);
            }
            return;
        }
        let ready = of.confined && of.saved.is_none();
        let kind = of.kind;
        let mut injected = self.shared.injected.lock().expect("the test");
        let waits =
            |next: &Injected| ready && next.kind == kind && next.after.cast_unsigned() == number;
        let next = injected.iter().position(|calls| calls.first().is_some_and(waits));
        let Some(next) = next.map(|next| injected.remove(next)) else { return };
        drop(injected);
        let saved = self.registers(thread);
        let Some(of) = self.threads.get_mut(&thread) else { return };
        of.next = next.into();
        of.saved = Some(saved);
        of.results.clear();
        self.call_next(thread, saved);
    }

    /// Has the thread call what is next, or go on where it was.
    fn call_next(&mut self, thread: i32, saved: libc::user_regs_struct) {
        let Some(of) = self.threads.get_mut(&thread) else { return };
        let Some(call) = of.next.pop_front() else {
            of.saved = None;
            self.set_registers(thread, &saved);
            return;
        };
        let given = call.arguments.map(|argument| match u64::MAX - argument {
            place if place < RESULTS => of.results[usize::try_from(place).expect("a place")],
            _ => argument,
        });
        let mut registers = saved;
        // Below what a leaf function may use, aligned as at a function's entry.
        registers.rsp = ((saved.rsp - 512) & !0xf) - 8;
        registers.rip = call.function;
        [registers.rdi, registers.rsi] = given;
        // Not in a system call any more: nothing is to be started again.
        registers.orig_rax = u64::MAX;
        request(libc::PTRACE_POKEDATA, thread, registers.rsp, NOWHERE).expect("its stack");
        self.set_registers(thread, &registers);
    }

    /// After an injected function: the next, or where the thread was.
    fn returned(&mut self, thread: i32) -> bool {
        let registers = self.registers(thread);
        let Some(of) = self.threads.get_mut(&thread) else { return false };
        let Some(saved) = of.saved.filter(|_| registers.rip == NOWHERE) else { return false };
        of.results.push(registers.rax);
        self.call_next(thread, saved);
        true
    }
}

impl Thread {
    const fn new(kind: Kind) -> Self {
        Self {
            kind,
            confined: false,
            call: None,
            saved: None,
            next: VecDeque::new(),
            results: Vec::new(),
        }
    }
}

/// The next stop or end of what this very thread traces; `None`: there is nothing left.
fn wait(pid: i32) -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: a live number.
    let thread = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
    (thread > 0).then_some((thread, status))
}

/// Where a function of a static program lies: by its symbols (ELF-64, `.symtab`). The first whose name
/// fits.
pub(crate) fn function(program: &Path, fits: impl Fn(&str) -> bool) -> u64 {
    let file = std::fs::read(program).expect("the program");
    let number = |at: usize, bytes: usize| {
        let mut whole = [0; 8];
        whole[..bytes].copy_from_slice(&file[at..at + bytes]);
        u64::from_le_bytes(whole)
    };
    let place = |at: usize| usize::try_from(number(at, 8)).expect("a place in the file");
    let (sections, count) = (place(0x28), number(0x3c, 2));
    for index in 0..usize::try_from(count).expect("a count") {
        let section = sections + 64 * index;
        if number(section + 4, 4) != 2 {
            continue;
        }
        let (start, length) = (place(section + 24), place(section + 32));
        let linked = usize::try_from(number(section + 40, 4)).expect("a section");
        let names = place(sections + 64 * linked + 24);
        for symbol in (start..start + length).step_by(24) {
            let name = names + usize::try_from(number(symbol, 4)).expect("a name");
            let bytes = file[name..].split(|byte| *byte == 0).next().unwrap_or_default();
            if std::str::from_utf8(bytes).is_ok_and(&fits) && number(symbol + 8, 8) != 0 {
                return number(symbol + 8, 8);
            }
        }
    }
    panic!("no such function in {}", program.display());
}
