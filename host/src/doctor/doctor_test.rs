use super::*;

#[test]
fn a_warning_is_no_failure() {
    let check = |status| Check::new("x", status, "found");
    assert!(Report::new(vec![check(Status::Ok), check(Status::Warn)]).ok);
    assert!(!Report::new(vec![check(Status::Ok), check(Status::Fail)]).ok);
}

#[test]
fn the_json_object_has_its_documented_keys() {
    let check = Check::new("kvm", Status::Fail, "found").remedy("do it").fact("api_version", 12);
    let report = serde_json::to_value(Report::new(vec![check])).unwrap();
    let expected = serde_json::json!({
        "schema": 1,
        "ok": false,
        "version": env!("CARGO_PKG_VERSION"),
        "checks": [{
            "name": "kvm",
            "status": "fail",
            "found": "found",
            "remedy": "do it",
            "facts": { "api_version": 12 },
        }],
    });
    assert_eq!(report, expected);
}

#[tokio::test(flavor = "current_thread")]
async fn a_host_without_anything_is_told_all_of_it() {
    let files = Files {
        vmm: "/no/vmm".into(),
        jailer: "/no/jailer".into(),
        kernel: "/no/kernel".into(),
        root: "/no/root".into(),
        kvm: "/no/kvm".into(),
    };
    let report = examine(&files, &JailSpec::default()).await;
    assert!(!report.ok);
    let failed: Vec<&str> = report
        .checks
        .iter()
        .filter(|check| check.status == Status::Fail)
        .map(|check| check.name)
        .collect();
    for name in ["kvm", "vmm", "jailer", "guest", "kernel", "rootfs"] {
        assert!(failed.contains(&name), "{name}");
    }
    let document = include_str!("../../../docs/user-guide.md");
    for check in &report.checks {
        assert!(document.contains(&format!("`{}`", check.name)), "{} in the guide", check.name);
        assert!(check.status == Status::Ok || check.remedy.is_some() || check.name == "guest");
    }
}
