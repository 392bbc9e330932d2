use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store { folder: folder.path().join("secrets") };
    (folder, store)
}

fn read(store: &Store, name: &str) -> Result<Secret, SecretError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(store.read(name))? {
        value::Found::Value(secret) => Ok(secret),
        found @ value::Found::Grant(_) => panic!("{found:?}"),
    }
}

fn value(text: &str) -> Kept {
    Kept::Value(text.as_bytes().to_vec())
}

#[test]
fn what_is_kept_is_read_again_and_lies_nowhere_in_plain_text() {
    let (folder, store) = store();
    assert!(store.names().unwrap().is_empty());
    store.set("one", &value("s3cr3t-value")).unwrap();
    store.set("two", &value("first")).unwrap();
    store.set("two", &value("second")).unwrap();
    assert_eq!(store.names().unwrap(), ["one", "two"]);
    assert_eq!(read(&store, "one").unwrap().bytes(), b"s3cr3t-value");
    assert_eq!(read(&store, "two").unwrap().bytes(), b"second");
    for entry in fs::read_dir(folder.path().join("secrets")).unwrap() {
        let entry = entry.unwrap();
        let bytes = fs::read(entry.path()).unwrap();
        assert!(!bytes.windows(6).any(|six| six == b"s3cr3t" || six == b"second"));
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(!format!("{:?}", store.find("one").unwrap()).contains("s3cr3t"));
    store.remove("one").unwrap();
    assert!(matches!(read(&store, "one"), Err(SecretError::Missing(_))));
    assert!(matches!(store.remove("one"), Err(SecretError::Missing(_))));
}

#[test]
fn a_file_that_was_changed_or_renamed_is_no_secret() {
    let (_folder, store) = store();
    store.set("one", &value("value")).unwrap();
    let path = store.path("one");
    let good = fs::read(&path).unwrap();
    fs::copy(&path, store.path("two")).unwrap();
    assert!(matches!(store.find("two"), Err(SecretError::Sealed(_))));
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).unwrap();
        assert!(matches!(store.find("one"), Err(SecretError::Sealed(_))), "{at}");
        fs::write(&path, &good[..at]).unwrap();
        assert!(matches!(store.find("one"), Err(SecretError::Sealed(_))), "{at}");
    }
    fs::write(&path, &good).unwrap();
    let key = store.folder.join(KEY);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(store.find("one"), Err(SecretError::Key(_))));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, [7; KEY_LEN]).unwrap();
    assert!(matches!(store.find("one"), Err(SecretError::Sealed(_))));
    fs::write(&key, [7; 5]).unwrap();
    assert!(matches!(store.find("one"), Err(SecretError::Key(_))));
}

#[test]
fn values_that_would_be_more_than_a_value_are_refused() {
    let (folder, store) = store();
    let file = folder.path().join("file");
    let long = "a".repeat(MAX_VALUE + 1);
    for text in ["", "a\r\nX-Other: b", "a\nb", "a\0b", "a\tb", "é", " a", "a ", "\x7f", &long] {
        assert!(
            matches!(store.set("one", &value(text)), Err(SecretError::Value { .. })),
            "{text:?}"
        );
        // A reference is looked at when it is read.
        fs::write(&file, text).unwrap();
        store.set("two", &Kept::File(file.clone())).unwrap();
        let error = read(&store, "two").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("X-Other"), "{error}");
    }
    store.set("one", &value(&"a".repeat(MAX_VALUE))).unwrap();
}

#[test]
fn references_are_read_when_they_are_needed() {
    let (folder, store) = store();
    let file = folder.path().join("file");
    store.set("file", &Kept::File(file.clone())).unwrap();
    assert!(matches!(read(&store, "file"), Err(SecretError::Io { .. })));
    for text in ["first\n", "second\r\n", "third"] {
        fs::write(&file, text).unwrap();
        assert_eq!(read(&store, "file").unwrap().bytes(), text.trim_end().as_bytes());
    }
    let command = |script: &str| {
        let words = ["sh", "-c", script].map(str::to_owned).to_vec();
        store.set("command", &Kept::Command(words)).unwrap();
        read(&store, "command")
    };
    assert_eq!(command("echo told").unwrap().bytes(), b"told");
    for (script, why) in [
        ("echo told; exit 3", "exit status: 3"),
        ("head -c 9000 /dev/zero | tr '\\0' a", "more than 8192 bytes"),
        ("yes", "more than 8192 bytes"),
    ] {
        let error = command(script).unwrap_err().to_string();
        assert!(error.contains(why) && !error.contains("told;"), "{script}: {error}");
    }
    assert!(matches!(command("exit 0"), Err(SecretError::Value { .. })));
    store.set("none", &Kept::Command(vec!["/no/such/program".to_owned()])).unwrap();
    assert!(read(&store, "none").unwrap_err().to_string().contains("can't be started"));
}

#[test]
fn a_file_that_would_be_waited_for_is_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert!(matches!(Secret::of_file("a", &path), Err(SecretError::Io { .. })));
    assert!(Secret::of_file("a", folder.path()).is_err());
    fs::write(folder.path().join("text"), "value\n").unwrap();
    assert_eq!(Secret::of_file("a", &folder.path().join("text")).unwrap().bytes(), b"value");
}

#[test]
fn what_a_killed_command_left_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store { folder: folder.path().to_owned() };
    for name in ["host.key.new", "one.new"] {
        fs::write(folder.path().join(name), "half of something").unwrap();
    }
    store.set("one", &Kept::Value(b"value".to_vec())).unwrap();
    assert_eq!(store.find("one").unwrap(), Kept::Value(b"value".to_vec()));
    assert_eq!(store.names().unwrap(), ["one"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

fn grant(refresh: &str) -> Grant {
    Grant {
        mark: Grant::new_mark().unwrap(),
        endpoint: "https://auth.example.com/token".to_owned(),
        client: "cloister".to_owned(),
        scope: String::new(),
        client_secret: None,
        in_body: false,
        refresh_token: Some(refresh.into()),
    }
}

#[test]
fn a_refresh_token_changes_as_a_whole_and_only_in_its_own_grant() {
    let (_folder, store) = store();
    let first = grant("first");
    store.set("mail", &Kept::OAuth(first.clone())).unwrap();
    let path = store.path("mail");
    let old = fs::read(&path).unwrap();
    store.rotate("mail", &first.mark, b"second").unwrap();
    let mut rotated = first.clone();
    rotated.refresh_token = Some(b"second".to_vec());
    let rotated = Kept::OAuth(rotated);
    assert_eq!(store.find("mail").unwrap(), rotated);
    // A crash before the new file has its name leaves the old one, and what is beside it is overwritten.
    let new = fs::read(&path).unwrap();
    for length in [0, 1, new.len() / 2, new.len()] {
        fs::write(&path, &old).unwrap();
        fs::write(store.folder.join("mail.new"), &new[..length]).unwrap();
        assert_eq!(store.find("mail").unwrap(), Kept::OAuth(first.clone()));
        assert_eq!(store.names().unwrap(), ["mail"]);
        store.rotate("mail", &first.mark, b"second").unwrap();
        assert_eq!(store.find("mail").unwrap(), rotated);
    }
    assert!(matches!(store.rotate("mail", &first.mark, b"a\nb"), Err(SecretError::Value { .. })));
    for other in [Kept::OAuth(grant("by-hand")), value("value")] {
        store.set("mail", &other).unwrap();
        store.rotate("mail", &first.mark, b"third").unwrap();
        assert_eq!(store.find("mail").unwrap(), other);
    }
    drop(store.turn("mail").unwrap());
    store.remove("mail").unwrap();
    store.rotate("mail", &first.mark, b"third").unwrap();
    assert!(store.names().unwrap().is_empty());
    assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 1, "the key alone");
}

#[test]
fn what_is_sealed_opens_as_what_it_is_and_on_its_host_alone() {
    let ((_elsewhere, other), (_folder, store)) = (store(), store());
    let sealed = store.seal("team.authority", b"s3cr3t").unwrap();
    assert!(!sealed.windows(6).any(|six| six == b"s3cr3t"));
    assert_eq!(store.open("team.authority", &sealed).unwrap().as_slice(), b"s3cr3t");
    // Another thing than it says, another host, one without a key, and changed ones.
    assert!(store.open("team.other", &sealed).is_err());
    assert!(other.open("team.authority", &sealed).is_err());
    other.seal("team.authority", b"x").unwrap();
    assert!(other.open("team.authority", &sealed).is_err());
    for at in [0, sealed.len() / 2, sealed.len() - 1] {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(store.open("team.authority", &changed).is_err(), "{at}");
    }
    for length in 0..sealed.len() {
        assert!(store.open("team.authority", &sealed[..length]).is_err(), "{length}");
    }
}
