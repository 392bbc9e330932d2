//! The command line of the red-team suite.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::guest::GuestArgs;
use super::jail::JailArgs;

const EXAMPLES: &str = "\
Examples:
  cloister prove                         Every attack, as a table
  cloister prove --html report.html      And a page for whoever files it
  cloister prove --only guest-kernel/    Those of hostile guest kernels
  cloister prove --list                  What each attack tries, and why it must fail

Nothing of the host is changed, and everything that is made goes again, after
Ctrl-C too. An attack that succeeds has done no harm: it stops where it would.

Exit codes: 0 when every attack was held, 1 when one was not, or could not be
tried here (unless --allow-skips), 125 when the call was wrong.";

/// What was typed after `prove`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ProveArgs {
    /// Print one JSON object, for programs; see docs/user-guide.md.
    #[arg(long)]
    pub json: bool,

    /// Write the report as a page, self-contained, for people.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub html: Option<PathBuf>,

    /// Only attacks whose name contains this.
    #[arg(long, value_name = "PATTERN")]
    pub only: Option<String>,

    /// List the attacks, and try none.
    #[arg(long, conflicts_with_all = ["html", "allow_skips"])]
    pub list: bool,

    /// Succeed although attacks could not be tried on this host.
    #[arg(long)]
    pub allow_skips: bool,

    /// The guest's kernel and root.
    #[command(flatten)]
    pub guest: GuestArgs,

    /// Where the jails are.
    #[command(flatten)]
    pub jail: JailArgs,
}
