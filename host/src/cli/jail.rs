//! What can be said about jails on the command line: where they are, never whether.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::launch::jail::{IdRange, JailSpec, LimitsWish};

/// Arguments of every command that starts a machine.
#[derive(Clone, Debug, Args)]
pub struct JailArgs {
    /// The control group directory (version 2) for machines; it must be yours to divide [default: as
    /// root one at the top, else one in the highest group above this process that is yours].
    #[arg(long, value_name = "DIR", env = "CLOISTER_CGROUP", hide_env_values = true)]
    #[arg(value_hint = ValueHint::DirPath)]
    pub cgroup: Option<PathBuf>,

    /// User ids for machines, one each, when run as root [default: 1900000000-1900065535].
    #[arg(long, value_name = "FIRST-LAST", env = "CLOISTER_UIDS", hide_env_values = true)]
    pub uids: Option<IdRange>,
}

impl JailArgs {
    /// The jail that they describe.
    #[must_use]
    pub fn spec(self, limits: LimitsWish) -> JailSpec {
        JailSpec { group: self.cgroup, ids: self.uids.unwrap_or_default(), limits }
    }
}
