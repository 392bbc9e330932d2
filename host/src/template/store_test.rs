use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

use super::super::content;
use super::*;

fn key(memory_mib: u32) -> Key {
    let text = String::from;
    Key {
        version: text("1"),
        vmm: text("a"),
        kernel: text("b"),
        root: text("c"),
        vcpus: 1,
        memory_mib,
        cmdline: String::new(),
        shares: false,
        host: text("d"),
    }
}

fn places(kernel: &str) -> Places {
    Places { vmm: "/vmm".into(), kernel: kernel.into(), root: "/root".into() }
}

fn publish(store: &Store, key: &Key) {
    let work = store.begin().unwrap();
    let (memory, ()) = work
        .file("memory", |file| {
            file.set_len(u64::from(key.memory_mib) << 20)?;
            file.write_all_at(b"memory", 4096)
        })
        .unwrap();
    let (state, ()) = work.file("state", |mut file| file.write_all(b"state of a machine")).unwrap();
    let [memory, state] = [memory, state].map(|file| content::digest(&file).unwrap());
    let content = Content { memory, stored_bytes: 4096, state, written: WorkingSet::of([1, 5]) };
    work.publish(key, places("/kernel"), &content).unwrap();
}

fn bed() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("templates")).unwrap();
    (folder, store)
}

#[test]
fn what_is_published_is_found_and_locked_while_it_is_used() {
    let (_folder, store) = bed();
    assert!(store.take(&key(1)).unwrap().is_none());
    publish(&store, &key(1));
    assert!(store.take(&key(2)).unwrap().is_none());
    let opened = store.take(&key(1)).unwrap().unwrap();
    let name = key(1).name();
    assert!(matches!(store.remove_unused(&name), Err(TemplateError::InUse(_))));
    assert_eq!(opened.saved.written, WorkingSet::of([1, 5]));
    let state = File::from(opened.saved.state.try_clone().unwrap());
    let mut bytes = vec![0; usize::try_from(state.metadata().unwrap().len()).unwrap()];
    state.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, b"state of a machine");
    drop(opened);
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(store.find(&name[..6]).unwrap().0, name);
    store.remove_unused(&name).unwrap();
    assert!(store.list().unwrap().is_empty() && !store.has(&key(1)));
}

#[test]
fn a_changed_template_is_never_used() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 13] = [
        ("a flipped bit of the state", |place| overwrite(&place.join("state"), 3)),
        ("a cut state", |place| cut(&place.join("state"), 5)),
        ("no state", |place| fs::remove_file(place.join("state")).unwrap()),
        ("a flipped bit of the memory", |place| overwrite(&place.join("memory"), 4097)),
        ("a bit in an empty page", |place| overwrite(&place.join("memory"), 500_000)),
        ("a cut memory", |place| cut(&place.join("memory"), 8192)),
        ("no memory", |place| fs::remove_file(place.join("memory")).unwrap()),
        ("a flipped bit of the list of pages", |place| overwrite(&place.join("written"), 1)),
        ("a cut list of pages", |place| cut(&place.join("written"), 2)),
        ("no list of pages", |place| fs::remove_file(place.join("written")).unwrap()),
        ("a list of pages that the memory has not", |place| {
            let list = postcard::to_allocvec(&WorkingSet::of([256])).unwrap();
            let about = fs::read_to_string(place.join("about.json")).unwrap();
            let told: About = serde_json::from_str(&about).unwrap();
            let about = about.replace(&told.written, &Digest::of(&list).hex());
            for (name, content) in [("written", &list[..]), ("about.json", about.as_bytes())] {
                writable(&place.join(name));
                fs::write(place.join(name), content).unwrap();
            }
        }),
        ("no description", |place| cut(&place.join("about.json"), 0)),
        ("another description", |place| {
            let text = fs::read_to_string(place.join("about.json")).unwrap();
            writable(&place.join("about.json"));
            fs::write(place.join("about.json"), text.replace("\"vcpus\": 1", "\"vcpus\": 2"))
                .unwrap();
        }),
    ];
    for (what, damage) in damages {
        let (_folder, store) = bed();
        publish(&store, &key(1));
        assert!(store.take(&key(1)).unwrap().is_some());
        damage(&store.place(&key(1)));
        let taken = store.take(&key(1));
        assert!(matches!(taken, Err(TemplateError::Damaged(_))), "{what}: {taken:?}");
        // It can be replaced.
        store.remove(&key(1)).unwrap();
        publish(&store, &key(1));
        assert!(store.take(&key(1)).unwrap().is_some(), "{what}");
    }
}

fn writable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn overwrite(path: &Path, at: u64) {
    writable(path);
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn cut(path: &Path, length: u64) {
    writable(path);
    File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

#[tokio::test]
async fn what_a_killed_build_left_counts_for_nothing_and_goes() {
    let (_folder, store) = bed();
    let work = store.begin().unwrap();
    work.file("memory", |file| file.set_len(4096)).unwrap();
    // Killed: nothing cleans up.
    std::mem::forget(work);
    assert!(store.list().unwrap().is_empty());
    let lock = store.build_alone().await.unwrap();
    let left: Vec<_> =
        fs::read_dir(store.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(NEW)), "{left:?}");
    drop(lock);
    // One that fails takes itself away.
    drop(store.begin().unwrap());
    assert_eq!(fs::read_dir(store.path()).unwrap().count(), left.len());
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Store::open(folder.path()), Err(TemplateError::NotOurs(_))));
}

#[test]
fn a_template_of_what_was_in_the_same_places_is_outdated() {
    let (_folder, store) = bed();
    publish(&store, &key(1));
    publish(&store, &key(2));
    let newer = Key { vmm: "new".to_owned(), ..key(1) };
    let outdated = |key: &Key, kernel| store.outdated(key, &places(kernel)).unwrap();
    assert_eq!(outdated(&newer, "/kernel"), [key(1).name()]);
    // Who tries another kernel once does not lose the template of the usual one.
    assert!(outdated(&newer, "/another/kernel").is_empty());
    assert!(outdated(&key(1), "/kernel").is_empty());
    assert!(outdated(&key(3), "/kernel").is_empty());
}

#[tokio::test]
async fn who_builds_removes_digests_that_have_piled_up() {
    let (folder, store) = bed();
    let digests = folder.path().join("templates/digests");
    for number in 0..1000 {
        fs::write(digests.join(number.to_string()), "x").unwrap();
    }
    drop(store.build_alone().await.unwrap());
    assert_eq!(fs::read_dir(&digests).unwrap().count(), 0);
}
