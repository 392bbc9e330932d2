//! Files: copied in, copied out, brought home at the end; and team files that are wrong.

use std::fs;

use crate::bed::{Bed, one, one_with};

#[test]
fn files_are_copied_both_ways() {
    let bed = Bed::new();
    bed.up(&one("sleep 1000"));
    let (inside, outside) = (bed.path("inside"), bed.path("outside"));
    fs::create_dir_all(inside.join("deep")).unwrap();
    fs::create_dir_all(outside.join("from/sub")).unwrap();
    fs::write(outside.join("from/sub/file"), "content").unwrap();
    let target = format!("t/a:{}", inside.display());
    bed.ok(&["cp", outside.join("from").to_str().unwrap(), &target]);
    assert_eq!(fs::read_to_string(inside.join("from/sub/file")).unwrap(), "content");
    let source = format!("t/a:{}/from", inside.display());
    bed.ok(&["cp", &source, outside.join("back").to_str().unwrap()]);
    assert_eq!(fs::read_to_string(outside.join("back/sub/file")).unwrap(), "content");
    // Into a directory that is there.
    let file = format!("t/a:{}/from/sub/file", inside.display());
    bed.ok(&["cp", &file, outside.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "content");
    let told = bed.fails(&["cp", "t/a:/no/such/file", outside.to_str().unwrap()], 125);
    assert!(told.contains("/no/such/file"), "{told}");
    let names: Vec<_> = fs::read_dir(&outside)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().all(|name| !name.starts_with(".cloister")), "{names:?}");
    bed.ok(&["down", "t"]);
}

#[test]
fn outputs_come_home_at_an_agents_end() {
    let bed = Bed::new();
    let inside = bed.path("made");
    let output = format!(
        "outputs = [{{ path = \"{}\", to = \"./result\" }}, {{ path = \"/no/such\", to = \"./none\" }}]",
        inside.display()
    );
    bed.file(&one_with(&format!("echo 42 > {}", inside.display()), &output));
    bed.run(&["up", "team.toml"]);
    assert_eq!(fs::read_to_string(bed.path("team/result")).unwrap(), "42\n");
    assert!(!bed.path("team/none").exists());
    let events = bed.ok(&["logs", "--events", "t"]);
    assert!(events.contains("output-copied ./result"), "{events}");
    assert!(events.contains("output-failed") && events.contains("/no/such"), "{events}");
}

#[test]
fn a_wrong_team_file_starts_nothing() {
    let bed = Bed::new();
    bed.file(&one_with("true", "memry = \"1GiB\""));
    let told = bed.fails(&["up", "team.toml"], 125);
    assert!(told.contains("team.toml:5") && told.contains("memory"), "{told}");
    bed.file(&one("true").replace("tools", "missing"));
    let told = bed.fails(&["up", "team.toml"], 125);
    assert!(told.contains("missing") && told.contains("cloister image"), "{told}");
    bed.fails(&["up", "no-such.toml"], 125);
    bed.assert_nothing_left();
}

#[test]
fn volumes_go_with_an_ephemeral_team_and_stay_with_a_persistent_one() {
    for (lifetime, stays) in [("ephemeral", false), ("persistent", true)] {
        let bed = Bed::new();
        let team =
            one_with("true", "mounts = [{ volume = \"v\", target = \"/work\", writable = true }]")
                .replace("name = \"t\"", &format!("name = \"t\"\nlifetime = \"{lifetime}\""))
                + "[volumes.v]\n";
        bed.file(&team);
        bed.ok(&["up", "team.toml"]);
        assert!(bed.path("volumes/t/v").is_dir(), "{lifetime}");
        bed.ok(&["down", "t"]);
        assert_eq!(bed.path("volumes/t").exists(), stays, "{lifetime}");
        bed.assert_nothing_left();
    }
}
