use super::*;

#[test]
fn a_group_needs_every_limit() {
    let folder = tempfile::tempdir().unwrap();
    let judge = || judge_group(folder.path(), "/x");
    assert_eq!(judge().status, Status::Fail);
    for name in ["memory.max", "pids.max"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    assert!(judge().found.contains("lack cpu.max"));
    std::fs::write(folder.path().join("cpu.max"), "").unwrap();
    assert_eq!((judge().status, judge().facts["io_weight"].clone()), (Status::Ok, false.into()));
}

#[test]
fn a_group_elsewhere_fails_with_what_to_do() {
    let jail = JailSpec { group: Some("/tmp".into()), ..JailSpec::default() };
    let check = cgroup(&jail);
    assert!(check.status == Status::Fail && check.remedy.is_some(), "{check:?}");
}

#[test]
fn namespaces_that_are_refused_are_a_failure() {
    assert_eq!(judge_namespaces(Some(WORKED)).status, Status::Ok);
    let refused = judge_namespaces(Some(libc::EPERM));
    assert_eq!(refused.status, Status::Fail);
    assert!(refused.found.contains("Operation not permitted"));
    assert_eq!(judge_namespaces(None).status, Status::Fail);
}

#[test]
fn asking_this_kernel_gives_an_answer() {
    assert_eq!(seccomp().status, Status::Ok);
    assert!(landlock().facts.contains_key("abi"));
    assert!(namespaces().facts.contains_key("usable"));
}
