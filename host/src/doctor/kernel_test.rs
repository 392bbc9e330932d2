use super::*;

#[test]
fn the_group_is_found_by_mount_and_own_path() {
    let mounts = "24 1 0:21 / /proc rw - proc proc rw\n\
                  30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
    let groups = "5:cpu:/x\n0::/user.slice/a\n";
    let (mount, group) = find_group(mounts, groups).unwrap();
    assert_eq!(mount, Path::new("/sys/fs/cgroup"));
    assert_eq!(group, Path::new("/sys/fs/cgroup/user.slice/a"));
    assert_eq!(find_group("24 1 0:21 / /proc rw - proc proc rw\n", groups), None);
    assert_eq!(find_group(mounts, "5:cpu:/x\n"), None);
}

#[test]
fn a_group_needs_its_controllers_and_to_be_ours() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let judge = || judge_group(folder.path(), folder.path());
    write("cgroup.controllers", "cpu io memory pids\n");
    assert_eq!(judge().status, Status::Warn);
    write("cgroup.procs", "");
    write("cgroup.subtree_control", "");
    let good = judge();
    assert_eq!(good.status, Status::Ok, "{good:?}");
    assert_eq!(good.facts["delegated"], true);
    write("cgroup.controllers", "cpu pids\n");
    assert_eq!(judge().status, Status::Warn);
}

#[test]
fn namespaces_that_are_refused_are_a_warning() {
    assert_eq!(judge_namespaces(Some(WORKED)).status, Status::Ok);
    let refused = judge_namespaces(Some(libc::EPERM));
    assert_eq!(refused.status, Status::Warn);
    assert!(refused.found.contains("Operation not permitted"));
    assert_eq!(judge_namespaces(None).status, Status::Warn);
}

#[test]
fn asking_this_kernel_gives_an_answer() {
    assert_eq!(seccomp().status, Status::Ok);
    assert!(landlock().facts.contains_key("abi"));
    assert!(namespaces().facts.contains_key("usable"));
}
