use super::*;
use crate::prove::report::Status;

#[test]
fn every_attack_is_held_here() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let mut names = std::collections::BTreeSet::new();
        let mut open = Vec::new();
        for row in rows() {
            assert!(names.insert(row.name), "{} comes twice", row.name);
            let ground = Ground::new(&folder.path().join("state")).await.unwrap();
            let seen = attack(row, &ground).await;
            if seen.status != Status::Held {
                open.push(format!("{}: {:?}: {}", row.name, seen.status, seen.words));
            }
        }
        assert!(open.is_empty(), "{open:#?}");
        assert!(names.len() >= 60, "{}", names.len());
    });
}
