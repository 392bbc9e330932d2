//! What a seccomp filter does, read from its instructions: for each system call whether it is made,
//! depends on its arguments, or is not made.
//!
//! A filter is a classic BPF program over `struct seccomp_data` (linux/seccomp.h). It has no loops, so
//! running it with the call's number known and everything else unknown, both ways at each branch that
//! depends on something unknown, finds every answer that it can give.

use std::collections::HashSet;

/// One instruction: `struct sock_filter` of linux/filter.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How far to jump if a condition holds.
    pub jump_true: u8,
    /// How far if not.
    pub jump_false: u8,
    /// Operand.
    pub value: u32,
}

/// What becomes of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is made, whatever its arguments.
    Allowed,
    /// It is made with some arguments.
    Checked,
    /// It is never made; the answer.
    Refused(Refusal),
}

/// What happens to whoever makes a call that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// The process is killed.
    KillProcess,
    /// The thread is killed.
    KillThread,
    /// It gets a SIGSYS.
    Trap,
    /// The call fails with an error.
    Errno,
    /// Another process decides.
    Other,
}

/// A filter that can't be understood: none that the kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the filter has an instruction that is not known, or too many ways through it")]
pub struct Unknown;

/// `AUDIT_ARCH_X86_64` of linux/audit.h.
const ARCHITECTURE: u32 = 0xc000_003e;
/// Most states of one run: far above what real filters have.
const MAX_STATES: usize = 200_000;
/// Where in `seccomp_data` things are.
const AT_CALL: u32 = 0;
const AT_ARCHITECTURE: u32 = 4;

/// A register: a number, or `None` if it depends on what is not known.
type Value = Option<u32>;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    at: usize,
    a: Value,
    x: Value,
    memory: [Value; 16],
}

/// What all filters of a thread together make of a system call: the strictest answer counts.
///
/// # Errors
/// A filter can't be understood.
pub fn verdict(filters: &[Vec<Instruction>], call: u32) -> Result<Verdict, Unknown> {
    let mut checked = false;
    let mut strictest = None;
    for filter in filters {
        let answers = answers(filter, call)?;
        let refusals = answers.iter().filter_map(|answer| refusal(*answer));
        let allows = answers.iter().any(|answer| refusal(*answer).is_none());
        match refusals.min() {
            Some(refused) if !allows => {
                strictest = Some(strictest.map_or(refused, |one: Refusal| one.min(refused)));
            }
            Some(_) => checked = true,
            None => {}
        }
    }
    Ok(match (strictest, checked) {
        (Some(refused), _) => Verdict::Refused(refused),
        (None, true) => Verdict::Checked,
        (None, false) => Verdict::Allowed,
    })
}

/// `None`: the call is made (linux/seccomp.h, `SECCOMP_RET_*`).
const fn refusal(answer: u32) -> Option<Refusal> {
    match answer & 0xffff_0000 {
        0x7fff_0000 | 0x7ffc_0000 => None,
        0x8000_0000 => Some(Refusal::KillProcess),
        0x0000_0000 => Some(Refusal::KillThread),
        0x0003_0000 => Some(Refusal::Trap),
        0x0005_0000 => Some(Refusal::Errno),
        _ => Some(Refusal::Other),
    }
}

/// Every answer that a filter can give to a call.
fn answers(filter: &[Instruction], call: u32) -> Result<HashSet<u32>, Unknown> {
    let mut answers = HashSet::new();
    let mut seen = HashSet::new();
    let mut open = vec![State { at: 0, a: Some(0), x: Some(0), memory: [Some(0); 16] }];
    while let Some(state) = open.pop() {
        if !seen.insert(state) {
            continue;
        }
        if seen.len() > MAX_STATES {
            return Err(Unknown);
        }
        let instruction = *filter.get(state.at).ok_or(Unknown)?;
        match step(state, instruction, call)? {
            Step::Answer(Some(answer)) => {
                answers.insert(answer);
            }
            // An answer that depends on an argument: none of ours does.
            Step::Answer(None) => return Err(Unknown),
            Step::Next(states) => open.extend(states),
        }
    }
    Ok(answers)
}

enum Step {
    Answer(Value),
    Next(Vec<State>),
}

/// Carries an instruction out (linux/bpf_common.h).
fn step(state: State, instruction: Instruction, call: u32) -> Result<Step, Unknown> {
    let Instruction { code, jump_true, jump_false, value } = instruction;
    let mut next = State { at: state.at + 1, ..state };
    let cell = usize::try_from(value).ok().filter(|cell| *cell < 16);
    match (code & 7, code & 0xf8) {
        // LD W ABS, IMM, MEM, LEN
        (0, 0x20) => {
            next.a = match value {
                AT_CALL => Some(call),
                AT_ARCHITECTURE => Some(ARCHITECTURE),
                _ => None,
            };
        }
        (0, 0x00) => next.a = Some(value),
        (0, 0x60) => next.a = *state.memory.get(cell.ok_or(Unknown)?).ok_or(Unknown)?,
        (0, 0x80) => next.a = Some(64),
        (1, 0x00) => next.x = Some(value),
        (1, 0x60) => next.x = *state.memory.get(cell.ok_or(Unknown)?).ok_or(Unknown)?,
        (1, 0x80) => next.x = Some(64),
        (2, _) => *next.memory.get_mut(cell.ok_or(Unknown)?).ok_or(Unknown)? = state.a,
        (3, _) => *next.memory.get_mut(cell.ok_or(Unknown)?).ok_or(Unknown)? = state.x,
        (4, operation) => {
            let operand = if operation & 8 == 0 { Some(value) } else { state.x };
            next.a = calculate(operation & 0xf0, state.a, operand)?;
        }
        (5, operation) => {
            let operand = if operation & 8 == 0 { Some(value) } else { state.x };
            let jump = |by: u32| {
                let by = usize::try_from(by).ok()?;
                Some(State { at: state.at.checked_add(1)?.checked_add(by)?, ..state })
            };
            if operation & 0xf0 == 0 {
                return Ok(Step::Next(jump(value).into_iter().collect()));
            }
            let holds = compare(operation & 0xf0, state.a, operand)?;
            let yes = if holds == Some(false) { None } else { jump(u32::from(jump_true)) };
            let no = if holds == Some(true) { None } else { jump(u32::from(jump_false)) };
            return Ok(Step::Next([yes, no].into_iter().flatten().collect()));
        }
        (6, operation) => {
            return Ok(Step::Answer(if operation & 0x18 == 0x10 { state.a } else { Some(value) }));
        }
        (7, 0x00) => next.x = state.a,
        (7, 0x80) => next.a = state.x,
        _ => return Err(Unknown),
    }
    Ok(Step::Next(vec![next]))
}

fn calculate(operation: u16, a: Value, operand: Value) -> Result<Value, Unknown> {
    let both = a.zip(operand);
    Ok(match operation {
        0x00 => both.map(|(a, b)| a.wrapping_add(b)),
        0x10 => both.map(|(a, b)| a.wrapping_sub(b)),
        0x20 => both.map(|(a, b)| a.wrapping_mul(b)),
        0x30 => both.and_then(|(a, b)| a.checked_div(b)),
        0x40 => both.map(|(a, b)| a | b),
        0x50 => both.map(|(a, b)| a & b),
        0x60 => both.and_then(|(a, b)| a.checked_shl(b)),
        0x70 => both.and_then(|(a, b)| a.checked_shr(b)),
        0x80 => a.map(u32::wrapping_neg),
        0xa0 => both.map(|(a, b)| a ^ b),
        _ => return Err(Unknown),
    })
}

fn compare(operation: u16, a: Value, operand: Value) -> Result<Option<bool>, Unknown> {
    let both = a.zip(operand);
    Ok(match operation {
        0x10 => both.map(|(a, b)| a == b),
        0x20 => both.map(|(a, b)| a > b),
        0x30 => both.map(|(a, b)| a >= b),
        0x40 => both.map(|(a, b)| a & b != 0),
        _ => return Err(Unknown),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const KILL: u32 = 0x8000_0000;

    const fn load(value: u32) -> Instruction {
        Instruction { code: 0x20, jump_true: 0, jump_false: 0, value }
    }

    const fn if_equal(value: u32, jump_true: u8, jump_false: u8) -> Instruction {
        Instruction { code: 0x15, jump_true, jump_false, value }
    }

    const fn answer(value: u32) -> Instruction {
        Instruction { code: 0x06, jump_true: 0, jump_false: 0, value }
    }

    /// Call 1 is allowed, call 2 if its first argument is 7, call 3 fails; else the process is killed.
    fn filter() -> Vec<Instruction> {
        vec![
            load(0),
            if_equal(1, 4, 0),
            if_equal(3, 4, 0),
            if_equal(2, 0, 4),
            load(16),
            if_equal(7, 0, 2),
            answer(ALLOW),
            answer(0x0005_0001),
            answer(KILL),
        ]
    }

    #[test]
    fn calls_are_told_apart() {
        let filters = [filter()];
        let of = |call| verdict(&filters, call).unwrap();
        assert_eq!(of(1), Verdict::Allowed);
        assert_eq!(of(2), Verdict::Checked);
        assert_eq!(of(3), Verdict::Refused(Refusal::Errno));
        assert_eq!(of(4), Verdict::Refused(Refusal::KillProcess));
    }

    #[test]
    fn the_strictest_of_several_filters_counts() {
        let all = vec![answer(ALLOW)];
        let none = vec![answer(KILL)];
        assert_eq!(verdict(&[all.clone(), filter()], 2).unwrap(), Verdict::Checked);
        let killed = Verdict::Refused(Refusal::KillProcess);
        assert_eq!(verdict(&[filter(), none], 3).unwrap(), killed);
        assert_eq!(verdict(&[all], 9).unwrap(), Verdict::Allowed);
        assert_eq!(verdict(&[], 9).unwrap(), Verdict::Allowed);
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for filter in [vec![], vec![load(0)], vec![Instruction { code: 0xffff, ..load(0) }]] {
            assert_eq!(verdict(&[filter], 1), Err(Unknown));
        }
    }

    #[test]
    fn the_jails_own_filter_is_read_as_it_was_written() {
        use cloister_jailer::policy::{Answer, Check, SETUP};
        let compiled = cloister_jailer::filter::compile(SETUP).expect("a program");
        let program: Vec<_> = compiled
            .iter()
            .map(|one| Instruction {
                code: one.code,
                jump_true: one.jt,
                jump_false: one.jf,
                value: one.k,
            })
            .collect();
        let filters = [program];
        for line in SETUP {
            let wanted = match (line.answer, line.check) {
                (Answer::Fail(_), _) => Verdict::Refused(Refusal::Errno),
                (Answer::Allow, Check::Any) => Verdict::Allowed,
                (Answer::Allow, _) => Verdict::Checked,
            };
            assert_eq!(verdict(&filters, line.call), Ok(wanted), "{}", line.name);
        }
        let known: HashSet<_> = SETUP.iter().map(|line| line.call).collect();
        for call in (0..600).filter(|call| !known.contains(call)) {
            let verdict = verdict(&filters, call).unwrap();
            assert!(
                matches!(verdict, Verdict::Refused(refused) if refused != Refusal::Errno),
                "{call}"
            );
        }
    }
}
