//! Everything that is not in the table ends the process: each number, each wrong argument, each other way
//! into the kernel. In processes under the very filter, one for each call.

use cloister_file_server::seccomp::{Check, TABLE, confine};

use crate::tracer::child::{Call, assert_all_else_kills, end_of, is_killed};

#[test]
fn every_other_call_kills() {
    let known: Vec<u64> = TABLE.iter().map(|line| line.call.cast_unsigned()).collect();
    let tried = assert_all_else_kills(&confine, &known);
    assert!(tried > 850, "{tried}");
}

#[test]
fn every_wrong_argument_kills() {
    let right = |call: i64, value: u32| {
        TABLE.iter().any(|line| {
            line.call == call && matches!(line.check, Check::Is { value: one, .. } if one == value)
        })
    };
    let mut tried = 0;
    for line in TABLE {
        let (argument, wrong): (u8, Vec<u32>) = match line.check {
            Check::Any => continue,
            Check::Is { argument, value } => {
                let bits = (0..32).map(|bit| value ^ 1 << bit).chain([u32::MAX]);
                (argument, bits.filter(|one| !right(line.call, *one)).collect())
            }
            Check::Masked { argument, mask, value } => {
                let bits = (0..32).map(|bit| 1 << bit & mask).filter(|bit| *bit != 0);
                (argument, bits.flat_map(|bit| [value ^ bit, (value ^ bit) | !mask]).collect())
            }
        };
        for value in wrong {
            let mut call: Call = (line.call.cast_unsigned(), [0; 6]);
            call.1[usize::from(argument)] = value.into();
            let status = end_of(&confine, call);
            assert!(is_killed(status), "{call:x?}: {status:#x}");
            tried += 1;
        }
    }
    assert!(tried > 50, "{tried}");
}
