use super::*;

#[test]
fn the_own_group_is_found_by_mount_and_own_path() {
    let mounts = "24 1 0:21 / /proc rw - proc proc rw\n\
                  30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
    let (mount, own) = find_own(mounts, "5:cpu:/x\n0::/user.slice/a\n").unwrap();
    assert_eq!(mount, Path::new("/sys/fs/cgroup"));
    assert_eq!(own, Path::new("/sys/fs/cgroup/user.slice/a"));
    assert_eq!(find_own("24 1 0:21 / /proc rw - proc proc rw\n", "0::/\n"), None);
    assert_eq!(find_own(mounts, "5:cpu:/x\n"), None);
}

/// A place of this test's own.
fn place(name: &str) -> Place {
    let mut place = Place::find(None).unwrap();
    place.folder.set_file_name(format!("cloister-test-{}-{name}", std::process::id()));
    place
}

#[test]
fn groups_have_different_numbers_and_leave_nothing() {
    let place = place("numbers");
    let (first, a) = place.make(&(10..13), false).unwrap();
    let (second, b) = place.make(&(10..13), false).unwrap();
    assert_eq!((a, b), (10, 11));
    assert!(first.path().is_dir() && second.path().is_dir());
    drop(first);
    let (_third, c) = place.make(&(10..13), false).unwrap();
    assert_eq!(c, 10, "it is free again");
    let _fourth = place.make(&(10..13), false).unwrap();
    assert!(matches!(place.make(&(10..13), false), Err(GroupError::NoneFree)));
    drop((_third, _fourth, second));
    assert!(!place.folder.exists());
}

#[test]
fn what_is_locked_is_not_swept_and_the_rest_is() {
    let place = place("sweep");
    let (alive, _) = place.make(&(1..2), false).unwrap();
    let left = place.folder.join("vm-7");
    let other = place.folder.join("not-ours");
    fs::create_dir(&left).unwrap();
    fs::create_dir(&other).unwrap();
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(left.join("cgroup.procs"), child.id().to_string()).unwrap();
    assert_eq!(sweep(&place), std::slice::from_ref(&left));
    assert!(!left.exists() && alive.path().exists() && other.exists());
    // It was killed with its group.
    assert!(!child.wait().unwrap().success());
    fs::remove_dir(other).unwrap();
    drop(alive);
    assert!(!place.folder.exists());
}

#[test]
fn a_jailer_that_outlives_a_killed_command_holds_no_lock() {
    let place = place("outlived");
    let (mut group, _) = place.make(&(1..2), false).unwrap();
    let left = group.path().to_owned();
    let jailers = group.unlocked().unwrap();
    assert!(sweep(&place).is_empty());
    // The kernel closes what a killed command had open, and nobody removes anything.
    group.folder = File::open("/dev/null").unwrap();
    assert_eq!(sweep(&place), std::slice::from_ref(&left));
    drop(jailers);
    assert!(!place.folder.exists());
}

#[test]
fn a_directory_elsewhere_is_refused() {
    let refused = Place::find(Some(Path::new("/tmp")));
    assert!(matches!(refused, Err(GroupError::NotGroup(_))), "{refused:?}");
}
