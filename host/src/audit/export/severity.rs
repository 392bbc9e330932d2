//! How much a record matters to whoever watches a syslog or a journal.

/// Severity of a message, with the numbers of RFC 5424, section 6.2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something is missing, or did not work.
    Error = 3,
    /// Something was denied, or had to be ended.
    Warning = 4,
    /// Something that people asked for, or that makes a team's rules.
    Notice = 5,
    /// A team's daily life.
    Informational = 6,
}

/// What the exporter itself says when records are missing.
pub const GAP: &str = "export-gap";

/// The severity of a kind. One that is not known matters more than daily life.
#[must_use]
pub fn of(kind: &str) -> Severity {
    known(kind).unwrap_or(Severity::Notice)
}

fn known(kind: &str) -> Option<Severity> {
    Some(match kind {
        "team-failed" | "failed" | "container-gone" | "output-failed" | "secret-failed"
        | "notices-dropped" | "egress-left-out" | "pruned" | "recovered" | GAP => Severity::Error,
        "exec-denied" | "egress-denied" | "egress-quota" | "name-refused" | "secret-denied"
        | "policy-refused" | "out-of-memory" | "too-many-processes" | "egress-failed" => {
            Severity::Warning
        }
        "log-begun" | "team-started" | "team-ended" | "removed" | "policy" | "policy-applied"
        | "egress-observed" | "restarting" | "skipped" | "exec" | "copy" | "attach" | "order"
        | "answer" | "egress-asked" | "paused" | "resumed" | "suspended" | "checkpointed"
        | "carried" => Severity::Notice,
        "machine-started" | "machine-ended" | "started" | "exited" | "stopped"
        | "output-copied" | "egress-allowed" | "egress-ended" | "egress-request" => {
            Severity::Informational
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_kind_has_one() {
        let document = include_str!("../../../../docs/audit.md");
        let (_, table) = document.split_once("## What is recorded").unwrap();
        let rows = table.split("\n## ").next().unwrap().lines();
        let cells = rows.filter_map(|row| row.strip_prefix("| ")?.split(" | ").next());
        let kinds: Vec<_> = cells
            .filter(|cell| cell.starts_with('`'))
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .collect();
        assert!(kinds.len() > 40, "{kinds:?}");
        for kind in kinds {
            assert!(known(kind).is_some(), "{kind}");
        }
        assert_eq!(of("of tomorrow"), Severity::Notice);
        assert_eq!(of("egress-denied"), Severity::Warning);
        assert_eq!(of("egress-left-out"), Severity::Error);
    }
}
