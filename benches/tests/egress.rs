//! The bench of the gate of egress works: a very small one, without proxies.

use std::process::Command;

use serde_json::Value;

#[test]
fn a_small_round_measures_every_case_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (place, out) = (folder.path().join("place"), folder.path().join("out"));
    std::fs::create_dir(&place).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bench-egress"))
        .args(["measure", "-n", "1", "--warmup", "0", "--connections", "2", "--requests", "3"])
        .args(["--kib", "64", "--streams", "2"])
        .arg("--place")
        .arg(&place)
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(place.read_dir().unwrap().next().is_none());
    let json = std::fs::read(out.join("egress.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let subjects = json["subjects"].as_array().unwrap();
    let names: Vec<_> = subjects.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["direct", "gate", "gate-opened"]);
    for subject in subjects {
        let findings = subject["rounds"][0].as_array().unwrap();
        assert_eq!(findings.len(), 3 * 6);
        for finding in findings {
            let streams = match finding["name"].as_str().unwrap() {
                "connect" => 2,
                "request" => 3,
                name => name.rsplit('-').next().unwrap().parse().unwrap(),
            };
            assert_eq!(finding["count"], streams, "{finding}");
            assert!(finding["total_ns"].as_u64().unwrap() > 0, "{finding}");
            let used = finding.get("processor_ns").map(|used| used.as_u64().unwrap());
            assert_eq!(used.is_some_and(|used| used > 0), subject["name"] != "direct", "{finding}");
        }
    }
    assert_eq!(json["ratios"].as_array().unwrap().len(), 2 * 3 * 6);
    // What an opened stream is recorded as: connected, each request, and ended.
    let records = &json["records"];
    assert!(records["written"].as_u64().unwrap() > 100, "{records}");
    assert_eq!((&records["left_out"], &records["failed"]), (&0.into(), &Value::Null));
    assert!(String::from_utf8(output.stdout).unwrap().contains("HTTP/2 in TLS: upload-2"));
}
