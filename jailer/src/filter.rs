//! From a table of system calls to the kernel's filter program: a binary search, because the kernel
//! runs a new filter once for every system call number there is.

use libc::sock_filter;

use crate::policy::{Answer, Check, LAST_CALL, Line};

// Instructions of classic BPF (linux/bpf_common.h).
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
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

/// The program; `None` if the table is too large for its jumps. A call that is not in the table
/// raises SIGSYS.
#[must_use]
pub fn compile(table: &[Line]) -> Option<Vec<sock_filter>> {
    let mut lines: Vec<&Line> = table.iter().collect();
    lines.sort_unstable_by_key(|line| line.call);
    let mut program = vec![
        plain(LOAD_WORD, ARCHITECTURE),
        jump(JUMP_IF_EQUAL, X86_64, 1, 0)?,
        plain(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
        plain(LOAD_WORD, NUMBER),
        jump(JUMP_IF_EQUAL, LAST_CALL, 0, 1)?,
        plain(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
    ];
    program.extend(search(&lines)?);
    Some(program)
}

fn search(lines: &[&Line]) -> Option<Vec<sock_filter>> {
    match lines {
        [] => Some(vec![plain(RETURN, libc::SECCOMP_RET_TRAP)]),
        [line] => {
            let answer = answer(line)?;
            let mut leaf = vec![jump(JUMP_IF_EQUAL, line.call, 0, answer.len())?];
            leaf.extend(answer);
            leaf.push(plain(RETURN, libc::SECCOMP_RET_TRAP));
            Some(leaf)
        }
        _ => {
            let (below, from) = lines.split_at(lines.len() / 2);
            let first = from.first()?.call;
            let (below, from) = (search(below)?, search(from)?);
            let mut node = vec![jump(JUMP_IF_AT_LEAST, first, below.len(), 0)?];
            node.extend(below);
            node.extend(from);
            Some(node)
        }
    }
}

/// The answer if the line's check holds, else falls through.
fn answer(line: &Line) -> Option<Vec<sock_filter>> {
    let action = match line.answer {
        Answer::Allow => libc::SECCOMP_RET_ALLOW,
        Answer::Fail(errno) => libc::SECCOMP_RET_ERRNO | errno.unsigned_abs(),
    };
    let answer = plain(RETURN, action);
    let load = |argument: u32| plain(LOAD_WORD, ARGUMENTS + 8 * argument);
    Some(match line.check {
        Check::Any => vec![answer],
        Check::Lacks { argument, bits } => {
            vec![load(argument), jump(JUMP_IF_ANY_BIT, bits, 1, 0)?, answer]
        }
        Check::Masked { argument, mask, value } => {
            vec![load(argument), plain(AND, mask), jump(JUMP_IF_EQUAL, value, 0, 1)?, answer]
        }
    })
}

fn plain(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Skips `then` instructions if the comparison holds, `otherwise` if not.
fn jump(code: u16, k: u32, then: usize, otherwise: usize) -> Option<sock_filter> {
    let (jt, jf) = (u8::try_from(then).ok()?, u8::try_from(otherwise).ok()?);
    Some(sock_filter { code, jt, jf, k })
}
