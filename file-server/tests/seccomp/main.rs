//! The server's table of system calls against what the program does: every line is used by a server that
//! does all that servers do, and every other call ends the process.
//!
//! The server runs as a process under the jail's own filter, with the test in place of host and vmm. It is
//! traced, so a line that is never used shows as one, and so does a call that no line allows.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on has failed")]

#[path = "../../../tests/tracer/mod.rs"]
mod tracer;

mod refused;

mod served;

mod work;

use cloister_file_server::seccomp::{Check, TABLE};

#[test]
fn every_line_is_needed() {
    let seen = work::everything();
    let mut idle = Vec::new();
    for line in TABLE {
        let used = seen.iter().filter(|seen| seen.confined).any(|seen| {
            let argument = |index: u8| seen.arguments[usize::from(index)];
            line.call.cast_unsigned() == seen.number
                && match line.check {
                    Check::Any => true,
                    Check::Masked { argument: index, mask, value } => {
                        argument(index) & mask == value
                    }
                    Check::Is { argument: index, value } => argument(index) == value,
                }
        });
        if !used {
            idle.push(format!("call {} ({})", line.call, line.reason));
        }
    }
    assert!(idle.is_empty(), "lines that nothing uses:\n{}", idle.join("\n"));
}

#[test]
fn every_line_of_the_jails_table_is_needed() {
    use cloister_jailer::policy::{self, Answer, Check};
    let seen = work::everything();
    let mut idle = Vec::new();
    for line in policy::of(cloister_jailer::spec::Role::FileServer) {
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

#[test]
fn all_workers_may_end_the_process_at_once() {
    let place = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        let (_, status) = served::Served::sharing(place.path()).finish();
        assert_eq!(status, 0, "it did not end by itself: {status:#x}");
    }
}
