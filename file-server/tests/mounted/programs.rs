//! Programs whose trade it is to find faulty file systems, on the files as they are served. `CLOISTER_TESTS=slow` runs
//! all that stress-ng has for file systems; they are Debian's, and are installed then.

use std::path::Path;
use std::process::Command;

use crate::bridge::{Mounted, alone};

/// What each of stress-ng's kinds gets, in seconds.
const SECONDS: &str = "10";

/// Those that need what no such file system has, or this machine's kernel: stress-ng leaves them out, and then ends with
/// another code.
const NOT_HERE: &str = "binderfs,fiemap,verity";

fn is_slow() -> bool {
    std::env::var_os("CLOISTER_TESTS").is_some_and(|kind| kind == "slow")
}

/// Installs what is missing.
fn wants(packages: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/packages");
    let status = Command::new(script).args(packages).status().unwrap();
    assert!(status.success(), "{packages:?}: {status}");
}

#[test]
fn file_system_stressors_find_nothing() {
    if !is_slow() {
        println!("skipped: only with CLOISTER_TESTS=slow");
        return;
    }
    wants(&["stress-ng"]);
    alone(|| {
        let place = tempfile::tempdir().unwrap();
        let mounted = Mounted::sharing(place.path());
        let output = Command::new("stress-ng")
            .args(["--class", "filesystem", "--sequential", "1", "--timeout", SECONDS, "--verify"])
            .args(["--exclude", NOT_HERE])
            .arg("--temp-path")
            .arg(&mounted.path)
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        println!("{said}");
        assert!(output.status.success() && !said.contains("fail:"), "{said}");
        assert!(said.contains("successful run completed"), "{said}");
    });
}

#[test]
fn what_is_written_is_what_is_read() {
    if !is_slow() {
        println!("skipped: only with CLOISTER_TESTS=slow");
        return;
    }
    wants(&["fio"]);
    alone(|| {
        let place = tempfile::tempdir().unwrap();
        let mounted = Mounted::sharing(place.path());
        let output = Command::new("fio")
            .arg(format!("--directory={}", mounted.path.display()))
            .args(["--size=256M", "--bs=4k", "--ioengine=psync", "--thread", "--verify=crc32c"])
            .args(["--do_verify=1", "--verify_fatal=1", "--verify_state_save=0"])
            .args(["--name=random", "--rw=randwrite"])
            .args(["--name=sequence", "--stonewall", "--rw=write"])
            .current_dir("/tmp")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(said.matches("err= 0").count(), 2, "{said}");
    });
}
