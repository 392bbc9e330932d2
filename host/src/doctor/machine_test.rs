use super::*;

fn report(verdict: ProbeVerdict) -> ProbeReport {
    ProbeReport { verdict, duration_us: 1500, detail: "a\x1bb".to_owned() }
}

#[test]
fn verdicts() {
    let good = judge("guest", &report(ProbeVerdict::Hardware));
    assert_eq!((good.status, good.remedy.as_deref()), (Status::Ok, None));
    assert_eq!(good.found, "a probe guest ran on the processor, in 1.5 ms: a\\x1bb");
    for (verdict, name) in
        [(ProbeVerdict::Interpreted, "interpreted"), (ProbeVerdict::Broken, "broken")]
    {
        let check = judge("guest", &report(verdict));
        assert_eq!(check.status, Status::Fail);
        assert_eq!(check.facts["verdict"], name);
        assert!(check.remedy.is_some());
    }
}

#[test]
fn little_memory_is_a_warning() {
    let memory = HostMemory { total: 8 << 30, available: 4 << 30, group_limit: None };
    assert_eq!(judge_memory(memory).status, Status::Ok);
    let little = HostMemory { available: 100 << 20, ..memory };
    assert_eq!(judge_memory(little).status, Status::Warn);
    let grouped = judge_memory(HostMemory { group_limit: Some(256 << 20), ..memory });
    assert_eq!(grouped.status, Status::Warn);
    assert!(grouped.found.contains("256 MiB"));
}
