//! How much of the processors a process has used, by the kernel's own account.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

/// The unit of times in `/proc/PID/stat`: hundredths of a second for every program on this architecture (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;
/// In `/proc/PID/stat`, after the name, which may hold anything: the children's time in user mode; the next is theirs in
/// the kernel (proc_pid_stat(5), fields 16 and 17).
const CHILDREN: usize = 13;

/// Nanoseconds that a process has run: its threads to the nanosecond, and its children that have ended to a hundredth of a
/// second. Threads that have ended are not in it: none of those that are measured ends one.
///
/// # Errors
/// It is gone, or the kernel keeps no such account.
pub fn used_ns(process: u32) -> anyhow::Result<u64> {
    let folder = Path::new("/proc").join(process.to_string());
    let gone = || format!("process {process} is gone");
    let mut sum = children_ns(&fs::read_to_string(folder.join("stat")).with_context(gone)?)?;
    for thread in fs::read_dir(folder.join("task")).with_context(gone)? {
        let account = thread?.path().join("schedstat");
        let account = fs::read_to_string(account).context("the kernel has no schedstat")?;
        sum = sum.saturating_add(run_ns(&account)?);
    }
    Ok(sum)
}

fn run_ns(account: &str) -> anyhow::Result<u64> {
    let first = account.split_whitespace().next().context("schedstat is empty")?;
    Ok(first.parse()?)
}

fn children_ns(stat: &str) -> anyhow::Result<u64> {
    let (_, fields) = stat.rsplit_once(')').context("stat has no name")?;
    let mut sum = 0_u64;
    for ticks in fields.split_whitespace().skip(CHILDREN).take(2) {
        sum = sum.saturating_add(ticks.parse()?);
    }
    Ok(sum.saturating_mul(TICK_NS))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_accounts_are_read_behind_any_name() {
        let stat = "7 (a) b (c) S 1 1 1 0 -1 4194560 100 200 0 0 11 12 3 4 20 0 1 0 99";
        assert_eq!(children_ns(stat).unwrap(), 70_000_000);
        assert!(children_ns("7 a").is_err());
        assert_eq!(run_ns("123 45 6\n").unwrap(), 123);
        assert!(run_ns("").is_err() && run_ns("x").is_err());
    }

    #[test]
    fn who_works_has_used_more_afterwards() {
        let work = "read begin; i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; echo; read end";
        let mut child = Command::new("/bin/sh")
            .args(["-c", work])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let before = used_ns(child.id()).unwrap();
        input.write_all(b"begin\n").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let after = used_ns(child.id()).unwrap();
        drop(input);
        child.wait().unwrap();
        assert!(after > before, "{before} {after}");
        assert!(used_ns(child.id()).is_err());
    }
}
