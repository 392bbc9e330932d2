use rustix::fs::{fcntl_get_seals, fstat};

use super::*;

const MEMINFO: &str = "MemTotal:       24684104 kB\nMemFree:         1000000 kB\n\
                       MemAvailable:    2097152 kB\nSwapFree:        1048576 kB\n";

fn host() -> HostMemory {
    HostMemory::parse(MEMINFO).unwrap()
}

#[test]
fn meminfo_is_read() {
    let expected = HostMemory { total: 24_684_104 << 10, available: 3 << 30, group_limit: None };
    assert_eq!(host(), expected);
    assert_eq!(HostMemory::parse("MemTotal: 5 kB\n"), None);
    assert_eq!(HostMemory::parse("MemTotal: x kB\nMemAvailable: 1 kB\n"), None);
    assert!(HostMemory::read().unwrap().total > 0);
}

#[test]
fn what_does_not_fit_is_refused_by_the_narrowest_reason() {
    host().check(3 << 30).unwrap();
    let refused = |memory: HostMemory, bytes: u64| memory.check(bytes).unwrap_err().to_string();
    assert_eq!(refused(host(), 4 << 40), "4194304 MiB of memory: this host has only 24105 MiB");
    assert_eq!(
        refused(host(), 4 << 30),
        "4096 MiB of memory: this host has only 3072 MiB available now"
    );
    let grouped = HostMemory { group_limit: Some(1 << 30), ..host() };
    assert_eq!(
        refused(grouped, 2 << 30),
        "2048 MiB of memory: this control group may use only 1024 MiB"
    );
}

#[test]
fn the_lowest_limit_on_the_way_up_counts() {
    let mount = tempfile::tempdir().unwrap();
    let inner = mount.path().join("a/b");
    fs::create_dir_all(&inner).unwrap();
    fs::write(mount.path().join("a/memory.max"), "1048576\n").unwrap();
    fs::write(inner.join("memory.max"), "max\n").unwrap();
    assert_eq!(group_limit(mount.path(), "0::/a/b\n"), Some(1 << 20));
    fs::write(inner.join("memory.max"), "4096\n").unwrap();
    assert_eq!(group_limit(mount.path(), "1:cpu:/x\n0::/a/b\n"), Some(4096));
    assert_eq!(group_limit(mount.path(), "0::/\n"), None);
    assert_eq!(group_limit(mount.path(), ""), None);
}

#[test]
fn guest_memory_has_its_size_for_good() {
    let memory = guest_memory(64 << 20).unwrap();
    assert_eq!(fstat(&memory).unwrap().st_size, 64 << 20);
    let seals = fcntl_get_seals(&memory).unwrap();
    assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
    assert!(ftruncate(&memory, 1).is_err());
    assert!(ftruncate(&memory, 65 << 20).is_err());
    // Nothing of it is taken before it is touched.
    assert_eq!(fstat(&memory).unwrap().st_blocks, 0);
}
