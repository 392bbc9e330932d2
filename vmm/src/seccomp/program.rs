//! From the policy's lines to a BPF program: a binary search over the system call numbers.
//!
//! A search and not a chain, because the kernel runs a new filter once for every system call number
//! there is (to cache the plain answers): with a chain of 45 comparisons that was half of all
//! instructions between the vmm's start and the guest's first.

use seccompiler::{BpfProgram, SeccompAction, sock_filter};

use super::policy::{Check, Line, Thread};

// Instructions of classic BPF (linux/bpf_common.h): class | size | mode, class | operation | source.
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

// Offsets in `struct seccomp_data` (linux/seccomp.h); arguments are 64 bits, low word first.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// No system call: whoever makes it is killed, handler or not. The handler ends with it.
pub(super) const LAST_CALL: u32 = 0x3fff_ffff;
/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xc000_003e;

/// Why the policy could not be compiled: it grew over what one jump can skip.
#[derive(Debug, thiserror::Error)]
#[error("seccomp policy: a jump over {0} instructions, at most 255 are possible")]
pub(super) struct TooLarge(usize);

/// The program that lets `thread` make what the lines allow and raises SIGSYS for the rest:
/// the handler says the call's number and ends the process ([`crate::sys::install_trap_handler`]).
pub(super) fn compile(table: &[Line], thread: Thread) -> Result<BpfProgram, TooLarge> {
    let mut calls: Vec<(u32, Vec<Check>)> = Vec::new();
    for line in table.iter().filter(|line| thread.has(line)) {
        match calls.iter_mut().find(|(number, _)| *number == line.call) {
            Some((_, checks)) => checks.push(line.check),
            None => calls.push((line.call, vec![line.check])),
        }
    }
    calls.sort_unstable_by_key(|(number, _)| *number);
    let mut program = vec![
        plain(LOAD_WORD, ARCHITECTURE),
        jump(JUMP_IF_EQUAL, X86_64, 1, 0)?,
        plain(RETURN, SeccompAction::KillProcess.into()),
        plain(LOAD_WORD, NUMBER),
        jump(JUMP_IF_EQUAL, LAST_CALL, 0, 1)?,
        plain(RETURN, SeccompAction::KillProcess.into()),
    ];
    program.extend(search(&calls)?);
    Ok(program)
}

fn search(calls: &[(u32, Vec<Check>)]) -> Result<Vec<sock_filter>, TooLarge> {
    match calls {
        [] => Ok(vec![answer(false)]),
        [(number, checks)] => {
            let allowed = any_of(checks)?;
            let mut leaf = vec![jump(JUMP_IF_EQUAL, *number, 0, allowed.len())?];
            leaf.extend(allowed);
            leaf.push(answer(false));
            Ok(leaf)
        }
        _ => {
            let (below, from) = calls.split_at(calls.len() / 2);
            let first = from.first().map_or(u32::MAX, |(number, _)| *number);
            let (below, from) = (search(below)?, search(from)?);
            let mut node = vec![jump(JUMP_IF_AT_LEAST, first, below.len(), 0)?];
            node.extend(below);
            node.extend(from);
            Ok(node)
        }
    }
}

/// Allows if one of the checks holds, else falls through.
fn any_of(checks: &[Check]) -> Result<Vec<sock_filter>, TooLarge> {
    let mut code = Vec::new();
    for check in checks {
        match *check {
            Check::Any => code.push(answer(true)),
            Check::Is { argument, value } => {
                code.push(plain(LOAD_WORD, ARGUMENTS + 8 * argument));
                code.push(jump(JUMP_IF_EQUAL, value, 0, 1)?);
                code.push(answer(true));
            }
            Check::Lacks { argument, bits } => {
                code.push(plain(LOAD_WORD, ARGUMENTS + 8 * argument));
                code.push(jump(JUMP_IF_ANY_BIT, bits, 1, 0)?);
                code.push(answer(true));
            }
        }
    }
    Ok(code)
}

fn plain(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn answer(allow: bool) -> sock_filter {
    let action = if allow { SeccompAction::Allow } else { SeccompAction::Trap };
    plain(RETURN, action.into())
}

/// Skips `then` instructions if the comparison holds, `otherwise` if not.
fn jump(code: u16, k: u32, then: usize, otherwise: usize) -> Result<sock_filter, TooLarge> {
    let jt = u8::try_from(then).map_err(|_| TooLarge(then))?;
    let jf = u8::try_from(otherwise).map_err(|_| TooLarge(otherwise))?;
    Ok(sock_filter { code, jt, jf, k })
}
