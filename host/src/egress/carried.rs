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

#[cfg(test)]
mod tests {
    use crate::egress::authority::Authority;

    #[test]
    fn an_authority_goes_on_as_what_clients_trust() {
        let first = Authority::new("t").unwrap();
        let kept = serde_json::to_value(first.kept()).unwrap();
        let again = Authority::again(&serde_json::from_value(kept.clone()).unwrap()).unwrap();
        assert_eq!(
            (again.pem(), serde_json::to_value(again.kept()).unwrap()),
            (first.pem(), kept.clone())
        );
        for key in ["key", "host_key"] {
            let mut wrong = kept.clone();
            wrong[key] = serde_json::json!([1, 2, 3]);
            assert!(Authority::again(&serde_json::from_value(wrong).unwrap()).is_err(), "{key}");
        }
    }
}
