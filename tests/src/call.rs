//! A call of `cloister`: what is asked for, and what came of it.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::prefix::Prefix;
use crate::running::Running;
use crate::terminal::Terminal;

/// How long a call may take unless the test says otherwise. Generous: in the lab, with other labs
/// beside it, a start takes seconds. A test that passes never comes near it.
const LIMIT: Duration = Duration::from_secs(300);

/// Names a directory for templates: machines then go on from theirs, but for those whose boot is what a test is about.
/// Set where a boot takes many seconds. A machine of `cloister run` is then of the shape of a template that is there, or
/// boots; a team builds the one of its shape.
const TEMPLATES: &str = "CLOISTER_TESTS_TEMPLATES";

/// A call to be made.
#[derive(Debug)]
pub struct Call {
    program: PathBuf,
    before: Vec<OsString>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    stdin: Option<Vec<u8>>,
    limit: Duration,
    boots: bool,
}

impl Call {
    /// `cloister` with these arguments.
    #[must_use]
    pub fn cloister<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        let call = Self::program(&Prefix::built().program());
        arguments.into_iter().fold(call, Self::argument)
    }

    /// Another program, without arguments.
    #[must_use]
    pub fn program(program: &Path) -> Self {
        Self {
            program: program.to_path_buf(),
            before: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            stdin: None,
            limit: LIMIT,
            boots: false,
        }
    }

    /// A program of this repository, by its path in it.
    #[must_use]
    pub fn of_repository(path: &str) -> Self {
        Self::program(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path))
    }

    /// `cloister run`.
    #[must_use]
    pub fn run() -> Self {
        Self::cloister(["run"])
    }

    /// The machine boots, however others start.
    #[must_use]
    pub const fn boots(mut self) -> Self {
        self.boots = true;
        self
    }

    /// Uses the programs of another prefix.
    #[must_use]
    pub fn prefix(mut self, prefix: &Prefix) -> Self {
        self.program = prefix.program();
        self
    }

    /// Adds an option without a value, or any argument.
    #[must_use]
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds an option with its value.
    #[must_use]
    pub fn option(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.argument(name).argument(value)
    }

    /// The command to run in the machine.
    #[must_use]
    pub fn command<A: AsRef<OsStr>>(mut self, command: impl IntoIterator<Item = A>) -> Self {
        self.arguments.push("--".into());
        self.arguments.extend(command.into_iter().map(|one| one.as_ref().to_owned()));
        self
    }

    /// A script for the machine's shell.
    #[must_use]
    pub fn shell(self, script: &str) -> Self {
        self.command(["sh", "-c", script])
    }

    /// What it reads; nothing, if not given.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Sets a variable of `cloister` itself.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Starts it by another program, as `setpriv` with its options.
    #[must_use]
    pub fn through(mut self, program: &[&str]) -> Self {
        self.before = program.iter().map(OsString::from).collect();
        self
    }

    /// How long it may take.
    #[must_use]
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Makes the call and waits for its end.
    ///
    /// # Panics
    /// It does not end within the limit.
    #[must_use = "say what should have come of it"]
    pub fn output(mut self) -> Outcome {
        let stdin = self.stdin.take();
        let mut running = self.spawn();
        if let Some(bytes) = stdin {
            running.feed(bytes);
        } else {
            running.close_stdin();
        }
        running.finish()
    }

    /// Starts it and leaves its streams to the test.
    ///
    /// # Panics
    /// It can't be started.
    #[must_use]
    pub fn spawn(self) -> Running {
        let words = self.words();
        let mut command = self.build();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap_or_else(|error| panic!("{words}: {error}"));
        Running::new(child, words, self.limit)
    }

    /// Starts it on a terminal of its own.
    #[must_use]
    pub fn in_terminal(mut self, rows: u16, columns: u16) -> Terminal {
        // Makes a session and takes standard input as its terminal, then becomes the program.
        let mut before = vec![OsString::from("setsid"), OsString::from("--ctty")];
        before.append(&mut self.before);
        self.before = before;
        Terminal::start(self.build(), self.words(), self.limit, rows, columns)
    }

    fn build(&self) -> Command {
        // A job in a shell's background ignores signals and passes that on; `cloister` respects it,
        // so a test that sends them must not.
        let mut command = Command::new("/usr/bin/env");
        command.arg("--default-signal=HUP,INT,QUIT,TERM");
        command.args(&self.before).arg(&self.program);
        // What the caller of the tests has set must not decide their outcome.
        command.env_remove("CLOISTER_KERNEL").env_remove("CLOISTER_ROOTFS");
        command.env_remove("CLOISTER_TEMPLATES");
        let mut arguments = self.arguments.iter();
        match std::env::var_os(TEMPLATES).filter(|_| self.may_fork()) {
            Some(templates) => {
                let verb = arguments.next();
                // Teams are of many shapes, and each of some tests'.
                let choice = if verb.is_some_and(|word| word == "up") { "build" } else { "auto" };
                command.args(verb).args(["--template", choice]);
                command.env("CLOISTER_TEMPLATES", templates);
            }
            // Nor what templates this machine's user has: a machine boots, unless the test has its own.
            None if !self.has_templates() => _ = command.env("CLOISTER_COLD", "1"),
            None => {}
        }
        command.args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Whether the test says where templates are.
    fn has_templates(&self) -> bool {
        let own = |word: &OsString| word == "--templates" || word == "CLOISTER_TEMPLATES";
        self.arguments.iter().chain(self.environment.iter().map(|(name, _)| name)).any(own)
    }

    /// Whether it starts a machine and the test does not care how.
    fn may_fork(&self) -> bool {
        let starts = self.arguments.first().is_some_and(|word| word == "run" || word == "up");
        // Its own choice, or its own guest; a user can't use another's templates.
        let own = ["--cold", "--template", "--kernel", "--rootfs"];
        let own = |word: &OsString| own.iter().any(|one| word == one);
        let ordinary = !self.has_templates() && !self.arguments.iter().any(own);
        starts && ordinary && self.before.is_empty() && !self.boots
    }

    fn words(&self) -> String {
        let words: Vec<_> = self.arguments.iter().map(|word| word.to_string_lossy()).collect();
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} {}", words.join(" "))
    }
}

/// What came of a call.
#[derive(Debug)]
pub struct Outcome {
    pub(crate) words: String,
    /// How it ended.
    pub status: ExitStatus,
    /// All of standard output.
    pub stdout: Vec<u8>,
    /// All of standard error.
    pub stderr: String,
    /// From its start to its end.
    pub time: Duration,
}

impl Outcome {
    /// It exited with this code.
    ///
    /// # Panics
    /// It did not.
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "exit code of {}", self.told());
        self
    }

    /// This signal ended `cloister` itself.
    ///
    /// # Panics
    /// It did not.
    pub fn dies_of(self, signal: i32) -> Self {
        assert_eq!(self.status.signal(), Some(signal), "signal of {}", self.told());
        self
    }

    /// It printed exactly this.
    ///
    /// # Panics
    /// It did not.
    pub fn prints(self, text: &str) -> Self {
        assert_eq!(self.text(), text, "output of {}", self.told());
        self
    }

    /// Its standard error contains this.
    ///
    /// # Panics
    /// It does not.
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "{text:?} is missing in the words of {}", self.told());
        self
    }

    /// It wrote nothing on standard error.
    ///
    /// # Panics
    /// It did.
    pub fn says_nothing(self) -> Self {
        assert!(self.stderr.is_empty(), "there should be no words of {}", self.told());
        self
    }

    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    fn told(&self) -> String {
        format!("`{}` ({}), which said:\n{}", self.words, self.status, self.stderr)
    }
}
