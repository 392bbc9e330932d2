//! From the table of system calls to the kernel's filter program: a binary search over ranges of
//! numbers, because the kernel runs a new filter once for every number there is.

use libc::sock_filter;

use super::calls::{ALLOWED, ALLOWED_BY_NUMBER, LAST, LISTED, SPECIAL, Test, Verdict};

// Instructions of classic BPF (linux/bpf_common.h).
const LOAD_WORD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

// Offsets in `struct seccomp_data` (linux/seccomp.h); arguments are 64 bits, low word first.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xc000_003e;

/// The program for commands of an agent, which has a list of executables or none.
pub(super) fn compile(listed: bool) -> Vec<sock_filter> {
    let mut program = vec![
        plain(LOAD_WORD, ARCHITECTURE),
        branch(JUMP_IF_EQUAL, X86_64, 1, 0),
        plain(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
        plain(LOAD_WORD, NUMBER),
    ];
    program.extend(search(&ranges(listed)));
    program
}

/// What is decided on a number.
pub(super) fn verdict(number: u32, listed: bool) -> Verdict {
    let of = |table: &[(libc::c_long, Verdict)]| {
        table.iter().find(|(call, _)| *call == i64::from(number)).map(|(_, verdict)| *verdict)
    };
    if listed && let Some(verdict) = of(&LISTED) {
        return verdict;
    }
    if let Some(verdict) = of(&SPECIAL) {
        return verdict;
    }
    let number_or = i64::from(number);
    if ALLOWED.contains(&number_or) || ALLOWED_BY_NUMBER.contains(&number_or) {
        return Verdict::Allow;
    }
    Verdict::Refuse(if number > LAST { libc::ENOSYS } else { libc::EPERM })
}

/// Ranges of numbers with one verdict each, by their first; the last has no end.
fn ranges(listed: bool) -> Vec<(u32, Verdict)> {
    let mut ranges = Vec::new();
    for number in 0..=LAST + 1 {
        let verdict = verdict(number, listed);
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((number, verdict));
        }
    }
    ranges
}

fn search(ranges: &[(u32, Verdict)]) -> Vec<sock_filter> {
    match ranges {
        [] => vec![plain(RETURN, libc::SECCOMP_RET_KILL_PROCESS)],
        [(_, verdict)] => leaf(*verdict),
        _ => {
            let (below, from) = ranges.split_at(ranges.len() / 2);
            let first = from.first().map_or(u32::MAX, |(number, _)| *number);
            let (below, from) = (search(below), search(from));
            // A branch reaches 255 instructions, a jump all.
            let mut node = vec![branch(JUMP_IF_AT_LEAST, first, 0, 1), skip(below.len())];
            node.extend(below);
            node.extend(from);
            node
        }
    }
}

fn leaf(verdict: Verdict) -> Vec<sock_filter> {
    match verdict {
        Verdict::Allow => vec![plain(RETURN, libc::SECCOMP_RET_ALLOW)],
        Verdict::Refuse(error) => vec![plain(RETURN, refusal(error))],
        Verdict::Ask => vec![plain(RETURN, libc::SECCOMP_RET_USER_NOTIF)],
        Verdict::If(alternatives, error) => {
            let mut code = Vec::new();
            for tests in alternatives {
                // Each test is a load and a branch, and all are followed by the permission.
                for (index, test) in tests.iter().enumerate() {
                    let rest = 2 * (tests.len() - index - 1) + 1;
                    code.extend(check(*test, u8::try_from(rest).unwrap_or(u8::MAX)));
                }
                code.push(plain(RETURN, libc::SECCOMP_RET_ALLOW));
            }
            code.push(plain(RETURN, refusal(error)));
            code
        }
    }
}

/// Goes on if the test holds, else skips `otherwise` instructions.
fn check(test: Test, otherwise: u8) -> [sock_filter; 2] {
    let load = |argument: u32| plain(LOAD_WORD, ARGUMENTS + 8 * argument);
    match test {
        Test::Is { argument, value } => {
            [load(argument), branch(JUMP_IF_EQUAL, value, 0, otherwise)]
        }
        Test::IsNot { argument, value } => {
            [load(argument), branch(JUMP_IF_EQUAL, value, otherwise, 0)]
        }
        Test::Has { argument, bits } => {
            [load(argument), branch(JUMP_IF_ANY_BIT, bits, 0, otherwise)]
        }
        Test::Lacks { argument, bits } => {
            [load(argument), branch(JUMP_IF_ANY_BIT, bits, otherwise, 0)]
        }
    }
}

const fn refusal(error: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | error.unsigned_abs()
}

const fn plain(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

const fn branch(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn skip(count: usize) -> sock_filter {
    plain(JUMP, u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
#[path = "filter_test.rs"]
mod tests;
