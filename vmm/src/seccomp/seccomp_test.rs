use std::cell::Cell;
use std::collections::BTreeSet;

use seccompiler::sock_filter;

use super::policy::{Check, TABLE, Thread};
use super::program::compile;

#[test]
fn every_line_has_a_reason() {
    assert!(TABLE.iter().all(|line| !line.reason.is_empty()));
}

#[test]
fn nothing_opens_or_connects() {
    let forbidden = [
        libc::SYS_open,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_ptrace,
        libc::SYS_stat,
        libc::SYS_newfstatat,
        libc::SYS_unlink,
        libc::SYS_mount,
    ];
    for call in forbidden {
        assert!(TABLE.iter().all(|line| i64::from(line.call) != call), "{call}");
    }
}

#[test]
fn the_lists_stay_short() {
    let count = |thread: Thread| {
        let lines = TABLE.iter().filter(|line| thread.has(line));
        lines.map(|line| line.call).collect::<BTreeSet<u32>>().len()
    };
    assert!(count(Thread::Vcpu) <= 35, "{}", count(Thread::Vcpu));
    assert!(count(Thread::Loop) <= 45, "{}", count(Thread::Loop));
    // Of `ioctl` only more arguments; an event loop has no `lseek` otherwise.
    assert_eq!(count(Thread::SavableVcpu), count(Thread::Vcpu));
    assert_eq!(count(Thread::SavableLoop), count(Thread::Loop) + 1);
}

thread_local! {
    /// What children of [`in_child`] have for their standard error; none: the test's. Other tests run meanwhile.
    static WRITE_END: Cell<i32> = const { Cell::new(-1) };
}

/// Runs `act` in a confined child and returns how the child ended.
#[expect(unsafe_code, reason = "fork for a test that ends in a kill")]
fn in_child(thread: Thread, act: fn()) -> i32 {
    // Compiled before the fork: the child of a threaded test process must not allocate much.
    let program = compile(TABLE, thread).unwrap();
    let stderr = WRITE_END.get();
    // SAFETY: the child only makes system calls and exits.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        if stderr >= 0 {
            // SAFETY: replaces a descriptor of the child's own.
            unsafe { libc::dup2(stderr, 2) };
        }
        let applied = crate::sys::install_trap_handler().is_ok()
            && seccompiler::apply_filter(&program).is_ok();
        if applied {
            act();
        }
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::syscall(libc::SYS_exit_group, i32::from(!applied)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    status
}

#[test]
fn an_allowed_call_passes_and_any_other_kills() {
    assert_eq!(in_child(Thread::Loop, || {}), 0);
    let opens = || {
        std::fs::File::open("/dev/null").ok();
    };
    let status = in_child(Thread::Loop, opens);
    assert!(libc::WIFSIGNALED(status), "{status:#x}");
    assert_eq!(libc::WTERMSIG(status), libc::SIGSYS);
}

#[test]
#[expect(unsafe_code, reason = "a pipe in place of standard error, and a call that is not allowed")]
fn a_call_that_is_not_allowed_is_told_with_its_number() {
    let mut ends = [-1; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    let [read, write] = ends;
    WRITE_END.set(write);
    let act = || {
        // SAFETY: no pointer; the filter stops the call.
        unsafe { libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0) };
    };
    let status = in_child(Thread::Vcpu, act);
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS, "{status:#x}");
    let mut text = [0_u8; 128];
    // SAFETY: a live buffer and its length.
    let count = unsafe { libc::read(read, text.as_mut_ptr().cast(), text.len()) };
    let text = String::from_utf8_lossy(&text[..usize::try_from(count).unwrap()]).into_owned();
    assert_eq!(text, "cloister-vmm: system call 41 is not allowed\n");
}

#[test]
#[expect(unsafe_code, reason = "calls mmap as an attacker would")]
fn executable_memory_kills() {
    let maps = || {
        let prot = libc::PROT_READ | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping; the filter kills before it is made.
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0) };
    };
    let status = in_child(Thread::Loop, maps);
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS, "{status:#x}");
}

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const TRAP: u32 = 0x0003_0000;

/// Runs a program as the kernel would. `data`: number, architecture, address, six arguments.
fn run(program: &[sock_filter], call: u32, architecture: u32, arguments: [u64; 6]) -> u32 {
    let (mut accumulator, mut place) = (0, 0);
    loop {
        let step = &program[place];
        place += 1;
        let holds = match step.code {
            0x20 => {
                accumulator = match step.k {
                    0 => call,
                    4 => architecture,
                    at => {
                        let at = at as usize - 16;
                        let bytes = arguments[at / 8].to_le_bytes();
                        let word = bytes[at % 8..].first_chunk().unwrap();
                        u32::from_le_bytes(*word)
                    }
                };
                continue;
            }
            0x15 => accumulator == step.k,
            0x35 => accumulator >= step.k,
            0x45 => accumulator & step.k != 0,
            0x06 => return step.k,
            other => panic!("instruction {other:#x}"),
        };
        place += usize::from(if holds { step.jt } else { step.jf });
    }
}

fn holds(check: Check, arguments: [u64; 6]) -> bool {
    let low = |argument: u32| arguments[argument as usize] & u64::from(u32::MAX);
    match check {
        Check::Any => true,
        Check::Is { argument, value } => low(argument) == u64::from(value),
        Check::Lacks { argument, bits } => low(argument) & u64::from(bits) == 0,
    }
}

#[test]
fn the_program_says_what_the_table_says() {
    const X86_64: u32 = 0xc000_003e;
    for thread in Thread::ALL {
        let program = compile(TABLE, thread).unwrap();
        let mut values: BTreeSet<u64> = [0, 1, 2, 3, 4, 7, u64::from(u32::MAX)].into();
        values.extend(TABLE.iter().filter_map(|line| match line.check {
            Check::Is { value, .. } => Some(u64::from(value)),
            _ => None,
        }));
        let numbers = (0..1024).chain([0x4000_0000, 0x4000_0001, u32::MAX]);
        for call in numbers {
            for value in &values {
                let arguments = [*value, *value, *value, 99, 99, 99];
                let allowed = TABLE.iter().any(|line| {
                    let same = line.call == call && thread.has(line);
                    same && holds(line.check, arguments)
                });
                let expected = if allowed { ALLOW } else { TRAP };
                assert_eq!(run(&program, call, X86_64, arguments), expected, "{call} {value:#x}");
            }
            assert_eq!(run(&program, call, 0x4000_0003, [0; 6]), KILL, "{call} as 32 bits");
        }
        assert_eq!(run(&program, super::LAST_CALL, X86_64, [0; 6]), KILL);
    }
}
