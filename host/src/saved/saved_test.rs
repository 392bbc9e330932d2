use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};

use serde_json::{Value, json};

use super::*;

/// A record of a team without agents.
fn record() -> Record {
    let set = |value: Value| json!({"value": value, "from": "default"});
    let plan = json!({
        "schema": 1, "name": set(json!("t")), "lifetime": set(json!("ephemeral")),
        "egress_mode": set(json!("enforce")), "volumes": [], "agents": [],
        "machine": {
            "cpus": set(json!(1)), "memory_mib": set(json!(64)), "kernel": null,
            "template": set(json!("auto")),
        },
    });
    Record {
        version: VERSION,
        at_ms: 1,
        plan: serde_json::from_value(plan).unwrap(),
        agents: Vec::new(),
        authority: Some(vec![1, 2, 3]),
        digests: Digests::default(),
    }
}

fn kept(team: &Path) {
    let work = Work::begin(team).unwrap();
    let memory = work.memory().unwrap();
    memory.set_len(1 << 20).unwrap();
    memory.write_all_at(b"guest", 70_000).unwrap();
    work.finish(&memory, b"state", Some(b"files"), record()).unwrap();
    work.publish().unwrap();
}

#[test]
fn what_was_kept_is_used_once() {
    let team = tempfile::tempdir().unwrap();
    assert!(!is_there(team.path()));
    assert!(matches!(open(team.path()), Err(SavedError::Missing(_))));
    kept(team.path());
    assert!(is_there(team.path()));
    let opened = open(team.path()).unwrap();
    assert_eq!(
        (&opened.record.plan, opened.files.as_deref()),
        (&record().plan, Some(&b"files"[..]))
    );
    // One that does not go on leaves it there, one that does takes it away.
    drop(opened.use_up().unwrap());
    assert!(is_there(team.path()));
    let used = open(team.path()).unwrap().use_up().unwrap();
    assert!(!is_there(team.path()));
    used.remove().unwrap();
    assert_eq!(fs::read_dir(team.path()).unwrap().count(), 0);
}

#[test]
fn a_write_that_is_given_up_leaves_what_was_there() {
    let team = tempfile::tempdir().unwrap();
    kept(team.path());
    let work = Work::begin(team.path()).unwrap();
    work.memory().unwrap();
    drop(work);
    assert_eq!(fs::read_dir(team.path()).unwrap().count(), 1);
    // What a killed warden has left is in nobody's way.
    std::mem::forget(Work::begin(team.path()).unwrap());
    kept(team.path());
    open(team.path()).unwrap();
    discard(team.path()).unwrap();
    assert_eq!(fs::read_dir(team.path()).unwrap().count(), 0);
}

#[test]
fn others_share_the_memory() {
    let (team, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    kept(team.path());
    let work = Work::begin(other.path()).unwrap();
    work.take_over(&place(team.path())).unwrap();
    work.publish().unwrap();
    let inode = |team: &Path| fs::metadata(place(team).join("memory")).unwrap().ino();
    assert_eq!(inode(team.path()), inode(other.path()));
    open(team.path()).unwrap().use_up().unwrap().remove().unwrap();
    open(other.path()).unwrap();
}

/// Does something to what was kept.
type Act = Box<dyn Fn(&Path)>;

#[test]
fn what_is_not_as_it_was_is_refused() {
    let change = |name: &'static str, bytes: &'static [u8]| {
        move |folder: &Path| {
            let path = folder.join(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let file = File::options().write(true).open(path).unwrap();
            file.write_all_at(bytes, 0).unwrap();
        }
    };
    let remove =
        |name: &'static str| move |folder: &Path| fs::remove_file(folder.join(name)).unwrap();
    let wrong: [(&str, Act); 9] = [
        ("its memory has changed", Box::new(change("memory", b"x"))),
        ("its state has changed", Box::new(change("state", b"x"))),
        ("the state of its files has changed", Box::new(change("files", b"x"))),
        ("its record can't be read", Box::new(change("team.json", b"x"))),
        ("its memory is missing", Box::new(remove("memory"))),
        ("its state is missing", Box::new(remove("state"))),
        ("the state of its files is missing", Box::new(remove("files"))),
        ("nothing of the team is on the disk", Box::new(remove("team.json"))),
        (
            "of version 99",
            Box::new(|folder| {
                let path = folder.join("team.json");
                fs::remove_file(&path).unwrap();
                fs::write(path, r#"{"version": 99, "more": []}"#).unwrap();
            }),
        ),
    ];
    for (words, act) in wrong {
        let team = tempfile::tempdir().unwrap();
        kept(team.path());
        act(&place(team.path()));
        let error = open(team.path()).unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(!error.remedy().is_empty());
    }
}
