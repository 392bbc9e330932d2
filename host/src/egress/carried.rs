//! What of a gate outlives it when its team is put on the disk.

use super::authority::KeptAuthority;
use super::gate::Gate;
use super::relay::Direction;

impl Gate {
    /// What each agent has used of its quota: bytes sent and received.
    #[must_use]
    pub fn used(&self) -> Vec<(u64, u64)> {
        self.used.iter().map(|used| used.so_far()).collect()
    }

    /// The same agents had used this before.
    #[must_use]
    pub fn having_used(self, before: &[(u64, u64)]) -> Self {
        for (used, (sent, received)) in self.used.iter().zip(before) {
            used.count(Direction::Out, *sent);
            used.count(Direction::Back, *received);
        }
        self
    }

    /// What the team's authority can go on from, if it has one.
    #[must_use]
    pub fn kept_authority(&self) -> Option<KeptAuthority> {
        self.opener.as_ref().map(|opener| opener.authority.kept())
    }
}
