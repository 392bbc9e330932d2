//! From what was typed after `cloister run` to what will be done: every default and rule is here.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use cloister_protocol::agent::Place;
use cloister_protocol::message::WindowSize;
use cloister_vmm::spec::VmSpec;

use crate::cli::RunArgs;
use crate::launch::LaunchSpec;
use crate::launch::files::{FileError, Files};
use crate::launch::jail::LimitsWish;
use crate::machine::{ExecSpec, StdioSpec, default_environment, set_variable};
use crate::template::Wish;
use crate::terminal::{self, DEFAULT_SIZE};

/// What a run depends on beside its arguments.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) stdin_is_terminal: bool,
    pub(super) terminal_size: Option<WindowSize>,
    /// The variable TERM.
    pub(super) terminal_kind: Option<OsString>,
}

impl Surroundings {
    pub(super) fn look() -> Self {
        Self {
            stdin_is_terminal: io::stdin().is_terminal(),
            terminal_size: terminal::own_size(),
            terminal_kind: std::env::var_os("TERM"),
        }
    }
}

/// Everything about a run, resolved.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) launch: LaunchSpec,
    pub(super) exec: ExecSpec,
    /// Whether standard input goes to the command.
    pub(super) stdin: bool,
    /// Whether our terminal is switched to raw mode while the command runs.
    pub(super) raw: bool,
    /// From where it goes on.
    pub(super) origin: Wish,
    pub(super) log: Option<PathBuf>,
    pub(super) verbose: bool,
}

impl Plan {
    /// # Errors
    /// This program can't find out where it is.
    pub(super) fn resolve(
        arguments: RunArgs,
        limits: LimitsWish,
        around: &Surroundings,
    ) -> Result<Self, FileError> {
        let files = Files::find(arguments.guest.kernel, arguments.guest.rootfs)?;
        let vm = VmSpec {
            vcpus: arguments.cpus,
            memory_mib: arguments.memory,
            extra_cmdline: arguments.cmdline.unwrap_or_default(),
        };
        let launch = LaunchSpec {
            start_limit: arguments.start_timeout,
            jail: arguments.jail.spec(limits),
            pool: arguments.pool.place(),
            ..LaunchSpec::new(files, vm)
        };

        let stdin = arguments.interactive || !around.stdin_is_terminal;
        let stdio = if arguments.tty {
            StdioSpec::Terminal(around.terminal_size.unwrap_or(DEFAULT_SIZE))
        } else {
            StdioSpec::Pipes { stdin }
        };

        let mut environment = default_environment();
        if let Some(kind) =
            around.terminal_kind.as_deref().filter(|kind| arguments.tty && sane(kind))
        {
            set_variable(&mut environment, b"TERM", kind.as_bytes());
        }
        for variable in &arguments.env {
            set_variable(&mut environment, &variable.name, &variable.value);
        }

        let exec = ExecSpec {
            arguments: arguments.command.into_iter().map(OsString::into_vec).collect(),
            environment,
            directory: arguments.workdir.into_vec(),
            stdio,
            timeout: arguments.timeout,
            place: Place::Machine,
        };
        Ok(Self {
            launch,
            exec,
            stdin,
            raw: arguments.tty && stdin && around.stdin_is_terminal,
            origin: arguments.origin.wish(),
            log: arguments.log,
            verbose: arguments.verbose,
        })
    }

    /// Whether the command's terminal is ours.
    pub(super) const fn has_terminal(&self) -> bool {
        matches!(self.exec.stdio, StdioSpec::Terminal(_))
    }
}

/// A terminal's name, as terminfo has them.
fn sane(kind: &OsStr) -> bool {
    let bytes = kind.as_bytes();
    !bytes.is_empty() && bytes.len() <= 64 && bytes.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
