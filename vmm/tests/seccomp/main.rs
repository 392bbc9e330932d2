//! The tables of system calls against what the program does: every line is used by a machine that does
//! all that machines do, and every other call ends the process.
//!
//! The machines run toy guests on this machine's KVM. Their vmm is traced, so a line that is never used
//! shows as one, and so does a call that no line allows (its process ends by it).
#![expect(clippy::unwrap_used, clippy::panic, reason = "a set-up step that fails fails the test")]
#![expect(clippy::cast_possible_truncation, reason = "as above")]

#[expect(dead_code, reason = "what other tests need")]
#[path = "../virtio/driver.rs"]
mod driver;

#[expect(dead_code, reason = "what other tests need")]
#[path = "../vmm_process/guests.rs"]
mod guests;

#[expect(dead_code, reason = "what other tests need")]
#[path = "../vmm_process/process.rs"]
mod process;

#[expect(dead_code, reason = "what other tests need")]
#[path = "../../../tests/tracer/mod.rs"]
mod tracer;

mod hand;

mod refused;

mod work;

use std::collections::BTreeSet;

use cloister_vmm::seccomp::policy::{Check, Line, TABLE, Thread};

use tracer::{Kind, Seen};

const fn kind(thread: Thread) -> Kind {
    match thread {
        Thread::Loop | Thread::SavableLoop => Kind::Main,
        Thread::Vcpu | Thread::SavableVcpu => Kind::Other,
    }
}

fn holds(line: &Line, seen: &Seen) -> bool {
    let argument = |index: u32| seen.arguments[index as usize];
    u64::from(line.call) == seen.number
        && match line.check {
            Check::Any => true,
            Check::Is { argument: index, value } => argument(index) == value,
            Check::Lacks { argument: index, bits } => argument(index) & bits == 0,
        }
}

#[test]
fn every_line_is_needed() {
    let seen = work::everything();
    let confined: BTreeSet<_> = seen.iter().filter(|seen| seen.confined).collect();
    let mut idle = Vec::new();
    for line in TABLE {
        for thread in line.threads {
            let used = confined.iter().any(|seen| seen.kind == kind(*thread) && holds(line, seen));
            if !used {
                idle.push(format!("{thread:?}: call {} ({})", line.call, line.reason));
            }
        }
    }
    assert!(idle.is_empty(), "lines that nothing uses:\n{}", idle.join("\n"));
}

#[test]
fn every_line_of_the_jails_table_is_needed() {
    use cloister_jailer::policy::{Answer, Check, SETUP};
    let seen = work::everything();
    let mut idle = Vec::new();
    for line in SETUP {
        // What fails a call allows nothing, and the C library decides which of these are made. The jail's
        // last step is not made here: without its line no program would start in any jail.
        if !matches!(line.answer, Answer::Allow) || i64::from(line.call) == libc::SYS_execveat {
            continue;
        }
        let used = seen.iter().any(|seen| {
            let argument = |index: u32| seen.arguments[index as usize];
            u64::from(line.call) == seen.number
                && match line.check {
                    Check::Any => true,
                    Check::Lacks { argument: index, bits } => argument(index) & bits == 0,
                    Check::Masked { argument: index, mask, value } => {
                        argument(index) & mask == value
                    }
                }
        });
        if !used {
            idle.push(format!("{} ({})", line.name, line.reason));
        }
    }
    assert!(idle.is_empty(), "lines that nothing uses:\n{}", idle.join("\n"));
}
