//! The command line: one struct for each command, and the words of its help.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use cloister_vmm::spec::{MAX_EXTRA_CMDLINE, MAX_VCPUS};

use crate::commands::bench::arguments::BenchArgs;
use crate::quantity::{cpus, memory_mib, time_limit};

/// Run commands in microVMs of their own.
///
/// Each machine is a virtual machine with its own Linux kernel, no network device and no disk. It
/// starts in the moment it is needed and leaves nothing behind.
#[derive(Debug, Parser)]
#[command(name = "cloister", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  cloister doctor                          Can this host run machines? If not, what to do?
  cloister run -- uname -a                 Run a command in a new machine
  cloister run -it -- sh                   Work in a machine, by hand
  tar c src | cloister run -- sh -c 'tar x && wc -l src/*' > lines.txt
                                           Pipe data through a machine

Exit codes are those of the command; 124 to 127 are Cloister's own (`cloister run --help`).";

const RUN_EXAMPLES: &str = "\
Examples:
  cloister run -- echo hello
  cloister run --memory 2G --cpus 4 --timeout 5m -- sh -c 'sort | uniq -c' < words
  cloister run -it -- sh
  cloister run -e LANG=C -w /tmp -- env

Streams: standard output and standard error stay apart. Standard input is
passed on, unless it is a terminal; then -i passes it. To keep a script's input
from the command, add `< /dev/null`.

Signals: INT, TERM, HUP, QUIT, USR1 and USR2 are passed to the command. Three
of them that ask to end, within 2 seconds, end the machine.

Exit codes: the command's own; 128 and the signal's number when a signal ended
it; 124 when its time limit did; 125 when Cloister or the machine failed or the
call was wrong; 126 when the program can't be executed; 127 when there is none.";

/// What `cloister` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command in a new machine, and remove the machine.
    Run(RunArgs),
    /// Start a team of agents from its file.
    Up(Box<teams::UpArgs>),
    /// List teams and their agents.
    Ps(teams::PsArgs),
    /// Run a command in an agent's container.
    Exec(teams::ExecArgs),
    /// Print what agents wrote.
    Logs(teams::LogsArgs),
    /// Show what agents write from now on.
    Attach(teams::TargetArgs),
    /// Copy files between this host and an agent's container.
    Cp(teams::CpArgs),
    /// Show what the kernel says of a team's processes, and whether its jail is whole.
    Inspect(teams::InspectArgs),
    /// Show what agents use.
    Stats(teams::StatsArgs),
    /// Print or serve figures of all teams for Prometheus.
    Metrics(metrics::MetricsArgs),
    /// Stop a team or one agent; it can be started again.
    Stop(teams::TargetArgs),
    /// Keep a running team from doing anything, in place, until `resume`.
    Pause(pause::PauseArgs),
    /// Let a paused or suspended team go on.
    Resume(pause::PauseArgs),
    /// Put a running team on the disk, until `resume`.
    Suspend(keep::SuspendArgs),
    /// Keep a team as it is now as a suspended team of another name, while it runs on.
    Checkpoint(keep::CheckpointArgs),
    /// Have further teams go on from where a team is now.
    Fork(keep::ForkArgs),
    /// Start a stopped team or agent again.
    Start(teams::TargetArgs),
    /// Stop and start a team or one agent.
    Restart(teams::TargetArgs),
    /// Stop teams and remove what is left of them.
    Down(teams::RemoveArgs),
    /// Remove what is left of teams that have ended.
    Rm(teams::RemoveArgs),
    /// A team's own process; `cloister up` starts it.
    #[command(hide = true)]
    Warden(teams::WardenArgs),
    /// Check whether this host can run machines, and tell what to do if not.
    Doctor(DoctorArgs),
    /// Attack Cloister on this host from every place where hostile code may run, and report what held.
    Prove(prove::ProveArgs),
    /// Measure starts, commands and streams of machines on this host.
    Bench(BenchArgs),
    /// Build, list and remove saved machines, from which others go on in place of booting.
    Template(template::TemplateArgs),
    /// Keep processes ready that machines are started in, so that a start need not wait for them.
    Pool(pool::PoolArgs),
    /// The parent of a process that waits for a machine; `cloister pool serve` starts it.
    #[command(hide = true)]
    Blank(pool::BlankArgs),
    /// Import, pull, list and remove the images that agents run from.
    Image(image::ImageArgs),
    /// Show and check what was recorded of teams and their operators.
    Audit(audit::AuditArgs),
    /// Check a team file and everything of the host that it names; no image is looked for.
    Validate(team::ValidateArgs),
    /// Show what a team file would start, and change nothing.
    Plan(team::PlanArgs),
    /// Show what each agent of a team file may do, defaults included, and where each value comes from.
    Explain(team::ExplainArgs),
    /// Tell what an agent may reach outside, and which rule says so.
    Policy(policy::PolicyArgs),
    /// Keep secrets that rules give to requests of agents, and that agents never see.
    Secret(secret::SecretArgs),
    /// Print the JSON Schema of team files.
    Schema,
    /// Print a completion script for a shell.
    Completion(CompletionArgs),
}

/// What was typed after `run`.
#[derive(Debug, Args)]
#[command(
    after_help = RUN_EXAMPLES,
    override_usage = "cloister run [OPTIONS] -- COMMAND [ARGUMENT]..."
)]
pub struct RunArgs {
    /// CPUs of the machine, 1 to 32.
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = cpus)]
    pub cpus: u8,

    /// Memory of the machine: 512M, 2G; a number alone is MiB.
    ///
    /// The host gives it only as the machine uses it. More than the host has available is refused.
    #[arg(short, long, value_name = "SIZE", default_value = "512M", value_parser = memory_mib)]
    pub memory: u32,

    /// End the command after this time: 500ms, 30s, 5m, 2h, 1d; a number alone is seconds [default:
    /// no limit].
    #[arg(long, value_name = "T", value_parser = time_limit)]
    pub timeout: Option<Duration>,

    /// Set an environment variable of the command; can be given many times.
    ///
    /// The command finds PATH, HOME and TERM, and nothing of this environment but what is set so.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = VariableParser)]
    pub env: Vec<Variable>,

    /// The command's working directory in the machine.
    #[arg(short, long, value_name = "DIR", default_value = "/", value_parser = AbsoluteParser)]
    pub workdir: OsString,

    /// Give the command a terminal.
    #[arg(short, long)]
    pub tty: bool,

    /// Pass standard input to the command even when it is a terminal.
    #[arg(short, long)]
    pub interactive: bool,

    /// How long the machine may take to start.
    #[arg(long, value_name = "T", default_value = "60s", value_parser = time_limit)]
    pub start_timeout: Duration,

    /// The guest's kernel and root.
    #[command(flatten)]
    pub guest: GuestArgs,

    /// Add to the guest kernel's command line.
    #[arg(long, value_name = "TEXT", value_parser = kernel_arguments)]
    pub cmdline: Option<String>,

    /// Write the end of the guest's console (64 KiB) to a file, whatever happens.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub log: Option<PathBuf>,

    /// From where it goes on.
    #[command(flatten)]
    pub origin: template::OriginArgs,

    /// Tell on standard error what happens, with times and counters.
    #[arg(short, long)]
    pub verbose: bool,

    /// Where its jail is.
    #[command(flatten)]
    pub jail: JailArgs,

    /// From where its process comes.
    #[command(flatten)]
    pub pool: FromPoolArgs,

    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    #[arg(value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

/// What was typed after `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print one JSON object, for programs; see docs/user-guide.md.
    #[arg(long)]
    pub json: bool,

    /// The guest's kernel and root.
    #[command(flatten)]
    pub guest: GuestArgs,

    /// Where the jail of the probe guest is.
    #[command(flatten)]
    pub jail: JailArgs,
}

/// What was typed after `completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell.
    pub shell: Shell,
}

/// A variable of the environment, as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Not empty, without `=`.
    pub name: Vec<u8>,
    /// Anything.
    pub value: Vec<u8>,
}

/// Why an argument is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// Not a variable with its value.
    #[error(
        "write a name, '=' and a value, like LANG=C; this environment's own values are not passed on"
    )]
    Variable,
    /// A relative path.
    #[error("write an absolute path of the machine, like /tmp")]
    Relative,
    /// Not a kernel command line.
    #[error("write at most {MAX_EXTRA_CMDLINE} printable ASCII characters")]
    Cmdline,
}

fn kernel_arguments(text: &str) -> Result<String, ArgumentError> {
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if text.len() > MAX_EXTRA_CMDLINE || !printable {
        return Err(ArgumentError::Cmdline);
    }
    Ok(text.to_owned())
}

// The help text of --cpus names the bound.
const _: () = assert!(MAX_VCPUS == 32);

pub mod audit;

pub mod guest;

pub mod image;

pub mod jail;

pub mod keep;

pub mod metrics;

pub mod pause;

pub mod policy;

pub mod pool;

pub mod prove;

pub mod secret;

pub mod team;
pub mod teams;
pub mod template;

mod parsers;

use guest::GuestArgs;
use jail::JailArgs;
use parsers::{AbsoluteParser, VariableParser};
use pool::FromPoolArgs;

#[cfg(test)]
#[path = "cli_test.rs"]
mod tests;
