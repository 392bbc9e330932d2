//! Tests of the filter, by running its program.

use libc::sock_filter;

use super::{
    ARCHITECTURE, ARGUMENTS, JUMP, JUMP_IF_ANY_BIT, JUMP_IF_AT_LEAST, JUMP_IF_EQUAL, LOAD_WORD,
    NUMBER, RETURN, X86_64, compile, refusal, verdict,
};
use crate::agent::calls::{LAST, Verdict};

/// What the kernel would answer.
fn run(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let one = &program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { one.jt } else { one.jf });
        match one.code {
            LOAD_WORD if one.k == NUMBER => accumulator = number,
            LOAD_WORD if one.k == ARCHITECTURE => accumulator = architecture,
            LOAD_WORD => {
                let index = usize::try_from((one.k - ARGUMENTS) / 8).unwrap();
                let bytes = arguments[index].to_le_bytes();
                accumulator = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            JUMP => at += usize::try_from(one.k).unwrap(),
            JUMP_IF_EQUAL => at += jump(accumulator == one.k),
            JUMP_IF_AT_LEAST => at += jump(accumulator >= one.k),
            JUMP_IF_ANY_BIT => at += jump(accumulator & one.k != 0),
            RETURN => return one.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn answer(number: i64, arguments: [u64; 6]) -> u32 {
    run(&compile(false), X86_64, u32::try_from(number).unwrap(), arguments)
}

fn first(argument: u64) -> [u64; 6] {
    [argument, 0, 0, 0, 0, 0]
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

#[test]
fn the_program_decides_as_the_table_says() {
    for listed in [false, true] {
        let program = compile(listed);
        assert!(program.len() < 4096, "{} instructions", program.len());
        for number in (0..=LAST + 50).chain([0x3fff_ffff, 0x4000_0000, u32::MAX]) {
            let expected = match verdict(number, listed) {
                Verdict::Allow => ALLOW,
                Verdict::Refuse(error) => refusal(error),
                Verdict::Ask => libc::SECCOMP_RET_USER_NOTIF,
                Verdict::If(..) => continue,
            };
            assert_eq!(run(&program, X86_64, number, [0; 6]), expected, "call {number}");
        }
    }
}

#[test]
fn other_architectures_are_killed() {
    // AUDIT_ARCH_I386.
    let killed = run(&compile(false), 0x4000_0003, 0, [0; 6]);
    assert_eq!(killed, libc::SECCOMP_RET_KILL_PROCESS);
}

#[test]
fn sockets_are_of_four_families() {
    for (family, protocol, allowed) in [
        (libc::AF_UNIX, 0, true),
        (libc::AF_INET, 6, true),
        (libc::AF_INET6, 17, true),
        (libc::AF_NETLINK, 0, true),
        (libc::AF_NETLINK, 9, false),
        (libc::AF_VSOCK, 0, false),
        (libc::AF_PACKET, 0, false),
        (libc::AF_ALG, 0, false),
    ] {
        let family = u64::from(family.unsigned_abs());
        for high in [0, 1_u64 << 32] {
            let arguments = [family | high, 1, protocol, 0, 0, 0];
            let said = answer(libc::SYS_socket, arguments);
            let expected = if allowed { ALLOW } else { refusal(libc::EAFNOSUPPORT) };
            assert_eq!(said, expected, "family {family} {protocol}");
        }
    }
    let vsock = first(u64::from(libc::AF_VSOCK.unsigned_abs()));
    assert_eq!(answer(libc::SYS_socketpair, vsock), refusal(libc::EAFNOSUPPORT));
}

#[test]
fn no_flag_of_a_namespace_passes() {
    let flags = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    for flag in flags {
        let flag = u64::from(flag.unsigned_abs());
        assert_eq!(answer(libc::SYS_clone, first(flag | 17)), refusal(libc::EPERM));
    }
    let thread =
        u64::from((libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND).unsigned_abs());
    assert_eq!(answer(libc::SYS_clone, first(thread)), ALLOW);
    assert_eq!(answer(libc::SYS_clone3, [0; 6]), refusal(libc::ENOSYS));
    assert_eq!(answer(libc::SYS_unshare, [0; 6]), refusal(libc::EPERM));
    assert_eq!(answer(libc::SYS_setns, [0; 6]), refusal(libc::EPERM));
}

#[test]
fn what_has_a_record_is_refused() {
    for call in [
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_mount,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_open_by_handle_at,
        libc::SYS_init_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_syslog,
        libc::SYS_iopl,
        libc::SYS_quotactl,
        libc::SYS_fanotify_init,
    ] {
        assert_eq!(answer(call, [0; 6]), refusal(libc::EPERM), "call {call}");
    }
    assert_eq!(answer(libc::SYS_ioctl, [0, 0x5412, 0, 0, 0, 0]), refusal(libc::EPERM));
    assert_eq!(answer(libc::SYS_ioctl, [0, 0x5413, 0, 0, 0, 0]), ALLOW);
    assert_eq!(answer(libc::SYS_personality, first(0x004_0000)), refusal(libc::EPERM));
    assert_eq!(answer(libc::SYS_personality, first(0xffff_ffff)), ALLOW);
}

#[test]
fn an_agent_with_a_list_is_asked_about_programs_and_makes_none_in_memory() {
    let program = compile(true);
    let number = |call: i64| u32::try_from(call).unwrap();
    let asked = run(&program, X86_64, number(libc::SYS_execve), [0; 6]);
    assert_eq!(asked, libc::SECCOMP_RET_USER_NOTIF);
    let memfd = number(libc::SYS_memfd_create);
    assert_eq!(run(&program, X86_64, memfd, [0, 1, 0, 0, 0, 0]), refusal(libc::EACCES));
    assert_eq!(run(&program, X86_64, memfd, [0, 9, 0, 0, 0, 0]), ALLOW);
    assert_eq!(answer(libc::SYS_memfd_create, [0; 6]), ALLOW);
}
