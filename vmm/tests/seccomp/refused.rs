//! Everything that is not in a thread's table ends the process: each number, each wrong argument, each
//! other way into the kernel. In processes under the very filter, one for each call.

use std::io;

use cloister_vmm::seccomp::policy::{Check, TABLE, Thread};
use cloister_vmm::seccomp::{
    confine_loop, confine_savable_loop, confine_savable_vcpu, confine_vcpu,
};

use crate::tracer::child::{Call, assert_all_else_kills, end_of, is_killed};

fn confine(thread: Thread) -> &'static dyn Fn() -> io::Result<()> {
    match thread {
        Thread::Loop => &confine_loop,
        Thread::Vcpu => &confine_vcpu,
        Thread::SavableLoop => &confine_savable_loop,
        Thread::SavableVcpu => &confine_savable_vcpu,
    }
}

#[test]
fn every_other_call_kills() {
    for thread in Thread::ALL {
        let lines = TABLE.iter().filter(|line| thread.has(line));
        let known: Vec<u64> = lines.map(|line| line.call.into()).collect();
        let tried = assert_all_else_kills(confine(thread), &known);
        assert!(tried > 900, "{tried}");
    }
}

#[test]
fn every_wrong_argument_kills() {
    let mut tried = 0;
    for thread in Thread::ALL {
        let lines = || TABLE.iter().filter(move |line| thread.has(line));
        let right: Vec<(u32, u32)> = lines()
            .filter_map(|line| match line.check {
                Check::Is { value, .. } => Some((line.call, value)),
                _ => None,
            })
            .collect();
        for line in lines() {
            let (argument, wrong): (u32, Vec<u32>) = match line.check {
                Check::Any => continue,
                // Each value with one bit other, none, and all; but those that are another line's.
                Check::Is { argument, value } => {
                    let bits = (0..32).map(|bit| value ^ 1 << bit).chain([0, u32::MAX]);
                    (argument, bits.filter(|one| !right.contains(&(line.call, *one))).collect())
                }
                Check::Lacks { argument, bits } => {
                    let each = (0..32).map(|bit| 1 << bit & bits).filter(|bit| *bit != 0);
                    let all = each.clone().map(|bit| bit | !bits).collect::<Vec<_>>();
                    (argument, each.chain(all).collect())
                }
            };
            for value in wrong {
                let mut call: Call = (line.call.into(), [0; 6]);
                call.1[argument as usize] = value.into();
                let status = end_of(confine(thread), call);
                assert!(is_killed(status), "{thread:?} {call:x?}: {status:#x}");
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "{tried}");
}
