//! A pool of processes: taken from, outlived, killed at every end, and told when it is wrong.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::harness::{Installation, text};

/// How long anything here may take before it is taken for hung.
const LIMIT: Duration = Duration::from_secs(60);

/// A pool of an installation's own.
struct Pool<'a> {
    installation: &'a Installation,
    process: Child,
    /// Passes on what it says later; ends when nobody can say anything any more.
    said: Option<JoinHandle<()>>,
}

impl<'a> Pool<'a> {
    /// Begins it, and waits until it says so.
    fn new(installation: &'a Installation, size: u32) -> Self {
        let mut command = installation.cloister();
        command.args(["pool", "serve", "--size", &size.to_string(), "--pool"]);
        command.arg(installation.path("pool")).stderr(Stdio::piped());
        let mut process = command.spawn().expect("a pool");
        let mut said = BufReader::new(process.stderr.take().expect("a pipe"));
        let mut line = String::new();
        said.read_line(&mut line).expect("a line");
        assert!(line.starts_with(&format!("cloister: a pool of {size} in")), "{line}");
        let said = std::thread::spawn(move || {
            std::io::copy(&mut said, &mut std::io::stderr()).expect("text");
        });
        Self { installation, process, said: Some(said) }
    }

    fn status(&self) -> serde_json::Value {
        let mut command = self.installation.cloister();
        command.args(["pool", "status", "--json", "--pool"]).arg(self.installation.path("pool"));
        let output = command.output().expect("a status");
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Waits until it stands so. Only asking tells: it is another process's.
    fn await_status(&self, key: &str, count: u64) {
        let end = Instant::now() + LIMIT;
        while self.status()[key] != count {
            assert!(Instant::now() < end, "no {count} {key}: {}", self.status());
        }
    }

    /// The parents of its blanks, taken or not.
    fn parents(&self) -> Vec<i32> {
        children(self.process.id().cast_signed())
    }

    fn signal(&self, signal: Signal) {
        kill(self.process.id().cast_signed(), signal);
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        // Also while what was taken from it lives.
        self.said.take().map(JoinHandle::join);
    }
}

fn kill(process: i32, signal: Signal) {
    kill_process(Pid::from_raw(process).expect("a process"), signal).expect("it runs");
}

/// By proc_pid_stat(5): the parent is the second word after the name's bracket.
fn children(parent: i32) -> Vec<i32> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(process) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let mut words = after.split_whitespace();
        let (state, above) = (words.next(), words.next());
        if state != Some("Z") && above == Some(parent.to_string().as_str()) {
            children.push(process);
        }
    }
    children
}

/// `cloister run` with a process of the pool.
fn run(installation: &Installation, words: &[&str]) -> Command {
    let mut command = installation.cloister();
    command.args(["run", "-v", "--pool"]).arg(installation.path("pool")).arg("--").args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A machine that echoes, and has done so.
fn echoing(installation: &Installation) -> (Child, BufReader<ChildStdout>) {
    let mut child = run(installation, &["cat"]).spawn().expect("a run");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    echo(&mut child, &mut output);
    (child, output)
}

fn echo(child: &mut Child, output: &mut BufReader<ChildStdout>) {
    child.stdin.as_mut().expect("a pipe").write_all(b"x\n").expect("a line");
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    assert_eq!(line, "x\n");
}

/// Waits until no machine has a control group.
fn await_nothing(installation: &Installation) {
    let end = Instant::now() + LIMIT;
    while !installation.machines().is_empty() {
        assert!(Instant::now() < end, "left: {:?}", installation.machines());
    }
}

#[test]
fn a_run_takes_a_process_that_waits() {
    let installation = Installation::new("ordinary");
    let pool = Pool::new(&installation, 2);
    pool.await_status("ready", 2);
    for taken in 1..=3 {
        let output = run(&installation, &["echo", "x"]).output().expect("a run");
        let said = text(&output.stderr);
        assert_eq!(text(&output.stdout), "x\n", "{said}");
        assert!(said.contains("vmm process taken"), "{said}");
        pool.await_status("taken", taken);
        pool.await_status("ready", 2);
    }
    assert_eq!(pool.status()["missed"], 0);
    // Who wants none, or one that is elsewhere jailed, has a process of its own.
    let mut own = installation.cloister();
    own.env("CLOISTER_POOL", installation.path("pool"));
    let output = own.args(["run", "-v", "--no-pool", "--", "true"]).output().expect("a run");
    assert!(text(&output.stderr).contains("vmm process started"), "{}", text(&output.stderr));
    let mut other = installation.cloister();
    other.env("CLOISTER_POOL", installation.path("pool"));
    let words = ["run", "-v", "--uids", "5000-6000", "--", "true"];
    let output = other.args(words).output().expect("a run");
    assert!(text(&output.stderr).contains("vmm process started"), "{}", text(&output.stderr));
    assert_eq!(pool.status()["missed"], 1);
}

#[test]
fn what_was_taken_goes_on_when_the_pool_is_killed() {
    let installation = Installation::new("ordinary");
    let pool = Pool::new(&installation, 1);
    let (mut child, mut output) = echoing(&installation);
    pool.await_status("ready", 1);
    assert_eq!(installation.machines().len(), 2);
    drop(pool);
    // The one that waited has gone, the other has not noticed.
    let end = Instant::now() + LIMIT;
    while installation.machines().len() > 1 {
        assert!(Instant::now() < end, "left: {:?}", installation.machines());
    }
    echo(&mut child, &mut output);
    drop(child.stdin.take());
    let ended = child.wait_with_output().expect("an end");
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    await_nothing(&installation);
}

#[test]
fn whoever_is_killed_nothing_is_left() {
    let installation = Installation::new("ordinary");
    let mut pool = Pool::new(&installation, 1);
    // Who took it.
    let (mut child, _output) = echoing(&installation);
    child.kill().expect("a child");
    child.wait().expect("an end");
    pool.await_status("ready", 1);
    let end = Instant::now() + LIMIT;
    while installation.machines().len() > 1 {
        assert!(Instant::now() < end, "left: {:?}", installation.machines());
    }
    // The parent of one that runs: the kernel kills its vmm, and the next command removes what had no time to be removed.
    let waiting = pool.parents();
    let (mut child, _output) = echoing(&installation);
    // Else the command would end by itself.
    let _stdin = child.stdin.take();
    assert_eq!(waiting.len(), 1);
    kill(waiting[0], Signal::KILL);
    let ended = child.wait_with_output().expect("an end");
    let said = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(125), "{said}");
    assert!(said.contains("the machine ended before the command"), "{said}");
    // The parent of one that waits: another takes its place.
    pool.await_status("ready", 1);
    let waiting = pool.parents();
    kill(waiting[0], Signal::KILL);
    let end = Instant::now() + LIMIT;
    while pool.parents() == waiting || pool.status()["ready"] != 1 {
        assert!(Instant::now() < end, "{:?} {}", pool.parents(), pool.status());
    }
    assert!(run(&installation, &["true"]).output().expect("a run").status.success());
    // The pool itself, by a signal: it sees them off.
    pool.signal(Signal::TERM);
    assert_eq!(pool.process.wait().expect("an end").code(), Some(0));
    assert!(!installation.path("pool/socket").exists());
    assert!(installation.run(&["--", "true"]).status.success());
    await_nothing(&installation);
}

#[test]
fn a_parent_that_says_nothing_more_is_not_waited_for() {
    let installation = Installation::new("ordinary");
    let pool = Pool::new(&installation, 1);
    let waiting = pool.parents();
    let (mut child, _output) = echoing(&installation);
    kill(waiting[0], Signal::STOP);
    drop(child.stdin.take());
    assert!(child.wait().expect("an end").success());
    kill(waiting[0], Signal::CONT);
}

#[test]
fn other_programs_than_those_that_wait_are_not_mixed_with_them() {
    let installation = Installation::new("ordinary");
    let pool = Pool::new(&installation, 1);
    let vmm = installation.path("bin/cloister-vmm");
    let copy = installation.path("copy");
    fs::copy(&vmm, &copy).expect("a copy");
    fs::rename(&copy, &vmm).expect("another file");
    let output = run(&installation, &["true"]).output().expect("a run");
    assert!(text(&output.stderr).contains("vmm process started"), "{}", text(&output.stderr));
    assert_eq!(pool.status()["missed"], 1);
    // Those of the new program come in their place.
    let end = Instant::now() + LIMIT;
    while !text(&run(&installation, &["true"]).output().expect("a run").stderr)
        .contains("process taken")
    {
        assert!(Instant::now() < end, "{}", pool.status());
    }
}

#[test]
fn a_pool_of_none_and_pools_that_can_not_be_are_told() {
    let installation = Installation::new("ordinary");
    let fails = |command: &mut Command, hint: &str| {
        let output = command.output().expect("a run");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.contains(hint), "{hint}: {said}");
    };
    fails(&mut run(&installation, &["true"]), "/pool: No such file or directory");
    let pool = Pool::new(&installation, 0);
    let output = run(&installation, &["true"]).output().expect("a run");
    assert!(text(&output.stderr).contains("vmm process started"), "{}", text(&output.stderr));
    assert_eq!(pool.status()["missed"], 1);
    let serve = || {
        let mut command = installation.cloister();
        command.args(["pool", "serve", "--pool"]);
        command
    };
    fails(serve().arg(installation.path("pool")), "is kept in");
    let open = installation.path("open");
    fs::create_dir(&open).expect("a directory");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&open, mode).expect("a mode");
    fails(serve().arg(&open), "others may use it");
    fails(
        serve().arg(installation.path("x")).args(["--cgroup", "/tmp"]),
        "control groups version 2",
    );
    // What is no pool at all.
    fs::create_dir(installation.path("other")).expect("a directory");
    let socket: PathBuf = installation.path("other/socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let nonsense = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a caller");
        let mut read = [0; 64];
        let _some = stream.read(&mut read).expect("a question");
        stream.write_all(&[0xff; 32]).expect("an answer");
    });
    let mut command = installation.cloister();
    command.args(["run", "--pool"]).arg(installation.path("other")).args(["--", "true"]);
    fails(&mut command, "no pool answers in");
    nonsense.join().expect("no panic");
    // A jailer that can't be one.
    let jailer = installation.path("bin/cloister-jailer");
    fs::remove_file(&jailer).expect("a jailer");
    fs::copy("/bin/true", &jailer).expect("a program");
    fails(serve().arg(installation.path("x")), "a blank can't be made");
    assert!(installation.machines().is_empty());
}
