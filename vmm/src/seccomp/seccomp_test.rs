use super::*;

#[test]
fn every_line_has_a_reason() {
    assert!(policy::TABLE.iter().all(|line| !line.reason.is_empty()));
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
        assert!(policy::TABLE.iter().all(|line| line.call != call), "{call}");
    }
}

#[test]
fn the_lists_stay_short() {
    let count = |thread| policy::TABLE.iter().filter(|line| line.threads.contains(&thread)).count();
    assert!(count(Thread::Vcpu) <= 35, "{}", count(Thread::Vcpu));
    assert!(count(Thread::Loop) <= 45, "{}", count(Thread::Loop));
}

/// Runs `act` in a confined child and returns how the child ended.
#[expect(unsafe_code, reason = "fork for a test that ends in a kill")]
fn in_child(thread: Thread, act: fn()) -> i32 {
    // Compiled before the fork: the child of a threaded test process must not allocate much.
    let program = compile(thread).unwrap();
    // SAFETY: the child only makes system calls and exits.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let applied = seccompiler::apply_filter(&program).is_ok();
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
