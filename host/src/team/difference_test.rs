use serde_json::json;

use super::*;

fn plan(change: impl FnOnce(&mut Value)) -> Plan {
    let set = |value: Value| json!({"value": value, "from": "default"});
    let limits = json!({
        "cpu_thousandths": set(json!(500)), "memory": set(json!(1)), "pids": set(json!(1)), "tmp": set(json!(1)),
        "files": set(json!(1)), "open_files": set(json!(1)), "file_size": set(json!(1)), "time_limit_ms": set(json!(null)),
    });
    let rule = json!({"peer": {"host": "a.test"}, "ports": [443], "action": "allow", "http": null});
    let image = json!({"name": set(json!("i")), "digest": "d", "chain": "c", "root": 1, "lock": 2});
    let mut value = json!({
        "schema": 1, "name": set(json!("t")), "lifetime": set(json!("ephemeral")), "egress_mode": set(json!("enforce")),
        "machine": {"cpus": set(json!(1)), "memory_mib": set(json!(64)), "kernel": null, "template": set(json!("auto"))}, "volumes": [],
        "agents": [{
            "name": set(json!("a")), "image": image, "command": set(json!(["x"])), "environment": [],
            "directory": set(json!("/")), "user": set(json!({"uid": 1, "gid": 1, "home": "/", "groups": []})), "limits": limits,
            "root": set(json!("read-only")), "mounts": [], "outputs": [], "executables": set(json!(null)),
            "writable_directories": set(json!(null)), "restart": set(json!("never")), "after": [], "egress": [set(rule)],
            "egress_quota": set(json!({"sent": null, "received": null})),
        }],
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

#[test]
fn only_what_is_no_egress_is_a_difference() {
    let old = plan(|_| {});
    for same in [
        plan(|plan| plan["agents"][0]["egress"] = json!([])),
        plan(|plan| plan["egress_mode"]["value"] = json!("observe")),
        plan(|plan| plan["agents"][0]["egress_quota"]["value"]["sent"] = json!(4096)),
        plan(|plan| plan["agents"][0]["image"]["digest"] = json!("other")),
        plan(|plan| plan["agents"][0]["image"]["root"] = json!(7)),
        plan(|plan| plan["name"]["from"] = json!("derived")),
    ] {
        assert!(beside_egress(&old, &same).is_empty(), "{same:?}");
    }
    for (key, other) in [
        ("machine.cpus", plan(|plan| plan["machine"]["cpus"]["value"] = json!(2))),
        ("agents.a.command", plan(|plan| plan["agents"][0]["command"]["value"] = json!(["y"]))),
        ("agents.a.directory", plan(|plan| plan["agents"][0]["directory"]["value"] = json!("/x"))),
        (
            "agents.a.limits.memory",
            plan(|plan| {
                plan["agents"][0]["limits"]["memory"]["value"] = json!(2);
            }),
        ),
        (
            "agents.a.image.name",
            plan(|plan| plan["agents"][0]["image"]["name"]["value"] = json!("j")),
        ),
        ("agents.a", plan(|plan| plan["agents"] = json!([]))),
        ("volumes", plan(|plan| plan["volumes"] = json!(["v"]))),
        ("name", plan(|plan| plan["name"]["value"] = json!("u"))),
    ] {
        assert_eq!(beside_egress(&old, &other), [key]);
    }
}

#[test]
fn of_a_kept_team_images_must_be_the_same_and_names_need_not() {
    let kept = plan(|_| {});
    for same in [
        plan(|plan| plan["name"]["value"] = json!("fork")),
        plan(|plan| plan["agents"][0]["egress"] = json!([])),
        plan(|plan| plan["agents"][0]["image"]["root"] = json!(7)),
    ] {
        assert!(of_kept(&kept, &same).is_empty(), "{same:?}");
    }
    for (key, other) in [
        ("agents.a.image", plan(|plan| plan["agents"][0]["image"]["digest"] = json!("other"))),
        ("agents.a.image", plan(|plan| plan["agents"][0]["image"]["chain"] = json!("other"))),
        ("agents.a.command", plan(|plan| plan["agents"][0]["command"]["value"] = json!(["y"]))),
        ("agents.a", plan(|plan| plan["agents"] = json!([]))),
    ] {
        assert_eq!(of_kept(&kept, &other), [key]);
    }
}
