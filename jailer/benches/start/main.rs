//! How long the jail takes, step by step: the jailer is executed as the host does it, many times, in turn with a bare
//! execution of the same program. Words: the program, rounds, where the JSON goes. Exit code 1: over the target.
#![expect(unsafe_code, reason = "puts descriptors in place in a child, and waits for a sibling")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the bench")]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use cloister_jailer::spec::{Ids, Limits, Role, Spec};
use cloister_jailer::step::{REPORT_LEN, Report, STEPS};
use cloister_jailer::times::now_ns;

/// What the jail may add to a start, in nanoseconds.
const TARGET_NS: u64 = 3_000_000;
/// Ids that machines of this host do not get.
const FIRST_ID: u32 = 1_990_000_000;
const SEALS: i32 =
    libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;

/// Times of one kind, a column for each step.
#[derive(Default)]
struct Times {
    rows: Vec<Vec<u64>>,
}

impl Times {
    fn median(&self, column: usize) -> u64 {
        let mut values: Vec<u64> = self.rows.iter().map(|row| row[column]).collect();
        values.sort_unstable();
        values[values.len() / 2]
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [program, rounds, json] = words.as_slice() else {
        // Also how `cargo test --benches` calls it.
        println!("words: the program, rounds, where the JSON goes");
        return ExitCode::SUCCESS;
    };
    let undisturbed = take_precedence();
    let bytes = fs::read(program).unwrap();
    let rounds: usize = rounds.parse().unwrap();
    let group = Group::new();
    let (mut bare, mut copies) = (Times::default(), Times::default());
    let mut jailed = [Times::default(), Times::default()];
    for _ in 0..rounds {
        bare.rows.push(vec![executed_bare(Path::new(program))]);
        let start = now_ns();
        let file = memory_file(&bytes);
        copies.rows.push(vec![now_ns() - start]);
        for (role, times) in [Role::Vmm, Role::FileServer].into_iter().zip(&mut jailed) {
            times.rows.push(executed_in_jail(role, &file, &group));
        }
    }
    let bare_ns = bare.median(0);
    let mut text =
        format!("bare execution                                    {:>8.1} us\n", us(bare_ns));
    let mut out = format!(
        "{{\"schema\":1,\"rounds\":{rounds},\"real_time\":{undisturbed},\"limits\":{},\"bare_ns\":{bare_ns},\"copy_ns\":{}",
        group.limits().is_some(),
        copies.median(0)
    );
    writeln!(
        text,
        "copy of the program into sealed memory            {:>8.1} us",
        us(copies.median(0))
    )
    .unwrap();
    let mut worst = 0;
    for (name, times) in ["vmm", "file-server"].into_iter().zip(&jailed) {
        writeln!(text, "the jail of a {name}:").unwrap();
        write!(out, ",\"{name}\":{{\"steps\":[").unwrap();
        let names = std::iter::once("the jailer is executed").chain(STEPS.map(|step| step.name()));
        for (column, step) in names.enumerate() {
            let ns = times.median(column);
            writeln!(text, "  {step:<46}  {:>8.1} us", us(ns)).unwrap();
            let comma = if column == 0 { "" } else { "," };
            write!(out, "{comma}{{\"step\":\"{step}\",\"ns\":{ns}}}").unwrap();
        }
        let all = times.median(STEPS.len() + 1);
        let added = all.saturating_sub(bare_ns) + copies.median(0);
        worst = worst.max(added);
        writeln!(text, "  all of it, to the program's execution           {:>8.1} us", us(all))
            .unwrap();
        writeln!(text, "  added to a bare execution, with the copy        {:>8.1} us", us(added))
            .unwrap();
        write!(out, "],\"all_ns\":{all},\"added_ns\":{added}}}").unwrap();
    }
    writeln!(out, ",\"target_ns\":{TARGET_NS},\"met\":{}}}", worst <= TARGET_NS).unwrap();
    fs::write(json, out).unwrap();
    let met = if worst <= TARGET_NS { "met" } else { "MISSED" };
    if !undisturbed {
        println!("not as root: what else runs on this machine shows in these figures");
    }
    println!("{text}target: at most {:.1} us added: {met}", us(TARGET_NS));
    if worst <= TARGET_NS { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn us(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

/// Only root may: whatever else runs waits for this and what it starts, so the figures are the jail's own.
fn take_precedence() -> bool {
    let priority = libc::sched_param { sched_priority: 20 };
    // SAFETY: a live structure.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) == 0 }
}

/// From before the fork to the end of a pipe that the execution closes.
fn executed_bare(program: &Path) -> u64 {
    let (mut ends, end) = io::pipe().unwrap();
    let mut command = quiet(Command::new(program));
    // By a fork, as the jailer is below: without this the library would take a quicker way.
    // SAFETY: it does nothing.
    unsafe { command.pre_exec(|| Ok(())) };
    let start = now_ns();
    let mut child = command.spawn().unwrap();
    drop(end);
    ends.read_to_end(&mut Vec::new()).unwrap();
    let took = now_ns() - start;
    child.wait().unwrap();
    took
}

fn quiet(mut command: Command) -> Command {
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// How long the start of the jailer took, then each step, then all to the program's execution.
fn executed_in_jail(role: Role, program: &File, group: &Group) -> Vec<u64> {
    // SAFETY: takes nothing and cannot fail.
    let (uid, gid) = (unsafe { libc::geteuid() }, unsafe { libc::getegid() });
    let ids = match uid {
        0 => Ids { uid: FIRST_ID, gid: FIRST_ID, own: true },
        _ => Ids { uid, gid, own: false },
    };
    let limits = group.limits();
    let spec = Spec { host_pid: std::process::id(), ids, limits, role, descriptors: 2048 };
    let spec = memory_file(&spec.encode());
    let (mut reports, report) = io::pipe().unwrap();
    let (control, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let folder = File::open(&group.0).unwrap();
    let sources = [
        theirs.as_raw_fd(),
        spec.as_raw_fd(),
        report.as_raw_fd(),
        program.as_raw_fd(),
        folder.as_raw_fd(),
    ];
    // Far up, so that none is overwritten before it is put in place.
    let sources = sources.map(|fd| {
        // SAFETY: duplicates a descriptor of our own.
        let fd = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 100) };
        assert!(fd >= 0);
        // SAFETY: new, owned by nothing else.
        unsafe { OwnedFd::from_raw_fd(fd) }
    });
    let places: Vec<(i32, i32)> = sources.iter().map(|fd| fd.as_raw_fd()).zip(3..).collect();
    let mut command = quiet(Command::new(env!("CARGO_BIN_EXE_cloister-jailer")));
    let place = move || {
        for (from, to) in &places {
            // SAFETY: numbers; the child's descriptor table is its own.
            unsafe { libc::dup2(*from, *to) };
        }
        Ok(())
    };
    // SAFETY: only system calls between fork and exec.
    unsafe { command.pre_exec(place) };
    let start = now_ns();
    let mut jailer = command.spawn().unwrap();
    drop((sources, report));
    let mut bytes = Vec::new();
    reports.read_to_end(&mut bytes).unwrap();
    let all = now_ns() - start;
    jailer.wait().unwrap();
    drop((control, theirs));
    let (first, marks) = bytes.split_at(REPORT_LEN);
    let Some(Report::Started { pid }) = Report::decode(first) else { unreachable!("no process") };
    // SAFETY: our own child, by the jailer's doing.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) };
    let marks: Vec<u64> =
        marks.as_chunks().0.iter().map(|mark| u64::from_le_bytes(*mark)).collect();
    assert_eq!(marks.len(), STEPS.len() + 1, "a step failed: {first:?}");
    let mut row = Vec::new();
    let mut before = start;
    for mark in marks.iter().take(STEPS.len()) {
        // A step that this role or this place has not got.
        let now = (*mark).max(before);
        row.push(now - before);
        before = now;
    }
    // The last step's mark is set before it: its end is the pipe's.
    row.push((start + all).saturating_sub(before));
    row.push(all);
    row
}

/// A memory file with these bytes, executable and sealed, as the host makes it of the program.
fn memory_file(bytes: &[u8]) -> File {
    let flags = libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC;
    // SAFETY: the name is a constant; the result is a new descriptor.
    let fd = unsafe { libc::memfd_create(c"bench".as_ptr(), flags) };
    assert!(fd >= 0);
    // SAFETY: new, owned by nothing else.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o111)).unwrap();
    // SAFETY: adds seals to a file of our own.
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, SEALS) }, 0);
    file
}

/// A control group of the bench's own; removed at its end.
struct Group(PathBuf);

impl Group {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let found = mounts.lines().find_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            kind.starts_with("cgroup2 ").then(|| place.split(' ').nth(4)).flatten()
        });
        let name = format!("jail-bench-{}", std::process::id());
        let folder = Path::new(found.expect("control groups of version 2")).join(name);
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    /// Where the group has controllers, their limits are a step like any other.
    fn limits(&self) -> Option<Limits> {
        let limits = Limits { memory_bytes: 1 << 30, pids: 64, cpu_percent: 200, io_weight: 50 };
        self.0.join("memory.max").exists().then_some(limits)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
    }
}
