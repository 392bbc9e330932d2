//! The filters that the jail brings: everything that their tables do not name, or name with other
//! arguments, ends the process. In processes under the very filter, one for each call.

use std::io;

use cloister_jailer::policy::{Answer, Check, Line};
use cloister_jailer::spec::Role;
use cloister_jailer::{filter, policy, sys};

use super::child::{Call, assert_all_else_kills, end_of, is_killed};

const ROLES: [Role; 2] = [Role::Vmm, Role::FileServer];

fn confining(role: Role) -> impl Fn() -> io::Result<()> {
    let program = filter::compile(&policy::of(role)).unwrap();
    move || {
        let system = io::Error::from_raw_os_error;
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map_err(system)?;
        sys::filter(&program).map_err(system)
    }
}

#[test]
fn every_other_call_kills() {
    for role in ROLES {
        let known: Vec<u64> = policy::of(role).iter().map(|line| line.call.into()).collect();
        let tried = assert_all_else_kills(&confining(role), &known);
        assert!(tried > 850, "{tried}");
    }
}

#[test]
fn every_wrong_argument_kills() {
    for role in ROLES {
        let confine = confining(role);
        let mut tried = 0;
        for line in policy::of(role) {
            for (argument, value) in wrong(&line) {
                let mut call: Call = (line.call.into(), [0; 6]);
                call.1[argument as usize] = value.into();
                let status = end_of(&confine, call);
                assert!(is_killed(status), "{role:?} {} {call:x?}: {status:#x}", line.name);
                tried += 1;
            }
        }
        assert!(tried > 10, "{tried}");
    }
}

#[test]
fn what_a_line_lets_fail_fails_so() {
    for role in ROLES {
        let confine = confining(role);
        for line in policy::of(role) {
            if let Answer::Fail(_) = line.answer {
                assert_eq!(end_of(&confine, (line.call.into(), [0; 6])), 0, "{}", line.name);
            }
        }
    }
}

/// Arguments that the line does not let through: each bit of them that it looks at.
fn wrong(line: &Line) -> Vec<(u32, u32)> {
    let bits = |mask: u32| (0..32).map(|bit| 1 << bit).filter(move |bit| bit & mask != 0);
    match line.check {
        Check::Any => Vec::new(),
        Check::Lacks { argument, bits: mask } => {
            bits(mask).flat_map(|bit| [(argument, bit), (argument, bit | !mask)]).collect()
        }
        Check::Masked { argument, mask, value } => {
            bits(mask).map(|bit| (argument, value ^ bit)).collect()
        }
    }
}
