//! The command line of `cloister suspend`, `cloister checkpoint` and `cloister fork`.

use clap::Args;

use super::teams::{StateArgs, Target};

const SUSPEND_EXAMPLES: &str = "\
Examples:
  cloister suspend research             It is on the disk, and uses no memory
  cloister resume research              It goes on where it was, also after a restart of the host

Agents go on in the middle of what they did, with their processes and open
files. Connections to the outside are closed, as by a network that failed; new
ones can be made. Time stands still for time limits; the wall clock is right.
Files of the host that the team shares must be where they were.

Exit codes: 0 when it is so, 125 when not; the team goes on then.";

const CHECKPOINT_EXAMPLES: &str = "\
Examples:
  cloister checkpoint research before   A suspended team that is what research is now
  cloister resume before                It goes on from there, beside the other
  cloister checkpoint -n 3 research try Three of them: try-1, try-2 and try-3

The team runs on. What it writes to must be its own for both: its volumes are
copied (where the file system can, without taking more room), and a team that
writes to a directory of the host is refused. Egress rules that give secrets are
left out, unless --with-secrets says otherwise. Outputs of the new team NAME
are written with .NAME behind their names.

Exit codes: 0 when it is so, 125 when not; nothing of the new teams is left then.";

const FORK_EXAMPLES: &str = "\
Examples:
  cloister fork research try            A second team goes on from where research is
  cloister fork -n 8 research try       Eight of them: try-1 to try-8
  cloister fork before try              From a suspended team, which stays as it is

The same as `cloister checkpoint` and `cloister resume` of each. Their memory is
shared until they change it.

Exit codes: 0 when all run, 125 when one does not; those that do not are left
suspended, and `cloister resume` tries again.";

/// Most teams that one command makes of one.
pub const MAX_FORKS: u16 = 256;

/// What was typed after `suspend`.
#[derive(Debug, Args)]
#[command(after_help = SUSPEND_EXAMPLES)]
pub struct SuspendArgs {
    /// The team.
    #[arg(value_name = "TEAM")]
    pub target: Target,

    /// End what `cloister exec` and `cloister cp` run in it, in place of refusing.
    #[arg(long)]
    pub end_commands: bool,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// What both are told.
#[derive(Debug, Args)]
pub struct KeepArgs {
    /// The team; it runs, is paused or is suspended.
    #[arg(value_name = "TEAM")]
    pub target: Target,

    /// The name of the new team; with -n what their names begin with.
    #[arg(value_name = "NEW")]
    pub new: Target,

    /// How many: NEW-1, NEW-2 and so on.
    #[arg(short = 'n', long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_FORKS)))]
    pub number: Option<u16>,

    /// Keep the egress rules that give secrets to requests.
    #[arg(long)]
    pub with_secrets: bool,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// What was typed after `checkpoint`.
#[derive(Debug, Args)]
#[command(after_help = CHECKPOINT_EXAMPLES)]
pub struct CheckpointArgs {
    /// Of what, and into what.
    #[command(flatten)]
    pub keep: KeepArgs,
}

/// What was typed after `fork`.
#[derive(Debug, Args)]
#[command(after_help = FORK_EXAMPLES)]
pub struct ForkArgs {
    /// Of what, and into what.
    #[command(flatten)]
    pub keep: KeepArgs,
}
