//! The command line of `cloister pause` and `cloister resume`.

use clap::Args;

use super::teams::{StateArgs, Target};

const EXAMPLES: &str = "\
Examples:
  cloister pause research               Nothing of the team runs any more
  cloister ps research                  says paused
  cloister resume research              It goes on where it was

A paused team keeps its memory, its files and its connections; what others send
it waits. Time goes on for it: its clocks are right when it goes on, and a time
limit that has passed meanwhile ends its agent then. Commands that need its
machine (exec, cp, stats, orders to one agent) are refused. stop and down work:
the team goes on for its orderly end.

Exit codes: 0 when it is so (also if it was before), 125 when not.";

/// What was typed after `pause` and `resume`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PauseArgs {
    /// The team.
    #[arg(value_name = "TEAM")]
    pub target: Target,

    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}
