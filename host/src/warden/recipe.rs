//! A team as its warden runs it: everything resolved, checked and open.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use cloister_protocol::agent::{AgentSpec, User};

use crate::audit::record::Entry;
use crate::egress::policy::Policy;
use crate::launch::LaunchSpec;
use crate::machine::ExecSpec;
use crate::team::plan::Plan;
use crate::template::Wish;

/// A team that is ready to be started.
#[derive(Debug)]
pub struct Recipe {
    /// Its name.
    pub name: String,
    /// Its machine, with all shares.
    pub launch: LaunchSpec,
    /// From where its machine goes on.
    pub origin: Wish,
    /// Its agents; one's number is its place here.
    pub agents: Vec<AgentRecipe>,
    /// Kept open while it runs: locks on the roots of its images, directories of its outputs.
    pub held: Vec<OwnedFd>,
    /// What it was made of.
    pub plan: Plan,
    /// What the audit log says of it before it starts.
    pub record: Vec<Entry>,
}

/// An agent that is ready to be started.
#[derive(Debug)]
pub struct AgentRecipe {
    /// Its name in the team.
    pub name: String,
    /// Its image's name, for people.
    pub image: String,
    /// Its container.
    pub spec: AgentSpec,
    /// Its command.
    pub exec: ExecSpec,
    /// As whom its command runs.
    pub user: User,
    /// What happens when its command fails.
    pub restart: Restart,
    /// What it waits for.
    pub after: Vec<After>,
    /// How long it may run, restarts included; `None`: for ever.
    pub time_limit: Option<Duration>,
    /// What is copied to the host when its command has ended.
    pub outputs: Vec<Output>,
    /// What it may reach outside.
    pub egress: Policy,
    /// Whether its container has the certificate of the team's authority.
    pub trusts: bool,
    /// Whom its image trusts, if streams of it are opened.
    pub trusted: Option<Trusted>,
}

/// Certificate authorities that an image trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    /// Its list, as PEM; empty if it has none where programs look.
    pub list: Vec<u8>,
    /// Where its programs look for the list, links followed: absolute paths of files that are there.
    pub places: Vec<String>,
    /// Where its Javas look for theirs; likewise.
    pub java_places: Vec<String>,
}

/// What happens when an agent's command fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Nothing.
    Never,
    /// It is started again.
    OnFailure {
        /// So many times at most.
        times: u32,
        /// After this time, which doubles each time up to [`MAX_BACK_OFF`].
        back_off: Duration,
    },
}

/// Longest time before a failed agent is started again.
pub const MAX_BACK_OFF: Duration = Duration::from_secs(60);

impl Restart {
    /// How long to wait before the next start, after so many; `None`: there is none.
    #[must_use]
    pub fn wait(self, restarts: u32) -> Option<Duration> {
        match self {
            Self::OnFailure { times, back_off } if restarts < times => {
                let factor = 1_u32.checked_shl(restarts).unwrap_or(u32::MAX);
                Some(back_off.saturating_mul(factor).min(MAX_BACK_OFF))
            }
            Self::OnFailure { .. } | Self::Never => None,
        }
    }
}

/// Something that an agent waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// Which agent.
    pub agent: usize,
    /// What of it.
    pub condition: Condition,
}

/// What of another agent is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Its command runs, or has run.
    Started,
    /// Its command ended with code 0.
    Succeeded,
}

/// A file or directory that is copied out of an agent's container at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// In the container; absolute.
    pub path: Vec<u8>,
    /// On the host; absolute, by way of one of [`Recipe::held`].
    pub to: PathBuf,
    /// The same, for people.
    pub shown: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_end() {
        let restart = Restart::OnFailure { times: 40, back_off: Duration::from_secs(1) };
        let waits: Vec<_> = (0..8).map(|n| restart.wait(n).unwrap().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(restart.wait(39), Some(MAX_BACK_OFF));
        assert_eq!(restart.wait(40), None);
        assert_eq!(Restart::Never.wait(0), None);
    }
}
