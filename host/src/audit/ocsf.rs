//! Records as events of the Open Cybersecurity Schema Framework (OCSF 1.3), one JSON object each, as
//! collectors of security events read them.

use serde_json::{Value, json};

use super::record::Record;

const VERSION: &str = "1.3.0";

/// Class and activity in OCSF, and severity (1 informational, 2 low, 3 medium, 4 high).
struct Kind {
    class: u32,
    activity: u32,
    severity: u32,
}

const fn kind(class: u32, activity: u32, severity: u32) -> Kind {
    Kind { class, activity, severity }
}

/// Application Lifecycle.
const LIFECYCLE: u32 = 6002;
/// API Activity.
const API: u32 = 6003;
/// Process Activity.
const PROCESS: u32 = 1007;
/// Network Activity.
const NETWORK: u32 = 4001;
/// Detection Finding.
const FINDING: u32 = 2004;
/// "Other" of every class.
const OTHER: u32 = 99;

fn kind_of(word: &str) -> Kind {
    match word {
        // Start and stop of applications are activities 3 and 4.
        "team-started" | "machine-started" => kind(LIFECYCLE, 3, 1),
        "team-ended" | "machine-ended" => kind(LIFECYCLE, 4, 1),
        "team-failed" => kind(LIFECYCLE, 4, 3),
        // Launch and terminate of processes are activities 1 and 2.
        "started" | "restarting" | "exec" => kind(PROCESS, 1, 1),
        "exited" | "stopped" => kind(PROCESS, 2, 1),
        "failed" | "container-gone" => kind(PROCESS, 2, 3),
        // A finding is created: activity 1.
        "out-of-memory" | "too-many-processes" | "notices-dropped" => kind(FINDING, 1, 2),
        "exec-denied" => kind(FINDING, 1, 3),
        // Open, close, fail and refuse of network activity.
        "egress-allowed" => kind(NETWORK, 1, 1),
        "egress-observed" => kind(NETWORK, 1, 2),
        "egress-asked" => kind(FINDING, 1, 2),
        "egress-ended" => kind(NETWORK, 2, 1),
        // Traffic of a connection that goes on.
        "egress-request" => kind(NETWORK, 6, 1),
        "egress-failed" => kind(NETWORK, 4, 2),
        "egress-denied" => kind(NETWORK, 5, 3),
        "name-refused" => kind(FINDING, 1, 3),
        "egress-quota" | "secret-denied" | "secret-failed" => kind(FINDING, 1, 3),
        "output-failed" | "pruned" => kind(FINDING, 1, 2),
        "egress-left-out" => kind(FINDING, 1, 2),
        // "Update" of the API's activities.
        "policy-applied" => kind(API, 3, 2),
        "order" | "copy" | "attach" | "answer" | "policy-refused" => kind(API, 3, 1),
        _ => kind(LIFECYCLE, OTHER, 1),
    }
}

/// The event of a record.
#[must_use]
pub fn event(team: &str, record: &Record) -> Value {
    let Kind { class, activity, severity } = kind_of(&record.kind);
    let time = chrono::DateTime::parse_from_rfc3339(&record.time);
    let mut event = json!({
        "metadata": {
            "version": VERSION,
            "product": { "name": "Cloister", "vendor_name": "Cloister", "version": env!("CARGO_PKG_VERSION") },
            "uid": format!("{}:{}", record.log, record.seq),
            "sequence": record.seq,
            "log_name": team,
        },
        "time": time.map_or(0, |time| time.timestamp_millis()),
        "class_uid": class,
        "category_uid": class / 1000,
        "activity_id": activity,
        "type_uid": class * 100 + activity,
        "severity_id": severity,
        "message": record.detail,
        "unmapped": {
            "kind": record.kind,
            "team": team,
            "agent": record.agent,
            "data": record.data,
            "prev": record.prev,
            "sig": record.sig,
        },
    });
    if let (Some(by), Some(event)) = (&record.by, event.as_object_mut()) {
        let actor = json!({
            "user": { "uid": by.uid.to_string() },
            "process": { "pid": by.pid },
        });
        event.insert("actor".to_owned(), actor);
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::By;

    #[test]
    fn an_event_has_what_its_class_asks_for() {
        let record = Record {
            log: "ab".repeat(16),
            seq: 7,
            prev: "0".repeat(64),
            time: "2026-01-02T03:04:05.600000000Z".into(),
            kind: "exec".into(),
            agent: "a".into(),
            by: Some(By { uid: 1000, pid: 77 }),
            detail: "sh".into(),
            data: std::collections::BTreeMap::new(),
            sig: String::new(),
        };
        let event = event("t", &record);
        assert_eq!(event["time"], 1_767_323_045_600_i64);
        assert_eq!(event["type_uid"], 100_701);
        assert_eq!(event["category_uid"], 1);
        assert_eq!(event["actor"]["user"]["uid"], "1000");
        assert_eq!(event["unmapped"]["agent"], "a");
        assert_eq!(super::event("t", &Record { kind: "new".into(), ..record })["activity_id"], 99);
    }
}
